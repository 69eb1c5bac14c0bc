//! The number under a frontend in the map `services`: how a connection to it is to be treated.

use std::fmt;

/// `far` in bit 31, the affinity's seconds (at most 86,400) from bit 12 on, the number of endpoints below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u32);

const FAR: u32 = 1 << 31;
const COUNT: u32 = 0xfff;

/// Which maps hold the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// What clients inside the cluster (and nearly always all clients) choose from.
    Near,
    /// What clients outside choose from where externalTrafficPolicy Local gives them other endpoints.
    Far,
}

impl Class {
    pub const REJECT: Class = Class(0);
    pub const DROP: Class = Class(COUNT);
    pub const MAX_ENDPOINTS: usize = COUNT as usize - 1;

    pub fn new(view: View, sticky_seconds: Option<u32>, endpoints: usize) -> Self {
        debug_assert!((1..=Self::MAX_ENDPOINTS).contains(&endpoints));
        let far = if view == View::Far { FAR } else { 0 };
        Class(far | sticky_seconds.map_or(0, |s| s.clamp(1, 86_400)) << 12 | endpoints as u32)
    }

    pub fn endpoints(self) -> usize {
        (self.0 & COUNT) as usize
    }

    pub fn sticky_seconds(self) -> Option<u32> {
        Some((self.0 & !FAR) >> 12).filter(|s| *s > 0)
    }

    pub fn view(self) -> View {
        if self.0 & FAR == 0 { View::Near } else { View::Far }
    }

    /// Neither rejected nor dropped.
    pub fn serves(self) -> bool {
        self != Self::REJECT && self != Self::DROP
    }
}

impl View {
    pub const ALL: [View; 2] = [View::Near, View::Far];

    pub(super) fn prefix(self) -> &'static str {
        match self {
            View::Near => "",
            View::Far => "local-",
        }
    }

    pub(super) fn endpoints(self) -> &'static str {
        match self {
            View::Near => "endpoints",
            View::Far => "local-endpoints",
        }
    }

    pub(super) fn sticky_endpoints(self) -> &'static str {
        match self {
            View::Near => "sticky-endpoints",
            View::Far => "local-sticky-endpoints",
        }
    }

    pub(super) fn sticky_live(self) -> &'static str {
        match self {
            View::Near => "sticky-live",
            View::Far => "local-sticky-live",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Class::REJECT => write!(f, "reject"),
            Class::DROP => write!(f, "drop"),
            _ => write!(f, "{}{} endpoints", self.view().prefix(), self.endpoints()),
        }
    }
}

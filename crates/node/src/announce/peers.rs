//! Which nodes are heard on the link. Pure: the time comes in.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

/// Between two signs of life.
pub(super) const PERIOD: Duration = Duration::from_millis(400);
/// A node that was not heard for so long is dead. Four signs may be lost or late.
pub(super) const SILENCE: Duration = Duration::from_millis(1900);
/// A flood of made-up names must not fill the memory.
const MOST: usize = 1000;

#[derive(Debug)]
pub(super) struct Peers {
    me: String,
    heard: BTreeMap<String, Instant>,
}

impl Peers {
    pub(super) fn new(me: &str) -> Self {
        Peers { me: me.into(), heard: BTreeMap::new() }
    }

    /// True when it was not known.
    pub(super) fn hear(&mut self, node: &str, now: Instant) -> bool {
        if node == self.me || (self.heard.len() >= MOST && !self.heard.contains_key(node)) {
            return false;
        }
        self.heard.insert(node.into(), now).is_none()
    }

    pub(super) fn forget(&mut self, node: &str) -> bool {
        self.heard.remove(node).is_some()
    }

    /// True when somebody went silent.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let before = self.heard.len();
        self.heard.retain(|_, last| now.duration_since(*last) < SILENCE);
        self.heard.len() != before
    }

    /// This node and those that are heard.
    pub(super) fn alive(&self) -> BTreeSet<&str> {
        self.heard.keys().map(String::as_str).chain([self.me.as_str()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_silent_are_forgotten() {
        let start = Instant::now();
        let mut peers = Peers::new("a");
        assert!(peers.hear("b", start) && peers.hear("c", start));
        assert!(!peers.hear("a", start), "this node's own voice");
        assert!(!peers.hear("b", start + PERIOD), "known");
        assert!(!peers.expire(start + PERIOD));
        assert!(peers.expire(start + SILENCE));
        assert_eq!(Vec::from_iter(peers.alive()), ["a", "b"]);
        assert!(peers.forget("b") && !peers.forget("b"));
        assert_eq!(Vec::from_iter(peers.alive()), ["a"]);
    }

    #[test]
    fn an_address_moves_within_three_seconds() {
        // The last sign may have come just before the death; silence is noticed at the next beat.
        assert!(SILENCE + PERIOD < Duration::from_secs(3));
    }
}

//! How many questions wait for others, in all and for each client: one that asks for a thousand names at a time does not
//! take the places of the rest.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

const ALL: usize = 4096;
const EACH: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// A place among the waiting, given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Pending>, IpAddr);

impl Pending {
    /// None when there is no more room.
    pub(super) fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut counts = self.counts();
        if counts.all >= ALL {
            return None;
        }
        let mine = counts.by_client.entry(client).or_default();
        if *mine >= EACH {
            return None;
        }
        *mine += 1;
        counts.all += 1;
        drop(counts);
        Some(Place(self.clone(), client))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Nothing that holds it can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.0.counts();
        counts.all = counts.all.saturating_sub(1);
        if let Some(mine) = counts.by_client.get_mut(&self.1) {
            *mine -= 1;
            if *mine == 0 {
                counts.by_client.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn one_client_leaves_room_for_others() {
        let pending = Arc::new(Pending::default());
        let client = |n: u32| IpAddr::from(Ipv4Addr::from_bits(n));
        let mut places: Vec<_> = (0..EACH).filter_map(|_| pending.enter(client(1))).collect();
        assert!(places.len() == EACH && pending.enter(client(1)).is_none());
        places.extend((2..).map_while(|n| (n < 100_000).then(|| pending.enter(client(n)))?));
        assert_eq!(places.len(), ALL);
        assert!(pending.enter(client(1_000_000)).is_none());
        drop(places);
        assert_eq!(pending.counts().all, 0);
        assert!(pending.counts().by_client.is_empty());
        assert!(pending.enter(client(1)).is_some());
    }
}

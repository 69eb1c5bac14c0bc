//! Which socket a client's questions take. Its address alone decides, so whoever floods, floods one lane; and who does so
//! for more than a moment is put aside into a lane of its own kind, where it is answered too, but in nobody's way.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, UdpSocket},
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, time::sleep};

use crate::{batch, metrics::Metrics};

/// So many rounds in a row, each full, and a quarter of the last one's questions from one client: that is a flood.
const ROUNDS: u32 = 16;
const SHARE: usize = 4;
/// How many clients may be aside at once; the first goes back when one more comes.
const ASIDE: usize = 16;
/// For how long. Who still floods then is found again within milliseconds.
const WHILE: Duration = Duration::from_secs(60);

/// Finds floods in what a lane receives.
#[derive(Debug, Default)]
pub(super) struct Watch {
    full: u32,
}

impl Watch {
    /// Told of each round: whether there was no room for more in it, and who asked.
    pub(super) fn round(&mut self, full: bool, clients: impl Iterator<Item = IpAddr>) -> Option<IpAddr> {
        self.full = if full { self.full + 1 } else { 0 };
        if self.full < ROUNDS {
            return None;
        }
        self.full = 0;
        let mut counts: Vec<(IpAddr, usize)> = vec![];
        for client in clients {
            match counts.iter_mut().find(|(ip, _)| *ip == client) {
                Some((_, count)) => *count += 1,
                None => counts.push((client, 1)),
            }
        }
        let (client, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        (count >= batch::BATCH / SHARE).then_some(client)
    }
}

/// The way from a client to a lane, for all sockets of one address: the last one is for those who are aside.
#[derive(Debug)]
pub(super) struct Steering {
    socket: Arc<UdpSocket>,
    ipv6: bool,
    lanes: u32,
    aside: Mutex<VecDeque<IpAddr>>,
    metrics: Arc<Metrics>,
}

impl Steering {
    /// `socket` is the first of the address; those that join it later are steered as well.
    pub(super) fn new(socket: Arc<UdpSocket>, ipv6: bool, lanes: usize, metrics: Arc<Metrics>) -> io::Result<Self> {
        let steering = Steering { socket, ipv6, lanes: lanes as u32, aside: Mutex::default(), metrics };
        steering.apply(&VecDeque::new())?;
        Ok(steering)
    }

    fn apply(&self, aside: &VecDeque<IpAddr>) -> io::Result<()> {
        let aside: Vec<u32> = aside.iter().map(|ip| batch::source_word(*ip)).collect();
        batch::lane_by_client(self.socket.as_fd(), self.ipv6, self.lanes, &aside)
    }

    /// Puts a client aside for a while.
    pub(super) fn put_aside(self: &Arc<Self>, client: IpAddr, tasks: &Handle) {
        let changed = self.change(|aside| {
            if aside.contains(&client) {
                // What it sent before it was put aside.
                return false;
            }
            aside.push_back(client);
            aside.len() <= ASIDE || aside.pop_front().is_some()
        });
        if !changed {
            return;
        }
        tracing::info!("{client} floods this DNS server; it is answered aside for {WHILE:?}, in nobody's way");
        let steering = Arc::downgrade(self);
        tasks.spawn(async move {
            sleep(WHILE).await;
            if let Some(steering) = steering.upgrade() {
                steering.change(|aside| {
                    let before = aside.len();
                    aside.retain(|ip| *ip != client);
                    aside.len() < before
                });
            }
        });
    }

    /// Changes the list, and the way with it. Whether there was a change.
    fn change(&self, change: impl FnOnce(&mut VecDeque<IpAddr>) -> bool) -> bool {
        let mut aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = aside.clone();
        if !change(&mut wanted) {
            return false;
        }
        if let Err(error) = self.apply(&wanted) {
            // Everybody is served as before.
            tracing::warn!("steer DNS clients: {error}");
            return false;
        }
        self.metrics.set_aside(wanted.len());
        *aside = wanted;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_a_flood_is() {
        let ip = |n: u8| IpAddr::from(Ipv4Addr::new(10, 244, 0, n));
        let clients = |by: usize| (0..batch::BATCH).map(move |n| if n < by { ip(1) } else { ip(n as u8 + 2) });
        let rounds = |count: u32, by: usize, gap: Option<u32>| {
            let mut watch = Watch::default();
            (0..count).filter_map(|n| watch.round(Some(n) != gap, clients(by))).collect::<Vec<_>>()
        };
        assert!(rounds(ROUNDS - 1, 32, None).is_empty(), "a burst is none");
        assert_eq!(rounds(ROUNDS, 32, None), [ip(1)]);
        assert_eq!(rounds(ROUNDS, 8, None), [ip(1)]);
        assert!(rounds(10 * ROUNDS, 7, None).is_empty(), "many clients are none");
        assert!(rounds(2 * ROUNDS - 1, 32, Some(ROUNDS - 1)).is_empty(), "who leaves room is none");
        assert_eq!(rounds(3 * ROUNDS, 32, None), [ip(1); 3]);
    }
}

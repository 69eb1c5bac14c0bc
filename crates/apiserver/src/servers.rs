//! Which servers there are on the store: each writes its address again and again. Whether another still does is seen from
//! the revisions of what it writes, not from a clock of its machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use skiff_store::{Entry, Expect, Rev};
use tokio::time::{Duration, Instant};

use crate::Error;
use crate::storage::Storage;

const PREFIX: &str = "/skiff/servers/";
/// A server that has not written for so long is gone: some of its turns, which come every ten seconds.
const GONE_AFTER: Duration = Duration::from_secs(35);

/// The newest writes of the servers, and when they were first seen.
#[derive(Default)]
pub(crate) struct Servers(Mutex<BTreeMap<String, (Rev, Instant)>>);

impl Servers {
    /// Says that this server lives; the addresses of all that do, in order.
    pub(crate) async fn alive(&self, storage: &Storage, me: SocketAddr) -> Result<Vec<SocketAddr>, Error> {
        let own = format!("{PREFIX}{me}");
        storage.0.put(&own, me.to_string().into(), Expect::Any).await?;
        let entries = storage.0.list(PREFIX, None, 0, None).await?.entries;
        let (alive, gone) = self.sort(entries, Instant::now());
        for entry in gone {
            // One that has come back meanwhile has another revision.
            if let Err(error) = storage.0.delete(&entry.key, Expect::Rev(entry.modified)).await {
                tracing::debug!("{error}");
            }
        }
        let address = |entry: &Entry| entry.key.strip_prefix(PREFIX)?.parse().ok();
        let mut alive: Vec<SocketAddr> = alive.iter().filter_map(address).collect();
        alive.sort();
        Ok(alive)
    }

    fn sort(&self, entries: Vec<Entry>, now: Instant) -> (Vec<Entry>, Vec<Entry>) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|key, _| entries.iter().any(|entry| *entry.key == **key));
        entries.into_iter().partition(|entry| {
            let seen = seen.entry(entry.key.to_string()).or_insert((entry.modified, now));
            if seen.0 != entry.modified {
                *seen = (entry.modified, now);
            }
            now.duration_since(seen.1) < GONE_AFTER
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_lives() {
        let servers = Servers::default();
        let entry = |name: &str, modified| Entry {
            key: format!("{PREFIX}{name}").into(),
            value: "".into(),
            created: 1,
            modified,
        };
        let begin = Instant::now();
        let gone_at = |after: u64, entries: [Entry; 2]| {
            let (_, gone) = servers.sort(entries.into(), begin + Duration::from_secs(after));
            gone.iter().map(|entry| entry.key[PREFIX.len()..].to_owned()).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(gone_at(0, [entry("a", 1), entry("b", 2)]), none);
        assert_eq!(gone_at(30, [entry("a", 5), entry("b", 2)]), none);
        assert_eq!(gone_at(40, [entry("a", 5), entry("b", 2)]), ["b"]);
        assert_eq!(gone_at(50, [entry("a", 9), entry("b", 8)]), none);
    }
}

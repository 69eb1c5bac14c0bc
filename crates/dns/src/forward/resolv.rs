//! A resolv.conf, followed when it changes.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use crate::wire::Name;

/// How often the file is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What a resolv.conf says to a forwarder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolv {
    pub nameservers: Vec<SocketAddr>,
    pub searches: Vec<Name>,
}

impl Resolv {
    pub fn parse(text: &str) -> Self {
        let mut found = Resolv::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let ip = words.next().and_then(|w| w.parse::<IpAddr>().ok());
                    found.nameservers.extend(ip.map(|ip| SocketAddr::new(ip, 53)));
                }
                // The last line counts.
                Some("search" | "domain") => found.searches = words.filter_map(Name::parse).collect(),
                _ => {}
            }
        }
        found
    }
}

#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    known: Resolv,
    changed: Option<SystemTime>,
    looked: Option<Instant>,
}

impl Follower {
    pub(super) fn new(path: PathBuf) -> Self {
        Follower { path, known: Resolv::default(), changed: None, looked: None }
    }

    /// What the file says now. One that cannot be read keeps its last good content.
    pub(super) fn look(&mut self, now: Instant) -> &Resolv {
        if self.looked.is_none_or(|at| now.saturating_duration_since(at) > LOOK_AGAIN) {
            self.looked = Some(now);
            let changed = std::fs::metadata(&self.path).and_then(|m| m.modified()).ok();
            if self.changed != changed || changed.is_none() {
                self.changed = changed;
                if let Ok(text) = std::fs::read_to_string(&self.path) {
                    self.known = Resolv::parse(&text);
                }
            }
        }
        &self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_resolv_conf() {
        let text = "# nameserver 9.9.9.9\nsearch x\nnameserver 10.0.0.1\nsearch a.b c\nnameserver nonsense\nnameserver fd00::1\n";
        let read = Resolv::parse(text);
        assert_eq!(read.nameservers, ["10.0.0.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()]);
        assert_eq!(read.searches, ["a.b", "c"].map(|n| Name::parse(n).unwrap()));
    }

    #[test]
    fn follows_the_file() {
        let path = std::env::temp_dir().join(format!("skiff-resolv-{}", std::process::id()));
        let mut follower = Follower::new(path.clone());
        let (start, later) = (Instant::now(), |s| Instant::now() + Duration::from_secs(s));
        assert_eq!(follower.look(start), &Resolv::default(), "there is no file yet");
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(follower.look(later(3)).nameservers.len(), 1);
        std::fs::write(&path, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n").unwrap();
        // Two writes may be within one tick of the file system's clock.
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(follower.look(later(4)).nameservers.len(), 1, "it is not looked at all the time");
        assert_eq!(follower.look(later(6)).nameservers.len(), 2);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(follower.look(later(9)).nameservers.len(), 2, "the last good content stays");
    }
}

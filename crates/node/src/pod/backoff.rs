//! How long a failing thing waits: nothing at first, then 10 s, doubling to 5 min, forgotten after 10 quiet minutes.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

const FIRST: i64 = 10;
const LONGEST: i64 = 300;
const FORGET: i64 = 2 * LONGEST;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Seconds; 0 when nothing failed yet.
    delay: i64,
    updated: Timestamp,
}

impl Backoff {
    /// When the next attempt is due after a failure at `failed`.
    pub fn due(&self, failed: Timestamp) -> Timestamp {
        if self.delay == 0 || self.forgotten(failed) { failed } else { failed + SignedDuration::from_secs(self.delay) }
    }

    /// An attempt is made now: the next failure waits longer.
    pub fn next(&mut self, failed: Timestamp, now: Timestamp) {
        let fresh = self.delay == 0 || self.forgotten(failed);
        self.delay = if fresh { FIRST } else { (self.delay * 2).min(LONGEST) };
        self.updated = now;
    }

    pub fn seconds(&self) -> i64 {
        self.delay
    }

    fn forgotten(&self, failed: Timestamp) -> bool {
        failed.duration_since(self.updated) > SignedDuration::from_secs(FORGET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_five_minutes_and_forgets() {
        let mut backoff = Backoff::default();
        let mut now = Timestamp::from_second(1_000_000).unwrap();
        let mut waits = vec![];
        for _ in 0..8 {
            let failed = now;
            let due = backoff.due(failed);
            waits.push(due.duration_since(failed).as_secs());
            now = due;
            backoff.next(failed, now);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        let later = now + SignedDuration::from_secs(601);
        assert_eq!(backoff.due(later), later);
        backoff.next(later, later);
        assert_eq!(backoff.seconds(), 10);
    }
}

//! When a row of probe results changes the verdict. Pure.

use k8s_openapi::api::core::v1::Probe;

#[derive(Clone, Debug)]
pub(super) struct Judge {
    verdict: Option<bool>,
    success: u32,
    failure: u32,
    last: bool,
    row: u32,
}

fn threshold(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
}

impl Judge {
    /// `assumed`: what holds until shown otherwise, for which no verdict is given.
    pub(super) fn new(probe: &Probe, assumed: bool) -> Self {
        Judge {
            verdict: assumed.then_some(true),
            success: threshold(probe.success_threshold, 1),
            failure: threshold(probe.failure_threshold, 3),
            last: false,
            row: 0,
        }
    }

    /// A new verdict, when this result makes one.
    pub(super) fn observe(&mut self, ok: bool) -> Option<bool> {
        self.row = if ok == self.last { self.row + 1 } else { 1 };
        self.last = ok;
        let enough = self.row >= if ok { self.success } else { self.failure };
        if !enough || self.verdict == Some(ok) {
            return None;
        }
        self.verdict = Some(ok);
        Some(ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(success: i32, failure: i32, assumed: bool, results: &str, want: &str) {
        let probe = Probe { success_threshold: Some(success), failure_threshold: Some(failure), ..Default::default() };
        let mut judge = Judge::new(&probe, assumed);
        let got: String = results
            .chars()
            .map(|c| match judge.observe(c == '+') {
                None => '.',
                Some(true) => 'Y',
                Some(false) => 'N',
            })
            .collect();
        assert_eq!(got, want, "{results}");
    }

    #[test]
    fn thresholds_count_rows() {
        check(1, 3, false, "+++---+", "Y....NY");
        check(2, 1, false, "+-++-", ".N.YN");
        check(1, 3, true, "+--+---", "......N");
        check(1, 3, false, "---", "..N");
    }
}

//! What becomes of a request, as the reference's signing controller and cleaner have it.

use k8s_openapi::{
    api::certificates::v1::CertificateSigningRequest,
    jiff::{SignedDuration, Timestamp},
};

/// What a certificate is good for when the request does not say: a year.
const YEAR: i64 = 365 * 24 * 3600;
/// How long requests stay: approved, denied and failed ones for an hour, those that nobody looked at for a day.
const ENDED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Approved, and without a certificate: it is to be good for so many seconds.
    Sign {
        seconds: i64,
    },
    Remove,
    /// Nothing to do before this time, if ever.
    Wait(SignedDuration),
}

pub(crate) fn plan(request: &CertificateSigningRequest, now: Timestamp) -> Plan {
    let status = request.status.as_ref();
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let is = |kind: &str| conditions.iter().any(|c| c.type_ == kind && c.status == "True");
    let has_certificate = status.is_some_and(|s| s.certificate.is_some());
    let ended = is("Denied") || is("Failed") || has_certificate;
    if is("Approved") && !ended {
        let seconds = request.spec.expiration_seconds.map_or(YEAR, i64::from);
        return Plan::Sign { seconds };
    }
    let newest = conditions.iter().filter_map(|c| c.last_update_time.as_ref()).map(|t| t.0).max();
    let since = newest.or(request.metadata.creation_timestamp.as_ref().map(|t| t.0)).unwrap_or(now);
    let left = (if ended { ENDED } else { PENDING }) - now.duration_since(since);
    match left.is_positive() {
        true => Plan::Wait(left),
        false => Plan::Remove,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-03-01T12:00:00Z";

    fn what(conditions: Value, certificate: Option<&str>, seconds: Option<i32>) -> Plan {
        let request = json!({
            "metadata": {"name": "a", "creationTimestamp": "2026-03-01T00:00:00Z"},
            "spec": {"request": "", "signerName": "s", "expirationSeconds": seconds},
            "status": {"conditions": conditions, "certificate": certificate},
        });
        plan(&serde_json::from_value(request).unwrap(), NOW.parse().unwrap())
    }

    fn condition(kind: &str, time: &str) -> Value {
        json!([{"type": kind, "status": "True", "lastUpdateTime": time}])
    }

    #[test]
    fn what_becomes_of_requests() {
        let hours = SignedDuration::from_hours;
        assert_eq!(what(json!([]), None, None), Plan::Wait(hours(12)));
        assert_eq!(what(condition("Approved", NOW), None, None), Plan::Sign { seconds: YEAR });
        assert_eq!(what(condition("Approved", NOW), None, Some(600)), Plan::Sign { seconds: 600 });
        assert_eq!(what(condition("Approved", NOW), Some("aGk="), None), Plan::Wait(hours(1)));
        assert_eq!(what(condition("Approved", "2026-03-01T11:00:00Z"), Some("aGk="), None), Plan::Remove);
        assert_eq!(what(condition("Denied", "2026-03-01T10:30:00Z"), None, None), Plan::Remove);
        assert_eq!(
            what(condition("Failed", "2026-03-01T11:30:00Z"), None, None),
            Plan::Wait(SignedDuration::from_mins(30))
        );
    }
}

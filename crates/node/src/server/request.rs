//! Paths and queries of the node's API. Pure.

use jiff::Timestamp;

/// A container of a pod; port-forward names only the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) container: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Healthz,
    Pods,
    Logs(Target),
    Exec(Target),
    Attach(Target),
    PortForward(Target),
}

/// As kubelet's: `/exec/NAMESPACE/POD/CONTAINER`, with the pod's uid before the container in an older form.
pub(super) fn route(path: &str) -> Option<Route> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let target = |parts: &[&str]| Target {
        namespace: parts[0].into(),
        pod: parts[1].into(),
        container: parts.get(2..).and_then(|r| r.last()).map(|c| c.to_string()),
    };
    match parts.as_slice() {
        ["healthz"] => Some(Route::Healthz),
        ["pods"] => Some(Route::Pods),
        ["containerLogs", rest @ ..] if rest.len() == 3 => Some(Route::Logs(target(rest))),
        ["exec", rest @ ..] if matches!(rest.len(), 3 | 4) => Some(Route::Exec(target(rest))),
        ["attach", rest @ ..] if matches!(rest.len(), 3 | 4) => Some(Route::Attach(target(rest))),
        ["portForward", rest @ ..] if matches!(rest.len(), 2 | 3) => {
            Some(Route::PortForward(Target { container: None, ..target(&rest[..2]) }))
        }
        _ => None,
    }
}

/// The pairs of a query, decoded.
pub(super) fn pairs(query: &str) -> Vec<(String, String)> {
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(name), decode(value))
    };
    query.split('&').filter(|p| !p.is_empty()).map(pair).collect()
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = || std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok().and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[at], if bytes[at] == b'%' { hex() } else { None }) {
            (_, Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// What exec and attach ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Streams {
    pub(super) command: Vec<String>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Streams {
    /// Both kubelet's names (input, output, error) and the API's.
    pub(super) fn parse(query: &str) -> Self {
        let mut streams = Streams::default();
        for (name, value) in pairs(query) {
            match name.as_str() {
                "command" => streams.command.push(value),
                "input" | "stdin" => streams.stdin = is_true(&value),
                "output" | "stdout" => streams.stdout = is_true(&value),
                "error" | "stderr" => streams.stderr = is_true(&value),
                "tty" => streams.tty = is_true(&value),
                _ => {}
            }
        }
        // A terminal has one stream for both.
        streams.stderr &= !streams.tty;
        streams
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogOptions {
    pub(super) follow: bool,
    pub(super) previous: bool,
    pub(super) timestamps: bool,
    pub(super) tail: Option<usize>,
    pub(super) limit: Option<u64>,
    pub(super) since: Option<Timestamp>,
    pub(super) stream: Option<String>,
}

impl LogOptions {
    pub(super) fn parse(query: &str, now: Timestamp) -> Result<Self, String> {
        let mut options = LogOptions::default();
        for (name, value) in pairs(query) {
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| format!("{name}: Invalid value: {value:?}: must be a number of at least 0"))
            };
            match name.as_str() {
                "follow" => options.follow = is_true(&value),
                "previous" => options.previous = is_true(&value),
                "timestamps" => options.timestamps = is_true(&value),
                "tailLines" => options.tail = Some(usize::try_from(number()?).unwrap_or(usize::MAX)),
                "limitBytes" => options.limit = Some(number()?),
                "sinceSeconds" => {
                    let seconds = i64::try_from(number()?).unwrap_or(i64::MAX);
                    options.since = now.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok();
                }
                "sinceTime" => {
                    let time = value
                        .parse()
                        .map_err(|_| format!("sinceTime: Invalid value: {value:?}: must be an RFC 3339 time"))?;
                    options.since = Some(time);
                }
                "stream" if value != "All" => options.stream = Some(value.to_lowercase()),
                _ => {}
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let target = Target { namespace: "a".into(), pod: "b".into(), container: Some("c".into()) };
        assert_eq!(route("/exec/a/b/c"), Some(Route::Exec(target.clone())));
        assert_eq!(route("/exec/a/b/uid/c"), Some(Route::Exec(target.clone())));
        assert_eq!(route("/containerLogs/a/b/c"), Some(Route::Logs(target.clone())));
        assert_eq!(route("/portForward/a/b"), Some(Route::PortForward(Target { container: None, ..target })));
        ["/", "/exec", "/exec/a/b", "/nothing"].iter().for_each(|p| assert_eq!(route(p), None, "{p}"));
    }

    #[test]
    fn queries() {
        let streams = Streams::parse("command=sh&command=-c&command=echo+a%20b%26%zz&output=1&error=true&tty=0");
        assert_eq!(streams.command, ["sh", "-c", "echo a b&%zz"]);
        assert_eq!((streams.stdin, streams.stdout, streams.stderr, streams.tty), (false, true, true, false));
        assert!(!Streams::parse("stderr=true&tty=true").stderr);
    }

    #[test]
    fn log_options() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let options = LogOptions::parse("follow=true&tailLines=5&sinceSeconds=60", now).unwrap();
        assert_eq!((options.follow, options.tail), (true, Some(5)));
        assert_eq!(options.since.unwrap().to_string(), "2026-01-01T00:00:00Z");
        assert!(LogOptions::parse("tailLines=-1", now).is_err());
        assert!(LogOptions::parse("sinceTime=yesterday", now).is_err());
    }
}

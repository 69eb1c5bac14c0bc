//! What is asked: words of the command line become exact types.

use std::{fmt, net::IpAddr};

use skiff_services::model::Protocol;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) from: Option<From>,
    pub(crate) target: Target,
    /// The namespace that short names of Services and pods mean.
    pub(crate) namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Pod(String),
    Node(Option<String>),
    /// The machine on which the cluster runs, which is outside of it.
    Outside,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A Service as an object: every way into it.
    Service { name: String, port: Option<u16> },
    /// What a client would connect to.
    Peer { host: Host, port: Option<u16>, protocol: Protocol },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Name(String),
    Ip(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Ip(ip) => ip.fmt(f),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Service { name, port: None } => write!(f, "svc/{name}"),
            Target::Service { name, port: Some(port) } => write!(f, "svc/{name}:{port}"),
            Target::Peer { host, port, protocol } => {
                write!(f, "{}://", protocol.to_string().to_lowercase())?;
                match host {
                    Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]")?,
                    host => host.fmt(f)?,
                }
                port.map_or(Ok(()), |p| write!(f, ":{p}"))
            }
        }
    }
}

/// `words`: `TARGET`, or `CLIENT TARGET`.
pub(crate) fn parse(words: &[String], from: Option<&str>, namespace: &str) -> Result<Question, String> {
    let (client, target) = match words {
        [target] => (from, target),
        [client, target] if from.is_none() => (Some(client.as_str()), target),
        [client, _] => return Err(format!("the client is named twice: {client} and --from {}", from.unwrap_or(""))),
        _ => return Err("what is to be explained? svc/NAME, or POD http://NAME:PORT".into()),
    };
    let from = client.map(parse_from).transpose()?;
    Ok(Question { from, target: parse_target(target)?, namespace: namespace.into() })
}

fn parse_from(text: &str) -> Result<From, String> {
    match text.split_once('/') {
        None if text == "node" => Ok(From::Node(None)),
        None if matches!(text, "outside" | "host") => Ok(From::Outside),
        None => Ok(From::Pod(text.into())),
        Some(("pod" | "pods" | "po", name)) if !name.is_empty() => Ok(From::Pod(name.into())),
        Some(("node" | "nodes" | "no", name)) if !name.is_empty() => Ok(From::Node(Some(name.into()))),
        Some(_) => Err(format!("{text:?} is no client: say POD, pod/POD, node, node/NODE or outside")),
    }
}

fn parse_target(text: &str) -> Result<Target, String> {
    if let Some((kind, rest)) = text.split_once('/')
        && matches!(kind, "svc" | "service" | "services")
    {
        let (name, port) = split_port(rest)?;
        return match name {
            Host::Name(name) if !name.is_empty() => Ok(Target::Service { name, port }),
            _ => Err(format!("{text:?} names no Service: say svc/NAME")),
        };
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
    let (protocol, usual) = match scheme {
        "http" => (Protocol::Tcp, Some(80)),
        "https" => (Protocol::Tcp, Some(443)),
        "tcp" => (Protocol::Tcp, None),
        "udp" => (Protocol::Udp, None),
        "sctp" => (Protocol::Sctp, None),
        other => return Err(format!("{other}:// is not known here: say http, https, tcp, udp or sctp")),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let (host, port) = split_port(authority)?;
    if host == Host::Name(String::new()) {
        return Err(format!("{text:?} has no host: say NAME:PORT, IP:PORT or http://NAME:PORT"));
    }
    if !authority.eq(rest) && !text.contains("://") {
        return Err(format!("{text:?} is neither svc/NAME nor NAME:PORT nor a URL"));
    }
    Ok(Target::Peer { host, port: port.or(usual), protocol })
}

fn split_port(text: &str) -> Result<(Host, Option<u16>), String> {
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok((Host::Ip(ip), None));
    }
    let (host, port) = text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let port = match port {
        None => None,
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 => Some(number),
            _ => return Err(format!("{port:?} is no port: say a number from 1 to 65535")),
        },
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    Ok((bare.parse().map_or_else(|_| Host::Name(host.to_ascii_lowercase()), Host::Ip), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(words: &[&str], from: Option<&str>) -> Result<(Option<From>, String), String> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        parse(&words, from, "default").map(|q| (q.from, q.target.to_string()))
    }

    #[test]
    fn questions() {
        let pod = |name: &str| Some(From::Pod(name.into()));
        let rows: &[(&[&str], Option<From>, &str)] = &[
            (&["svc/web"], None, "svc/web"),
            (&["service/web:80"], None, "svc/web:80"),
            (&["web:80"], None, "tcp://web:80"),
            (&["a", "http://Web.shop/x?y#z"], pod("a"), "tcp://web.shop:80"),
            (&["pod/a", "https://u:p@web"], pod("a"), "tcp://web:443"),
            (&["node", "10.96.0.1:443"], Some(From::Node(None)), "tcp://10.96.0.1:443"),
            (&["node/n", "udp://10.96.0.10:53"], Some(From::Node(Some("n".into()))), "udp://10.96.0.10:53"),
            (&["outside", "[2001:db8::1]:80"], Some(From::Outside), "tcp://[2001:db8::1]:80"),
            (&["2001:db8::1"], None, "tcp://[2001:db8::1]"),
            (&["a", "web"], pod("a"), "tcp://web"),
        ];
        for (words, from, target) in rows {
            assert_eq!(ask(words, None), Ok((from.clone(), (*target).into())), "{words:?}");
        }
        assert_eq!(ask(&["web:80"], Some("a")), Ok((pod("a"), "tcp://web:80".into())));
    }

    #[test]
    fn what_is_no_question_says_why() {
        for (words, from, why) in [
            (vec![], None, "what is to be explained"),
            (vec!["a", "web:80"], Some("b"), "twice"),
            (vec!["web:0"], None, "no port"),
            (vec!["web:http"], None, "no port"),
            (vec!["ftp://web"], None, "not known"),
            (vec!["http://"], None, "no host"),
            (vec!["svc/"], None, "no Service"),
            (vec!["web/80"], None, "neither"),
            (vec!["deploy/a", "web:80"], None, "no client"),
        ] {
            let error = ask(&words, from).expect_err("refused");
            assert!(error.contains(why), "{words:?}: {error}");
        }
    }
}

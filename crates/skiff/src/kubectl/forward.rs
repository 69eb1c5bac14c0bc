//! `port-forward`: local ports that lead into a pod by way of the API server, one WebSocket for each connection.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::Value;
use skiff_api::json;
use tokio::net::{TcpListener, TcpStream};

use super::{
    error::{Error, Result, plain},
    flags::{Args, Flag, value},
    pods,
    session::Session,
    text::{emit, note},
};

pub(super) const FLAGS: &[Flag] = &[
    value("address", "local addresses to listen on, separated by commas; localhost without this"),
    value("pod-running-timeout", "accepted; has no effect"),
];

/// A local port (0: any free one) and the pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    local: u16,
    remote: u16,
}

pub(super) async fn run(session: &Session, args: &Args) -> Result<()> {
    let [target, ports @ ..] = args.words.as_slice() else {
        return plain("TYPE/NAME and list of ports are required for port-forward");
    };
    if ports.is_empty() {
        return plain("TYPE/NAME and list of ports are required for port-forward");
    }
    let (_, object) = pods::named(session, target).await?;
    let pod = pods::behind(session, target, args).await?;
    if json::text(&pod, "status.phase") != "Running" {
        let phase = json::text(&pod, "status.phase");
        return plain(format!("unable to forward port because pod is not running. Current status={phase}"));
    }
    let pairs = ports.iter().map(|text| pair(text, &object, &pod)).collect::<Result<Vec<_>>>()?;
    let (namespace, name) = (json::text(&pod, "metadata.namespace"), json::text(&pod, "metadata.name"));
    let api = Api::<Pod>::namespaced(session.client.clone(), namespace);
    let mut forwards = tokio::task::JoinSet::new();
    for pair in pairs {
        for address in addresses(args)? {
            let (listener, at) = listen(SocketAddr::new(address, pair.local)).await?;
            emit(&format!("Forwarding from {at} -> {}\n", pair.remote))?;
            forwards.spawn(serve(listener, at.port(), pair.remote, api.clone(), name.to_owned()));
        }
    }
    while forwards.join_next().await.is_some() {}
    Ok(())
}

fn addresses(args: &Args) -> Result<Vec<IpAddr>> {
    let asked = args.list("address");
    let asked = if asked.is_empty() { vec!["localhost"] } else { asked };
    let parse = |text: &&str| match *text {
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        text => text.parse().map_err(|_| Error::Plain(format!("--address {text:?} is no IP address"))),
    };
    asked.iter().map(parse).collect()
}

async fn listen(at: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let failed = |e| Error::Plain(format!("unable to listen on {at}: {e}"));
    let listener = TcpListener::bind(at).await.map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    Ok((listener, at))
}

async fn serve(listener: TcpListener, local: u16, remote: u16, api: Api<Pod>, pod: String) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => return note(&format!("error accepting connections on port {local}: {e}\n")),
        };
        let (api, pod) = (api.clone(), pod.clone());
        let _ = emit(&format!("Handling connection for {local}\n"));
        tokio::spawn(async move {
            if let Err(why) = carry(stream, &api, &pod, remote).await {
                note(&format!("an error occurred forwarding {local} -> {remote}: {why}\n"));
            }
        });
    }
}

async fn carry(mut here: TcpStream, api: &Api<Pod>, pod: &str, port: u16) -> std::result::Result<(), String> {
    let mut forwarder = api.portforward(pod, &[port]).await.map_err(|e| e.to_string())?;
    let error = forwarder.take_error(port);
    let mut there = forwarder.take_stream(port).ok_or("the server gives no stream")?;
    let copied = tokio::io::copy_bidirectional(&mut here, &mut there).await;
    drop(there);
    let said = match error {
        Some(error) => tokio::time::timeout(std::time::Duration::from_secs(1), error).await.ok().flatten(),
        None => None,
    };
    match (said, copied) {
        (Some(why), _) => Err(why),
        // How a client ends its connection is its own affair.
        (None, _) => Ok(()),
    }
}

/// `LOCAL:REMOTE`, `:REMOTE` or `REMOTE`, the remote one a number or a name; through a Service its target port.
fn pair(text: &str, object: &Value, pod: &Value) -> Result<Pair> {
    let (local, remote) = text.split_once(':').map_or((None, text), |(l, r)| (Some(l), r));
    let bad = || Error::Plain(format!("invalid port {text:?}: say LOCAL:REMOTE, :REMOTE or REMOTE"));
    let (own, remote) = match json::text(object, "kind") {
        "Service" => through(object, pod, remote)?,
        _ => {
            let number = number(remote).or_else(|| named(pod, remote)).ok_or_else(bad)?;
            (number, number)
        }
    };
    let local = match local {
        None => own,
        Some("") => 0,
        Some(text) => number(text).ok_or_else(bad)?,
    };
    Ok(Pair { local, remote })
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|p| *p != 0)
}

/// A container's port by its name.
fn named(pod: &Value, name: &str) -> Option<u16> {
    let containers = json::list(pod, "spec.containers").iter();
    let mut ports = containers.flat_map(|c| json::list(c, "ports"));
    let found = ports.find(|p| json::text(p, "name") == name)?;
    u16::try_from(json::int(found, "containerPort")).ok()
}

/// The Service's port and the pod's that it leads to.
fn through(service: &Value, pod: &Value, wanted: &str) -> Result<(u16, u16)> {
    let is_wanted = |p: &&Value| json::text(p, "name") == wanted || json::int(p, "port").to_string() == wanted;
    let Some(port) = json::list(service, "spec.ports").iter().find(is_wanted) else {
        let name = json::text(service, "metadata.name");
        return plain(format!("Service {name} does not have a service port {wanted}"));
    };
    let own = u16::try_from(json::int(port, "port")).unwrap_or(0);
    let target = match port.get("targetPort") {
        Some(Value::String(name)) => named(pod, name),
        Some(number) => number.as_u64().and_then(|n| u16::try_from(n).ok()),
        None => Some(own),
    };
    match target {
        Some(target) => Ok((own, target)),
        None => plain(format!("pod {} has no port for service port {wanted}", json::text(pod, "metadata.name"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pairs() {
        let pod = json!({"kind": "Pod", "spec": {"containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]}});
        let service = json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [
            {"name": "http", "port": 80, "targetPort": "web"}, {"name": "raw", "port": 9000}]}});
        let rows = [
            ("8080", &pod, Some((8080, 8080))),
            ("1234:web", &pod, Some((1234, 8080))),
            (":8080", &pod, Some((0, 8080))),
            ("80", &service, Some((80, 8080))),
            ("1234:http", &service, Some((1234, 8080))),
            ("9000", &service, Some((9000, 9000))),
            ("81", &service, None),
            ("x", &pod, None),
            ("0", &pod, None),
            ("1:2:3", &pod, None),
        ];
        for (text, object, want) in rows {
            let got = pair(text, object, &pod).ok().map(|p| (p.local, p.remote));
            assert_eq!(got, want, "{text}");
        }
    }
}

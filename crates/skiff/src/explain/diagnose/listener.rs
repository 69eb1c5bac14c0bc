//! Whether something listens where a packet ends, in that pod's own network namespace.

use std::{collections::BTreeSet, net::SocketAddr};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::util::intstr::IntOrString};
use skiff_services::model::Protocol;

use super::{
    super::{
        evidence::{Attempt, Evidence, Seen, Socket},
        objects::{id, name, ports},
        report::{Broken, Place},
    },
    Step, Subject, endpoints, kubectl, kubectl_for,
};

/// What is at one endpoint.
enum At<'a> {
    Listens,
    /// What listens there instead, on addresses that others reach and on the loopback.
    Nothing {
        pod: &'a Pod,
        others: Vec<&'a Socket>,
    },
    Unknown(String),
}

pub(super) fn hop(e: &Evidence, attempt: &Attempt, subject: &Subject<'_>) -> Option<Step> {
    let targets: Vec<SocketAddr> = match subject {
        Subject::Service(..) => endpoints::outcome(attempt).endpoints(),
        Subject::Pod(_) => vec![attempt.way.to],
        Subject::Other => return None,
    };
    let protocol = attempt.way.protocol;
    let all: Vec<(SocketAddr, At<'_>)> = targets.iter().map(|t| (*t, look(e, *t, protocol))).collect();
    let seen = all.iter().map(|(target, at)| words(*target, at)).collect::<Vec<_>>();
    let silent: Vec<_> = all.iter().filter(|(_, at)| matches!(at, At::Nothing { .. })).collect();
    if let Some((target, At::Nothing { pod, others })) = silent.first() {
        let broken = nothing(subject, (silent.len(), all.len()), *target, protocol, pod, others);
        return Some(Step::broken(seen, broken));
    }
    match all.iter().all(|(_, at)| matches!(at, At::Listens)) {
        true => Some(Step::good(Place::Listener, seen)),
        false => Some(Step::unknown(Place::Listener, seen)),
    }
}

fn look<'a>(e: &'a Evidence, target: SocketAddr, protocol: Protocol) -> At<'a> {
    let pod = endpoints::pod_at(&e.cluster, target.ip());
    let Some(pod) = pod else { return At::Unknown("not a pod of this cluster".into()) };
    let sockets: &Seen<Vec<Socket>> = match e.sockets.get(&id(&pod.metadata)) {
        Some(sockets) => sockets,
        None => return At::Unknown("its sockets were not looked at".into()),
    };
    match sockets {
        Err(why) => At::Unknown(why.clone()),
        Ok(_) if protocol == Protocol::Sctp => At::Unknown("SCTP sockets are not listed".into()),
        Ok(all) if all.iter().any(|s| reaches(s, target, protocol)) => At::Listens,
        Ok(all) => At::Nothing { pod, others: all.iter().collect() },
    }
}

/// Whether a packet to the target finds the socket: an unspecified IPv6 address takes IPv4 too.
fn reaches(socket: &Socket, target: SocketAddr, protocol: Protocol) -> bool {
    let ip = socket.at.ip().to_canonical();
    let open = ip.is_unspecified() && (socket.at.is_ipv6() || target.is_ipv4());
    socket.protocol == protocol && socket.at.port() == target.port() && (open || ip == target.ip())
}

fn words(target: SocketAddr, at: &At<'_>) -> String {
    match at {
        At::Listens => format!("{target}: listened on"),
        At::Unknown(why) => format!("{target}: {why}"),
        At::Nothing { .. } => format!("{target}: nothing listens"),
    }
}

fn sockets(all: &[&Socket]) -> String {
    let list: BTreeSet<String> =
        all.iter().map(|s| format!("{}/{} on {}", s.at.port(), s.protocol, shown(s))).collect();
    list.into_iter().collect::<Vec<_>>().join(", ")
}

fn shown(socket: &Socket) -> String {
    match socket.at.ip().to_canonical() {
        ip if ip.is_unspecified() => "every address".into(),
        ip => ip.to_string(),
    }
}

fn nothing(
    subject: &Subject<'_>,
    (silent, all): (usize, usize),
    target: SocketAddr,
    protocol: Protocol,
    pod: &Pod,
    others: &[&Socket],
) -> Broken {
    let port = target.port();
    let pod_words = format!("pod {}", id(&pod.metadata));
    let same_port = others.iter().find(|s| s.at.port() == port && s.protocol == protocol);
    if let Some(socket) = same_port {
        return Broken::new(
            Place::Listener,
            "listensElsewhere",
            format!(
                "{pod_words} listens on port {port} of {} only, which nobody outside the pod reaches.",
                shown(socket)
            ),
        )
        .mend("let the program listen on 0.0.0.0 (or ::) instead");
    }
    let share = if silent == all {
        String::new()
    } else {
        format!(" ({silent} of {all} endpoints: their share of the connections fails)")
    };
    let broken = Broken::new(
        Place::Listener,
        "nothingListens",
        format!("nothing listens on port {port}/{protocol} in {pod_words}{share}."),
    );
    let broken = match others {
        [] => broken.detail("Nothing at all listens in that pod."),
        others => broken.detail(format!("What listens there: {}.", sockets(others))),
    };
    let reachable: BTreeSet<u16> = others
        .iter()
        .filter(|s| s.protocol == protocol && !s.at.ip().to_canonical().is_loopback())
        .map(|s| s.at.port())
        .collect();
    let kubectl_pod = kubectl(super::namespace(&pod.metadata));
    let logs = format!("{kubectl_pod} logs {}", name(&pod.metadata));
    match (reachable.first(), subject) {
        (Some(right), Subject::Service(service, of, _)) if reachable.len() == 1 => {
            let index = ports(service).iter().position(|p| p == *of).unwrap_or(0);
            let path = format!("/spec/ports/{index}/targetPort");
            let named = matches!(of.target_port, Some(IntOrString::String(_)));
            let note = if named { "    # or mend the containerPort of that name in the pods" } else { "" };
            broken.mend(format!(
                "{} patch svc {} --type=json -p '[{{\"op\":\"replace\",\"path\":\"{path}\",\"value\":{right}}}]'{note}",
                kubectl_for(service),
                name(&service.metadata)
            ))
        }
        (Some(_), Subject::Pod(_)) => {
            broken.mends(reachable.iter().map(|right| format!("connect to {}", SocketAddr::new(target.ip(), *right))))
        }
        _ => broken.mend(logs),
    }
}

//! The name asked for as the client's resolver would: its search path, its name server, real questions; and what the zone,
//! made anew of the API's objects, says to the same name.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use skiff_dns::{
    wire::{self, Data, Name, Rcode, Record, rtype},
    zone::{Answer, Zone},
};
use skiff_node::pod::resolv::{self, Resolv};
use skiff_services::model::{Service, Slice};
use tokio::{net::UdpSocket, time::timeout};

use super::place::Local;
use crate::explain::{
    evidence::{Answered, Client, Cluster, Kind, Lookup},
    question::{Host, Question, Target},
};

/// A name server of the cluster may have to ask others first.
const PATIENCE: Duration = Duration::from_secs(5);
const NDOTS: usize = 1;

/// None where no name is asked for, or where the client does not ask the cluster for names.
pub(super) fn look_up(question: &Question, client: &Client, cluster: &Cluster, local: &Local) -> Option<Lookup> {
    let dns: IpAddr = local.config.dns_ip().into();
    let (server, names) = match &question.target {
        Target::Service { name, .. } => {
            cluster.service(&question.namespace, name)?;
            (dns.to_string(), vec![format!("{name}.{}.svc.{}.", question.namespace, local.config.domain)])
        }
        Target::Peer { host: Host::Ip(_), .. } => return None,
        Target::Peer { host: Host::Name(host), .. } => {
            let resolv = resolver(client, cluster, local)?;
            (resolv.nameservers.first()?.clone(), candidates(host, &resolv))
        }
    };
    let zone = zone(cluster, local, dns)?;
    let mut lookup = Lookup { server, asked: vec![], zone: None };
    for name in names {
        let wire = Name::parse(&name)?;
        lookup.zone = by_zone(&zone, &wire);
        let answered = ask(&lookup.server, &wire, client, cluster, local);
        let found = has_address(&answered) || lookup.zone.as_ref().is_some_and(has_address);
        lookup.asked.push((name.trim_end_matches('.').to_owned(), answered));
        if found {
            break;
        }
    }
    Some(lookup)
}

fn has_address(answered: &Answered) -> bool {
    matches!(answered, Answered::Found { addresses, aliases } if !addresses.is_empty() || !aliases.is_empty())
}

/// What the pod's /etc/resolv.conf says. Nodes and the world outside ask their own resolvers, which know no Services.
fn resolver(client: &Client, cluster: &Cluster, local: &Local) -> Option<Resolv> {
    if client.kind != Kind::Pod {
        return None;
    }
    let pod = cluster.pod(&client.namespace, &client.name)?;
    let told = resolv::Cluster { ip: Some(local.config.dns_ip().into()), domain: &local.config.domain };
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    Some(resolv::of(pod, told, &Resolv::parse(&host)).0)
}

/// The names that a resolver tries, in its order (resolv.conf(5)).
fn candidates(host: &str, resolv: &Resolv) -> Vec<String> {
    if host.ends_with('.') {
        return vec![host.into()];
    }
    let option = resolv.options.iter().find_map(|o| o.strip_prefix("ndots:"));
    let ndots = option.and_then(|n| n.parse().ok()).unwrap_or(NDOTS);
    let as_it_is = format!("{host}.");
    let mut names: Vec<String> =
        resolv.searches.iter().map(|s| format!("{host}.{}.", s.trim_end_matches('.'))).collect();
    let dots = host.matches('.').count();
    names.insert(if dots >= ndots { 0 } else { names.len() }, as_it_is);
    names
}

fn zone(cluster: &Cluster, local: &Local, dns: IpAddr) -> Option<Zone> {
    let mut zone = Zone::new(Name::parse(&local.config.domain)?, vec![dns]);
    zone.update(|snapshot| {
        let services = cluster.services.iter().filter_map(Service::from_api);
        let slices = cluster.slices.iter().filter_map(Slice::from_api);
        let mut dirty: Vec<_> = services.filter_map(|s| snapshot.apply_service(s)).collect();
        dirty.extend(slices.flat_map(|s| snapshot.apply_slice(s)));
        dirty
    });
    cluster.pods.iter().for_each(|p| zone.add_namespace(p.metadata.namespace.as_deref().unwrap_or_default()));
    Some(zone)
}

fn by_zone(zone: &Zone, name: &Name) -> Option<Answered> {
    let mut last = None;
    for kind in [rtype::A, rtype::AAAA] {
        let answered = match zone.answer(name, kind) {
            Answer::Elsewhere => return None,
            Answer::Alias { target, .. } => Answered::Found { aliases: vec![text(&target)], addresses: vec![] },
            Answer::Here(response) if response.rcode == Rcode::NxDomain => Answered::NoSuchName,
            Answer::Here(response) => found(&response.answers),
        };
        if has_address(&answered) {
            return Some(answered);
        }
        last = Some(answered);
    }
    last
}

fn text(name: &Name) -> String {
    name.to_string().trim_end_matches('.').to_owned()
}

fn ask(server: &str, name: &Name, client: &Client, cluster: &Cluster, local: &Local) -> Answered {
    let Ok(ip) = server.parse::<IpAddr>() else { return Answered::Failed(format!("{server:?} is no address")) };
    let mut last = Answered::NoSuchName;
    for kind in [rtype::A, rtype::AAAA] {
        let question = |name: Name| move || async move { exchange((ip, 53).into(), &name, kind).await };
        // For an object's name the node asks: the world outside has no way to the name server.
        let asked = match client.kind {
            Kind::Outside => local.on_node(&client.node, question(name.clone())),
            _ => local.as_client(client, cluster, question(name.clone())),
        };
        last = asked.unwrap_or_else(Answered::Failed);
        if !matches!(&last, Answered::Found { addresses, .. } if addresses.is_empty()) {
            break;
        }
    }
    last
}

async fn exchange(server: SocketAddr, name: &Name, kind: u16) -> io::Result<Answered> {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await?;
    socket.connect(server).await?;
    socket.send(&wire::encode_query(1, name, kind)).await?;
    let mut buffer = [0; 4096];
    let length = match timeout(PATIENCE, socket.recv(&mut buffer)).await {
        Err(_) => return Ok(Answered::Failed(format!("no answer within {} s", PATIENCE.as_secs()))),
        Ok(Err(e)) => return Ok(Answered::Failed(e.to_string())),
        Ok(Ok(length)) => length,
    };
    let Some(answer) = wire::parse_foreign(&buffer[..length]) else {
        return Ok(Answered::Failed("a malformed answer".into()));
    };
    Ok(match answer.response.rcode {
        Rcode::NoError => found(&answer.response.answers),
        Rcode::NxDomain if answer.response.answers.is_empty() => Answered::NoSuchName,
        Rcode::NxDomain => found(&answer.response.answers),
        other => Answered::Failed(format!("the server says {other:?}")),
    })
}

fn found(records: &[Record]) -> Answered {
    let (mut aliases, mut addresses) = (vec![], vec![]);
    for record in records {
        match &record.data {
            Data::A(ip) => addresses.push(IpAddr::V4(*ip)),
            Data::Aaaa(ip) => addresses.push(IpAddr::V6(*ip)),
            Data::Cname(name) => aliases.push(text(name)),
            Data::Other { rtype: rtype::A, bytes } => {
                addresses.extend(<[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from));
            }
            Data::Other { rtype: rtype::AAAA, bytes } => {
                addresses.extend(<[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from));
            }
            Data::Other { rtype: rtype::CNAME, bytes } => {
                aliases.extend(Name::read(bytes, 0).map(|(name, _)| text(&name)));
            }
            _ => {}
        }
    }
    Answered::Found { aliases, addresses }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tried_in_the_resolvers_order() {
        let resolv = Resolv::parse("search a.b b\noptions ndots:2\n");
        assert_eq!(candidates("x", &resolv), ["x.a.b.", "x.b.", "x."]);
        assert_eq!(candidates("x.y.z", &resolv), ["x.y.z.", "x.y.z.a.b.", "x.y.z.b."]);
        assert_eq!(candidates("x.", &resolv), ["x."]);
        assert_eq!(candidates("x.y", &Resolv::default()), ["x.y."]);
    }
}

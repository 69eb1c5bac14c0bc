//! The name asked for as the client's resolver would: its search path, its name server, real questions; and what the zone,
//! made anew of the API's objects, says to the same name.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use skiff_dns::{
    wire::{Data, Name, Rcode, Record, rtype},
    zone::{Answer, Zone},
};
use skiff_node::pod::resolv::{self, Resolv};

use super::place::Local;
use crate::{
    dns::ask::{candidates, exchange, zone},
    explain::{
        evidence::{Answered, Client, Cluster, Kind, Lookup},
        question::{Host, Question, Target},
    },
};

/// None where no name is asked for, or where the client does not ask the cluster for names.
pub(super) fn look_up(question: &Question, client: &Client, cluster: &Cluster, local: &Local) -> Option<Lookup> {
    let dns: IpAddr = local.config.dns_ip().into();
    let (server, names) = match &question.target {
        Target::Service { name, .. } => {
            cluster.service(&question.namespace, name)?;
            let name = format!("{name}.{}.svc.{}.", question.namespace, local.config.domain);
            (dns.to_string(), vec![Name::parse(&name)?])
        }
        Target::Peer { host: Host::Ip(_), .. } => return None,
        Target::Peer { host: Host::Name(host), .. } => {
            let resolv = resolver(client, cluster, local)?;
            (resolv.nameservers.first()?.clone(), candidates(host, &resolv).ok()?)
        }
    };
    let mut zone = zone(&local.config.domain, dns, &cluster.services, &cluster.slices)?;
    cluster.pods.iter().for_each(|p| zone.add_namespace(p.metadata.namespace.as_deref().unwrap_or_default()));
    let mut lookup = Lookup { server, asked: vec![], zone: None };
    for name in names {
        lookup.zone = by_zone(&zone, &name);
        let answered = ask(&lookup.server, &name, client, cluster, local);
        let found = has_address(&answered) || lookup.zone.as_ref().is_some_and(has_address);
        lookup.asked.push((text(&name), answered));
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
        let question = |name: Name| move || async move { asked((ip, 53).into(), &name, kind).await };
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

async fn asked(server: SocketAddr, name: &Name, kind: u16) -> io::Result<Answered> {
    let answer = match exchange(server, name, kind).await {
        Err(error) => return Ok(Answered::Failed(error.to_string())),
        Ok(answer) => answer,
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

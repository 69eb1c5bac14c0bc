//! `skiff dns query`: a name asked for as a pod's resolver would, step by step, with the reason for each answer.

use std::{
    fmt::Write,
    io,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, ResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use skiff_dns::{
    why,
    wire::{self, Data, Foreign, Name, Rcode, rtype},
    zone::Zone,
};
use skiff_node::pod::resolv::{self, Resolv};

use super::{
    args::DnsQuery,
    ask::{PATIENCE, candidates, exchange, ndots, zone},
};
use crate::cluster::{config::Config, network::netns, paths::Paths};

pub(crate) fn run(args: &DnsQuery) -> Result<ExitCode> {
    let (config, paths) = crate::commands::running(&args.which)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rtype = rtype_of(&args.rtype)?;
    let view = runtime.block_on(look(args, &config, &paths))?;
    let candidates = candidates(&complete(&args.what), &view.resolv)?;
    let server = SocketAddr::new(view.server(&config), 53);
    let node = paths.netns(&view.node);
    let asked = netns::inside(&node, || async { walk(server, &candidates, rtype).await });
    let asked = asked.with_context(|| format!("ask {server} from node {}", view.node))?;
    crate::commands::print(&report(args, &view, &candidates, &asked, rtype))?;
    let found = asked.last().is_some_and(|a| a.answer.as_ref().is_some_and(|a| is_found(a, rtype)));
    Ok(if found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the API knows of who asks and of what is asked for.
struct View {
    zone: Zone,
    resolv: Resolv,
    node: String,
    asker: String,
}

impl View {
    fn server(&self, config: &Config) -> IpAddr {
        let first = self.resolv.nameservers.first().and_then(|n| n.parse().ok());
        first.unwrap_or_else(|| config.dns_ip().into())
    }
}

async fn look(args: &DnsQuery, config: &Config, paths: &Paths) -> Result<View> {
    let file = Kubeconfig::read_from(paths.kubeconfig())?;
    let told = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    let client = kube::Client::try_from(told)?;
    let all = ListParams::default();
    let services = Api::<Service>::all(client.clone()).list(&all).await?;
    let slices = Api::<EndpointSlice>::all(client.clone()).list(&all).await?;
    let namespaces = Api::<Namespace>::all(client.clone()).list(&all).await?;
    let zone = zone(&config.domain, config.dns_ip().into(), &services, &slices);
    let mut zone = zone.context("the cluster's domain is no DNS name")?;
    zone.set_namespaces(namespaces.iter().map(|n| n.name_any().into()).collect());
    let (pod, asker) = asking_pod(args, client).await?;
    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_else(|| config.node_name(0));
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let cluster = resolv::Cluster { ip: Some(config.dns_ip().into()), domain: &config.domain };
    let (resolv, _) = resolv::of(&pod, cluster, &Resolv::parse(&host));
    Ok(View { zone, resolv, node, asker })
}

/// The pod that is told, or one without wishes in the namespace.
async fn asking_pod(args: &DnsQuery, client: kube::Client) -> Result<(Pod, String)> {
    let Some(from) = &args.from else {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some(args.namespace.clone());
        return Ok((pod, format!("any pod of namespace {}", args.namespace)));
    };
    let (namespace, name) = from.split_once('/').unwrap_or((&args.namespace, from));
    let found = Api::<Pod>::namespaced(client, namespace).get_opt(name).await?;
    let Some(pod) = found else { bail!("there is no pod {name:?} in namespace {namespace:?}") };
    Ok((pod, format!("pod {namespace}/{name}")))
}

fn rtype_of(text: &str) -> Result<u16> {
    const TYPES: [(&str, u16); 9] = [
        ("A", rtype::A),
        ("AAAA", rtype::AAAA),
        ("SRV", rtype::SRV),
        ("PTR", rtype::PTR),
        ("CNAME", rtype::CNAME),
        ("TXT", rtype::TXT),
        ("NS", rtype::NS),
        ("SOA", rtype::SOA),
        ("ANY", rtype::ANY),
    ];
    let known = TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, number)| *number);
    let number = || text.to_ascii_uppercase().strip_prefix("TYPE")?.parse().ok();
    known.or_else(number).with_context(|| {
        format!("{text:?} is no type of records: {} or TYPE and a number", TYPES.map(|(name, _)| name).join(", "))
    })
}

/// An address stands for its reverse name.
fn complete(text: &str) -> String {
    text.parse().map_or_else(|_| text.to_owned(), reverse)
}

fn reverse(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(ip) => {
            let nibbles = ip.octets().into_iter().rev().flat_map(|b| [b & 15, b >> 4]);
            nibbles.map(|n| format!("{n:x}.")).collect::<String>() + "ip6.arpa."
        }
    }
}

/// One step of the walk; no answer when there was none in time.
struct Asked {
    answer: Option<Foreign>,
    took: Duration,
}

/// Asks for one name after the other, until one has what is wanted.
async fn walk(server: SocketAddr, names: &[Name], rtype: u16) -> io::Result<Vec<Asked>> {
    let mut asked = vec![];
    for name in names {
        let start = Instant::now();
        let answer = match exchange(server, name, rtype).await {
            Ok(answer) => Some(answer),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => None,
            Err(error) => return Err(error),
        };
        let found = answer.as_ref().is_some_and(|a| is_found(a, rtype));
        asked.push(Asked { answer, took: start.elapsed() });
        if found {
            break;
        }
    }
    Ok(asked)
}

/// A resolver goes on when there is nothing of the type that it wants.
fn is_found(answer: &Foreign, wanted: u16) -> bool {
    let fits = |r: &wire::Record| wanted == rtype::ANY || r.data.rtype() == wanted;
    answer.response.rcode == Rcode::NoError && answer.response.answers.iter().any(fits)
}

fn report(args: &DnsQuery, view: &View, names: &[Name], asked: &[Asked], rtype: u16) -> String {
    let mut out = String::new();
    let (ndots, dots) = (ndots(&view.resolv), args.what.matches('.').count());
    let _ = writeln!(out, "{} {} as {} asks on node {}", args.what, args.rtype, view.asker, view.node);
    for line in view.resolv.render().lines() {
        let _ = writeln!(out, "  {line}");
    }
    let order = match () {
        () if names.len() == 1 => "the name is complete: no search path".into(),
        () if dots >= ndots => format!("{dots} dots, ndots is {ndots}: the name itself first, then the search path"),
        () => format!("{dots} dots, fewer than ndots ({ndots}): the search path first"),
    };
    let _ = writeln!(out, "{order}\n");
    for (n, (name, step)) in names.iter().zip(asked).enumerate() {
        let why = why::explain(&view.zone, name, rtype);
        let _ = writeln!(out, "{}. {name}  ->  {}  ({:.1?})\n     {why}", n + 1, shown(step), step.took);
    }
    out
}

fn shown(step: &Asked) -> String {
    let Some(answer) = &step.answer else { return format!("no answer in {PATIENCE:?}") };
    let records: Vec<String> = answer.response.answers.iter().map(|r| data(&r.data)).collect();
    match answer.response.rcode {
        Rcode::NoError if records.is_empty() => "NODATA (the name exists, not with this type)".into(),
        Rcode::NoError => records.join(", "),
        rcode => rcode.text().into(),
    }
}

/// Record data as people write it.
fn data(data: &Data) -> String {
    let Data::Other { rtype, bytes } = data else { return format!("{data:?}") };
    let name = |at: usize| Name::read(bytes, at).map(|(name, _)| name.to_string());
    let word = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let text = match *rtype {
        rtype::A => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(|b| IpAddr::from(b).to_string()),
        rtype::AAAA => <[u8; 16]>::try_from(bytes.as_slice()).ok().map(|b| IpAddr::from(b).to_string()),
        rtype::CNAME => name(0).map(|n| format!("alias of {n}")),
        rtype::PTR | rtype::NS | rtype::SOA => name(0),
        rtype::SRV => (|| Some(format!("{} {} {} {}", word(0)?, word(2)?, word(4)?, name(6)?)))(),
        rtype::TXT => bytes.get(1..).map(|t| format!("{:?}", String::from_utf8_lossy(t))),
        _ => None,
    };
    text.unwrap_or_else(|| format!("TYPE{rtype} of {} bytes", bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stand_for_their_names() {
        assert_eq!(complete("10.96.0.1"), "1.0.96.10.in-addr.arpa.");
        let six = complete("fd00::7");
        assert!(six.starts_with("7.0.0.0.") && six.ends_with("0.0.d.f.ip6.arpa."), "{six}");
        assert_eq!(complete("web.shop"), "web.shop");
    }

    #[test]
    fn types() {
        assert_eq!(rtype_of("srv").unwrap(), rtype::SRV);
        assert_eq!(rtype_of("type65").unwrap(), 65);
        assert!(rtype_of("address").unwrap_err().to_string().contains("AAAA"));
    }
}

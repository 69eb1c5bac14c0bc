//! How a pod's resolver asks: the names that it tries, one question to a server; and what the zone would say, made anew of
//! the API's objects.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use skiff_dns::{
    wire::{self, Foreign, Name},
    zone::Zone,
};
use skiff_node::pod::resolv::Resolv;
use skiff_services::model;
use tokio::{net::UdpSocket, time::timeout};

/// A name server of the cluster may have to ask others first.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// What resolv.conf(5) says when the file does not.
const NDOTS: usize = 1;

/// The names that a resolver tries, in its order (resolv.conf(5)).
pub(crate) fn candidates(text: &str, resolv: &Resolv) -> Result<Vec<Name>> {
    let parse = |text: &str| Name::parse(text).with_context(|| format!("{text:?} is not a DNS name"));
    if text.ends_with('.') {
        return Ok(vec![parse(text)?]);
    }
    let mut names = resolv.searches.iter().map(|s| parse(&format!("{text}.{s}"))).collect::<Result<Vec<_>>>()?;
    let first = text.matches('.').count() >= ndots(resolv);
    names.insert(if first { 0 } else { names.len() }, parse(text)?);
    Ok(names)
}

/// How many dots a name has that is tried as it is before the search path.
pub(crate) fn ndots(resolv: &Resolv) -> usize {
    let option = resolv.options.iter().find_map(|o| o.strip_prefix("ndots:"));
    option.and_then(|n| n.parse().ok()).unwrap_or(NDOTS)
}

/// Asks once; what is no answer to this question is not heard. The error's kind is `TimedOut` when there is none in time.
pub(crate) async fn exchange(server: SocketAddr, name: &Name, rtype: u16) -> io::Result<Foreign> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, question(server, name, rtype)).await.map_err(late)?
}

async fn question(server: SocketAddr, name: &Name, rtype: u16) -> io::Result<Foreign> {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await?;
    socket.connect(server).await?;
    let id = rand::random();
    socket.send(&wire::encode_query(id, name, rtype)).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = wire::parse_foreign(&buffer[..length]).filter(|a| a.id == id) {
            return Ok(answer);
        }
    }
}

/// None when the domain is no DNS name. Namespaces are the caller's.
pub(crate) fn zone<'a>(
    domain: &str,
    server: IpAddr,
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
) -> Option<Zone> {
    let mut zone = Zone::new(Name::parse(domain)?, vec![server]);
    zone.update(|snapshot| {
        let services = services.into_iter().filter_map(model::Service::from_api);
        let mut dirty: Vec<_> = services.filter_map(|s| snapshot.apply_service(s)).collect();
        let slices = slices.into_iter().filter_map(model::Slice::from_api);
        dirty.extend(slices.flat_map(|s| snapshot.apply_slice(s)));
        dirty
    });
    Some(zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tried_in_the_resolvers_order() {
        let walk = |text: &str, file: &str| {
            let names = candidates(text, &Resolv::parse(file)).unwrap();
            names.iter().map(Name::to_string).collect::<Vec<_>>().join(" ")
        };
        let file = "search a.b b\noptions ndots:2\n";
        assert_eq!(walk("x", file), "x.a.b. x.b. x.");
        assert_eq!(walk("x.y", file), "x.y.a.b. x.y.b. x.y.");
        assert_eq!(walk("x.y.z", file), "x.y.z. x.y.z.a.b. x.y.z.b.");
        assert_eq!(walk("x.", file), "x.");
        assert_eq!(walk("x.y", ""), "x.y.");
        assert_eq!(walk("x.y", "search b"), "x.y. x.y.b.");
        assert!(candidates("a..b", &Resolv::default()).is_err());
    }
}

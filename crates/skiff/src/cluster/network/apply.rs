//! Makes the host and the namespaces look as planned, and takes it down again. Every step may find its work done, by an
//! earlier start that was cut short.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    path::Path,
};

use futures::TryStreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::{
    address::AddressAttribute,
    route::{RouteMessage, RouteScope},
};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};

use super::{
    netns,
    plan::{HUB_BRIDGE, HUB_UPLINK, NODE_LINK, Network, NodeLink},
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{what}: {source}{}", hint(source))]
    Step { what: String, source: io::Error },
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => " (this needs root: run it with sudo)",
        _ => "",
    }
}

trait During<T> {
    /// Says what was being done when it failed.
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Step { what: what(), source })
    }
}

/// What the host could not be given, with the reason, for the user to read; the cluster works without it.
pub(crate) type Warnings = Vec<String>;

/// Call on a thread in the host's namespace.
pub(crate) async fn up(net: &Network) -> Result<Warnings, Error> {
    for path in net.nodes.iter().map(|n| &n.netns).chain(&net.hub) {
        netns::ensure(path).during(|| format!("make network namespace {}", path.display()))?;
    }
    let host = connect().during(|| "open netlink".into())?;
    let far = net.hub.as_deref().unwrap_or(&net.nodes[0].netns);
    let far_name = if net.hub.is_some() { HUB_UPLINK } else { NODE_LINK };
    ensure_veth(&host, &net.host_link, far_name, far)
        .await
        .during(|| format!("link {} to the nodes", net.host_link))?;
    addresses(&host, &net.host_link, &net.host_ips).await.during(|| format!("addresses of {}", net.host_link))?;
    if let Some(hub) = &net.hub {
        netns::inside(hub, || wire_hub(net)).during(|| format!("wire {}", hub.display()))?;
    }
    for node in &net.nodes {
        netns::inside(&node.netns, || wire_node(node)).during(|| format!("wire node {}", node.name))?;
    }
    host_routes(&host, net).await
}

/// Removes every link and namespace of the cluster; goes on after an error and reports the first.
pub(crate) async fn down(net: &Network) -> Result<(), Error> {
    let host = connect().during(|| "open netlink".into())?;
    let mut first = remove_link(&host, &net.host_link).await.during(|| format!("remove link {}", net.host_link));
    for path in net.nodes.iter().map(|n| &n.netns).chain(&net.hub) {
        let removed = netns::remove(path).during(|| format!("remove namespace {}", path.display()));
        first = first.and(removed);
    }
    first
}

fn connect() -> io::Result<Handle> {
    let (connection, handle, _) = new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Netlink's own error number, where the answer carries one.
fn os_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(m) => io::Error::from_raw_os_error(m.raw_code().abs()),
        other => io::Error::other(other.to_string()),
    }
}

fn unless_there(result: Result<(), rtnetlink::Error>) -> io::Result<()> {
    match result.map_err(os_error) {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::EXIST.raw_os_error()) => Ok(()),
        other => other,
    }
}

async fn index(handle: &Handle, name: &str) -> io::Result<Option<u32>> {
    let found = handle.link().get().match_name(name.to_owned()).execute().try_next().await;
    match found.map_err(os_error) {
        Ok(link) => Ok(link.map(|l| l.header.index)),
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(None),
        Err(e) => Err(e),
    }
}

async fn existing(handle: &Handle, name: &str) -> io::Result<u32> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {name}"));
    index(handle, name).await?.ok_or_else(missing)
}

/// A veth pair from here to `peer` inside the namespace, up at both ends.
async fn ensure_veth(handle: &Handle, here: &str, peer: &str, namespace: &Path) -> io::Result<()> {
    if index(handle, here).await?.is_none() {
        let ns = File::open(namespace)?;
        // The peer gets its final name on the other side: here the name may be taken.
        let temporary = format!("{here}p");
        handle.link().add(LinkVeth::new(here, &temporary).build()).execute().await.map_err(os_error)?;
        let peer_index = existing(handle, &temporary).await?;
        let moved = LinkUnspec::new_with_index(peer_index).name(peer).setns_by_fd(ns.as_raw_fd()).build();
        handle.link().set(moved).execute().await.map_err(os_error)?;
    }
    set_up(handle, here).await
}

async fn set_up(handle: &Handle, name: &str) -> io::Result<()> {
    let link = LinkUnspec::new_with_index(existing(handle, name).await?).up().build();
    handle.link().set(link).execute().await.map_err(os_error)
}

async fn addresses(handle: &Handle, link: &str, ips: &[IpNet]) -> io::Result<()> {
    if ips.iter().any(|ip| matches!(ip, IpNet::V6(_))) {
        // The addresses serve at once: nobody else on the cluster's own links can have them.
        fs::write(format!("/proc/sys/net/ipv6/conf/{link}/accept_dad"), "0")?;
    }
    let link = existing(handle, link).await?;
    for ip in ips {
        unless_there(handle.address().add(link, ip.addr(), ip.prefix_len()).execute().await)?;
    }
    Ok(())
}

async fn remove_link(handle: &Handle, name: &str) -> io::Result<()> {
    match index(handle, name).await? {
        Some(link) => match handle.link().del(link).execute().await.map_err(os_error) {
            // Gone in between, with its other end.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        },
        None => Ok(()),
    }
}

/// The names of the links on a bridge.
async fn ports(handle: &Handle, bridge: &str) -> io::Result<Vec<String>> {
    use netlink_packet_route::link::LinkAttribute;
    let Some(bridge) = index(handle, bridge).await? else { return Ok(vec![]) };
    let mut links = handle.link().get().execute();
    let mut found = vec![];
    while let Some(link) = links.try_next().await.map_err(os_error)? {
        if link.attributes.iter().any(|a| matches!(a, LinkAttribute::Controller(of) if *of == bridge)) {
            found.extend(
                link.attributes.into_iter().find_map(|a| if let LinkAttribute::IfName(n) = a { Some(n) } else { None }),
            );
        }
    }
    Ok(found)
}

async fn wire_hub(net: &Network) -> io::Result<()> {
    let handle = connect()?;
    if index(&handle, HUB_BRIDGE).await?.is_none() {
        handle.link().add(LinkBridge::new(HUB_BRIDGE).build()).execute().await.map_err(os_error)?;
    }
    bridge_calls_no_iptables()?;
    let bridge = existing(&handle, HUB_BRIDGE).await?;
    for node in &net.nodes {
        ensure_veth(&handle, &node.peer, NODE_LINK, &node.netns).await?;
    }
    for port in net.nodes.iter().map(|n| n.peer.as_str()).chain([HUB_UPLINK]) {
        let link = LinkUnspec::new_with_index(existing(&handle, port).await?).controller(bridge).up().build();
        handle.link().set(link).execute().await.map_err(os_error)?;
    }
    set_up(&handle, HUB_BRIDGE).await
}

/// Bridged frames would otherwise run through the namespace's netfilter hooks (the kernel's default is 1).
fn bridge_calls_no_iptables() -> io::Result<()> {
    match fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

async fn wire_node(node: &NodeLink) -> io::Result<()> {
    let handle = connect()?;
    set_up(&handle, "lo").await?;
    addresses(&handle, "lo", &[node.dns]).await?;
    set_up(&handle, NODE_LINK).await?;
    addresses(&handle, NODE_LINK, &node.ips).await?;
    let link = existing(&handle, NODE_LINK).await?;
    for gateway in &node.gateways {
        let everywhere = if gateway.is_ipv4() { IpNet::V4(Ipv4Net::default()) } else { IpNet::V6(Ipv6Net::default()) };
        unless_there(handle.route().add(route_to(everywhere, Some(*gateway), link)?).execute().await)?;
    }
    Ok(())
}

/// What an agent's own namespace needs: the cluster DNS address, which its DNS server answers at.
pub(crate) async fn wire_agent(dns: IpAddr) -> Result<(), Error> {
    let IpAddr::V4(dns) = dns else { return Ok(()) };
    let handle = connect().during(|| "open netlink".into())?;
    set_up(&handle, "lo").await.during(|| "set lo up".into())?;
    let dns = IpNet::from(IpAddr::from(dns));
    addresses(&handle, "lo", &[dns]).await.during(|| format!("give lo the cluster DNS address {dns}"))
}

/// Removes an agent's bridge with the links of its pods and its routes to the other nodes' pods, and takes the cluster DNS address off lo.
pub(crate) async fn unwire_agent(dns: IpAddr, pods: Ipv4Net) -> Result<(), Error> {
    let handle = connect().during(|| "open netlink".into())?;
    let bridge = skiff_node::network::BRIDGE;
    // A link goes with its pod's namespace too, but only when the kernel gets round to it.
    for link in ports(&handle, bridge).await.during(|| format!("list the links on {bridge}"))? {
        remove_link(&handle, &link).await.during(|| format!("remove link {link}"))?;
    }
    remove_link(&handle, bridge).await.during(|| format!("remove link {bridge}"))?;
    remove_routes(&handle, pods).await.during(|| format!("remove the routes into {pods}"))?;
    remove_address(&handle, dns).await.during(|| format!("take {dns} off lo"))
}

/// Those by a gateway to parts of the range, as agents make them.
async fn remove_routes(handle: &Handle, range: Ipv4Net) -> io::Result<()> {
    use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteProtocol};
    let into_range =
        |a: &RouteAttribute| matches!(a, RouteAttribute::Destination(RouteAddress::Inet(ip)) if range.contains(ip));
    let mut routes = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    let mut ours = vec![];
    while let Some(route) = routes.try_next().await.map_err(os_error)? {
        let by_gateway = route.attributes.iter().any(|a| matches!(a, RouteAttribute::Gateway(_)));
        let part = route.header.destination_prefix_length > range.prefix_len();
        if by_gateway
            && part
            && route.header.protocol == RouteProtocol::Static
            && route.attributes.iter().any(into_range)
        {
            ours.push(route);
        }
    }
    for route in ours {
        handle.route().del(route).execute().await.map_err(os_error)?;
    }
    Ok(())
}

async fn remove_address(handle: &Handle, ip: IpAddr) -> io::Result<()> {
    let lo = existing(handle, "lo").await?;
    let mut all = handle.address().get().set_link_index_filter(lo).execute();
    while let Some(message) = all.try_next().await.map_err(os_error)? {
        if message.attributes.contains(&AddressAttribute::Address(ip)) {
            return handle.address().del(message).execute().await.map_err(os_error);
        }
    }
    Ok(())
}

/// Routes are a convenience of the host's: where another cluster (or a VPN) has the range, the cluster goes without.
async fn host_routes(handle: &Handle, net: &Network) -> Result<Warnings, Error> {
    let link = existing(handle, &net.host_link).await.during(|| "find the host's link".into())?;
    let mut warnings = vec![];
    let of_node =
        |range: &IpNet| net.nodes[0].ips.iter().map(IpNet::addr).find(|ip| ip.is_ipv4() == range.addr().is_ipv4());
    let through_node = net.routes.iter().filter_map(|range| Some((range, Some(of_node(range)?))));
    for (range, gateway) in through_node.chain(net.on_link.iter().map(|range| (range, None))) {
        let route = route_to(*range, gateway, link).during(|| format!("route to {range}"))?;
        match handle.route().add(route).execute().await.map_err(os_error) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if !ours(handle, *range, link).await.unwrap_or(false) {
                    warnings.push(format!(
                        "the host has another route to {range}, so it reaches this cluster's addresses of that range only \
                         through `skiff shell`; node addresses and NodePorts work"
                    ));
                }
            }
            Err(source) => return Err(Error::Step { what: format!("route to {range}"), source }),
        }
    }
    Ok(warnings)
}

fn route_to(range: IpNet, gateway: Option<IpAddr>, link: u32) -> io::Result<RouteMessage> {
    let route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(range.network(), range.prefix_len())
        .map_err(io::Error::other)?
        .output_interface(link);
    match gateway {
        Some(gateway) => Ok(route.gateway(gateway).map_err(io::Error::other)?.build()),
        None => Ok(route.scope(RouteScope::Link).build()),
    }
}

/// Whether the host's route to the range leaves by our link.
async fn ours(handle: &Handle, range: IpNet, link: u32) -> io::Result<bool> {
    use netlink_packet_route::route::{RouteAddress, RouteAttribute};
    let (all, to) = match range.network() {
        IpAddr::V4(ip) => (RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteAddress::Inet(ip)),
        IpAddr::V6(ip) => (RouteMessageBuilder::<Ipv6Addr>::new().build(), RouteAddress::Inet6(ip)),
    };
    let mut routes = handle.route().get(all).execute();
    while let Some(route) = routes.try_next().await.map_err(os_error)? {
        let to_range = route.header.destination_prefix_length == range.prefix_len()
            && route.attributes.contains(&RouteAttribute::Destination(to.clone()));
        if to_range && route.attributes.contains(&RouteAttribute::Oif(link)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Subnets 172.30.INDEX.0/24 that an interface or route of the host already uses.
pub(crate) async fn used_indexes() -> Result<Vec<u8>, Error> {
    use netlink_packet_route::route::{RouteAddress, RouteAttribute};
    let handle = connect().during(|| "open netlink".into())?;
    let mut routes = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    let mut used = vec![];
    while let Some(route) = routes.try_next().await.map_err(os_error).during(|| "list the host's routes".into())? {
        for attribute in &route.attributes {
            if let RouteAttribute::Destination(RouteAddress::Inet(ip)) = attribute
                && ip.octets()[..2] == [172, 30]
            {
                used.push(ip.octets()[2]);
            }
        }
    }
    Ok(used)
}

/// The interfaces by which the host reaches the rest of the world, over either family.
pub(crate) async fn uplinks() -> Result<Vec<String>, Error> {
    use netlink_packet_route::{link::LinkAttribute, route::RouteAttribute};
    let during = || "list the host's default routes".to_owned();
    let handle = connect().during(during)?;
    let mut names = vec![];
    for route in default_routes(&handle).await.during(during)? {
        let out = route.attributes.iter().find_map(|a| if let RouteAttribute::Oif(i) = a { Some(*i) } else { None });
        let Some(out) = out else { continue };
        let mut links = handle.link().get().match_index(out).execute();
        let Some(link) = links.try_next().await.map_err(os_error).during(during)? else { continue };
        names.extend(
            link.attributes.into_iter().find_map(|a| if let LinkAttribute::IfName(n) = a { Some(n) } else { None }),
        );
    }
    names.sort();
    names.dedup();
    Ok(names)
}

async fn default_routes(handle: &Handle) -> io::Result<Vec<RouteMessage>> {
    let mut found = vec![];
    for all in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()] {
        let routes: Vec<RouteMessage> = handle.route().get(all).execute().try_collect().await.map_err(os_error)?;
        // The kernel answers questions for routes of a family it does not have with those of others.
        found.extend(routes.into_iter().filter(|r| r.header.destination_prefix_length == 0));
    }
    Ok(found)
}

/// Cuts a node off: its link goes, and with it all that it could say.
pub(crate) async fn cut(net: &Network, node: &NodeLink) -> Result<(), Error> {
    let during = || format!("cut the link of node {}", node.name);
    match &net.hub {
        Some(hub) => netns::inside(hub, || async { remove_link(&connect()?, &node.peer).await }).during(during),
        None => {
            let host = connect().during(during)?;
            remove_link(&host, &net.host_link).await.during(during)
        }
    }
}

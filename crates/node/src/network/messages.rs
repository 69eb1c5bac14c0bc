//! What is asked of the kernel, as values: bridge, veth pair, addresses, routes.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use ipnet::IpNet;
use rtnetlink::{
    LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        AddressFamily, RouteNetlinkMessage as Message,
        address::{AddressAttribute, AddressMessage},
        link::{InfoData, InfoVeth, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope},
    },
};

use super::netlink::Request;

/// The bridge has a hardware address of its own: without one it takes that of its lowest port and pods lose their
/// gateway for a while whenever a pod comes or goes.
pub(super) fn bridge(name: &str, mac: [u8; 6], mtu: u32) -> Request {
    let link = LinkBridge::new(name).address(mac.to_vec()).mtu(mtu).up().build();
    Request::ensure(format!("create the bridge {name}"), Message::NewLink(link))
}

/// The host's end up and in the bridge, the other end as eth0 in the namespace: that one can be set up only when the
/// pair is complete.
pub(super) fn veth(host: &str, namespace: BorrowedFd<'_>, bridge: u32, mtu: u32) -> Request {
    let mut peer = LinkUnspec::new_with_name("eth0").mtu(mtu).build();
    peer.attributes.push(rtnetlink::packet_route::link::LinkAttribute::NetNsFd(namespace.as_raw_fd()));
    let link = LinkMessageBuilder::<LinkVeth>::new(host, "eth0")
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(mtu)
        .controller(bridge)
        .up()
        .build();
    Request::create(format!("create the veth pair {host}"), Message::NewLink(link))
}

pub(super) fn link_up(name: &str) -> Request {
    let link = LinkUnspec::new_with_name(name).up().build();
    Request::change(format!("set {name} up"), Message::SetLink(link))
}

pub(super) fn delete_link(name: &str) -> Request {
    let link = LinkUnspec::new_with_name(name).build();
    Request::change(format!("delete {name}"), Message::DelLink(link))
}

pub(super) fn all_links() -> Message {
    Message::GetLink(LinkMessage::default())
}

pub(super) fn address(interface: u32, address: IpAddr, prefix: u8) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix;
    message.header.index = interface;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    Request::ensure(format!("give {address}/{prefix} to interface {interface}"), Message::NewAddress(message))
}

/// A neighbour reachable on the link itself.
pub(super) fn link_route(interface: u32, to: IpAddr) -> Request {
    let mut message = route(interface, IpNet::from(to));
    message.header.scope = RouteScope::Link;
    Request::replace(format!("add the route to {to}"), Message::NewRoute(message))
}

/// Forgets the hardware address that a former owner of the address had.
pub(super) fn forget_neighbour(interface: u32, address: IpAddr) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = interface;
    let address = match address {
        IpAddr::V4(a) => NeighbourAddress::Inet(a),
        IpAddr::V6(a) => NeighbourAddress::Inet6(a),
    };
    let what = format!("forget the former owner of {address:?}");
    message.attributes.push(NeighbourAttribute::Destination(address));
    Request::change(what, Message::DelNeighbour(message))
}

pub(super) fn default_route(interface: u32, via: IpAddr) -> Request {
    let mut message = RouteMessageBuilder::<IpAddr>::new().output_interface(interface).build();
    message.header.address_family = family(via);
    message.attributes.push(RouteAttribute::Gateway(via_address(via)));
    Request::replace(format!("add the default route via {via}"), Message::NewRoute(message))
}

pub(super) fn remote_route(to: IpNet, via: IpAddr) -> Request {
    Request::replace(format!("add the route to {to} via {via}"), Message::NewRoute(via_route(to, via)))
}

pub(super) fn delete_remote_route(to: IpNet, via: IpAddr) -> Request {
    Request::change(format!("delete the route to {to} via {via}"), Message::DelRoute(via_route(to, via)))
}

fn via_route(to: IpNet, via: IpAddr) -> RouteMessage {
    let mut message = RouteMessageBuilder::<IpAddr>::new().build();
    destination(&mut message, to);
    message.attributes.push(RouteAttribute::Gateway(via_address(via)));
    message
}

fn route(interface: u32, to: IpNet) -> RouteMessage {
    let mut message = RouteMessageBuilder::<IpAddr>::new().output_interface(interface).build();
    destination(&mut message, to);
    message
}

fn destination(message: &mut RouteMessage, to: IpNet) {
    message.header.address_family = family(to.addr());
    message.header.destination_prefix_length = to.prefix_len();
    message.attributes.push(RouteAttribute::Destination(via_address(to.network())));
}

fn via_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(a) => RouteAddress::Inet(a),
        IpAddr::V6(a) => RouteAddress::Inet6(a),
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

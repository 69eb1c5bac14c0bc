//! The link that an address of the node stands on.

use std::net::IpAddr;

use rtnetlink::packet_route::{
    RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressMessage},
    link::LinkAttribute,
};

use super::{Error, messages, netlink::Netlink};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub mac: [u8; 6],
}

/// In the network namespace of the calling thread.
pub fn link_of(ip: IpAddr) -> Result<Link, Error> {
    let mut netlink = Netlink::open()?;
    let addresses = netlink.dump(Message::GetAddress(AddressMessage::default()))?;
    let index = addresses.iter().find_map(|m| stands_on(m, ip)).ok_or(Error::NoLink(ip))?;
    let links = netlink.dump(messages::all_links())?;
    let mac = links.iter().find_map(|m| mac_of(m, index)).ok_or(Error::NoLink(ip))?;
    Ok(Link { index, mac })
}

fn stands_on(message: &Message, ip: IpAddr) -> Option<u32> {
    let Message::NewAddress(address) = message else { return None };
    let is_it = |a: &AddressAttribute| match a {
        AddressAttribute::Local(a) | AddressAttribute::Address(a) => *a == ip,
        _ => false,
    };
    address.attributes.iter().any(is_it).then_some(address.header.index)
}

fn mac_of(message: &Message, index: u32) -> Option<[u8; 6]> {
    let Message::NewLink(link) = message else { return None };
    let bytes = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Address(bytes) if link.header.index == index => Some(bytes),
        _ => None,
    })?;
    bytes.as_slice().try_into().ok()
}

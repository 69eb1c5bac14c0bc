//! The addresses that this node has now, as its kernel says: for NodePorts that are to be served on all addresses of given
//! networks. Asked again when the kernel tells that an address came or went.

use std::{collections::BTreeSet, io, net::IpAddr, os::fd::OwnedFd, time::Duration};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv, send,
    socket_with, sockopt,
};
use skiff_nft::wire::{MessageHead, Writer, attributes, messages, u32_at};

const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const REQUEST_DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR.
const GROUPS: u32 = 0x10 | 0x100;
/// struct ifaddrmsg
const HEADER: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

#[derive(Debug, thiserror::Error)]
#[error("node addresses: {0} failed: {1}; NodePorts are served on the addresses known before")]
pub(crate) struct Error(&'static str, io::Error);

/// Watches the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Addresses {
    news: OwnedFd,
    fresh: bool,
}

impl Addresses {
    pub(crate) fn open() -> Result<Self, Error> {
        let news = socket(GROUPS).map_err(|e| Error("opening a netlink socket", e))?;
        Ok(Addresses { news, fresh: true })
    }

    /// The addresses, when they may have changed since the last call. Never waits for news.
    pub(crate) fn changed(&mut self) -> Result<Option<Vec<IpAddr>>, Error> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match recv(&self.news, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                // News that did not fit into the socket's buffer are news all the same.
                Ok(_) | Err(rustix::io::Errno::NOBUFS) => self.fresh = true,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(e) => return Err(Error("reading news", e.into())),
            }
        }
        if !self.fresh {
            return Ok(None);
        }
        let all = list().map_err(|e| Error("listing", e))?;
        self.fresh = false;
        Ok(Some(all))
    }
}

fn socket(groups: u32) -> io::Result<OwnedFd> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(10)))?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

fn list() -> io::Result<Vec<IpAddr>> {
    let socket = socket(0)?;
    let mut request = Writer::default();
    request.message(&MessageHead { kind: GET_ADDRESS, flags: REQUEST_DUMP, seq: 1, family: 0, res_id: 0 }, |_| {});
    send(&socket, &request.bytes, SendFlags::empty())?;
    let mut buffer = vec![0; 1 << 16];
    let mut found = BTreeSet::new();
    loop {
        let (n, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        for m in messages(&buffer[..n]) {
            match m.kind {
                DONE => return Ok(found.into_iter().collect()),
                ERROR => return Err(io::Error::from_raw_os_error(-(u32_at(m.payload, 0).unwrap_or(0) as i32))),
                NEW_ADDRESS => found.extend(m.payload.get(HEADER..).and_then(address)),
                _ => {}
            }
        }
    }
}

/// On a point-to-point link the plain address is the other end's.
fn address(body: &[u8]) -> Option<IpAddr> {
    let of = |wanted: u16| attributes(body).find(|(kind, _)| *kind == wanted).and_then(|(_, data)| ip(data));
    of(IFA_LOCAL).or_else(|| of(IFA_ADDRESS))
}

fn ip(data: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(data).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(data).ok().map(IpAddr::from))
}

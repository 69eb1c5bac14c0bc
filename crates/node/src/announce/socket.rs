//! The door to the link: packet sockets bound to one interface and one EtherType.

#![allow(unsafe_code, reason = "no safe crate of the workspace knows packet sockets' addresses and groups")]

use std::{io, os::fd::AsRawFd};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Type};
use tokio::io::{Interest, unix::AsyncFd};
use tracing::debug;

use super::frames::{IPV6, Mac};
pub(crate) use crate::network::Link;

/// What is of interest is short; the rest of a longer frame is cut off.
const LONGEST: usize = 512;

#[derive(Debug)]
pub(super) struct Socket(AsyncFd<socket2::Socket>);

impl Socket {
    /// Frames of one EtherType of one interface of this thread's network namespace. Without CAP_NET_RAW: an error.
    pub(super) fn open(link: Link, ethertype: u16) -> io::Result<Self> {
        // Bound before it hears anything: a protocol of 0 is deaf.
        let socket = socket2::Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        socket.bind(&address(link, ethertype))?;
        watched(socket)
    }

    /// Neighbour solicitations to the groups.
    pub(super) fn open_neighbours(link: Link, groups: &[Mac]) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        // Nothing else of the node's IPv6 traffic wakes this thread: next header ICMPv6, type 135.
        socket.attach_filter(&[
            SockFilter::new(0x30, 0, 0, 20),
            SockFilter::new(0x15, 0, 3, 58),
            SockFilter::new(0x30, 0, 0, 54),
            SockFilter::new(0x15, 0, 1, 135),
            SockFilter::new(0x06, 0, 0, LONGEST as u32),
            SockFilter::new(0x06, 0, 0, 0),
        ])?;
        for group in groups {
            join(&socket, link, *group)?;
        }
        socket.bind(&address(link, IPV6))?;
        watched(socket)
    }

    /// The next frame. Errors (the interface is down) are waited out: the next frame will come or not.
    pub(super) async fn receive(&self) -> Vec<u8> {
        loop {
            let mut frame = vec![0; LONGEST];
            let read = self.0.async_io(Interest::READABLE, |socket| io::Read::read(&mut &*socket, &mut frame)).await;
            match read {
                Ok(length) => {
                    frame.truncate(length);
                    return frame;
                }
                Err(e) => {
                    debug!("cannot listen on the link just now: {e}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Sends or not: what is lost on a link is said again.
    pub(super) fn send(&self, frame: &[u8]) {
        if let Err(e) = self.0.get_ref().send(frame) {
            debug!("cannot speak on the link just now: {e}");
        }
    }
}

fn watched(socket: socket2::Socket) -> io::Result<Socket> {
    // SAFETY: the socket owns its descriptor, which stays open and the same for as long as it lives.
    Ok(Socket(unsafe { AsyncFd::register(socket)? }))
}

fn address(link: Link, ethertype: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a sockaddr_ll is plain data of the family that it names, and smaller than the storage.
    let to = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = ethertype.to_be();
    to.sll_ifindex = link.index as i32;
    // SAFETY: the storage holds an address of exactly this length.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as u32) }
}

/// Lets a multicast group in for as long as the socket lives.
fn join(socket: &socket2::Socket, link: Link, group: Mac) -> io::Result<()> {
    let mut request = libc::packet_mreq {
        mr_ifindex: link.index as i32,
        mr_type: libc::PACKET_MR_MULTICAST as u16,
        mr_alen: group.len() as u16,
        mr_address: [0; 8],
    };
    request.mr_address[..group.len()].copy_from_slice(&group);
    // SAFETY: the pointer and the length are those of a packet_mreq that lives across the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast(),
            size_of_val(&request) as u32,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

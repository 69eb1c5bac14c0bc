//! The flows that the kernel tracks: listed, and forgotten where the caller says so, so that their next packet meets the
//! rules again.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, netlink::SocketAddrNetlink, recv, send,
    socket_with, sockopt,
};

use crate::wire::{MessageHead, NESTED, Writer, attributes, find, find_number, messages, u32_at};

pub const STATUS_SEEN_REPLY: u32 = 0x2;
pub const STATUS_DNAT: u32 = 0x20;

/// A flow as conntrack has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub proto: u8,
    /// Where the client sent to.
    pub original: SocketAddr,
    /// Who answers it.
    pub answers: SocketAddr,
    pub status: u32,
}

/// Flows of interest: what the kernel compares, so that it need not tell of all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selection {
    pub proto: u8,
    pub original: SocketAddr,
    /// None: whoever answers.
    pub answers: Option<SocketAddr>,
}

/// What a clean-up did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Flows that the kernel told of.
    pub seen: usize,
    pub deleted: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("conntrack: {0} failed: {1}; flows to endpoints that are gone stay until they time out")]
    Socket(&'static str, io::Error),
    #[error("conntrack: cannot write {0}: {1}; set it to 1 by hand, or run as root with /proc/sys writable")]
    Sysctl(&'static str, io::Error),
}

const SUBSYS: u16 = 1 << 8;
const GET: u16 = 1;
const DELETE: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const FILTER: u16 = 25;
const IP: u16 = 1;
const PROTO: u16 = 2;
/// Inside IP and PROTO: the attribute and, in a filter, the flag that says to compare it.
const SOURCE_IP: (u16, u16, u32) = (1, 3, 1 << 0);
const DESTINATION_IP: (u16, u16, u32) = (2, 4, 1 << 1);
const PROTO_NUMBER: (u16, u32) = (1, 1 << 3);
const SOURCE_PORT: (u16, u32) = (2, 1 << 4);
const DESTINATION_PORT: (u16, u32) = (3, 1 << 5);

/// NFPROTO_IPV4 and NFPROTO_IPV6.
const FAMILIES: [u8; 2] = [2, 10];

const LIBERAL: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

/// Packets outside TCP's window are not taken for invalid, so they are translated as the rest of their flow.
pub fn be_liberal() -> Result<(), Error> {
    std::fs::write(LIBERAL, "1").map_err(|e| Error::Sysctl(LIBERAL, e))
}

/// Conntrack of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Conntrack {
    socket: OwnedFd,
    buffer: Vec<u8>,
    seq: u32,
}

impl Conntrack {
    pub fn open() -> Result<Self, Error> {
        let failed = |e: rustix::io::Errno| Error::Socket("opening a netlink socket", e.into());
        let kind = SocketType::RAW;
        let socket = socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, Some(netlink::NETFILTER));
        let socket = socket.map_err(failed)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(10))).map_err(failed)?;
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20);
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0)).map_err(failed)?;
        Ok(Conntrack { socket, buffer: vec![0; 1 << 17], seq: 0 })
    }

    /// Deletes the flows that are condemned, of all that there are.
    pub fn clean(&mut self, condemns: impl Fn(&Flow) -> bool) -> Result<Cleaned, Error> {
        let mut cleaned = Cleaned::default();
        for family in FAMILIES {
            self.clean_some(family, None, &condemns, &mut cleaned)?;
        }
        Ok(cleaned)
    }

    /// The same of the selected ones alone, however many others there are. A kernel that cannot select (before 5.8) tells
    /// of all.
    pub fn clean_selected(
        &mut self,
        selections: &[Selection],
        condemns: impl Fn(&Flow) -> bool,
    ) -> Result<Cleaned, Error> {
        let mut cleaned = Cleaned::default();
        for selection in selections {
            let family = FAMILIES[usize::from(selection.original.is_ipv6())];
            match self.clean_some(family, Some(selection), &condemns, &mut cleaned) {
                Err(Error::Socket(_, e))
                    if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) =>
                {
                    return self.clean(condemns);
                }
                other => other?,
            }
        }
        Ok(cleaned)
    }

    fn clean_some(
        &mut self,
        family: u8,
        selection: Option<&Selection>,
        condemns: &impl Fn(&Flow) -> bool,
        cleaned: &mut Cleaned,
    ) -> Result<(), Error> {
        for entry in self.condemned(family, selection, condemns, &mut cleaned.seen)? {
            cleaned.deleted += usize::from(self.delete(family, &entry)?);
        }
        Ok(())
    }

    fn send(&mut self, kind: u16, flags: u16, family: u8, body: impl FnOnce(&mut Writer)) -> Result<(), Error> {
        self.seq += 1;
        let mut w = Writer::default();
        let head = MessageHead { kind: SUBSYS | kind, flags: REQUEST | flags, seq: self.seq, family, res_id: 0 };
        w.message(&head, body);
        let sent = send(&self.socket, &w.bytes, SendFlags::empty());
        sent.map(|_| ()).map_err(|e| Error::Socket("sending a request", e.into()))
    }

    fn receive(&mut self) -> Result<usize, Error> {
        loop {
            match recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((n, _)) => return Ok(n),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::Socket("reading an answer", e.into())),
            }
        }
    }

    /// The attributes that name each condemned flow.
    fn condemned(
        &mut self,
        family: u8,
        selection: Option<&Selection>,
        condemns: &impl Fn(&Flow) -> bool,
        seen: &mut usize,
    ) -> Result<Vec<Entry>, Error> {
        self.send(GET, DUMP, family, |w| selection.iter().for_each(|s| select(w, s)))?;
        let mut found = vec![];
        loop {
            let n = self.receive()?;
            for m in messages(&self.buffer[..n]).filter(|m| m.seq == self.seq) {
                match m.kind {
                    DONE => return Ok(found),
                    ERROR => return Err(Error::Socket("listing flows", error_of(m.payload))),
                    _ => {
                        *seen += 1;
                        found.extend(m.payload.get(4..).and_then(|body| condemned_entry(body, condemns)));
                    }
                }
            }
        }
    }

    /// False when the flow ended by itself in the meantime.
    fn delete(&mut self, family: u8, entry: &Entry) -> Result<bool, Error> {
        self.send(DELETE, ACK, family, |w| {
            w.raw(TUPLE_ORIG | NESTED, &entry.tuple);
            w.raw(ID, &entry.id);
        })?;
        loop {
            let n = self.receive()?;
            if let Some(m) = messages(&self.buffer[..n]).find(|m| m.seq == self.seq && m.kind == ERROR) {
                return match u32_at(m.payload, 0) {
                    Some(0) => Ok(true),
                    _ if error_of(m.payload).kind() == io::ErrorKind::NotFound => Ok(false),
                    _ => Err(Error::Socket("deleting a flow", error_of(m.payload))),
                };
            }
        }
    }
}

fn select(w: &mut Writer, selection: &Selection) {
    let mut original = 0;
    w.nest(TUPLE_ORIG, |w| {
        original = half(w, selection.proto, selection.original, DESTINATION_IP, DESTINATION_PORT);
    });
    let mut reply = 0;
    if let Some(answers) = selection.answers {
        w.nest(TUPLE_REPLY, |w| reply = half(w, selection.proto, answers, SOURCE_IP, SOURCE_PORT));
    }
    // Numbers for the kernel itself: host byte order.
    w.nest(FILTER, |w| {
        w.raw(1, &original.to_ne_bytes());
        w.raw(2, &u32::to_ne_bytes(reply));
    });
}

/// One end of a flow; the flags of what stands there.
fn half(w: &mut Writer, proto: u8, end: SocketAddr, ip: (u16, u16, u32), port: (u16, u32)) -> u32 {
    w.nest(IP, |w| match end.ip() {
        IpAddr::V4(address) => w.raw(ip.0, &address.octets()),
        IpAddr::V6(address) => w.raw(ip.1, &address.octets()),
    });
    w.nest(PROTO, |w| {
        w.raw(PROTO_NUMBER.0, &[proto]);
        w.raw(port.0, &end.port().to_be_bytes());
    });
    ip.2 | PROTO_NUMBER.1 | port.1
}

struct Entry {
    tuple: Vec<u8>,
    id: Vec<u8>,
}

fn error_of(payload: &[u8]) -> io::Error {
    io::Error::from_raw_os_error(-(u32_at(payload, 0).unwrap_or(0) as i32))
}

fn condemned_entry(body: &[u8], condemns: &impl Fn(&Flow) -> bool) -> Option<Entry> {
    let original = find(body, TUPLE_ORIG)?;
    let (_, to, proto) = tuple(original)?;
    let (from, _, _) = tuple(find(body, TUPLE_REPLY)?)?;
    let flow = Flow { proto, original: to, answers: from, status: find_number(body, STATUS).unwrap_or(0) };
    let id = find(body, ID)?.to_vec();
    condemns(&flow).then(|| Entry { tuple: original.to_vec(), id })
}

/// Source, destination, protocol.
fn tuple(body: &[u8]) -> Option<(SocketAddr, SocketAddr, u8)> {
    let (ips, ports) = (find(body, IP)?, find(body, PROTO)?);
    let ip = |(v4, v6, _): (u16, u16, u32)| {
        attributes(ips).find_map(|(kind, data)| match kind {
            k if k == v4 => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
            k if k == v6 => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
            _ => None,
        })
    };
    let port = |(kind, _): (u16, u32)| find(ports, kind).and_then(|d| d.try_into().ok()).map_or(0, u16::from_be_bytes);
    let proto = *find(ports, PROTO_NUMBER.0)?.first()?;
    Some((
        SocketAddr::new(ip(SOURCE_IP)?, port(SOURCE_PORT)),
        SocketAddr::new(ip(DESTINATION_IP)?, port(DESTINATION_PORT)),
        proto,
    ))
}

//! The real end of the door: one netlink socket, bound to the network namespace in which it was opened.
//!
//! All batches go through this one socket, since a table that is owned answers to the owner's socket alone. Calls block
//! for as long as the kernel works (microseconds for a few elements, tens of milliseconds for ten thousand).
#![allow(unsafe_code)] // setsockopt for the two netlink options that rustix does not have.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::{self, SocketAddrNetlink},
    recv, send, socket_with, sockopt,
};

use crate::{
    batch::{Batch, Change},
    decode,
    encode::{self, Encoded, Encoder},
    kernel::{Error, Kernel, Parts, whole},
    value::{Set, Table, TableRef},
    wire::{MessageHead, Writer, attributes, find, find_number, find_text, messages, u32_at},
};

const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP_INTERRUPTED: u16 = 0x10;
const BUFFER: usize = 256 << 20;
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const TABLE_OWNER: u16 = 7;
const DUMP_ATTEMPTS: usize = 8;

/// How a table is held against others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Nobody else can change it, and it stays when its owner dies; the next owner takes it over (kernel 6.9 on). An
    /// older kernel knows only owners whose tables die with them, which would cut traffic at every restart: there the
    /// table is held by nobody.
    Exclusive,
    Shared,
}

impl Ownership {
    fn flags(self) -> u32 {
        match self {
            Ownership::Exclusive => 2 | 4,
            Ownership::Shared => 0,
        }
    }
}

#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    port: u32,
    ownership: Ownership,
    /// Tables that answer to this socket already.
    claimed: BTreeSet<TableRef>,
    answer: Vec<u8>,
    seq: u32,
}

impl Netlink {
    /// Speaks to the network namespace of the calling thread, now and later.
    pub fn open(ownership: Ownership) -> Result<Self, Error> {
        let what = |e: rustix::io::Errno| match e {
            rustix::io::Errno::PROTONOSUPPORT => Error::Unavailable(e.into()),
            e => Error::Socket("opening a netlink socket", e.into()),
        };
        let flags = SocketFlags::CLOEXEC;
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER)).map_err(what)?;
        // A whole cluster goes in one message. Without the privilege smaller batches still do.
        let _ = sockopt::set_socket_send_buffer_size_force(&socket, BUFFER)
            .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, BUFFER));
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER >> 3);
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_WITHIN)).map_err(what)?;
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK] {
            enable(&socket, option).map_err(|e| Error::Socket("setsockopt", e))?;
        }
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0)).map_err(what)?;
        let name = rustix::net::getsockname(&socket).map_err(what)?;
        let port = SocketAddrNetlink::try_from(name).map_err(what)?.pid();
        let mut open =
            Netlink { socket, port, ownership, claimed: BTreeSet::new(), answer: vec![0; 1 << 18], seq: 1 << 30 };
        open.generation()?;
        Ok(open)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        match send(&self.socket, bytes, SendFlags::empty()) {
            Ok(n) if n == bytes.len() => Ok(()),
            Ok(_) => Err(Error::Malformed("a message was cut short")),
            Err(e @ (rustix::io::Errno::MSGSIZE | rustix::io::Errno::NOBUFS)) => Err(Error::TooLong(e.into())),
            Err(e) => Err(Error::Socket("sending a transaction", e.into())),
        }
    }

    fn receive(&mut self, flags: RecvFlags) -> Result<usize, Error> {
        loop {
            match recv(&self.socket, self.answer.as_mut_slice(), flags) {
                Ok((n, full)) if n == full => return Ok(n),
                Ok(_) => return Err(Error::Malformed("an answer longer than the buffer")),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::Socket("reading an answer", e.into())),
            }
        }
    }

    /// What an earlier, failed exchange may have left behind must not be taken for the next answer.
    fn drain(&mut self) {
        while self.receive(RecvFlags::DONTWAIT).is_ok() {}
    }

    fn request(&mut self, kind: u16, flags: u16, family: u8, body: impl FnOnce(&mut Writer)) -> Result<u32, Error> {
        self.seq = self.seq.wrapping_add(1) | 1 << 30;
        let mut w = Writer::default();
        let head = MessageHead {
            kind: encode::SUBSYS | kind,
            flags: encode::REQUEST | flags,
            seq: self.seq,
            family,
            res_id: 0,
        };
        w.message(&head, body);
        self.send(&w.bytes)?;
        Ok(self.seq)
    }

    /// Sends a dump request; hands every answer's body to `each`.
    fn list(
        &mut self,
        table: &TableRef,
        kind: u16,
        body: impl FnOnce(&mut Writer),
        mut each: impl FnMut(&[u8]) -> Option<()>,
    ) -> Result<(), Error> {
        let seq = self.request(kind, encode::DUMP, table.family.number(), body)?;
        let mut interrupted = false;
        loop {
            let n = self.receive(RecvFlags::empty())?;
            for m in messages(&self.answer[..n]).filter(|m| m.seq == seq) {
                interrupted |= m.flags & DUMP_INTERRUPTED != 0;
                match m.kind {
                    DONE if interrupted => return Err(Error::Interrupted),
                    DONE => return Ok(()),
                    ERROR => return errno(m.payload).map_or(Ok(()), |e| Err(Error::Socket("reading a table", e))),
                    _ => each(m.payload.get(4..).unwrap_or_default()).ok_or(Error::Malformed("a table's part"))?,
                }
            }
        }
    }

    /// The attributes of the table itself.
    fn table(&mut self, table: &TableRef) -> Result<Option<Vec<u8>>, Error> {
        let seq = self.request(encode::GETTABLE, 0, table.family.number(), |w| w.text(1, &table.name))?;
        loop {
            let n = self.receive(RecvFlags::empty())?;
            if let Some(m) = messages(&self.answer[..n]).find(|m| m.seq == seq) {
                let error = if m.kind == ERROR { errno(m.payload) } else { None };
                return match error {
                    Some(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
                    Some(e) => Err(Error::Socket("reading a table", e)),
                    None => Ok(Some(m.payload.get(4..).unwrap_or_default().to_vec())),
                };
            }
        }
    }

    fn read(&mut self, id: &TableRef) -> Result<Option<Table>, Error> {
        if self.table(id)?.is_none() {
            return Ok(None);
        }
        let mut table = Table::default();
        let ours = |body: &[u8]| find_text(body, 1) == Some(&*id.name);
        let (chains, sets) = (&mut table.chains, &mut table.sets);
        self.list(
            id,
            encode::GETCHAIN,
            |_| {},
            |body| {
                if ours(body) {
                    chains.extend([decode::chain(body)?]);
                }
                Some(())
            },
        )?;
        self.list(
            id,
            encode::GETRULE,
            |w| w.text(1, &id.name),
            |body| {
                if ours(body) {
                    let (chain, rule) = decode::rule(body)?;
                    chains.get_mut(&chain)?.rules.push(rule);
                }
                Some(())
            },
        )?;
        self.list(
            id,
            encode::GETSET,
            |w| w.text(1, &id.name),
            |body| {
                let (name, spec) = decode::set(body)?;
                sets.insert(name, Set { spec, ..Set::default() });
                Some(())
            },
        )?;
        for (name, set) in table.sets.iter_mut().filter(|(_, s)| !s.spec.is_dynamic()) {
            let mut found = decode::Elements::default();
            let body = |w: &mut Writer| {
                w.text(1, &id.name);
                w.text(2, name);
            };
            self.list(id, encode::GETSETELEM, body, |body| found.read(body))?;
            set.elements = found.finish(set.spec.layout);
        }
        Ok(Some(table))
    }

    /// The tables that were touched.
    fn send_parts(&mut self, parts: &Parts<'_>) -> Result<BTreeSet<TableRef>, Error> {
        let mut encoder = Encoder::new(&self.claimed, self.ownership.flags());
        parts(&mut |part| encoder.part(part));
        let encoded = encoder.finish();
        if encoded.touched.is_empty() {
            return Ok(encoded.touched);
        }
        self.drain();
        self.send(&encoded.bytes)?;
        let last = encoded.origin.len() - 2;
        loop {
            let n = self.receive(RecvFlags::empty())?;
            for m in messages(&self.answer[..n]).filter(|m| m.kind == ERROR) {
                if let Some(cause) = errno(m.payload) {
                    return Err(refusal(&whole(parts), &encoded, m.seq, m.payload, cause));
                }
                if m.seq as usize == last {
                    return Ok(encoded.touched);
                }
            }
        }
    }
}

impl Kernel for Netlink {
    fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        self.commit_parts(&|each| each(batch))
    }

    fn commit_parts(&mut self, parts: &Parts<'_>) -> Result<(), Error> {
        let mut result = self.send_parts(parts);
        if self.ownership == Ownership::Exclusive && result.as_ref().is_err_and(not_supported) {
            tracing::info!("this kernel has no lasting table owners (6.9 has): tables stay open to other programs");
            self.ownership = Ownership::Shared;
            result = self.send_parts(parts);
        }
        match result {
            Ok(touched) => self.claimed.extend(touched),
            Err(e) => {
                self.claimed.clear();
                return Err(e);
            }
        }
        Ok(())
    }

    fn dump(&mut self, table: &TableRef) -> Result<Option<Table>, Error> {
        for _ in 1..DUMP_ATTEMPTS {
            self.drain();
            match self.read(table) {
                Err(Error::Interrupted) => {}
                other => return other,
            }
        }
        self.drain();
        self.read(table)
    }

    fn generation(&mut self) -> Result<u32, Error> {
        let seq = self.request(encode::GETGEN, 0, 0, |_| {})?;
        loop {
            let n = self.receive(RecvFlags::empty())?;
            if let Some(m) = messages(&self.answer[..n]).find(|m| m.seq == seq) {
                if m.kind == ERROR {
                    return match errno(m.payload) {
                        Some(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(Error::Denied(e)),
                        Some(e) => Err(Error::Unavailable(e)),
                        None => Err(Error::Malformed("no generation")),
                    };
                }
                return find_number(m.payload.get(4..).unwrap_or_default(), 1).ok_or(Error::Malformed("no generation"));
            }
        }
    }

    fn exclusive(&mut self, table: &TableRef) -> Result<bool, Error> {
        let port = self.port;
        Ok(self.table(table)?.is_some_and(|t| find_number(&t, TABLE_OWNER) == Some(port)))
    }
}

fn enable(socket: &OwnedFd, option: i32) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: the pointer and the length describe one live c_int.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn errno(payload: &[u8]) -> Option<io::Error> {
    match u32_at(payload, 0).map(|n| n as i32) {
        Some(0) => None,
        Some(n) => Some(io::Error::from_raw_os_error(-n)),
        None => Some(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

fn not_supported(e: &Error) -> bool {
    let Error::Refused { action, cause, .. } = e else { return false };
    let table = action.starts_with("create table") || action.starts_with("take");
    table && matches!(cause.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}

fn refusal(batch: &Batch, encoded: &Encoded, seq: u32, payload: &[u8], cause: io::Error) -> Error {
    let origin = encoded.origin.get(seq as usize).copied().flatten();
    let change = origin.and_then(|i| batch.changes.get(i));
    let table = change.or(batch.changes.last()).map_or_else(String::new, |(t, _)| t.to_string());
    match cause.raw_os_error() {
        Some(libc::EPERM) if change.is_some() => return Error::Owned(table),
        Some(libc::EPERM | libc::EACCES) => return Error::Denied(cause),
        _ => {}
    }
    let action = match change {
        None => "take possession".to_owned(),
        Some((_, change)) => {
            let element = failed_element(encoded, seq, payload, change);
            element.map_or_else(|| change.to_string(), |e| format!("{change}: {e}"))
        }
    };
    Error::Refused { table, action, cause }
}

/// The kernel says at which byte of the message it stumbled: name the element that is there.
fn failed_element(encoded: &Encoded, seq: u32, payload: &[u8], change: &Change) -> Option<String> {
    let (Change::AddElements { elements, .. } | Change::DeleteElements { elements, .. }) = change else { return None };
    let offset = find_number_ne(find(payload.get(20..)?, 2)?)?;
    let start = *encoded.start.get(seq as usize)?;
    let message = messages(encoded.bytes.get(start..)?).next()?;
    let list = find(message.payload.get(4..)?, 3)?;
    let base = list.as_ptr() as usize - encoded.bytes.as_ptr() as usize - start;
    let mut at = base;
    let index = attributes(list).position(|(_, data)| {
        at += (data.len() + 4).next_multiple_of(4);
        (offset as usize) < at
    })?;
    let body = attributes(list).nth(index)?.1;
    let key = find(find(body, 1)?, 1)?;
    let element = elements.iter().find(|e| e.key.as_bytes() == key)?;
    Some(match &element.value.comment {
        Some(comment) => format!("{:?} ({comment})", element.key),
        None => format!("{:?}", element.key),
    })
}

fn find_number_ne(data: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(data.try_into().ok()?))
}

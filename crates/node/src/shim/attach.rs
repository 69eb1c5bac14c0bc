//! Clients attached to a running container: they see its output from now on and write to its stdin.

use std::{
    io,
    io::{Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
};

use super::{
    sys,
    watch::Streams,
    wire,
    wire::{Kind, frame, take_frame},
};
use crate::runtime::record::Paths;

/// More are turned away.
const CLIENTS: usize = 16;
/// A client that lets more than this pile up is dropped: the container must not wait for it.
const BACKLOG: usize = 4 << 20;

pub(super) struct Attach {
    listener: UnixListener,
    clients: Vec<Client>,
    /// On its way to the container's stdin.
    pending: Vec<u8>,
    /// Close the container's stdin after the first client that ended its own.
    once: bool,
    ended: bool,
}

struct Client {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    gone: bool,
}

impl Attach {
    pub(super) fn listen(paths: &Paths, once: bool) -> io::Result<Self> {
        std::env::set_current_dir(&paths.dir)?;
        let listener = UnixListener::bind(paths.attach().file_name().unwrap_or_default());
        std::env::set_current_dir("/")?;
        let listener = listener?;
        listener.set_nonblocking(true)?;
        Ok(Attach { listener, clients: Vec::new(), pending: Vec::new(), once, ended: false })
    }

    /// Clients are not read while their input cannot be passed on.
    pub(super) fn waits<'a>(&'a self, streams: &'a Streams, waits: &mut Vec<sys::Wait<'a>>) {
        waits.push(sys::Wait { fd: self.listener.as_fd(), write: false });
        for client in &self.clients {
            if self.pending.is_empty() {
                waits.push(sys::Wait { fd: client.stream.as_fd(), write: false });
            }
            if !client.outbox.is_empty() {
                waits.push(sys::Wait { fd: client.stream.as_fd(), write: true });
            }
        }
        if let Some(stdin) = streams.stdin.as_ref().filter(|_| !self.pending.is_empty()) {
            waits.push(sys::Wait { fd: stdin.as_fd(), write: true });
        }
    }

    pub(super) fn serve(&mut self, streams: &mut Streams) {
        self.accept();
        streams.feed(&mut self.pending);
        for at in 0..self.clients.len() {
            if self.pending.is_empty() {
                self.clients[at].read();
                while let Some((kind, bytes)) = self.clients[at].next() {
                    self.obey(kind, &bytes, streams);
                }
            }
            self.clients[at].write();
        }
        self.clients.retain(|client| !client.gone);
        if self.ended && self.pending.is_empty() {
            streams.stdin = None;
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() < CLIENTS && stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client { stream, inbox: Vec::new(), outbox: Vec::new(), gone: false });
            }
        }
    }

    fn obey(&mut self, kind: Kind, bytes: &[u8], streams: &mut Streams) {
        match (kind, bytes) {
            (Kind::Stdin, bytes) if !self.ended => {
                self.pending.extend_from_slice(bytes);
                streams.feed(&mut self.pending);
            }
            (Kind::StdinEnd, _) if self.once => self.ended = true,
            (Kind::Resize, &[a, b, c, d]) if streams.is_terminal() => {
                if let Some(terminal) = &streams.out {
                    wire::set_size(terminal.as_fd(), u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                }
            }
            _ => {}
        }
    }

    pub(super) fn output(&mut self, kind: Kind, bytes: &[u8]) {
        for client in &mut self.clients {
            client.outbox.extend(frame(kind, bytes));
            client.write();
            client.gone |= client.outbox.len() > BACKLOG;
        }
    }

    /// Tells everybody the exit code; gives each a moment to take what is left.
    pub(super) fn finish(&mut self, code: i32) {
        self.accept();
        for client in &mut self.clients {
            client.outbox.extend(frame(Kind::Exit, &code.to_be_bytes()));
            let timeout = Some(std::time::Duration::from_secs(2));
            if client.stream.set_nonblocking(false).is_ok() && client.stream.set_write_timeout(timeout).is_ok() {
                client.write();
            }
        }
    }
}

impl Client {
    fn read(&mut self) {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(n) if n > 0 => self.inbox.extend_from_slice(&chunk[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            _ => self.gone = true,
        }
    }

    fn next(&mut self) -> Option<(Kind, Vec<u8>)> {
        take_frame(&mut self.inbox).unwrap_or_else(|()| {
            self.gone = true;
            None
        })
    }

    fn write(&mut self) {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(n) if n > 0 => drop(self.outbox.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                _ => {
                    self.gone = true;
                    return;
                }
            }
        }
    }
}

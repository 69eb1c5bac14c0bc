//! A running container's one loop: its output into the log and to whoever is attached, its end into the state file.
//!
//! ```text
//! running ──(first process ends)──> drain output ──> write Exited ──> tell the attached ──> end
//! ```

use std::{
    fs::File,
    io,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::OFlags,
    process::{Pid, WaitOptions},
};

use super::{
    attach::Attach,
    log::{Log, Stream},
    sys,
    wire::Kind,
};
use crate::{
    cgroup::OomCounter,
    runtime::{
        ContainerSpec, Exit, Phase,
        record::{self, Paths, State},
    },
};

/// Our ends of the container's streams; with a terminal all are one.
#[derive(Default)]
pub(super) struct Streams {
    pub(super) out: Option<File>,
    pub(super) err: Option<File>,
    pub(super) stdin: Option<File>,
    terminal: bool,
}

impl Streams {
    pub(super) fn set_terminal(&mut self, master: OwnedFd) {
        // Reads of a blocking terminal would stop the loop; a failure here shows as such a stop only.
        let _ = rustix::fs::fcntl_setfl(&master, OFlags::NONBLOCK);
        let master = File::from(master);
        self.stdin = master.try_clone().ok();
        self.out = Some(master);
        self.terminal = true;
    }
}

pub(super) struct Watch {
    paths: Paths,
    state: State,
    init: Pid,
    init_fd: OwnedFd,
    streams: Streams,
    log: Log,
    oom: Option<OomCounter>,
    attach: Attach,
}

/// How the first process ended: by itself with a code, or by a signal.
enum End {
    Code(i32),
    Signal(i32),
}

/// Orphans of a container in the host's PID namespace are buried this often.
const TICK_MS: i32 = 30_000;
const CHUNK: usize = 32 * 1024;

impl Watch {
    #[expect(clippy::too_many_arguments, reason = "the parts of one running container, put together once")]
    pub(super) fn new(
        paths: Paths,
        spec: &ContainerSpec,
        state: State,
        init: Pid,
        init_fd: OwnedFd,
        streams: Streams,
        log: Log,
        oom: Option<OomCounter>,
    ) -> io::Result<Self> {
        let attach = Attach::listen(&paths, spec.stdin_once)?;
        Ok(Watch { paths, state, init, init_fd, streams, log, oom, attach })
    }

    pub(super) fn pid(&self) -> i32 {
        self.init.as_raw_nonzero().get()
    }

    pub(super) fn see_out(&mut self) {
        let end = loop {
            if let Some(end) = self.reap() {
                break end;
            }
            if let Err(e) = self.turn() {
                // Without poll there is no watching: the container must not run unobserved.
                eprintln!("poll: {e}");
                let _ = sys::pidfd_signal(self.init_fd.as_fd(), libc::SIGKILL);
                break End::Signal(libc::SIGKILL);
            }
        };
        self.read_output();
        self.log.flush();
        let exit = self.exit(&end);
        let code = exit.code;
        self.state.phase = Phase::Exited(exit);
        if let Err(e) = record::write_atomically(&self.paths.state(), &self.state) {
            eprintln!("state file: {e}");
        }
        self.attach.finish(code);
    }

    /// Waits for something to happen and does what it asks for.
    fn turn(&mut self) -> io::Result<()> {
        let mut waits = vec![sys::Wait { fd: self.init_fd.as_fd(), write: false }];
        let outputs = [&self.streams.out, &self.streams.err];
        waits.extend(outputs.into_iter().flatten().map(|f| sys::Wait { fd: f.as_fd(), write: false }));
        self.attach.waits(&self.streams, &mut waits);
        sys::poll(&waits, TICK_MS)?;
        drop(waits);
        self.read_output();
        self.attach.serve(&mut self.streams);
        Ok(())
    }

    /// Buries whoever has ended; how the container's first process did if it was among them.
    fn reap(&self) -> Option<End> {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.init => {
                    let signal = status.terminating_signal();
                    return Some(signal.map_or_else(|| End::Code(status.exit_status().unwrap_or(255)), End::Signal));
                }
                Ok(Some(_)) => {}
                Ok(None) => return None,
                // No child at all: the end was seen by someone else, its status is lost.
                Err(rustix::io::Errno::CHILD) => return Some(End::Signal(libc::SIGKILL)),
                Err(_) => return None,
            }
        }
    }

    fn read_output(&mut self) {
        self.read_stream(Stream::Stdout);
        self.read_stream(Stream::Stderr);
    }

    /// Everything there is, but not for ever: a container that never stops writing must not hide its attached clients.
    fn read_stream(&mut self, which: Stream) {
        let (slot, kind) = match which {
            Stream::Stdout => (&mut self.streams.out, Kind::Stdout),
            Stream::Stderr => (&mut self.streams.err, Kind::Stderr),
        };
        let mut chunk = [0; CHUNK];
        for _ in 0..64 {
            let Some(file) = slot else { return };
            match file.read(&mut chunk) {
                Ok(n) if n > 0 => {
                    self.log.write(which, &chunk[..n]);
                    self.attach.output(kind, &chunk[..n]);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // End of file; of a terminal it is an I/O error.
                _ => *slot = None,
            }
        }
    }

    fn exit(&mut self, end: &End) -> Exit {
        let started = match self.state.phase {
            Phase::Running { started, .. } => Some(started),
            _ => None,
        };
        let (code, signal) = match end {
            End::Code(code) => (*code, None),
            End::Signal(signal) => (128 + signal, Some(*signal)),
        };
        let oom = code != 0 && self.oom.as_mut().is_some_and(|counter| counter.kills() > 0);
        let reason = match (oom, code) {
            (true, _) => "OOMKilled",
            (false, 0) => "Completed",
            (false, _) => "Error",
        };
        let finished = jiff::Timestamp::now();
        Exit { code, signal, oom, started, finished, reason: reason.to_owned(), message: String::new() }
    }
}

impl Streams {
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes what fits; the rest stays in `pending`. A reader that is gone takes everything.
    pub(super) fn feed(&mut self, pending: &mut Vec<u8>) {
        while !pending.is_empty() {
            let Some(stdin) = &mut self.stdin else { return pending.clear() };
            match stdin.write(pending) {
                Ok(n) => drop(pending.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.stdin = None,
            }
        }
    }
}

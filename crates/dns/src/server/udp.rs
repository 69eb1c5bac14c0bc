//! UDP: threads that wait in the kernel for questions and answer them in batches. Several sockets ("lanes") may share an
//! address; see [`super::steer`].

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::{runtime::Handle, sync::mpsc};

use super::{
    Server, Step,
    steer::{Steering, Watch},
};
use crate::{
    batch::{self, Batch, Peer},
    metrics::{Tally, Transport},
    wire::{self, Query, Rcode, Response},
    zone::Zone,
};

/// For bursts: a question that is dropped costs its client five seconds.
const RECEIVE_BUFFER: usize = 1 << 20;
const STACK: usize = 256 * 1024;
/// The priority of the lane where floods go.
const NICE: i32 = 10;

/// The threads of one address. They end when this is dropped.
#[derive(Debug)]
pub struct Lanes {
    address: SocketAddr,
    sockets: Vec<Arc<UdpSocket>>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Lanes {
    /// Binds at once; questions that need others are answered by tasks on `tasks`. A lane that fails says so to `failed`.
    pub fn open(
        server: &Arc<Server>,
        address: SocketAddr,
        count: usize,
        tasks: &Handle,
        failed: mpsc::UnboundedSender<io::Error>,
    ) -> io::Result<Self> {
        let first = Arc::new(bind(address, count)?);
        // With port 0 the kernel chose one, which the others share.
        let address = first.local_addr()?;
        let mut sockets = vec![first.clone()];
        let mut steering = None;
        if count > 1 {
            let metrics = server.metrics.clone();
            steering = Some(Arc::new(Steering::new(first, address.is_ipv6(), count, metrics)?));
            // One more, for those who are aside.
            for _ in 1..=count {
                sockets.push(Arc::new(bind(address, count)?));
            }
        }
        let mut lanes = Lanes { address, sockets, threads: vec![], stop: Arc::default() };
        for (number, socket) in lanes.sockets.iter().enumerate() {
            let aside = number == count;
            let lane = Lane {
                server: server.clone(),
                socket: socket.clone(),
                tasks: tasks.clone(),
                stop: lanes.stop.clone(),
                ipv6: address.is_ipv6(),
                steering: steering.clone().filter(|_| !aside),
            };
            let failed = failed.clone();
            let run = move || {
                if aside {
                    step_back();
                }
                if let Err(error) = lane.serve() {
                    // Nobody listens any more when the server ends.
                    let _ = failed.send(error);
                }
            };
            lanes.threads.push(thread::Builder::new().name("dns".into()).stack_size(STACK).spawn(run)?);
        }
        Ok(lanes)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for socket in &self.sockets {
            // Wakes the thread; for a socket without a peer the kernel also says "not connected".
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Read);
        }
        for thread in self.threads.drain(..) {
            // A lane that panicked has said so already.
            let _ = thread.join();
        }
    }
}

fn bind(address: SocketAddr, lanes: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if lanes > 1 {
        socket.set_reuse_port(true)?;
    }
    if address.ip().is_unspecified() {
        batch::tell_own_address(socket.as_fd(), address.is_ipv6())?;
    }
    // As much as the system lets us have.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

/// Makes this thread wait when others have work.
fn step_back() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!("priority of the DNS lane for floods: {error}");
    }
}

struct Lane {
    server: Arc<Server>,
    socket: Arc<UdpSocket>,
    tasks: Handle,
    stop: Arc<AtomicBool>,
    ipv6: bool,
    /// None for the only lane, and for the one where floods go.
    steering: Option<Arc<Steering>>,
}

impl Lane {
    fn serve(&self) -> io::Result<()> {
        let (mut batch, mut watch) = (Batch::new(), Watch::default());
        loop {
            batch.receive(self.socket.as_fd())?;
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.round(&mut batch);
            if let Some(steering) = &self.steering
                && let Some(client) = watch.round(batch.is_full(), batch.clients())
            {
                steering.put_aside(client, &self.tasks);
            }
        }
    }

    fn round(&self, batch: &mut Batch) {
        let start = Instant::now();
        let mut tally = Tally::new(Transport::Udp, self.ipv6);
        {
            let zone = self.server.zone();
            batch.each(|message, peer, out| self.answer(zone.as_ref(), message, peer, out, &mut tally));
        }
        batch.send(self.socket.as_fd());
        self.server.metrics.add(&tally, batch.len(), start.elapsed());
    }

    /// Writes what can be said at once; how long it is.
    fn answer(&self, zone: Option<&Zone>, message: &[u8], peer: &Peer, out: &mut [u8], tally: &mut Tally) -> usize {
        let Some(from) = peer.address() else { return 0 };
        if self.server.allowed.has(from.ip())
            && let Some((length, rcode)) = self.server.quick(zone, message, out)
        {
            tally.answered(wire::question_type(message), rcode);
            return length;
        }
        match self.server.first(zone, message, from.ip(), Query::udp_limit) {
            Step::Silence => 0,
            Step::Done(answer) => {
                tally.answered(wire::question_type(message), wire::rcode(&answer));
                copied(&answer, out)
            }
            Step::Ask(query) => self.ask(query, from, *peer, out, tally),
        }
    }

    /// Leaves the question to a task.
    fn ask(&self, query: Query, from: SocketAddr, peer: Peer, out: &mut [u8], tally: &mut Tally) -> usize {
        let Some(place) = self.server.pending.enter(from.ip()) else {
            self.server.metrics.count_rejected();
            tally.answered(query.rtype, Rcode::ServFail);
            let busy = wire::encode(&query, &Response::empty(Rcode::ServFail), query.udp_limit());
            return copied(&busy, out);
        };
        let (server, socket, ipv6) = (self.server.clone(), self.socket.clone(), self.ipv6);
        self.tasks.spawn(async move {
            let start = Instant::now();
            let response = server.resolve(&query, from.ip()).await;
            let answer = wire::encode(&query, &response, query.udp_limit());
            batch::send(socket.as_fd(), std::iter::once((answer.as_slice(), &peer)));
            let mut tally = Tally::new(Transport::Udp, ipv6);
            tally.answered(query.rtype, response.rcode);
            server.metrics.add(&tally, 1, start.elapsed());
            drop(place);
        });
        0
    }
}

fn copied(answer: &[u8], out: &mut [u8]) -> usize {
    match out.get_mut(..answer.len()) {
        Some(room) => {
            room.copy_from_slice(answer);
            answer.len()
        }
        None => 0,
    }
}

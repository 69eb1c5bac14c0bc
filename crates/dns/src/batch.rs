//! The one door to the kernel's calls for many datagrams at once, which no safe crate offers: a thread that is busy makes
//! two system calls for up to 32 questions.
#![allow(unsafe_code)]

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use crate::wire::EDNS_UDP;

/// Datagrams that are received and sent at once; more gained nothing when measured.
pub(crate) const BATCH: usize = 32;
/// Longer questions than this are no questions.
const MESSAGE: usize = 2048;
const ANSWER: usize = EDNS_UDP as usize;
/// The longest address (sockaddr_in6), and room for the control message that says at which address we were asked.
const NAME: usize = 28;
const CONTROL: usize = 40;

/// Where a datagram came from, and at which of our addresses it arrived.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    name: [u8; NAME],
    name_length: usize,
    control: [u8; CONTROL],
    control_length: usize,
}

impl Peer {
    const NOBODY: Peer = Peer { name: [0; NAME], name_length: 0, control: [0; CONTROL], control_length: 0 };

    /// None for a family that is not the Internet's.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let name = &self.name[..self.name_length.min(NAME)];
        let family = u16::from_ne_bytes(*name.first_chunk()?);
        let port = u16::from_be_bytes(name.get(2..4)?.try_into().ok()?);
        match i32::from(family) {
            libc::AF_INET => {
                let ip: [u8; 4] = name.get(4..8)?.try_into().ok()?;
                Some((Ipv4Addr::from(ip), port).into())
            }
            libc::AF_INET6 => {
                let ip: [u8; 16] = name.get(8..24)?.try_into().ok()?;
                let scope = u32::from_ne_bytes(name.get(24..28)?.try_into().ok()?);
                Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into())
            }
            _ => None,
        }
    }

    /// The answer leaves from the address that was asked, by whatever interface routing says. (The control message is an
    /// in_pktinfo behind its header: interface, our address, the packet's destination.)
    fn turn_round(&mut self) {
        const HEADER: usize = size_of::<libc::cmsghdr>();
        let level = self.control[size_of::<usize>()..HEADER].first_chunk().map(|b| i32::from_ne_bytes(*b));
        if self.control_length > HEADER && level == Some(libc::IPPROTO_IP) {
            self.control[HEADER..HEADER + 4].fill(0);
        }
    }
}

struct Slot {
    peer: Peer,
    message: [u8; MESSAGE],
    length: usize,
    answer: [u8; ANSWER],
    /// 0: none.
    answer_length: usize,
}

/// Room for one round of questions and answers.
pub(crate) struct Batch {
    slots: Box<[Slot]>,
    count: usize,
}

impl Batch {
    pub(crate) fn new() -> Self {
        let slot =
            || Slot { peer: Peer::NOBODY, message: [0; MESSAGE], length: 0, answer: [0; ANSWER], answer_length: 0 };
        Batch { slots: std::iter::repeat_with(slot).take(BATCH).collect(), count: 0 }
    }

    /// Waits for one datagram and takes all that are there.
    #[allow(clippy::unnecessary_cast, reason = "lengths have another type in another C library")]
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        // SAFETY: all zeroes is a header that points to nothing.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        for ((slot, part), header) in self.slots.iter_mut().zip(&mut parts).zip(&mut headers) {
            *part = libc::iovec { iov_base: slot.message.as_mut_ptr().cast(), iov_len: MESSAGE };
            header.msg_hdr.msg_name = slot.peer.name.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = NAME as _;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = slot.peer.control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL as _;
        }
        let count = again(|| {
            // SAFETY: each header points to buffers of the given lengths in `self` and `parts`, which outlive the call.
            let (headers, flags) = (headers.as_mut_ptr(), libc::MSG_WAITFORONE);
            unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, BATCH as _, flags as _, ptr::null_mut()) }
        })?;
        for (slot, header) in self.slots.iter_mut().zip(&headers[..count]) {
            slot.length = (header.msg_len as usize).min(MESSAGE);
            slot.answer_length = 0;
            slot.peer.name_length = (header.msg_hdr.msg_namelen as usize).min(NAME);
            slot.peer.control_length = (header.msg_hdr.msg_controllen as usize).min(CONTROL);
            slot.peer.turn_round();
        }
        self.count = count;
        Ok(())
    }

    /// Goes through what was received; `answer` writes into the room it is given and says how much.
    pub(crate) fn each(&mut self, mut answer: impl FnMut(&[u8], &Peer, &mut [u8]) -> usize) {
        for slot in &mut self.slots[..self.count] {
            slot.answer_length = answer(&slot.message[..slot.length], &slot.peer, &mut slot.answer).min(ANSWER);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// More may be waiting.
    pub(crate) fn is_full(&self) -> bool {
        self.count == BATCH
    }

    pub(crate) fn clients(&self) -> impl Iterator<Item = IpAddr> {
        self.slots[..self.count].iter().filter_map(|s| Some(s.peer.address()?.ip()))
    }

    /// Sends the answers. One that cannot be sent is nobody else's trouble.
    pub(crate) fn send(&self, socket: BorrowedFd<'_>) {
        let answered = self.slots[..self.count].iter().filter(|s| s.answer_length > 0);
        send(socket, answered.map(|s| (&s.answer[..s.answer_length], &s.peer)));
    }
}

/// Sends up to a batch of datagrams, without waiting for room: a client repeats a question whose answer is lost.
pub(crate) fn send<'a>(socket: BorrowedFd<'_>, datagrams: impl Iterator<Item = (&'a [u8], &'a Peer)>) {
    let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
    // SAFETY: all zeroes is a header that points to nothing.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
    let mut count = 0;
    for (((bytes, peer), part), header) in datagrams.zip(&mut parts).zip(&mut headers) {
        // The kernel only reads them.
        *part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        header.msg_hdr.msg_name = peer.name.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_namelen = peer.name_length as _;
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
        if peer.control_length > 0 {
            header.msg_hdr.msg_control = peer.control.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_controllen = peer.control_length as _;
        }
        count += 1;
    }
    let mut rest = &mut headers[..count];
    while !rest.is_empty() {
        let sent = again(|| {
            // SAFETY: the headers point to buffers that the caller lends for longer than the call.
            unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as _, libc::MSG_DONTWAIT as _) }
        });
        // An error is the first one's (its address cannot be reached, say).
        let done = sent.inspect_err(|e| tracing::debug!("DNS answer: {e}")).unwrap_or(1).max(1);
        rest = &mut rest[done..];
    }
}

/// A call that gives a count, repeated while signals interrupt it.
fn again(mut call: impl FnMut() -> i32) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

fn set<T>(socket: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    let (value, length) = (ptr::from_ref(value).cast(), size_of::<T>() as _);
    // SAFETY: the kernel reads `length` bytes, which are the value's.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Each datagram says at which of our addresses it arrived: needed where the socket listens on all of them.
pub(crate) fn tell_own_address(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    match ipv6 {
        true => set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &1i32),
        false => set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, &1i32),
    }
}

/// Where a packet's source stands in the IP header, or its last word.
const fn source_at(ipv6: bool) -> u32 {
    if ipv6 { 20 } else { 12 }
}

/// What of an address decides about its lane.
pub(crate) fn source_word(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits(),
        IpAddr::V6(ip) => ip.to_bits() as u32,
    }
}

/// Among the sockets of one address, a client's address alone decides which one gets its questions: one of the first
/// `lanes`, or, for the addresses `aside`, the one behind them. (A classic BPF program; offsets from 0xfff00000 are those of
/// the IP header.)
pub(crate) fn lane_by_client(socket: BorrowedFd<'_>, ipv6: bool, lanes: u32, aside: &[u32]) -> io::Result<()> {
    const IP_HEADER: u32 = 0xfff0_0000;
    const SPREAD: u32 = 0x9e37_79b1;
    const RETURN_ACCUMULATOR: u32 = 0x10;
    let source = IP_HEADER + source_at(ipv6);
    let step = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, source)];
    for word in aside {
        // One of those: the next step, else the one behind it.
        let is = libc::sock_filter { jf: 1, ..step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, *word) };
        program.extend([is, step(libc::BPF_RET | libc::BPF_K, lanes)]);
    }
    program.extend([
        step(libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K, SPREAD),
        step(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 16),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, lanes),
        step(libc::BPF_RET | RETURN_ACCUMULATOR, 0),
    ]);
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &program)
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsFd};

    use super::*;

    #[test]
    fn a_batch_comes_and_goes() {
        for (bind, ipv6) in [("127.0.0.1:0", false), ("0.0.0.0:0", false), ("[::1]:0", true)] {
            let Ok(server) = UdpSocket::bind(bind) else { continue };
            tell_own_address(server.as_fd(), ipv6).unwrap();
            let mut at = server.local_addr().unwrap();
            if at.ip().is_unspecified() {
                // Another address than routing would choose.
                at.set_ip("127.0.0.7".parse().unwrap());
            }
            let clients: Vec<_> =
                (0..3).map(|_| UdpSocket::bind(if ipv6 { "[::1]:0" } else { "127.0.0.1:0" }).unwrap()).collect();
            for (n, client) in clients.iter().enumerate() {
                client.connect(at).unwrap();
                client.send(&[n as u8; 20]).unwrap();
            }
            let (mut batch, mut seen) = (Batch::new(), vec![]);
            while seen.len() < 3 {
                batch.receive(server.as_fd()).unwrap();
                batch.each(|message, peer, out| {
                    seen.push(peer.address().unwrap());
                    out[..2].copy_from_slice(&[message[0] + 10, message.len() as u8]);
                    2
                });
                batch.send(server.as_fd());
            }
            assert_eq!(seen, clients.iter().map(|c| c.local_addr().unwrap()).collect::<Vec<_>>());
            for (n, client) in clients.iter().enumerate() {
                let mut answer = [0; 8];
                assert_eq!((client.recv(&mut answer).unwrap(), answer[0], answer[1]), (2, n as u8 + 10, 20));
            }
        }
    }

    #[test]
    fn what_cannot_be_sent_holds_up_nobody() {
        let (server, client) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        client.send_to(b"hello", server.local_addr().unwrap()).unwrap();
        let mut batch = Batch::new();
        batch.receive(server.as_fd()).unwrap();
        let good = batch.slots[0].peer;
        // Port 0 cannot be sent to.
        let mut bad = good;
        bad.name[2..4].fill(0);
        send(server.as_fd(), [(b"1".as_slice(), &bad), (b"2", &good), (b"3", &bad), (b"4", &good)].into_iter());
        let mut answer = [0; 8];
        let got = [0; 2].map(|_: u8| client.recv(&mut answer).map(|_| answer[0]).unwrap());
        assert_eq!(got, *b"24");
    }
}

//! The network family of netlink, synchronously: several requests travel in one datagram and the kernel has answered all
//! of them before the send returns, so there is nothing to wait for. A socket belongs for ever to the namespace it was
//! made in, which is how one thread configures many namespaces.

use std::io;

use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    },
    packet_route::RouteNetlinkMessage,
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

const CREATE: u16 = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
const REPLACE: u16 = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
const CHANGE: u16 = NLM_F_REQUEST | NLM_F_ACK;
const EEXIST: i32 = 17;

/// A request with the words for its failure.
pub(super) struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
    what: String,
    exists_is_fine: bool,
}

impl Request {
    pub(super) fn create(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Request { message, flags: CREATE, what: what.into(), exists_is_fine: false }
    }

    /// Creates what may be there already; then it is left as it is.
    pub(super) fn ensure(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Request { exists_is_fine: true, ..Self::create(what, message) }
    }

    pub(super) fn replace(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Request { flags: REPLACE, ..Self::create(what, message) }
    }

    pub(super) fn change(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Request { flags: CHANGE, ..Self::create(what, message) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open a netlink socket ({0}): the agent needs CAP_NET_ADMIN in the node's network namespace")]
    Open(io::Error),
    #[error("netlink: {0}")]
    Transport(io::Error),
    #[error("cannot {what}: {cause}")]
    Refused { what: String, cause: io::Error },
}

impl Error {
    pub(super) fn is(&self, errno: i32) -> bool {
        matches!(self, Error::Refused { cause, .. } if cause.raw_os_error() == Some(errno))
    }
}

#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// In the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(Error::Open)?;
        socket.bind_auto().map_err(Error::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(Error::Open)?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Carries out all requests in order; the error is that of the first one refused.
    pub(super) fn send(&mut self, requests: Vec<Request>) -> Result<(), Error> {
        let first = self.sequence + 1;
        let mut datagram = Vec::with_capacity(512);
        for request in &requests {
            append(&mut datagram, self.next(), request.flags, request.message.clone());
        }
        self.socket.send(&datagram, 0).map_err(Error::Transport)?;
        let mut failed: Option<(usize, io::Error)> = None;
        let mut answered = 0;
        while answered < requests.len() {
            for reply in self.receive()? {
                let index = reply.header.sequence_number.wrapping_sub(first) as usize;
                let NetlinkPayload::Error(answer) = reply.payload else { continue };
                let Some(request) = requests.get(index) else { continue };
                answered += 1;
                let code = answer.code.map_or(0, |c| -c.get());
                let refused = code != 0 && !(code == EEXIST && request.exists_is_fine);
                if refused && failed.as_ref().is_none_or(|(first, _)| index < *first) {
                    failed = Some((index, io::Error::from_raw_os_error(code)));
                }
            }
        }
        match failed {
            None => Ok(()),
            Some((index, cause)) => Err(Error::Refused { what: requests[index].what.clone(), cause }),
        }
    }

    /// Everything the kernel lists for a request.
    pub(super) fn dump(&mut self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut datagram = vec![];
        append(&mut datagram, self.next(), NLM_F_REQUEST | NLM_F_DUMP, message);
        self.socket.send(&datagram, 0).map_err(Error::Transport)?;
        let mut found = vec![];
        loop {
            for reply in self.receive()? {
                match reply.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(e) => return Err(Error::Transport(e.to_io())),
                    _ => {}
                }
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    fn receive(&self) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, Error> {
        let (bytes, _) = self.socket.recv_from_full().map_err(Error::Transport)?;
        let mut rest = bytes.as_slice();
        let mut replies = vec![];
        while rest.len() >= 16 {
            let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|e| Error::Transport(io::Error::other(e.to_string())))?;
            let length = (reply.header.length as usize + 3) & !3;
            replies.push(reply);
            rest = rest.get(length.max(16)..).unwrap_or_default();
        }
        Ok(replies)
    }
}

fn append(datagram: &mut Vec<u8>, sequence: u32, flags: u16, message: RouteNetlinkMessage) {
    let mut packet = NetlinkMessage::from(message);
    packet.header.flags = flags;
    packet.header.sequence_number = sequence;
    packet.finalize();
    let start = datagram.len();
    datagram.resize(start + ((packet.buffer_len() + 3) & !3), 0);
    packet.serialize(&mut datagram[start..]);
}

//! Messages between agent and shim: one packet each on a sequenced-packet socket, with descriptors if need be; and the
//! frames of an attach, on a stream.

use std::{
    io,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::runtime::StartError;

/// What a shim tells the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The process runs. With a terminal, its master side comes along.
    Started {
        pid: u32,
    },
    Failed(StartError),
    /// Only of an exec.
    Exited {
        code: i32,
    },
}

const PACKET: usize = 16 * 1024;
const FDS: usize = 4;

/// The two ends of a control socket; both close on exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

pub(crate) fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message, or `None` when the other side is gone.
pub(crate) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; PACKET];
    let (length, fds) = receive_raw(socket, &mut bytes)?;
    match length {
        0 => Ok(None),
        _ => Ok(Some((serde_json::from_slice(&bytes[..length])?, fds))),
    }
}

/// Bytes and descriptors of one message of any socket.
pub(crate) fn receive_raw(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok((got.bytes, fds.flatten().collect()))
}

/// The terminal that libcontainer hands over on its console socket.
pub(crate) fn receive_console(listener: &std::os::unix::net::UnixListener) -> io::Result<OwnedFd> {
    let (stream, _) = listener.accept()?;
    let (_, fds) = receive_raw(stream.as_fd(), &mut [0; 256])?;
    fds.into_iter().next().ok_or_else(|| io::Error::other("the container's terminal did not arrive"))
}

/// What an attach carries: kind, length (big endian), bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Stdin,
    StdinEnd,
    Stdout,
    Stderr,
    Resize,
    Exit,
}

const KINDS: [Kind; 6] = [Kind::Stdin, Kind::StdinEnd, Kind::Stdout, Kind::Stderr, Kind::Resize, Kind::Exit];
pub(crate) const HEADER: usize = 5;
/// A longer frame is a protocol error.
pub(crate) const FRAME: usize = 64 * 1024;

pub(crate) fn frame(kind: Kind, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + bytes.len());
    out.push(kind as u8);
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
    out
}

/// Kind and length from a header; `None` for what no peer of ours sends.
pub(crate) fn header(bytes: &[u8; HEADER]) -> Option<(Kind, usize)> {
    let length = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
    KINDS.get(usize::from(bytes[0])).filter(|_| length <= FRAME).map(|kind| (*kind, length))
}

/// Takes one whole frame off the front of `buffer`; `Ok(None)` when more bytes are needed.
pub(crate) fn take_frame(buffer: &mut Vec<u8>) -> Result<Option<(Kind, Vec<u8>)>, ()> {
    let Some(head) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
    let (kind, length) = header(head).ok_or(())?;
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    let bytes = buffer[HEADER..HEADER + length].to_vec();
    buffer.drain(..HEADER + length);
    Ok(Some((kind, bytes)))
}

/// Columns and rows of a `Resize`.
pub(crate) fn size_bytes(columns: u16, rows: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (columns.to_be_bytes(), rows.to_be_bytes());
    [a, b, c, d]
}

pub(crate) fn set_size(terminal: BorrowedFd<'_>, columns: u16, rows: u16) {
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // A terminal whose program has just ended cannot be resized, and need not be.
    let _ = rustix::termios::tcsetwinsize(terminal, size);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_whole() {
        let mut buffer = frame(Kind::Stdin, b"hello");
        buffer.extend(frame(Kind::Resize, &size_bytes(80, 24)));
        let tail = buffer.split_off(7);
        assert_eq!(take_frame(&mut buffer), Ok(None));
        buffer.extend(tail);
        assert_eq!(take_frame(&mut buffer), Ok(Some((Kind::Stdin, b"hello".to_vec()))));
        assert_eq!(take_frame(&mut buffer), Ok(Some((Kind::Resize, vec![0, 80, 0, 24]))));
        assert_eq!(take_frame(&mut buffer), Ok(None));
        assert_eq!(take_frame(&mut vec![9, 0, 0, 0, 0]), Err(()));
        assert_eq!(take_frame(&mut vec![0, 255, 0, 0, 0]), Err(()));
    }

    #[test]
    fn a_message_carries_descriptors() {
        let (a, b) = pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        send(a.as_fd(), &Report::Started { pid: 7 }, &[file.as_fd()]).unwrap();
        let (report, fds) = receive::<Report>(b.as_fd()).unwrap().unwrap();
        assert!(matches!(report, Report::Started { pid: 7 }));
        assert_eq!(fds.len(), 1);
        drop(a);
        assert!(receive::<Report>(b.as_fd()).unwrap().is_none());
    }
}

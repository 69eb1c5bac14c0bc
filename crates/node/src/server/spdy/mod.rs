//! SPDY/3.1 as far as port-forward needs it: kubectl speaks it inside a WebSocket (1.31 and newer) or by itself (older).
//! Frames only; what streams mean is `tunnel`'s. Streams have no windows: neither kubectl nor kubelet keeps any.

mod headers;

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

pub(super) use headers::{Deflater, Headers, Inflater};

/// Of one frame's content. Clients send pieces of 32 KiB.
const MAX_FRAME: usize = 1 << 20;
const CONTROL: u16 = 0x8003;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Why a stream is refused: the server has too many.
pub(super) const REFUSED: u32 = 3;

pub(super) type Stream = u32;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Open {
        stream: Stream,
        headers: Headers,
    },
    Data {
        stream: Stream,
        bytes: Bytes,
        fin: bool,
    },
    Reset {
        stream: Stream,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Of no meaning here.
    Other,
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed SPDY frame: {what}"))
}

fn word(bytes: &[u8], at: usize) -> io::Result<u32> {
    let four = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    four.map(u32::from_be_bytes).ok_or_else(|| malformed("too short"))
}

/// The next frame; None at the connection's end.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin), inflater: &mut Inflater) -> io::Result<Option<Frame>> {
    let mut head = [0; 8];
    if from.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[1..]).await?;
    let length = word(&head, 4)? as usize & 0xff_ffff;
    if length > MAX_FRAME {
        return Err(malformed("too long"));
    }
    let mut content = vec![0; length];
    from.read_exact(&mut content).await?;
    parse(head, content, inflater).map(Some)
}

fn parse(head: [u8; 8], content: Vec<u8>, inflater: &mut Inflater) -> io::Result<Frame> {
    let stream = |at| Ok::<_, io::Error>(word(&content, at)? & 0x7fff_ffff);
    let fin = head[4] & FIN != 0;
    if head[0] & 0x80 == 0 {
        return Ok(Frame::Data { stream: word(&head, 0)?, bytes: content.into(), fin });
    }
    if u16::from_be_bytes([head[0], head[1]]) != CONTROL {
        return Err(malformed("not version 3"));
    }
    // All header blocks are one compressed text: also those of no interest must be read.
    let mut block = |at: usize| inflater.headers(content.get(at..).unwrap_or_default());
    match u16::from_be_bytes([head[2], head[3]]) {
        SYN_STREAM => Ok(Frame::Open { stream: stream(0)?, headers: block(10)? }),
        SYN_REPLY | HEADERS => block(4).map(|_| Frame::Other),
        RST_STREAM => Ok(Frame::Reset { stream: stream(0)? }),
        PING => Ok(Frame::Ping { id: word(&content, 0)? }),
        GOAWAY => Ok(Frame::GoAway),
        _ => Ok(Frame::Other),
    }
}

fn control(kind: u16, content: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + content.len());
    out.put_u16(CONTROL);
    out.put_u16(kind);
    out.put_u32(content.len() as u32);
    out.put_slice(content);
    out.freeze()
}

/// Accepts a stream, without headers.
pub(super) fn accept(stream: Stream, deflater: &mut Deflater) -> Bytes {
    control(SYN_REPLY, &[&stream.to_be_bytes()[..], &deflater.no_headers()].concat())
}

pub(super) fn reset(stream: Stream, why: u32) -> Bytes {
    control(RST_STREAM, &[stream.to_be_bytes(), why.to_be_bytes()].concat())
}

pub(super) fn ping(id: u32) -> Bytes {
    control(PING, &id.to_be_bytes())
}

/// At most [`MAX_FRAME`] bytes. `fin`: the last of this stream.
pub(super) fn data(stream: Stream, bytes: &[u8], fin: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + bytes.len());
    out.put_u32(stream & 0x7fff_ffff);
    out.put_u32(bytes.len() as u32 | u32::from(if fin { FIN } else { 0 }) << 24);
    out.put_slice(bytes);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn frames(bytes: &[u8]) -> io::Result<Vec<Frame>> {
        let (mut from, mut inflater, mut all) = (bytes, Inflater::default(), vec![]);
        while let Some(frame) = read(&mut from, &mut inflater).await? {
            all.push(frame);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn what_is_written_can_be_read() {
        let written = [data(3, b"abc", false), data(3, b"", true), reset(5, REFUSED), ping(7)].concat();
        let written = [&written[..], &accept(9, &mut Deflater::default()), &control(GOAWAY, &[0; 8])].concat();
        let (abc, none) = (Bytes::from_static(b"abc"), Bytes::new());
        let expected = [
            Frame::Data { stream: 3, bytes: abc, fin: false },
            Frame::Data { stream: 3, bytes: none, fin: true },
            Frame::Reset { stream: 5 },
            Frame::Ping { id: 7 },
            Frame::Other,
            Frame::GoAway,
        ];
        assert_eq!(frames(&written).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn no_bytes_can_hurt() {
        let too_long = [0, 0, 0, 1, 0, 0xff, 0xff, 0xff];
        assert!(frames(&too_long).await.is_err());
        assert!(frames(&[0x80, 2, 0, 1, 0, 0, 0, 0]).await.is_err(), "another version");
        assert!(frames(&control(SYN_STREAM, b"short")).await.is_err());
        assert!(frames(&control(PING, b"")).await.is_err());
        assert!(frames(&control(SYN_STREAM, &[0xee; 40])).await.is_err(), "no compressed headers");
        assert!(frames(&data(1, b"abc", false)[..9]).await.is_err(), "cut short");
        let mut seed = 1_u64;
        for _ in 0..2000 {
            let noise = std::iter::repeat_with(|| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            });
            let _ = frames(&noise.take(64).collect::<Vec<u8>>()).await;
        }
    }
}

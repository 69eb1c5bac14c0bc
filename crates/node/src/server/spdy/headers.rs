//! Header blocks: all blocks of one direction are one zlib text, which begins as if it followed the dictionary of SPDY/3.

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{malformed, word};

/// Of one block, unpacked.
const MAX_BLOCK: usize = 16 << 10;
/// zlib's head and the dictionary's number.
const ZLIB_HEAD: usize = 2;
const ZLIB_DICTIONARY: u8 = 0x20;
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

/// Names with values; names in lower case.
pub(in crate::server) type Headers = Vec<(String, String)>;

/// What the dictionary holds with their lengths before them.
const DICTIONARY_WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// The rest of the dictionary.
const DICTIONARY_REST: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Au\
    thoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidd\
    en404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr Ma\
    y Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,imag\
    e/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicpri\
    vatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let words = DICTIONARY_WORDS.iter().flat_map(|w| [&(w.len() as u32).to_be_bytes()[..], w.as_bytes()].concat());
    words.chain(DICTIONARY_REST.bytes()).collect()
}

/// Reads the blocks of one direction, in their order.
pub(in crate::server) struct Inflater {
    raw: Decompress,
    begun: bool,
}

impl Default for Inflater {
    fn default() -> Self {
        Inflater { raw: Decompress::new(false), begun: false }
    }
}

impl Inflater {
    pub(super) fn headers(&mut self, block: &[u8]) -> io::Result<Headers> {
        let block = if self.begun { block } else { self.begin(block)? };
        parse(&self.inflate(block)?)
    }

    /// The decompressor takes no dictionary. What it keeps to look back at is what it has put out, so the dictionary is
    /// put through it first, as a piece that is not compressed.
    fn begin<'a>(&mut self, block: &'a [u8]) -> io::Result<&'a [u8]> {
        let flags = *block.get(1).ok_or_else(|| malformed("no headers"))?;
        self.begun = true;
        if flags & ZLIB_DICTIONARY == 0 {
            return Ok(&block[ZLIB_HEAD..]);
        }
        if word(block, ZLIB_HEAD)? != DICTIONARY_ID {
            return Err(malformed("headers of another dictionary"));
        }
        let words = dictionary();
        let length = words.len() as u16;
        let stored = [&[0][..], &length.to_le_bytes(), &(!length).to_le_bytes(), &words].concat();
        self.inflate(&stored)?;
        Ok(&block[ZLIB_HEAD + 4..])
    }

    fn inflate(&mut self, mut block: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(MAX_BLOCK);
        loop {
            let before = (self.raw.total_in(), out.len());
            let status = self.raw.decompress_vec(block, &mut out, FlushDecompress::Sync);
            let status = status.map_err(|e| malformed(&format!("headers: {e}")))?;
            let used = (self.raw.total_in() - before.0) as usize;
            block = &block[used..];
            if out.len() == out.capacity() {
                return Err(malformed("headers too long"));
            }
            let stuck = used == 0 && out.len() == before.1;
            match (block.is_empty() || stuck, status) {
                (true, Status::Ok | Status::BufError) if block.is_empty() => return Ok(out),
                (true, _) | (_, Status::StreamEnd) => return Err(malformed("headers that end")),
                _ => {}
            }
        }
    }
}

fn parse(block: &[u8]) -> io::Result<Headers> {
    let count = word(block, 0)? as usize;
    let mut at = 4;
    let mut next = || -> io::Result<String> {
        let length = word(block, at)? as usize;
        let text = block.get(at + 4..).and_then(|b| b.get(..length)).ok_or_else(|| malformed("headers cut short"))?;
        at += 4 + length;
        Ok(String::from_utf8_lossy(text).into_owned())
    };
    // Each takes eight bytes at least, so the block's length bounds them.
    (0..count).map(|_| Ok((next()?.to_ascii_lowercase(), next()?))).collect()
}

/// Writes the blocks of one direction. A dictionary is the sender's choice; none is needed here.
pub(in crate::server) struct Deflater(Compress);

impl Default for Deflater {
    fn default() -> Self {
        Deflater(Compress::new(Compression::fast(), true))
    }
}

impl Deflater {
    pub(super) fn no_headers(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        // Four bytes and a flush always fit.
        let _ = self.0.compress_vec(&0_u32.to_be_bytes(), &mut out, FlushCompress::Sync);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two blocks with the dictionary, as zlib packs them.
    const BLOCKS: [&str; 2] = [
        "78f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45a024cc64610024398b209198094adc8c0600000000ffff",
        "c2aa15540a2512d209000000ffff",
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn the_dictionary_is_the_one_that_all_have() {
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in dictionary() {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, DICTIONARY_ID, "Adler-32");
    }

    #[test]
    fn blocks_follow_each_other() {
        let mut inflater = Inflater::default();
        let read = BLOCKS.map(|b| inflater.headers(&bytes(b)).unwrap());
        let headers =
            |kind: &str| [("streamtype", kind), ("port", "80"), ("requestid", "0")].map(|(n, v)| (n.into(), v.into()));
        let sorted = |mut h: Headers| {
            h.sort();
            h
        };
        assert_eq!(read.map(sorted), [headers("error"), headers("data")].map(|h| sorted(h.to_vec())));
    }

    /// The first block of a kubectl 1.32 that forwards to port 8080, as its Go library packs it.
    #[test]
    fn as_kubectl_packs() {
        let block = "78F9E3C6A7C202253A703A2B294A4DCC851625ACA9A0808614CB45E01C6061606 1C0C0C0C05904 89C64C50F26634 00000000FFFF";
        let mut read = Inflater::default().headers(&bytes(&block.replace(' ', ""))).unwrap();
        read.sort();
        assert_eq!(
            read,
            [("port", "8080"), ("requestid", "0"), ("streamtype", "error")].map(|(n, v)| (n.into(), v.into()))
        );
    }

    #[test]
    fn a_block_that_grows_without_end_is_refused() {
        let mut packer = Compress::new(Compression::best(), true);
        let mut bomb = Vec::with_capacity(1 << 16);
        packer.compress_vec(&vec![0; 1 << 20], &mut bomb, FlushCompress::Sync).unwrap();
        assert!(Inflater::default().headers(&bomb).is_err());
    }

    #[test]
    fn an_answer_can_be_read() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        for _ in 0..3 {
            assert_eq!(inflater.headers(&deflater.no_headers()).unwrap(), []);
        }
    }
}

//! A container's log in CRI's format: `2026-01-01T00:00:00.000000000Z stdout F line`, `P` for a part of a line.

use std::{
    fs,
    fs::File,
    io,
    io::Write,
    path::{Path, PathBuf},
};

/// Longer lines are cut into parts of this size.
const LINE: usize = 16 * 1024;
/// A bigger file is renamed to `….1`, replacing the former one, and a new one is begun.
const FILE: u64 = 10 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// The log file of one container. A full disk loses lines, never the container.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    written: u64,
    pending: [Vec<u8>; 2],
}

impl Log {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = append(path)?;
        let written = file.metadata()?.len();
        Ok(Log { path: path.to_owned(), file, written, pending: [Vec::new(), Vec::new()] })
    }

    /// Takes bytes as they come and writes whole lines.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let pending = &mut self.pending[stream as usize];
        pending.extend_from_slice(bytes);
        let out = format_lines(stream, pending, &now(), false);
        self.put(&out);
    }

    /// What has not ended in a newline, at the end of the stream.
    pub(crate) fn flush(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let out = format_lines(stream, &mut self.pending[stream as usize], &now(), true);
            self.put(&out);
        }
    }

    fn put(&mut self, out: &[u8]) {
        if out.is_empty() {
            return;
        }
        if self.written > FILE {
            self.rotate();
        }
        if self.file.write_all(out).is_ok() {
            self.written += out.len() as u64;
        }
    }

    fn rotate(&mut self) {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        if fs::rename(&self.path, old).is_ok()
            && let Ok(file) = append(&self.path)
        {
            self.file = file;
            self.written = 0;
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().create(true).append(true).open(path)
}

fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

/// Takes complete lines (and parts of too long ones) out of `pending`; with `end`, the rest as well.
fn format_lines(stream: Stream, pending: &mut Vec<u8>, time: &str, end: bool) -> Vec<u8> {
    let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
    let mut out = Vec::new();
    let mut at = 0;
    let mut line = |tag: char, bytes: &[u8]| {
        out.extend_from_slice(format!("{time} {name} {tag} ").as_bytes());
        out.extend_from_slice(bytes);
        out.push(b'\n');
    };
    loop {
        let rest = &pending[at..];
        let window = &rest[..rest.len().min(LINE + 1)];
        if let Some(length) = window.iter().position(|b| *b == b'\n') {
            line('F', &rest[..length]);
            at += length + 1;
        } else if rest.len() > LINE {
            line('P', &rest[..LINE]);
            at += LINE;
        } else {
            break;
        }
    }
    if end && at < pending.len() {
        line('P', &pending[at..]);
        at = pending.len();
    }
    pending.drain(..at);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &[u8], end: bool, expect: &str, left: usize) {
        let mut pending = input.to_vec();
        let out = format_lines(Stream::Stdout, &mut pending, "T", end);
        assert_eq!(String::from_utf8(out).unwrap(), expect);
        assert_eq!(pending.len(), left);
    }

    #[test]
    fn whole_lines_only_until_the_end() {
        check(b"a\nb", false, "T stdout F a\n", 1);
        check(b"a\nb", true, "T stdout F a\nT stdout P b\n", 0);
        check(b"\n\n", false, "T stdout F \nT stdout F \n", 0);
        check(b"", true, "", 0);
    }

    #[test]
    fn long_lines_come_in_parts() {
        let long = "x".repeat(LINE);
        check(format!("{long}yz\n").as_bytes(), false, &format!("T stdout P {long}\nT stdout F yz\n"), 0);
        check(format!("{long}\n").as_bytes(), false, &format!("T stdout F {long}\n"), 0);
        check(long.as_bytes(), false, "", LINE);
    }

    #[test]
    fn timestamps_have_nine_digits() {
        let time = now();
        assert_eq!(time.len(), "2026-01-01T00:00:00.000000000Z".len(), "{time}");
    }
}

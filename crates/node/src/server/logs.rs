//! A container's log as `kubectl logs` wants it, from files in CRI's format.

use std::{
    convert::Infallible,
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use rustix::fs::inotify;
use tokio::{
    io::{AsyncReadExt, AsyncSeekExt, unix::AsyncFd},
    sync::mpsc,
};

use super::{
    Answer, Refusal, find,
    request::{LogOptions, Target},
};
use crate::{
    pod::{
        context::{Context, View},
        state::Phase,
    },
    shim::sys,
};

/// Chunks waiting for a slow reader.
const QUEUE: usize = 16;

pub(super) async fn serve(ctx: &Arc<Context>, target: &Target, query: &str) -> Result<Answer, Refusal> {
    let options = LogOptions::parse(query, Timestamp::now()).map_err(Refusal::bad)?;
    let (view, name) = find(ctx, target)?;
    let (attempt, id) = attempt(&view, &name, options.previous)?;
    let path = ctx.log_path(&view.pod, &name, attempt);
    let (chunks, stream) = mpsc::channel::<Bytes>(QUEUE);
    let alive = if options.follow { id } else { None };
    let reader = Reader { ctx: ctx.clone(), path, chunks, left: options.limit.unwrap_or(u64::MAX), options };
    tokio::spawn(reader.run(alive));
    let frames = futures::stream::unfold(stream, |mut stream| async move {
        stream.recv().await.map(|chunk| (Ok::<_, Infallible>(Frame::data(chunk)), stream))
    });
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    Ok(answer)
}

/// Which attempt's log is meant, and the container's id while it runs.
fn attempt(view: &View, name: &str, previous: bool) -> Result<(i32, Option<String>), Refusal> {
    let own = view.state.container(name);
    let pod = view.pod.metadata.name.clone().unwrap_or_default();
    let waiting =
        |reason: &str| Refusal::bad(format!("container \"{name}\" in pod \"{pod}\" is waiting to start: {reason}"));
    match (&own.phase, previous) {
        (Phase::Running { id, .. } | Phase::Starting { id }, false) => Ok((own.restarts, Some(id.clone()))),
        (Phase::Exited(_), false) => Ok((own.restarts, None)),
        (_, true) if own.last.is_some() => Ok((own.restarts - 1, None)),
        (Phase::Exited(_), true) => Ok((own.restarts, None)),
        (_, true) => Err(Refusal::bad(format!("previous terminated container \"{name}\" in pod \"{pod}\" not found"))),
        (_, false) if own.last.is_some() => Ok((own.restarts - 1, None)),
        (Phase::Waiting { reason, .. }, false) if !reason.is_empty() => Err(waiting(&trying(reason))),
        (_, false) => Err(waiting("ContainerCreating")),
    }
}

fn trying(reason: &str) -> String {
    match reason {
        "ErrImagePull" | "ImagePullBackOff" => "trying and failing to pull image".into(),
        other => other.into(),
    }
}

/// One line of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    time: &'a str,
    stream: &'a str,
    /// False: the line goes on.
    whole: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let mut word = || parts.next().and_then(|p| std::str::from_utf8(p).ok());
    let (time, stream, tag) = (word()?, word()?, word()?);
    Some(Line { time, stream, whole: tag.starts_with('F'), text: parts.next().unwrap_or_default() })
}

/// What is printed of lines (ended by newlines), by the options that look at single lines.
fn select(bytes: &[u8], options: &LogOptions) -> Vec<Vec<u8>> {
    let wanted = |line: &Line<'_>| {
        let late = options.since.is_none_or(|s| line.time.parse::<Timestamp>().is_ok_and(|t| t >= s));
        late && options.stream.as_ref().is_none_or(|s| s == line.stream)
    };
    let lines = bytes.split_inclusive(|b| *b == b'\n').map(|l| l.strip_suffix(b"\n").unwrap_or(l));
    lines.filter_map(parse).filter(wanted).map(|line| print(&line, options.timestamps)).collect()
}

fn print(line: &Line<'_>, timestamps: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.text.len() + 40);
    if timestamps {
        out.extend_from_slice(line.time.as_bytes());
        out.push(b' ');
    }
    out.extend_from_slice(line.text);
    if line.whole {
        out.push(b'\n');
    }
    out
}

struct Reader {
    ctx: Arc<Context>,
    path: PathBuf,
    options: LogOptions,
    chunks: mpsc::Sender<Bytes>,
    left: u64,
}

impl Reader {
    async fn run(mut self, alive: Option<String>) {
        let mut exits = self.ctx.runtime.exits();
        // Before the first read, so that nothing written after it is missed.
        let watch = alive.as_ref().and_then(|_| Watch::new(&self.path).ok());
        let Ok(mut tail) = self.whole().await else { return };
        let Some(id) = alive else { return };
        loop {
            let running =
                self.ctx.runtime.container(&id).is_some_and(|c| !matches!(c.phase, crate::runtime::Phase::Exited(_)));
            if !matches!(self.more(&mut tail).await, Ok(true)) || !running {
                return;
            }
            tokio::select! {
                () = Watch::changed(watch.as_ref()) => {}
                _ = exits.recv() => {}
                () = self.chunks.closed() => return,
            }
        }
    }

    fn rotated(&self) -> PathBuf {
        PathBuf::from(format!("{}.1", self.path.display()))
    }

    /// The file before the last rotation and the file; where the second one was left.
    async fn whole(&mut self) -> io::Result<Tail> {
        let old = self.rotated();
        let mut tail = Tail::open(&self.path).await?;
        let mut bytes = match Tail::open(&old).await? {
            // Rotated between the two: one file under both names.
            before if before.same(&tail) => vec![],
            mut before => before.read().await?,
        };
        bytes.extend(tail.read().await?);
        let lines = select(&bytes, &self.options);
        let skip = self.options.tail.map_or(0, |n| lines.len().saturating_sub(n));
        for part in lines[skip..].chunks(512) {
            if !self.send(part.concat()).await {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(tail)
    }

    /// What was written since; false when nobody reads any more.
    async fn more(&mut self, tail: &mut Tail) -> io::Result<bool> {
        let now = Tail::open(&self.path).await?;
        let mut bytes = tail.read().await?;
        if now.file.is_some() && !now.same(tail) {
            // Written before the rename, which came before the new file.
            bytes.extend(tail.read().await?);
            let mut between = Tail::open(&self.rotated()).await?;
            if !between.same(tail) && !between.same(&now) {
                bytes.extend(between.read().await?);
            }
            *tail = now;
            bytes.extend(tail.read().await?);
        }
        let lines = select(&bytes, &self.options);
        if lines.is_empty() { Ok(true) } else { Ok(self.send(lines.concat()).await) }
    }

    async fn send(&mut self, mut bytes: Vec<u8>) -> bool {
        bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= bytes.len() as u64;
        let sent = bytes.is_empty() || self.chunks.send(bytes.into()).await.is_ok();
        sent && self.left > 0
    }
}

/// A log file that is read on from where it was left, under whatever name it goes by then.
#[derive(Default)]
struct Tail {
    file: Option<tokio::fs::File>,
    inode: u64,
    at: u64,
}

impl Tail {
    /// Without a file when there is none yet.
    async fn open(path: &Path) -> io::Result<Self> {
        let file = match tokio::fs::File::open(path).await {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Tail::default()),
            other => other?,
        };
        let inode = file.metadata().await?.ino();
        Ok(Tail { file: Some(file), inode, at: 0 })
    }

    fn same(&self, other: &Tail) -> bool {
        self.file.is_some() && other.file.is_some() && self.inode == other.inode
    }

    /// The lines that were completed since; a line half written comes with the next ones.
    async fn read(&mut self) -> io::Result<Vec<u8>> {
        let Some(file) = &mut self.file else { return Ok(vec![]) };
        file.seek(io::SeekFrom::Start(self.at)).await?;
        let mut bytes = vec![];
        file.read_to_end(&mut bytes).await?;
        bytes.truncate(bytes.iter().rposition(|b| *b == b'\n').map_or(0, |p| p + 1));
        self.at += bytes.len() as u64;
        Ok(bytes)
    }
}

/// Tells when something happens to a log file or beside it.
struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    fn new(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let directory = path.parent().unwrap_or(path);
        inotify::add_watch(&fd, directory, inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE)?;
        Ok(Watch(sys::register(fd)?))
    }

    /// Without a watch (no inotify left on this machine) once a second.
    async fn changed(watch: Option<&Self>) {
        let Some(Watch(fd)) = watch else { return tokio::time::sleep(Duration::from_secs(1)).await };
        let Ok(mut guard) = fd.readable().await else { return tokio::time::sleep(Duration::from_secs(1)).await };
        let mut events = [0; 4096];
        while rustix::io::read(fd.get_ref(), &mut events).is_ok_and(|n| n > 0) {}
        guard.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LOG: &[u8] =
        b"2026-01-01T00:00:00.5Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n2026-01-01T00:00:01Z stderr F o\n";

    fn printed(options: LogOptions) -> String {
        String::from_utf8(select(LOG, &options).concat()).unwrap()
    }

    #[test]
    fn lines_lose_their_frame() {
        assert_eq!(printed(LogOptions::default()), "one\ntwo\n");
        let stamped = printed(LogOptions { timestamps: true, ..Default::default() });
        assert!(stamped.starts_with("2026-01-01T00:00:00.5Z one\n"), "{stamped}");
        let late = LogOptions { since: "2026-01-01T00:00:01Z".parse().ok(), ..Default::default() };
        assert_eq!(printed(late), "two\n");
        assert_eq!(printed(LogOptions { stream: Some("stdout".into()), ..Default::default() }), "one\n");
    }

    #[tokio::test]
    async fn a_file_is_read_on_under_its_new_name() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("0.log"), dir.path().join("0.log.1"));
        assert!(Tail::open(&path).await.unwrap().file.is_none());
        std::fs::write(&path, "one\ntw").unwrap();
        let mut tail = Tail::open(&path).await.unwrap();
        assert_eq!(tail.read().await.unwrap(), b"one\n");
        let mut log = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::fs::rename(&path, &old).unwrap();
        log.write_all(b"o\n").unwrap();
        std::fs::write(&path, "three\n").unwrap();
        assert_eq!(tail.read().await.unwrap(), b"two\n");
        let now = Tail::open(&path).await.unwrap();
        assert!(!now.same(&tail) && Tail::open(&old).await.unwrap().same(&tail));
    }

    #[test]
    fn nonsense_in_the_file_is_left_out() {
        assert!(select(b"\n\xff\xfe\nx y\n", &LogOptions::default()).is_empty());
    }
}

//! Commands in running containers, and attaching to a container's own streams.

use std::{
    fs::File,
    io,
    io::{PipeReader, PipeWriter},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    pin::Pin,
    process::{Child, Command},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, unix::AsyncFd},
    net::{
        UnixStream,
        unix::pipe::{Receiver, Sender},
    },
    sync::{mpsc, watch as latest},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{
    Error, ExecSpec, Phase, Runtime, StartError, record,
    start::{failure, pidfd, reap, receive_on, spawn},
};
use crate::shim::{
    sys, wire,
    wire::{FRAME, HEADER, Kind, Report},
};

const EXEC_TIMEOUT: Duration = Duration::from_secs(30);
/// A command's output has ended when it pauses for this long after the command: children may hold the pipes for ever.
const PAUSE: Duration = Duration::from_millis(300);

/// A running command. Dropping it ends the command (SIGHUP, then SIGKILL); of an attach, only the attach.
pub struct ExecSession {
    /// `None` when not asked for; take and drop it to send end-of-file.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// With a tty both streams are one, here.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    resizer: Resizer,
    exit: latest::Receiver<Option<i32>>,
    /// Its end ends the command.
    _hold: mpsc::Sender<()>,
}

impl ExecSession {
    /// A handle that changes the terminal's size from another task.
    pub fn resizer(&self) -> Resizer {
        self.resizer.clone()
    }

    /// The exit code, 128 + signal when a signal ended it. A process that the command left behind may hold the streams
    /// open for longer: read what comes in a short while after, not to their ends.
    pub async fn wait(&mut self) -> i32 {
        match self.exit.wait_for(Option::is_some).await {
            Ok(code) => code.unwrap_or(255),
            Err(_) => 255,
        }
    }
}

impl ExecSession {
    /// To the command's end: its exit code and what it wrote, up to `limit` bytes of each stream.
    pub async fn output(mut self, limit: usize) -> (i32, Vec<u8>) {
        let end = CancellationToken::new();
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let code = async {
            let code = self.wait().await;
            end.cancel();
            code
        };
        let (code, mut out, err) = tokio::join!(code, collect(stdout, limit, &end), collect(stderr, limit, &end));
        out.extend(err);
        (code, out)
    }
}

/// What is over the limit is read too, so that the command is not held up, but for what its children write after it.
async fn collect(from: Option<impl AsyncRead + Unpin>, limit: usize, end: &CancellationToken) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut from) = from else { return kept };
    let mut chunk = vec![0; 16 << 10];
    while let Some(length) = read_until(&mut from, &mut chunk, end).await {
        kept.extend_from_slice(&chunk[..length.min(limit - kept.len())]);
        if end.is_cancelled() && kept.len() == limit {
            break;
        }
    }
    kept
}

/// The next bytes; `None` at the stream's end, or when there is a pause after the command's end.
pub(crate) async fn read_until(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
    end: &CancellationToken,
) -> Option<usize> {
    let pause = async {
        end.cancelled().await;
        time::sleep(PAUSE).await;
    };
    let length = tokio::select! {
        biased;
        length = from.read(buffer) => length.ok()?,
        () = pause => 0,
    };
    (length > 0).then_some(length)
}

/// Changes a terminal's size; does nothing without a terminal.
#[derive(Clone)]
pub struct Resizer {
    terminal: Option<Arc<OwnedFd>>,
    frames: Option<mpsc::Sender<Vec<u8>>>,
}

impl Resizer {
    pub fn resize(&self, columns: u16, rows: u16) {
        if let Some(terminal) = &self.terminal {
            wire::set_size(terminal.as_fd(), columns, rows);
        }
        if let Some(frames) = &self.frames {
            // A queue full of other frames loses a size; the next one comes with the next change.
            let _ = frames.try_send(wire::frame(Kind::Resize, &wire::size_bytes(columns, rows)));
        }
    }
}

/// Our ends of a command's pipes.
struct Pipes {
    stdin: Option<PipeWriter>,
    stdout: PipeReader,
    stderr: PipeReader,
}

impl Runtime {
    pub async fn exec(&self, id: &str, spec: ExecSpec) -> Result<ExecSession, StartError> {
        let container = self.get(id).map_err(|e| failure("exec", &io::Error::other(e.to_string())))?;
        if !matches!(*container.phase.borrow(), Phase::Running { .. }) {
            return Err(failure("exec", &io::Error::other(Error::NotRunning(id.to_owned()).to_string())));
        }
        let (child, control, pipes) =
            self.start_exec(&container.paths.dir, &spec).map_err(|e| failure("start exec", &e))?;
        let shim = pidfd(&child).map_err(|e| failure("pidfd_open", &e))?;
        let control = sys::register(control).map_err(|e| failure("control socket", &e))?;
        let report = time::timeout(EXEC_TIMEOUT, receive_on::<Report>(&control)).await;
        match report {
            Ok(Ok(Some((Report::Started { .. }, fds)))) => {
                session(child, shim, control, pipes, fds).map_err(|e| failure("streams", &e))
            }
            other => {
                drop(control);
                tokio::spawn(reap(child, shim));
                Err(match other {
                    Ok(Ok(Some((Report::Failed(error), _)))) => error,
                    Ok(Ok(_)) => failure("exec", &io::Error::other("its shim ended without a report")),
                    Ok(Err(e)) => failure("exec", &e),
                    Err(_) => failure("exec", &io::Error::new(io::ErrorKind::TimedOut, "no report in 30 s")),
                })
            }
        }
    }

    fn start_exec(&self, dir: &Path, spec: &ExecSpec) -> io::Result<(Child, OwnedFd, Option<Pipes>)> {
        let request = dir.join(format!("exec-{:016x}.json", rand::random::<u64>()));
        record::write_atomically(&request, spec)?;
        let mut command = Command::new(&self.inner.shim);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("shim.log"))?;
        command.args(["shim", "exec"]).arg(dir).arg(&request).stderr(log);
        let (child, control) = spawn(&mut command)?;
        let pipes = if spec.tty { None } else { Some(send_pipes(&control, spec.stdin)?) };
        Ok((child, control, pipes))
    }

    /// Attaches to the container's own streams; `wait()` answers with the container's own exit code.
    pub async fn attach(&self, id: &str) -> Result<ExecSession, Error> {
        let container = self.get(id)?;
        let dir = File::open(&container.paths.dir).map_err(|_| Error::NotRunning(id.to_owned()))?;
        // The whole path may be too long for a socket's address.
        let short = format!("/proc/self/fd/{}/attach.sock", std::os::fd::AsRawFd::as_raw_fd(&dir));
        let stream = UnixStream::connect(short).await.map_err(|_| Error::NotRunning(id.to_owned()))?;
        Ok(attached(stream, container.orders.spec.tty))
    }
}

/// The command's ends go to the shim, which passes them on.
fn send_pipes(control: &OwnedFd, stdin: bool) -> io::Result<Pipes> {
    let ((stdout, out_end), (stderr, err_end)) = (io::pipe()?, io::pipe()?);
    let (in_end, stdin) = if stdin {
        let (end, writer) = io::pipe()?;
        (OwnedFd::from(end), Some(writer))
    } else {
        (OwnedFd::from(File::open("/dev/null")?), None)
    };
    wire::send(control.as_fd(), &(), &[in_end.as_fd(), out_end.as_fd(), err_end.as_fd()])?;
    Ok(Pipes { stdin, stdout, stderr })
}

fn session(
    child: Child,
    shim: OwnedFd,
    control: AsyncFd<OwnedFd>,
    pipes: Option<Pipes>,
    fds: Vec<OwnedFd>,
) -> io::Result<ExecSession> {
    let (hold, mut dropped) = mpsc::channel::<()>(1);
    let (exit_tx, exit) = latest::channel(None);
    let mut session = ExecSession {
        stdin: None,
        stdout: None,
        stderr: None,
        resizer: Resizer { terminal: None, frames: None },
        exit,
        _hold: hold,
    };
    match (pipes, fds.into_iter().next()) {
        (Some(pipes), _) => {
            session.stdout = Some(Box::new(Receiver::from_owned_fd(pipes.stdout.into())?));
            session.stderr = Some(Box::new(Receiver::from_owned_fd(pipes.stderr.into())?));
            if let Some(stdin) = pipes.stdin {
                session.stdin = Some(Box::new(Sender::from_owned_fd(stdin.into())?));
            }
        }
        (None, Some(master)) => {
            let (read, write) = terminal(master.try_clone()?)?;
            session.stdin = Some(Box::new(write));
            session.stdout = Some(Box::new(read));
            session.resizer.terminal = Some(Arc::new(master));
        }
        (None, None) => return Err(io::Error::other("the terminal did not arrive")),
    }
    tokio::spawn(async move {
        tokio::select! {
            report = receive_on::<Report>(&control) => {
                let code = match report {
                    Ok(Some((Report::Exited { code }, _))) => code,
                    _ => 255,
                };
                exit_tx.send_replace(Some(code));
            }
            _ = dropped.recv() => {}
        }
        // The shim takes this for the order to end the command.
        drop(control);
        reap(child, shim).await;
    });
    Ok(session)
}

/// Both directions of a terminal's master side.
fn terminal(master: OwnedFd) -> io::Result<(Terminal<Receiver>, Sender)> {
    rustix::fs::fcntl_setfl(&master, rustix::fs::OFlags::NONBLOCK)?;
    let write = Sender::from_owned_fd_unchecked(master.try_clone()?)?;
    Ok((Terminal(Receiver::from_owned_fd_unchecked(master)?), write))
}

/// The last program's end shows on the master side as an I/O error: for us it is the end of the stream.
struct Terminal<R>(R);

impl<R: AsyncRead + Unpin> AsyncRead for Terminal<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(cx, buf) {
            Poll::Ready(Err(e)) if e.raw_os_error() == Some(libc::EIO) => Poll::Ready(Ok(())),
            other => other,
        }
    }
}

/// A session over the frames of an attach socket.
fn attached(stream: UnixStream, tty: bool) -> ExecSession {
    let (read, write) = stream.into_split();
    let (stdin, stdin_end) = tokio::io::duplex(FRAME);
    let (stdout_end, stdout) = tokio::io::duplex(FRAME);
    let (stderr_end, stderr) = tokio::io::duplex(FRAME);
    let (hold, mut dropped) = mpsc::channel::<()>(1);
    let (frames, queue) = mpsc::channel(16);
    let (exit_tx, exit) = latest::channel(None);
    tokio::spawn(read_input(stdin_end, frames.clone()));
    tokio::spawn(async move {
        tokio::select! {
            code = read_frames(read, stdout_end, stderr_end) => { exit_tx.send_replace(Some(code)); }
            () = write_frames(write, queue) => {}
            _ = dropped.recv() => {}
        }
    });
    ExecSession {
        stdin: Some(Box::new(stdin)),
        stdout: Some(Box::new(stdout)),
        stderr: if tty { None } else { Some(Box::new(stderr)) },
        resizer: Resizer { terminal: None, frames: Some(frames) },
        exit,
        _hold: hold,
    }
}

async fn read_input(mut stdin: impl AsyncRead + Unpin, frames: mpsc::Sender<Vec<u8>>) {
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let (frame, last) = match stdin.read(&mut chunk).await {
            Ok(n) if n > 0 => (wire::frame(Kind::Stdin, &chunk[..n]), false),
            _ => (wire::frame(Kind::StdinEnd, &[]), true),
        };
        if frames.send(frame).await.is_err() || last {
            return;
        }
    }
}

async fn write_frames(mut stream: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        if stream.write_all(&frame).await.is_err() {
            // The reading side sees the same end, after all output.
            break;
        }
    }
    std::future::pending().await
}

/// Output to where it belongs until the container's exit code comes; 255 when the shim vanishes.
async fn read_frames(
    mut stream: impl AsyncRead + Unpin,
    mut stdout: impl AsyncWrite + Unpin,
    mut stderr: impl AsyncWrite + Unpin,
) -> i32 {
    let mut head = [0; HEADER];
    loop {
        if stream.read_exact(&mut head).await.is_err() {
            return 255;
        }
        let Some((kind, length)) = wire::header(&head) else { return 255 };
        let mut bytes = vec![0; length];
        if stream.read_exact(&mut bytes).await.is_err() {
            return 255;
        }
        // A reader that went away does not end the attach.
        match (kind, &bytes[..]) {
            (Kind::Stdout, bytes) => drop(stdout.write_all(bytes).await),
            (Kind::Stderr, bytes) => drop(stderr.write_all(bytes).await),
            (Kind::Exit, &[a, b, c, d]) => return i32::from_be_bytes([a, b, c, d]),
            _ => {}
        }
    }
}

//! What the daemon can be asked while it runs, over a socket in the cluster's run directory that only root may open: one
//! line there, one line back.

use std::{
    fs::{self, File, Permissions},
    io,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use super::paths::Paths;

/// A line is no longer.
const LINE: u64 = 4096;
/// A client has asked by then.
const ASKED: Duration = Duration::from_secs(5);
/// Nodes are given so long to end and to start.
const ANSWERED: Duration = Duration::from_secs(90);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    StopNode(String),
    StartNode(String),
}

/// What was done, or why not.
pub(crate) type Answer = Result<String, String>;

pub(crate) struct Control(UnixListener);

pub(crate) struct Asked {
    pub(crate) request: Request,
    stream: UnixStream,
}

impl Control {
    pub(crate) fn open(paths: &Paths) -> io::Result<Self> {
        let file = paths.control();
        match fs::remove_file(&file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let (_dir, short) = short(paths)?;
        let listener = UnixListener::bind(short)?;
        fs::set_permissions(&file, Permissions::from_mode(0o600))?;
        Ok(Control(listener))
    }

    /// The next request; whoever asks nothing in time, or nonsense, is left.
    pub(crate) async fn next(&self) -> io::Result<Asked> {
        loop {
            let (mut stream, _) = self.0.accept().await?;
            if let Ok(Ok(request)) = timeout(ASKED, read(&mut stream)).await {
                return Ok(Asked { request, stream });
            }
        }
    }
}

impl Asked {
    /// A client that does not wait for the answer is none of our concern.
    pub(crate) async fn answer(mut self, answer: &Answer) {
        let _ = timeout(ASKED, write(&mut self.stream, answer)).await;
    }
}

/// Asks the daemon of a cluster that runs.
pub(crate) async fn ask(paths: &Paths, request: &Request) -> io::Result<Answer> {
    let (_dir, short) = short(paths)?;
    let mut stream = UnixStream::connect(short).await?;
    write(&mut stream, request).await?;
    timeout(ANSWERED, read(&mut stream)).await?
}

/// The socket by a path that is short whatever the directory is called: socket addresses have 108 bytes.
fn short(paths: &Paths) -> io::Result<(File, PathBuf)> {
    let file = paths.control();
    let (Some(dir), Some(name)) = (file.parent(), file.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = File::open(dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    Ok((dir, path))
}

async fn read<T: for<'de> Deserialize<'de>>(stream: &mut UnixStream) -> io::Result<T> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE)).read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}

async fn write<T: Serialize>(stream: &mut UnixStream, what: &T) -> io::Result<()> {
    let line = serde_json::to_string(what)? + "\n";
    stream.write_all(line.as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn asked_and_answered() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("a-directory-whose-name-is-too-long-for-a-socket-address".repeat(3));
        fs::create_dir_all(&run).unwrap();
        let paths = Paths { data: run.clone(), run };
        let control = Control::open(&paths).unwrap();
        let request = Request::StopNode("a".into());
        let (asked, answer) = tokio::join!(
            async {
                let asked = control.next().await.unwrap();
                let request = asked.request.clone();
                asked.answer(&Err("no".into())).await;
                request
            },
            ask(&paths, &request)
        );
        assert_eq!((asked, answer.unwrap()), (request, Err("no".into())));
        // A daemon that starts anew finds the former one's socket.
        drop(control);
        Control::open(&paths).unwrap();
    }
}

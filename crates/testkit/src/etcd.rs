//! Debian's etcd on a free loopback port, for as long as the test runs, however that ends.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{registry::free_port, tools};

/// The shell ends etcd when its own standard input closes, which is when the test is gone.
const KEEPER: &str =
    r#""$@" >"$LOG" 2>&1 & pid=$!; echo $pid >"$PID"; cat >/dev/null; kill -9 $pid; wait $pid 2>/dev/null"#;
const TAKEN: &str = "address already in use";
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Etcd {
    dir: PathBuf,
    more: Vec<String>,
    client: u16,
    peer: u16,
    tls: bool,
    keeper: Option<Child>,
}

impl Etcd {
    /// With its data in a directory of its own.
    ///
    /// # Errors
    /// When it does not start within half a minute.
    pub fn start(dir: &Path) -> Result<Self, String> {
        Self::start_with(dir, &[])
    }

    /// With more flags; with `--cert-file` among them it speaks TLS.
    ///
    /// # Errors
    /// When it does not start within half a minute.
    pub fn start_with(dir: &Path, more: &[&str]) -> Result<Self, String> {
        let more: Vec<String> = more.iter().map(ToString::to_string).collect();
        let tls = more.iter().any(|flag| flag.starts_with("--cert-file"));
        let dir = dir.to_owned();
        let mut etcd = Etcd { dir, more, client: 0, peer: 0, tls, keeper: None };
        loop {
            (etcd.client, etcd.peer) = (free_port()?, free_port()?);
            match etcd.run() {
                Ok(()) => return Ok(etcd),
                // Somebody else was faster.
                Err(reason) if reason.contains(TAKEN) => {}
                Err(reason) => return Err(reason),
            }
        }
    }

    pub fn is_installed() -> bool {
        tools::find("etcd").is_some()
    }

    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.tls { "https" } else { "http" }, self.client)
    }

    pub fn port(&self) -> u16 {
        self.client
    }

    /// Ends it as a power cut would; its data stay.
    pub fn kill(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            // A keeper that is gone already has left nothing to wait for.
            let _ = keeper.wait();
        }
    }

    /// Starts it again where it was.
    ///
    /// # Errors
    /// When it does not start within half a minute.
    pub fn run(&mut self) -> Result<(), String> {
        self.kill();
        let url = |port| format!("http://127.0.0.1:{port}");
        let own = self.endpoint();
        let peer = url(self.peer);
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper", "etcd", "--name=one", "--data-dir"])
            .arg(self.dir.join("etcd"))
            .args(["--listen-client-urls", &own, "--advertise-client-urls", &own])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .args(&self.more)
            .env("LOG", self.dir.join("etcd.log"))
            .env("PID", self.dir.join("etcd.pid"))
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start etcd: {error}"))?;
        self.keeper = Some(keeper);
        let end = Instant::now() + PATIENCE;
        while !self.answers() {
            let log = std::fs::read_to_string(self.dir.join("etcd.log")).unwrap_or_default();
            if Instant::now() > end || log.contains(TAKEN) {
                self.kill();
                return Err(format!("etcd does not answer on {own}:\n{log}"));
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether it is healthy; over TLS, whether it listens.
    fn answers(&self) -> bool {
        let address = SocketAddr::from(([127, 0, 0, 1], self.client));
        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
        if self.tls {
            return true;
        }
        let asked = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let asked = asked.and_then(|()| stream.write_all(b"GET /health HTTP/1.0\r\n\r\n"));
        let mut answer = String::new();
        asked.and_then(|()| stream.read_to_string(&mut answer)).is_ok() && answer.contains("\"true\"")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

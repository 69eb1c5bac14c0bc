//! Debian's docker-registry on loopback, with a configuration of our own, for as long as the value lives.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::tools::run;

/// A piece of an image and its digest (`sha256:…`).
pub type Blob<'a> = (&'a str, &'a [u8]);

pub struct Registry {
    process: Child,
    pub port: u16,
}

impl Registry {
    /// `dir` holds its configuration and what is pushed.
    pub fn start(dir: &Path) -> Result<Self, String> {
        let port = free_port()?;
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            dir.join("data").display()
        );
        let file = dir.join("registry.yml");
        fs::write(&file, config).map_err(|e| format!("{}: {e}", file.display()))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().map_err(|e| format!("docker-registry: {e}"))?;
        let registry = Registry { process, port };
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if Instant::now() > end {
                return Err(format!("docker-registry does not listen on port {port}"));
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(registry)
    }

    /// Pushes an image as `127.0.0.1:PORT/REPOSITORY:TAG`; that name comes back.
    pub fn push(
        &self,
        blobs: &[Blob<'_>],
        manifest: &[u8],
        repository: &str,
        tag: &str,
        dir: &Path,
    ) -> Result<String, String> {
        for blob in blobs {
            self.put_blob(blob, repository, dir)?;
        }
        let url = format!("http://127.0.0.1:{}/v2/{repository}/manifests/{tag}", self.port);
        self.curl(
            manifest,
            &["-X", "PUT", "-H", "Content-Type: application/vnd.oci.image.manifest.v1+json"],
            &url,
            dir,
        )?;
        Ok(format!("127.0.0.1:{}/{repository}:{tag}", self.port))
    }

    fn put_blob(&self, (digest, blob): &Blob<'_>, repository: &str, dir: &Path) -> Result<(), String> {
        let start = format!("http://127.0.0.1:{}/v2/{repository}/blobs/uploads/", self.port);
        let answer = run(Command::new("curl").args(["-sSf", "-i", "-X", "POST", &start]))?;
        let location = answer.lines().find_map(|l| {
            let (name, value) = l.split_once(':')?;
            name.eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
        });
        let location = location.ok_or("the registry names no place to upload to")?;
        let glue = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{glue}digest={digest}");
        self.curl(blob, &["-X", "PUT", "-H", "Content-Type: application/octet-stream"], &url, dir).map(drop)
    }

    fn curl(&self, body: &[u8], args: &[&str], url: &str, dir: &Path) -> Result<String, String> {
        let file = dir.join("upload");
        fs::write(&file, body).map_err(|e| format!("{}: {e}", file.display()))?;
        run(Command::new("curl").args(["-sSf"]).args(args).args([
            "--data-binary",
            &format!("@{}", file.display()),
            url,
        ]))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn free_port() -> Result<u16, String> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    socket.local_addr().map(|a| a.port()).map_err(|e| e.to_string())
}

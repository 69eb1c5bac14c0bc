//! What tests of the node share: a tiny image out of busybox, and a place to run containers in.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use skiff_node::{
    image::Image,
    runtime::{ContainerSpec, ExecSession, Exit, Runtime},
};
use skiff_testkit::tools;
use tokio::io::AsyncReadExt;

pub const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 16] = [
    "sh", "echo", "cat", "sleep", "true", "false", "id", "tty", "stty", "ls", "kill", "dd", "env", "pwd", "touch",
    "hostname",
];

/// True when containers can be run here; else says why not, and fails where every test must run.
pub fn can_run() -> bool {
    if !tools::is_root() {
        tools::skip("containers need root");
        return false;
    }
    if !Path::new(BUSYBOX).exists() {
        tools::skip("needs /bin/busybox (package busybox-static)");
        return false;
    }
    true
}

/// The shim that is built beside the tests.
pub fn shim() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let shim = test.ancestors().nth(2).expect("target/debug/deps/test").join("examples/shim");
    assert!(shim.exists(), "{} is missing: cargo test builds it", shim.display());
    shim
}

/// The root file system of the tiny image.
pub fn make_root(root: &Path) {
    for dir in ["bin", "etc", "tmp", "home/user"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1001:\nwheel:x:10:user\n").unwrap();
    fs::write(root.join("etc/text"), "no program").unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
}

/// Directories of a node of its own; gone when dropped.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub cgroup: String,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        make_root(&dir.path().join("layers/base"));
        let cgroup = format!("skiff/test{:x}/n", rand::random::<u32>());
        Place { dir, cgroup }
    }

    pub fn runtime(&self) -> Runtime {
        Runtime::with_shim(shim(), self.dir.path().join("run"), self.dir.path().join("data"), &self.cgroup).unwrap()
    }

    pub fn spec(&self, id: &str, args: &[&str]) -> ContainerSpec {
        ContainerSpec {
            id: id.to_owned(),
            pod_uid: "uid1".to_owned(),
            image: Image { layers: vec![self.dir.path().join("layers/base")], ..Image::default() },
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            hostname: Some("tiny".to_owned()),
            log_path: self.log_path(id),
            ..ContainerSpec::default()
        }
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.dir.path().join("logs").join(id).join("0.log")
    }

    /// The log without its timestamps.
    pub fn log(&self, id: &str) -> String {
        let text = fs::read_to_string(self.log_path(id)).unwrap_or_default();
        text.lines().map(|line| format!("{}\n", line.split_once(' ').map_or(line, |(_, rest)| rest))).collect()
    }
}

impl Drop for Place {
    /// A failed test leaves containers: they go with their groups.
    fn drop(&mut self) {
        let node = self.cgroup.rsplit_once('/').map_or(self.cgroup.as_str(), |(cluster, _)| cluster);
        for hierarchy in skiff_node::cgroup::hierarchies().unwrap_or_default() {
            bury(&hierarchy.mount.join(node));
        }
    }
}

/// Kills what is in our groups and removes them, innermost first.
fn bury(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        bury(&entry.path());
    }
    for _ in 0..200 {
        for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        match fs::remove_dir(group) {
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => std::thread::yield_now(),
            _ => return,
        }
    }
}

/// Starts, waits for the end, and gives the exit.
pub async fn run(runtime: &Runtime, spec: &ContainerSpec) -> Exit {
    runtime.start(spec).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), runtime.wait(&spec.id)).await.expect("the container ends").unwrap()
}

/// All output and the exit code of a command.
pub async fn finish(mut session: ExecSession) -> (String, String, i32) {
    drop(session.stdin.take());
    let (mut out, mut err) = (String::new(), String::new());
    let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
    let all = async {
        if let Some(mut stdout) = stdout {
            stdout.read_to_string(&mut out).await.unwrap();
        }
        if let Some(mut stderr) = stderr {
            stderr.read_to_string(&mut err).await.unwrap();
        }
        session.wait().await
    };
    let code = tokio::time::timeout(Duration::from_secs(20), all).await.expect("the command ends");
    (out, err, code)
}

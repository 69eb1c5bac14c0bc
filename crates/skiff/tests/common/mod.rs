//! A real cluster for a test: its own name, its own directories, removed at the end however the test ends.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod images;
pub(crate) mod machine;
pub(crate) mod objects;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) const SKIFF: &str = env!("CARGO_BIN_EXE_skiff");

/// Which kubectl is the judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kubectl {
    Stock,
    BuiltIn,
}

pub(crate) struct Cluster {
    home: Arc<Home>,
    pub(crate) name: String,
}

/// Where clusters are: directories of their own and, where a test wants it, a machine of their own.
pub(crate) struct Home {
    root: tempfile::TempDir,
    machine: Option<machine::Machine>,
}

impl Home {
    pub(crate) fn new(machine: Option<machine::Machine>) -> Arc<Self> {
        Arc::new(Home { root: tempfile::tempdir().expect("a temporary directory"), machine })
    }

    fn path(&self) -> &Path {
        self.root.path()
    }
}

impl Cluster {
    /// Names a cluster; nothing is started. Test processes run side by side, and threads in them.
    pub(crate) fn named(prefix: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Cluster { home: Home::new(None), name }
    }

    /// A cluster of this name, in this home; nothing is started.
    pub(crate) fn at(home: &Arc<Home>, name: &str) -> Self {
        Cluster { home: home.clone(), name: name.into() }
    }

    pub(crate) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    pub(crate) fn machine(&self) -> &machine::Machine {
        self.home.machine.as_ref().expect("a cluster on a machine of its own")
    }

    pub(crate) fn up(prefix: &str, args: &[&str]) -> Self {
        let cluster = Cluster::named(prefix);
        cluster.start(args);
        cluster
    }

    pub(crate) fn start(&self, args: &[&str]) {
        let output = self.skiff(&[&["up", "--name", &self.name], args].concat());
        assert!(output.status.success(), "up: {}\n{}", text(&output.stderr), self.log());
    }

    /// The daemon's log, for a failure's message.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.data().join("server.log")).unwrap_or_default()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.home.path().join("lib").join(&self.name)
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.home.path().join("run").join(&self.name)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data().join("kubeconfig")
    }

    pub(crate) fn skiff(&self, args: &[&str]) -> Output {
        self.command(SKIFF).args(args).output().expect("skiff runs")
    }

    pub(crate) fn skiff_ok(&self, args: &[&str]) -> String {
        let output = self.skiff(args);
        assert!(output.status.success(), "skiff {args:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// A command in the cluster's surroundings.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = match &self.home.machine {
            Some(machine) => machine.command(program),
            None => Command::new(program),
        };
        let root = self.home.path();
        command.env("SKIFF_ROOT", root).env("SKIFF_CLUSTER", &self.name);
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", root);
        command
    }

    pub(crate) fn pid(&self) -> u32 {
        let pid = std::fs::read_to_string(self.run_dir().join("server.pid")).expect("the daemon's pid");
        pid.trim().parse().expect("a number")
    }

    pub(crate) fn kubectl(&self, kind: Kubectl) -> Client<'_> {
        Client { cluster: self, kind }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::env::var_os("SKIFF_TEST_KEEP").is_some() {
            eprintln!("kept: SKIFF_ROOT={} skiff down --delete --name {}", self.home.path().display(), self.name);
            // Left as it is: neither the directory nor the machine ends.
            std::mem::forget(self.home.clone());
            return;
        }
        let output = self.skiff(&["down", "--delete", "--name", &self.name]);
        if !output.status.success() && !std::thread::panicking() && self.data().exists() {
            panic!("down: {}", text(&output.stderr));
        }
    }
}

/// kubectl against the cluster.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) kind: Kubectl,
}

impl Client<'_> {
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        match self.kind {
            Kubectl::Stock => {
                let mut command = self.cluster.command("kubectl");
                command.args(args);
                command
            }
            Kubectl::BuiltIn => {
                let mut command = self.cluster.command(SKIFF);
                command.arg("kubectl").args(args);
                command
            }
        }
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("kubectl runs")
    }

    /// What it printed; a failure of the test when it failed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let shown = || {
            format!(
                "{:?} kubectl {args:?}: {}\n{}{}",
                self.kind,
                output.status,
                text(&output.stdout),
                text(&output.stderr)
            )
        };
        assert!(output.status.success(), "{}", shown());
        text(&output.stdout)
    }

    /// What it said on standard error; a failure of the test when it succeeded.
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "{:?} kubectl {args:?} succeeded: {}", self.kind, text(&output.stdout));
        text(&output.stderr)
    }

    /// `kubectl apply -f -`
    pub(crate) fn apply(&self, manifest: &str) -> String {
        let output = self.try_apply(manifest);
        assert!(output.status.success(), "apply: {}\n{manifest}", text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn try_apply(&self, manifest: &str) -> Output {
        // What begins with a brace would be taken for JSON.
        self.feed(&["apply", "-f", "-"], &format!("---\n{manifest}"))
    }

    pub(crate) fn feed(&self, args: &[&str], input: &str) -> Output {
        use std::io::Write;
        let mut command = self.command(args);
        let pipe = std::process::Stdio::piped;
        let mut child = command.stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().expect("kubectl runs");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("kubectl reads");
        child.wait_with_output().expect("kubectl ends")
    }

    pub(crate) fn jsonpath(&self, what: &[&str], path: &str) -> String {
        self.ok(&[&["get"], what, &["-o", &format!("jsonpath={path}")]].concat())
    }

    /// Runs a command in a pod.
    pub(crate) fn exec(&self, pod: &str, command: &[&str]) -> String {
        self.ok(&[&["exec", pod, "--"], command].concat())
    }

    pub(crate) fn try_exec(&self, pod: &str, command: &[&str]) -> Output {
        self.run(&[&["exec", pod, "--"], command].concat())
    }

    /// Names of the pods with a label that are not on their way out.
    pub(crate) fn pods(&self, selector: &str) -> Vec<String> {
        let template = "{range .items[*]}{.metadata.name} {.metadata.deletionTimestamp}{\"\\n\"}{end}";
        let listed = self.jsonpath(&["pods", "-l", selector], template);
        listed
            .lines()
            .filter_map(|l| l.trim_end().split_once(' ').map_or(Some(l.trim()), |_| None))
            .map(str::to_owned)
            .collect()
    }

    /// Waits until so many pods with the label are ready, and no others are there.
    pub(crate) fn ready(&self, selector: &str, count: usize) -> Vec<String> {
        let path = "{range .items[*]}{.status.conditions[?(@.type=='Ready')].status}{\"\\n\"}{end}";
        eventually(&format!("{count} ready pods with {selector}"), || {
            let ready = self.jsonpath(&["pods", "-l", selector], path);
            let ready = ready.lines().filter(|l| *l == "True").count();
            let pods = self.pods(selector);
            (ready == count && pods.len() == count)
                .then_some(pods)
                .ok_or_else(|| self.ok(&["get", "pods", "-o", "wide"]))
        })
    }

    pub(crate) fn ready_node(&self, name: &str) {
        let path = "{.status.conditions[?(@.type=='Ready')].status}";
        eventually(&format!("node {name} is ready"), || {
            let output = self.run(&["get", "node", name, "-o", &format!("jsonpath={path}")]);
            if text(&output.stdout) == "True" { Ok(()) } else { Err(text(&output.stderr)) }
        });
    }

    pub(crate) fn cluster_ip(&self, service: &str) -> String {
        self.jsonpath(&["svc", service], "{.spec.clusterIP}")
    }

    /// The addresses in the Service's Endpoints, sorted.
    pub(crate) fn endpoints(&self, service: &str) -> Vec<String> {
        let listed = self.jsonpath(&["endpoints", service], "{.subsets[*].addresses[*].ip}");
        let mut ips: Vec<String> = listed.split_whitespace().map(str::to_owned).collect();
        ips.sort();
        ips
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asks until there is an answer, for at most a minute; what stood in the way is the failure's message.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) if Instant::now() > end => panic!("{what}: not within a minute: {why}"),
            Err(_) => std::thread::park_timeout(Duration::from_millis(100)),
        }
    }
}

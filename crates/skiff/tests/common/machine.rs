//! A machine for a test: network, mount and process namespaces of its own, so that "as before" can be meant literally while
//! other tests run beside it, and so that everything in it can be killed. It ends with the value.

use std::{
    fs::File,
    future::Future,
    io::{BufRead, BufReader},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    thread,
};

use nix::sched::{CloneFlags, setns};

pub(crate) struct Machine {
    /// `unshare`, whose child is the machine's first process; that one ends when its standard input does.
    init: Child,
    pid: u32,
}

/// The first process: it makes a way out, says that it is there, and from then on only reaps orphans (bash does).
const INIT: &str = "ip link set lo up && ip link add up0 type veth peer name up1 && ip link set up0 addrgenmode none && ip link set up1 addrgenmode none && ip address add 198.51.100.2/24 dev up0 \
    && ip link set up0 up && ip link set up1 up && ip route add default via 198.51.100.1 && echo ready && read -r";

/// Every process but the machine's first and this listing, whose shell's children stand as `[bash]` while they become
/// another program; what only waits to be reaped has ended.
const PROCESSES: &str = "ps -eo pid=,stat=,args= | awk '$1 != 1 && $2 !~ /^Z/ && $3 != \"[bash]\" && !/ps -eo|awk/ { $1 = $2 = \"\"; print }' | grep -v 'bash -c ip -o\\|bash -c ps' || true";

impl Machine {
    /// None, with the reason said, where this process may not make one.
    pub(crate) fn new() -> Option<Self> {
        let programs = ["unshare", "nsenter", "bash", "ip", "nft", "ps", "find", "curl", "busybox"];
        skiff_testkit::tools::root_with(&programs).then(Machine::make)
    }

    fn make() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", INIT]);
        let mut init = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare runs");
        let mut line = String::new();
        let out = init.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("the machine speaks");
        assert_eq!(line, "ready\n", "the machine's first process");
        let children = format!("/proc/{0}/task/{0}/children", init.id());
        let children = std::fs::read_to_string(children).expect("the kernel lists a process's children");
        let pid = children.trim().parse().expect("unshare has one child");
        Machine { init, pid }
    }

    /// A command inside.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--mount", "--pid", "--"]).arg(program);
        command
    }

    pub(crate) fn run(&self, script: &str) -> String {
        skiff_testkit::tools::run(self.command("bash").args(["-c", script])).expect("a command in the machine")
    }

    /// Runs `work` on a thread in the machine's network.
    pub(crate) fn inside<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        self.on_thread(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(work())
        })
    }

    /// The same without a runtime: sockets, threads and processes that it makes are in the machine's network.
    pub(crate) fn on_thread<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let net = File::open(format!("/proc/{}/ns/net", self.pid)).expect("the machine's network");
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(net.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter the machine's network");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Everything that a cluster could leave behind, as text.
    pub(crate) fn traces(&self, cluster: &str) -> String {
        self.run(&format!(
            "ip -o link; ip netns; ip -o address; ip route show table all; ip rule; nft list ruleset; cat /proc/self/mountinfo; \
             grep . /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/conf/*/rp_filter; {PROCESSES}; \
             find /sys/fs/cgroup -path '*/skiff/{cluster}*' 2>/dev/null || true"
        ))
    }

    /// `kill -9` of every process but the first.
    pub(crate) fn kill_all(&self) {
        // The shell that does it goes too, so its end says nothing.
        let _ = self.command("bash").args(["-c", "kill -9 -1"]).output();
        super::eventually("every process has ended", || {
            let left = self.run(PROCESSES);
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.init.stdin.take());
        let _ = self.init.wait();
    }
}

//! A node in a process of its own: `skiff agent` beside a cluster, in another network namespace, with nothing but a
//! kubeconfig. Its pods serve and are served, its death changes nothing for them, and it leaves nothing behind.

mod common;

use std::{
    net::Ipv4Addr,
    process::{Child, Stdio},
};

use common::{
    Cluster, Home, Kubectl, eventually,
    machine::Machine,
    objects::{IMAGE, cluster_ip},
    text,
};

const NODE: &str = "far";

/// Another machine beside the cluster: a network namespace on the link that the cluster's nodes share.
struct Beside<'a> {
    cluster: &'a Cluster,
    /// Keeps the namespace for as long as its standard input is open.
    holder: Child,
    pid: String,
    ip: Ipv4Addr,
}

impl<'a> Beside<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let machine = cluster.machine();
        let mut holder = machine.command("unshare");
        holder.args(["--net", "bash", "-c", "echo $$; read -r"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = holder.spawn().expect("unshare runs");
        let mut line = String::new();
        let out = holder.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("it says its number");
        let first: Ipv4Addr = cluster.skiff_ok(&["ip"]).trim().parse().expect("a node's address");
        let [a, b, c, _] = first.octets();
        let beside = Beside { cluster, holder, pid: line.trim().into(), ip: Ipv4Addr::new(a, b, c, 77) };
        let hub = cluster.run_dir().join("netns/hub");
        machine.run(&format!(
            "nsenter --net={} bash -c 'ip link add far master skiff type veth peer name eth0 netns {} && ip link set far up'",
            hub.display(),
            beside.pid
        ));
        beside.run(&format!(
            "ip link set lo up && ip address add {}/24 dev eth0 && ip link set eth0 up && ip route add default via {}",
            beside.ip,
            Ipv4Addr::new(a, b, c, 1)
        ));
        beside
    }

    fn net(&self) -> String {
        format!("--net=/proc/{}/ns/net", self.pid)
    }

    fn run(&self, script: &str) -> String {
        self.cluster.machine().run(&format!("nsenter {} bash -c '{script}'", self.net()))
    }

    /// A program of this machine in the network namespace of the agent's pod that has the address.
    fn in_pod(&self, ip: &str, command: &str) -> String {
        let all = self.cluster.run_dir().with_file_name("../run-agent").join(NODE).join("netns");
        self.cluster.machine().run(&format!(
            "for n in {}/*; do if nsenter --net=$n ip -o address | grep -q \"{ip}/\"; then nsenter --net=$n {command}; fi; done",
            all.display()
        ))
    }

    /// All that an agent could leave in the namespace.
    fn traces(&self) -> String {
        let links = self.run("ip -o link | grep -v eth0; ip -o -4 address; ip route; nft list ruleset");
        let name = format!("skiff-agent/{NODE}");
        let more = self.cluster.machine().run(&format!(
            "grep {name} /proc/self/mountinfo || true; find /sys/fs/cgroup -path '*{name}*' 2>/dev/null || true"
        ));
        links + &more
    }

    fn agent(&self) -> Agent {
        let file = self.cluster.data().join("far.kubeconfig");
        let text = self.cluster.skiff_ok(&["kubeconfig", "--node", NODE, "--address", &self.ip.to_string()]);
        std::fs::write(&file, text).expect("write the kubeconfig");
        let mut command = self.cluster.command("nsenter");
        command.arg(self.net()).args([common::SKIFF, "agent", "--node-name", NODE, "--kubeconfig"]).arg(file);
        command.args(["--dns-upstream", "127.0.0.1:9"]).stderr(Stdio::inherit());
        Agent(command.spawn().expect("nsenter runs"))
    }

    fn cleanup(&self) {
        let mut command = self.cluster.command("nsenter");
        let output = command.arg(self.net()).args([common::SKIFF, "agent", "--cleanup", "--node-name", NODE]).output();
        let output = output.expect("nsenter runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

struct Agent(Child);

impl Agent {
    /// Dies without a word.
    fn kill(mut self, cluster: &Cluster) {
        let pid =
            std::fs::read_to_string(cluster.run_dir().with_file_name("../run-agent").join(NODE).join("server.pid"));
        cluster.machine().run(&format!("kill -9 {}", pid.expect("the agent's number").trim()));
        self.0.wait().expect("it ends");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_node_in_a_process_of_its_own() {
    if !skiff_testkit::tools::root_with(&["dig"]) {
        return;
    }
    let Some(machine) = Machine::new() else { return };
    let cluster = Cluster::at(&Home::new(Some(machine)), &format!("agent-{}", std::process::id()));
    cluster.start(&["--nodes", "2"]);
    cluster.load_busybox();
    let near = format!("{}-1", cluster.name);
    let kubectl = cluster.kubectl(Kubectl::BuiltIn);
    let beside = Beside::new(&cluster);
    let before = beside.traces();
    let archive = cluster.data().join("busybox.tar");
    cluster.busybox_archive(&archive);
    cluster.skiff_ok(&["image", "load", "--agent", NODE, &archive.display().to_string()]);
    assert!(cluster.skiff_ok(&["image", "list", "--agent", NODE]).contains(IMAGE));

    let agent = beside.agent();
    kubectl.ready_node(NODE);
    cluster.create_web(&["web-near"], "web", Some(&near));
    cluster.create_web(&["web-far"], "web", Some(NODE));
    let ip = cluster_ip(&cluster.create_service("web", "ClusterIP"));
    cluster.settled("web", 2);
    let both = |who: &dyn Fn() -> Result<String, String>, whose: &str| {
        for pod in ["web-near", "web-far"] {
            eventually(&format!("{pod} answers {whose}"), || {
                let word = who()?;
                if word.trim() == pod { Ok(()) } else { Err(word) }
            });
        }
    };
    let far_ip = kubectl.jsonpath(&["pod", "web-far"], "{.status.podIP}");
    both(&|| cluster.ask(Some(&near), &ip), "a node of the cluster");
    both(&|| Ok(beside.run(&format!("curl -sS -m 5 http://{ip}/"))), "the agent's node");
    both(&|| Ok(beside.in_pod(&far_ip, &format!("curl -sS -m 5 http://{ip}/"))), "a pod of the agent");
    let name = "web.default.svc.cluster.local";
    let asked = beside.in_pod(&far_ip, &format!("dig +short @10.96.0.10 {name}"));
    assert_eq!(asked.trim(), ip, "the agent's own DNS server");
    assert!(kubectl.ok(&["logs", "web-far"]).is_empty(), "busybox is silent, but logs are there");

    agent.kill(&cluster);
    both(&|| cluster.ask(Some(&near), &ip), "while the agent is dead");
    let again = beside.agent();
    eventually("exec by way of the next agent", || {
        let output = kubectl.try_exec("web-far", &["hostname"]);
        if text(&output.stdout).trim() == "web-far" { Ok(()) } else { Err(text(&output.stderr)) }
    });
    let restarts = kubectl.jsonpath(&["pod", "web-far"], "{.status.containerStatuses[0].restartCount}");
    assert_eq!(restarts, "0", "the next agent takes the pods over");
    again.kill(&cluster);
    beside.cleanup();
    same(&before, &beside.traces());
}

fn same(before: &str, after: &str) {
    let left: Vec<&str> = after.lines().filter(|l| !before.lines().any(|b| b == *l)).collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
}

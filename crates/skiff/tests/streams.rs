//! exec, attach and logs with stock kubectl: exit codes, whole output, input, ends.

mod common;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use common::{Client, Cluster, Kubectl, text};
use skiff_node::image::make::{Layer, Recipe, archive};
use skiff_testkit::tools;

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: "box:v1", command: [sh, -c, "for i in 1 2 3 4 5; do echo line $i; done; sleep 1000"]}
---
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: "box:v1", stdin: true, stdinOnce: true, command: [sh, -c, "read x; echo got $x; exit 5"]}
---
apiVersion: v1
kind: Pod
metadata: {name: asked}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: "box:v1", stdin: true, stdinOnce: true, command: [sh, -c, "read x; echo got $x; exit 5"]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: "box:v1"
    command: [sh, -c, "hostname > /index.html; dd if=/dev/zero of=/big bs=1M count=20; httpd -f -p 127.0.0.1:8080 -h /"]
    readinessProbe: {exec: {command: [wget, -q, -O, /dev/null, "http://127.0.0.1:8080/"]}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"#;

#[test]
fn streams() {
    if !tools::root_with(&["kubectl", "busybox", "ip"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cluster = Cluster::up("streams", &[]);
    cluster.skiff_ok(&["image", "load", &busybox(dir.path())]);
    let k = cluster.kubectl(Kubectl::Stock);
    k.apply(PODS);
    k.ok(&["wait", "--for=condition=Ready", "pod/talker", "pod/asker", "pod/asked", "pod/web", "--timeout=60s"]);
    exit_codes(&k);
    whole_output_and_input(&k);
    logs(&k);
    attach(&k, "asker");
    port_forward(&k);
    let own = cluster.kubectl(Kubectl::BuiltIn);
    attach(&own, "asked");
    own_port_forward(&own);
    nodes(&own, &cluster.name);
    rights(&own);
}

fn busybox(dir: &Path) -> String {
    let program = std::fs::read(tools::find("busybox").expect("looked for before")).expect("busybox can be read");
    let links = ["sh", "echo", "cat", "sleep", "dd", "httpd", "hostname", "wget"]
        .map(|applet| (format!("bin/{applet}"), "busybox"));
    let links: Vec<_> = links.iter().map(|(path, target)| (path.as_str(), *target)).collect();
    let layer = Layer::files(&[("bin/busybox", 0o755, &program)], &links).expect("a layer");
    let recipe =
        Recipe { name: "box:v1", layers: vec![&layer], env: vec!["PATH=/bin"], cmd: vec!["sh"], working_dir: "/" };
    let path = dir.join("box.tar");
    archive(&path, &[recipe]).expect("an archive");
    path.display().to_string()
}

fn exit_codes(k: &Client<'_>) {
    let output = k.try_exec("talker", &["sh", "-c", "echo out; exit 7"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(7), "out\n"), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "command terminated with exit code 7\n");
    let left = k.try_exec("talker", &["sh", "-c", "sleep 1000 & exit 3"]);
    assert_eq!(left.status.code(), Some(3), "what a command leaves behind holds nobody up");
    let missing = k.fails(&["exec", "talker", "--", "nosuch"]);
    assert!(missing.contains("executable file not found in $PATH"), "{missing}");
}

fn whole_output_and_input(k: &Client<'_>) {
    let output = k.try_exec("talker", &["dd", "if=/dev/zero", "bs=1M", "count=10"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 10 << 20), "{}", text(&output.stderr));
    let lines: String = (0..200_000).map(|n| format!("{n}\n")).collect();
    let echoed = k.feed(&["exec", "-i", "talker", "--", "cat"], &lines);
    assert!(text(&echoed.stdout) == lines, "{} bytes came back: {}", echoed.stdout.len(), text(&echoed.stderr));
}

fn logs(k: &Client<'_>) {
    assert_eq!(k.ok(&["logs", "talker", "--tail=2"]), "line 4\nline 5\n");
    assert_eq!(k.ok(&["logs", "talker", "--since=1h"]).lines().count(), 5);
    let stamped = k.ok(&["logs", "talker", "--tail=1", "--timestamps"]);
    assert!(stamped.starts_with("20") && stamped.ends_with("Z line 5\n"), "{stamped}");
    let none = k.fails(&["logs", "talker", "--previous"]);
    assert!(none.contains("previous terminated container \"c\" in pod \"talker\" not found"), "{none}");
}

fn attach(k: &Client<'_>, pod: &str) {
    let output = k.feed(&["attach", "-i", pod], "word\n");
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(5), "got word\n"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(k.ok(&["logs", "-f", pod]), "got word\n");
}

/// `kubectl port-forward`, while the value lives.
struct Forward {
    kubectl: Child,
    port: u16,
}

impl Forward {
    fn start(k: &Client<'_>, what: &str, port: &str) -> Self {
        let mut command = k.command(&["port-forward", what, port]);
        let mut kubectl = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl runs");
        let mut line = String::new();
        BufReader::new(kubectl.stdout.as_mut().expect("piped")).read_line(&mut line).expect("kubectl speaks");
        let port = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|l| l.split(' ').next()?.parse().ok());
        let Some(port) = port else {
            let _ = kubectl.kill();
            let output = kubectl.wait_with_output().expect("kubectl ends");
            panic!("port-forward {what}: {line}{}", text(&output.stderr));
        };
        Forward { kubectl, port }
    }

    /// What an HTTP server behind it says to `GET path`; nothing when the connection is cut.
    fn get(&self, path: &str) -> Vec<u8> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).expect("kubectl listens");
        connection.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        write!(connection, "GET {path} HTTP/1.0\r\n\r\n").expect("a request");
        let mut answer = vec![];
        // A refused connection may be reset.
        let _ = connection.read_to_end(&mut answer);
        let head = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
        answer.split_off(head)
    }

    fn end(mut self) -> String {
        self.kubectl.kill().expect("kubectl is ended");
        let mut said = String::new();
        self.kubectl.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        self.kubectl.wait().expect("kubectl ends");
        said
    }
}

/// The server listens on the pod's loopback only, as kubelet's forwarding reaches it.
fn port_forward(k: &Client<'_>) {
    for (what, port) in [("pod/web", ":8080"), ("svc/web", ":80")] {
        let forward = Forward::start(k, what, port);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..5).for_each(|_| assert_eq!(text(&forward.get("/index.html")), "web\n")));
            }
            assert_eq!(forward.get("/big").len(), 20 << 20, "{what}");
        });
        let said = forward.end();
        assert!(!said.contains("error"), "{what}: {said}");
    }
    let forward = Forward::start(k, "pod/web", ":9999");
    assert_eq!(forward.get("/"), b"");
    let said = forward.end();
    assert!(
        said.contains("error forwarding port 9999 to pod default/web") && said.contains("onnection refused"),
        "{said}"
    );
}

/// Two connections through a port of this machine.
fn own_port_forward(k: &Client<'_>) {
    let mut command = k.command(&["port-forward", "svc/web", ":80"]);
    let mut forward = command.stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let mut lines = BufReader::new(forward.stdout.take().expect("piped")).lines();
    let first = lines.next().expect("it says where").expect("text");
    let at = first.strip_prefix("Forwarding from ").and_then(|l| l.strip_suffix(" -> 8080"));
    let at = at.unwrap_or_else(|| panic!("{first}"));
    for _ in 0..2 {
        let mut stream = TcpStream::connect(at).expect("it listens");
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        assert!(answer.ends_with("web\n"), "{answer}");
    }
    forward.kill().expect("it runs");
    forward.wait().expect("it ends");
}

fn nodes(k: &Client<'_>, node: &str) {
    let unschedulable = || k.jsonpath(&["node", node], "{.spec.unschedulable}");
    assert_eq!(k.ok(&["cordon", node]), format!("node/{node} cordoned\n"));
    assert_eq!(unschedulable(), "true");
    assert_eq!(k.ok(&["cordon", node]), format!("node/{node} already cordoned\n"));
    assert_eq!(k.ok(&["uncordon", node]), format!("node/{node} uncordoned\n"));
    assert_eq!(unschedulable(), "");
    let taints = || k.jsonpath(&["node", node], "{.spec.taints[*].key}");
    assert_eq!(k.ok(&["taint", "nodes", node, "disk=slow:PreferNoSchedule"]), format!("node/{node} tainted\n"));
    assert_eq!(taints(), "disk");
    assert_eq!(k.ok(&["taint", "nodes", node, "disk-"]), format!("node/{node} untainted\n"));
    assert_eq!(taints(), "");
}

fn rights(k: &Client<'_>) {
    assert_eq!(k.ok(&["auth", "can-i", "create", "deployments"]), "yes\n");
    let other = k.run(&["auth", "can-i", "list", "secrets", "--as=system:serviceaccount:default:default"]);
    assert_eq!((other.status.code(), text(&other.stdout).starts_with("no")), (Some(1), true));
    assert!(k.fails(&["top", "nodes"]).contains("Metrics API not available"));
}

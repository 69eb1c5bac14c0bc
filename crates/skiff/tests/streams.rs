//! exec, attach and logs with stock kubectl: exit codes, whole output, input, ends.

mod common;

use std::path::Path;

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
    k.ok(&["wait", "--for=condition=Ready", "pod/talker", "pod/asker", "--timeout=60s"]);
    exit_codes(&k);
    whole_output_and_input(&k);
    logs(&k);
    attach(&k);
}

fn busybox(dir: &Path) -> String {
    let program = std::fs::read(tools::find("busybox").expect("looked for before")).expect("busybox can be read");
    let links = ["sh", "echo", "cat", "sleep", "dd"].map(|applet| (format!("bin/{applet}"), "busybox"));
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

fn attach(k: &Client<'_>) {
    let output = k.feed(&["attach", "-i", "asker"], "word\n");
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(5), "got word\n"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(k.ok(&["logs", "-f", "asker"]), "got word\n");
}

//! Several servers over one etcd: one cluster, whichever is asked; when the one that runs the controllers dies, another
//! does. The servers have no nodes here, so this needs no root.

mod common;

use std::{fs, path::Path, process::Command};

use common::{Cluster, Home, Kubectl, eventually, text};
use skiff_testkit::{
    etcd::Etcd,
    registry::free_port,
    tools::{find, skip},
};

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: 2
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec: {containers: [{name: c, image: none.invalid/none}]}
"#;

const NODE_PORT: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {type: NodePort, ports: [{port: 80, nodePort: 30500}]}
"#;

/// One of the servers: a cluster of the same name in a home of its own.
fn server(etcd: &Etcd, pki_of: Option<&Cluster>) -> Cluster {
    let cluster = Cluster::at(&Home::new(None), "shared");
    if let Some(first) = pki_of {
        copy(&first.data().join("pki"), &cluster.data().join("pki"));
    }
    let port = free_port().expect("a port").to_string();
    let place = etcd.endpoint();
    cluster.start(&["--nodes", "0", "--api-port", &port, "--store", "etcd", "--etcd-endpoints", &place]);
    cluster
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for file in fs::read_dir(from).expect("a directory") {
        let file = file.expect("a file");
        fs::copy(file.path(), to.join(file.file_name())).expect("copied");
    }
}

fn leader(cluster: &Cluster) -> String {
    cluster
        .kubectl(Kubectl::Stock)
        .jsonpath(&["lease", "-n", "kube-system", "skiff-controllers"], "{.spec.holderIdentity}")
}

/// A Deployment that is made here gets its pods, as only controllers can do.
fn controllers_work(at: &Cluster, name: &str) {
    let kubectl = at.kubectl(Kubectl::Stock);
    kubectl.apply(&DEPLOYMENT.replace("NAME", name));
    eventually("two pods", || {
        let pods = kubectl.ok(&["get", "pods", "-l", &format!("app={name}"), "-o", "name"]);
        if pods.lines().count() == 2 { Ok(()) } else { Err(pods) }
    });
}

#[test]
fn two_servers_are_one_cluster_and_survive_each_other() {
    if !Etcd::is_installed() || find("kubectl").is_none() {
        return skip("this test needs etcd (Debian: etcd-server) and kubectl");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let etcd = Etcd::start(dir.path()).expect("etcd starts");
    let one = server(&etcd, None);
    let stranger = Cluster::at(&Home::new(None), "shared");
    let refused = stranger.skiff(&["up", "--nodes", "0", "--store", "etcd", "--etcd-endpoints", &etcd.endpoint()]);
    assert!(text(&refused.stderr).contains("copy the directory pki"), "{}", text(&refused.stderr));
    let two = server(&etcd, Some(&one));

    controllers_work(&one, "first");
    controllers_work(&two, "second");
    let (at_one, at_two) = (one.kubectl(Kubectl::Stock), two.kubectl(Kubectl::Stock));
    at_one.apply(&NODE_PORT.replace("NAME", "a"));
    let taken = at_two.try_apply(&NODE_PORT.replace("NAME", "b"));
    assert!(text(&taken.stderr).contains("provided port is already allocated"), "{}", text(&taken.stderr));
    at_two.ok(&["delete", "service", "a"]);
    at_one.apply(&NODE_PORT.replace("NAME", "b"));

    // One leads; a kubeconfig of either is good for both.
    let holder = leader(&one);
    let (leading, other) = if holder.starts_with(&api(&one)) { (&one, &two) } else { (&two, &one) };
    assert!(holder.starts_with(&api(leading)), "{holder}");
    let asked = other.kubectl(Kubectl::Stock).ok(&["--server", &format!("https://{}", api(leading)), "get", "ns"]);
    assert!(asked.contains("kube-system"), "{asked}");

    // A watch through the other goes on while the leader dies; what was acknowledged is there.
    let killed = Command::new("kill").args(["-9", &leading.pid().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    controllers_work(other, "third");
    assert!(leader(other).starts_with(&api(other)), "{}", leader(other));
    other.kubectl(Kubectl::Stock).ok(&["get", "deployment", "first", "second"]);

    // The one that was killed comes back, and leads as soon as the other has ended in order.
    leading.start(&[]);
    let ended = other.skiff(&["down", "--name", "shared"]);
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    controllers_work(leading, "fourth");
}

/// The address of a server, as its leadership names it.
fn api(cluster: &Cluster) -> String {
    let rows = cluster.skiff_ok(&["status", "--name", &cluster.name, "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_str(&rows).expect("JSON");
    rows[0]["api"].as_str().expect("an address").trim_start_matches("https://").to_owned()
}

#[test]
fn an_etcd_that_cannot_be_used_is_told() {
    let cluster = Cluster::named("etcd");
    let up = |args: &[&str]| {
        let output = cluster.skiff(&[&["up", "--nodes", "0", "--name", &cluster.name], args].concat());
        assert!(!output.status.success(), "{args:?}");
        text(&output.stderr)
    };
    let nowhere = ["--store", "etcd", "--etcd-endpoints", "http://127.0.0.1:1"];
    for (args, words) in [
        (&["--store", "etcd"][..], "--store etcd needs --etcd-endpoints"),
        (&["--etcd-endpoints", "http://127.0.0.1:1"], "need --store etcd"),
        (&nowhere, "open the store in etcd: store: cannot read etcd: http://127.0.0.1:1/"),
        (&["--etcd-cafile", "/nowhere/ca.pem"], "cannot use /nowhere/ca.pem: No such file"),
    ] {
        let told = up(args);
        assert!(told.contains(words), "{told} does not say {words}");
    }
}

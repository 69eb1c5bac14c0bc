//! deploy/skiff-dns.yaml as a user applies it: its account with its rights, its pods, probes and Service. The cluster is
//! skiff's, whose own DNS has the address that the manifest would have, so the Service gets a name and an address beside it.

use std::{fs, path::PathBuf, process::Command};

use skiff_node::image::make::{Layer, Recipe, archive};
use skiff_testkit::tools;

use crate::common::{Cluster, Kubectl, SKIFF, eventually, text};

const ADDRESS: &str = "10.96.0.53";

#[test]
fn takes_corednss_place() {
    if !tools::root_with(&["dig", "ldd", "strip"]) {
        return;
    }
    let cluster = Cluster::up("coredns", &[]);
    load(&cluster);
    let k = cluster.kubectl(Kubectl::BuiltIn);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/skiff-dns.yaml");
    let manifest = fs::read_to_string(path).expect("the manifest");
    for part in ["name: kube-dns\n", "clusterIP: 10.96.0.10"] {
        assert!(manifest.contains(part), "{part:?} is in the manifest");
    }
    let beside = manifest.replace("name: kube-dns\n", "name: names\n").replace("10.96.0.10", ADDRESS);
    k.apply(&beside);
    k.ok(&["rollout", "status", "-n", "kube-system", "deployment/skiff-dns", "--timeout=60s"]);
    let pods = k.jsonpath(&["pods", "-n", "kube-system", "-l", "k8s-app=kube-dns"], "{.items[*].status.podIP}");
    let pods: Vec<&str> = pods.split_whitespace().collect();
    assert_eq!(pods.len(), 2, "{pods:?}");

    k.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.7.7, ports: [{port: 80}]}}",
    );
    let dig = |how: &[&str]| {
        let at = format!("@{ADDRESS}");
        let output = cluster.skiff(&[&["shell", "--", "dig", &at, "+short", "+time=1", "+tries=1"], how].concat());
        text(&output.stdout)
    };
    for how in ["+notcp", "+tcp"] {
        eventually(&format!("the Service answers ({how})"), || {
            let said = dig(&[how, "web.default.svc.cluster.local"]);
            if said == "10.96.7.7\n" { Ok(()) } else { Err(said) }
        });
    }
    assert_eq!(dig(&["-x", pods[0]]).lines().count(), 1, "an endpoint of its own Service");
    let metrics = cluster.skiff_ok(&["shell", "--", "curl", "-s", &format!("http://{}:9153/metrics", pods[0])]);
    assert!(metrics.contains("coredns_dns_requests_total"), "{metrics}");
    // With no rights of its own beyond the manifest's.
    let may = |verb, what| {
        let account = "system:serviceaccount:kube-system:skiff-dns";
        text(&k.run(&["auth", "can-i", verb, what, "--as", account, "-A"]).stdout).trim().to_owned()
    };
    assert_eq!([may("list", "services"), may("watch", "endpointslices.discovery.k8s.io")], ["yes", "yes"]);
    assert_eq!([may("get", "secrets"), may("create", "pods")], ["no", "no"]);
}

/// The manifest's image: the binary, and the libraries that it asks for.
fn load(cluster: &Cluster) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let small = dir.path().join("skiff");
    tools::run(Command::new("strip").arg("-o").arg(&small).arg(SKIFF)).expect("strip");
    let libraries = tools::run(Command::new("ldd").arg(SKIFF)).expect("ldd");
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    let read = |path: &PathBuf| fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut files = vec![("skiff".to_owned(), read(&small))];
    files.extend(paths.map(|path| (path.display().to_string().trim_start_matches('/').to_owned(), read(&path))));
    let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), 0o755, bytes.as_slice())).collect();
    let layer = Layer::files(&files, &[]).expect("a layer");
    let recipe = Recipe {
        name: "docker.io/library/skiff:0.1.0",
        layers: vec![&layer],
        env: vec![],
        cmd: vec!["/skiff"],
        working_dir: "/",
    };
    let path = dir.path().join("skiff.tar");
    archive(&path, &[recipe]).expect("an archive");
    cluster.skiff_ok(&["image", "load", &path.display().to_string()]);
}

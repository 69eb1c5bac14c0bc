//! The Python client, as a distribution packages it.

use std::process::Command;

use skiff_testkit::tools;

use super::{
    common::{Cluster, text},
    matrix::load_boxes,
};

const PROGRAM: &str = include_str!("python.py");

#[test]
fn the_client_of_python() {
    if !tools::root_with(&["ip", "busybox"]) {
        return;
    }
    let Some(python) = python() else {
        return tools::skip("no python3 has the module kubernetes (Debian's package is python3-kubernetes)");
    };
    let _turn = super::turn();
    let cluster = Cluster::up("python", &[]);
    load_boxes(&cluster);
    let output = cluster.command("timeout").args(["120", python, "-c", PROGRAM]).output().expect("python runs");
    assert!(output.status.success(), "{}{}{}", text(&output.stdout), text(&output.stderr), cluster.log());
}

/// The distribution's own, where another one comes first.
fn python() -> Option<&'static str> {
    let knows = |python: &&str| {
        let asked = Command::new(python).args(["-c", "import kubernetes, yaml"]).output();
        asked.is_ok_and(|output| output.status.success())
    };
    ["python3", "/usr/bin/python3"].into_iter().find(knows)
}

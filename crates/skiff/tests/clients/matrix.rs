//! Stock kubectl: everything in `kubectl --help`, each chapter a transcript in a namespace of its own.

use std::{collections::BTreeSet, path::Path, process::Command, sync::Mutex, thread};

use skiff_node::image::make::{Layer, Recipe, archive};
use skiff_testkit::tools;

use super::{
    common::{Cluster, Kubectl, text},
    transcript::{Step, parse},
};

/// Side by side; what is done to the node comes after them.
const CHAPTERS: [(&str, &str); 6] = [
    ("workloads", include_str!("kubectl/workloads.txt")),
    ("write", include_str!("kubectl/write.txt")),
    ("create", include_str!("kubectl/create.txt")),
    ("rights", include_str!("kubectl/rights.txt")),
    ("read", include_str!("kubectl/read.txt")),
    ("streams", include_str!("kubectl/streams.txt")),
];
const ALONE: [(&str, &str); 2] =
    [("nodes", include_str!("kubectl/nodes.txt")), ("local", include_str!("kubectl/local.txt"))];

const APPLETS: [&str; 12] =
    ["sh", "echo", "cat", "sleep", "httpd", "hostname", "tar", "true", "test", "ls", "mkdir", "rm"];

#[test]
fn every_command_of_kubectl() {
    let needs = ["kubectl", "busybox", "ip", "bash", "curl", "openssl", "timeout"];
    if !tools::root_with(&needs) {
        return;
    }
    let _turn = super::turn();
    let cluster = Cluster::up("matrix", &[]);
    load_boxes(&cluster);
    let chapters = Mutex::new(CHAPTERS.iter());
    let next = || chapters.lock().expect("no panic while it is held").next();
    let wrong = thread::scope(|scope| {
        let walk = || std::iter::from_fn(next).flat_map(|chapter| walk(&cluster, *chapter)).collect::<Vec<_>>();
        let walkers: Vec<_> = (0..3).map(|_| scope.spawn(walk)).collect();
        walkers.into_iter().flat_map(|walker| walker.join().expect("a chapter ends")).collect::<Vec<_>>()
    });
    let after: Vec<_> = ALONE.iter().flat_map(|chapter| walk(&cluster, *chapter)).collect();
    let wrong = [wrong, after].concat();
    assert!(wrong.is_empty(), "{} steps:\n\n{}\n\n{}", wrong.len(), wrong.join("\n\n"), cluster.log());
}

/// What kubectl can do is what the transcripts do.
#[test]
fn no_command_is_left_out() {
    if tools::find("kubectl").is_none() {
        return tools::skip("this test needs the program kubectl");
    }
    let steps: Vec<Step> = CHAPTERS.iter().chain(&ALONE).flat_map(|(_, transcript)| parse(transcript)).collect();
    let typed = |words: &str| steps.iter().any(|step| step.command.contains(&format!("kubectl {words} ")));
    let ends = |words: &str| steps.iter().any(|step| step.command.ends_with(&format!("kubectl {words}")));
    let groups =
        ["create", "set", "rollout", "certificate", "auth", "config", "apply", "top", "cluster-info", "plugin"];
    let mut commands = subcommands(&[]);
    commands.extend(groups.iter().flat_map(|group| subcommands(&[group])));
    let left_out: Vec<_> = commands.iter().filter(|words| !typed(words) && !ends(words)).collect();
    assert!(commands.len() > 90, "kubectl --help was not understood: {commands:?}");
    assert!(left_out.is_empty(), "no transcript has kubectl {left_out:?}");
}

/// What `kubectl … --help` lists, as the words to type.
fn subcommands(of: &[&str]) -> BTreeSet<String> {
    let output = Command::new("kubectl").args(of).arg("--help").output().expect("kubectl runs");
    let help = text(&output.stdout);
    let listed = help.lines().skip_while(|l| !l.contains("Commands")).take_while(|l| !l.starts_with("Usage:"));
    let names = listed.filter_map(|l| l.strip_prefix("  ")?.split_once("  ")).map(|(name, _)| name.trim());
    let names = names.filter(|name| !name.is_empty() && !name.contains(' '));
    names.map(|name| [of, &[name]].concat().join(" ")).collect()
}

/// Walks through a chapter to its end; each wrong step is told.
fn walk(cluster: &Cluster, (name, transcript): (&str, &str)) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let k = cluster.kubectl(Kubectl::Stock);
    k.ok(&["create", "namespace", name]);
    let config = dir.path().join("kubeconfig");
    std::fs::copy(cluster.kubeconfig(), &config).expect("a copy of the kubeconfig");
    let config = format!("--kubeconfig={}", config.display());
    k.ok(&["config", &config, "set-context", "--current", &format!("--namespace={name}")]);
    let steps = parse(transcript);
    let wrong = steps.iter().filter_map(|step| step.run(shell(cluster, dir.path())).err());
    wrong.map(|why| format!("{name}, {why}")).collect()
}

fn shell(cluster: &Cluster, dir: &Path) -> Command {
    let mut shell = cluster.command("timeout");
    shell.args(["90", "bash"]).current_dir(dir).env("HOME", dir).env("TMPDIR", dir);
    shell.env("KUBECONFIG", dir.join("kubeconfig"));
    shell
}

/// Images `box:v1` and `box:v2`.
pub(crate) fn load_boxes(cluster: &Cluster) {
    let program = std::fs::read(tools::find("busybox").expect("looked for before")).expect("busybox can be read");
    let links = APPLETS.map(|applet| (format!("bin/{applet}"), "busybox"));
    let links: Vec<_> = links.iter().map(|(path, target)| (path.as_str(), *target)).collect();
    let layer = Layer::files(&[("bin/busybox", 0o755, &program)], &links).expect("a layer");
    let recipe = |name| Recipe {
        name,
        layers: vec![&layer],
        env: vec!["PATH=/bin"],
        cmd: vec!["sleep", "1000"],
        working_dir: "/",
    };
    let path = cluster.data().join("box.tar");
    archive(&path, &[recipe("box:v1"), recipe("box:v2")]).expect("an archive");
    cluster.skiff_ok(&["image", "load", &path.display().to_string()]);
}

//! The chapter on Services, step by step, on a real cluster with real pods: once with stock kubectl, once with the one
//! built in. Each function is a row of the walkthrough, in the chapter's order; later rows use what earlier ones made.

#[path = "../common/mod.rs"]
mod common;
mod outside;
mod pods;
mod services;
mod traffic;

use common::{Client, Cluster, Kubectl, eventually, images::Samples, text};
use skiff_testkit::{registry::Registry, tools};

const HELLO: &str = "This is the hello world custom node parent";
const BYE: &str = "This is the test bye with custom node parent image";
const HELLO_PODS: &str = "app=ms-hello-pods";
const BYE_PODS: &str = "app=ms-bye-pods";

#[test]
fn with_stock_kubectl() {
    walk(Kubectl::Stock);
}

#[test]
fn with_built_in_kubectl() {
    walk(Kubectl::BuiltIn);
}

/// The other host has one address, and two clusters at once would only make each other slow.
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn walk(kind: Kubectl) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let needs = ["kubectl", "docker-registry", "curl", "dpkg-deb", "apt-get", "ip", "busybox", "tcpdump"];
    if !tools::root_with(&needs) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let samples = Samples::get();
    let registry = Registry::start(dir.path()).expect("a registry");
    let bye = samples.push(&samples.image("ms-bye", "ms-bye.js"), &registry, "samples/ms-bye", "v4", dir.path());
    // The host has one route to a pool, and other clusters may run beside this one.
    let pool = format!("{}.0/24", outside::pool_prefix());
    let cluster = Cluster::up("walk", &["--lb-pool", &pool]);
    cluster.skiff_ok(&["image", "load", &samples.archive(dir.path()).display().to_string()]);
    let k = cluster.kubectl(kind);

    pods::deployments(&k, &bye);
    pods::names_labels_and_addresses(&k);
    pods::pods_reach_each_other(&k);
    services::expose_dry_run(&k);
    pods::variables_before_services(&k);
    services::services(&k);
    services::requests_are_spread(&k);
    pods::logs(&k);
    services::names(&k);
    services::ping(&k);
    services::an_address_on_no_interface(&k);
    services::selectors_and_describe(&k);
    pods::roles(&k);
    pods::scaling_and_healing(&k);
    pods::rolling_update(&k);
    pods::relabel(&k);
    pods::readiness(&k);
    pods::variables_after_services(&k);
    pods::terminating(&k);
    outside::without_selector(&k);
    services::external_name_then_cluster_ip(&k);
    services::headless(&k);
    pods::stateful_set(&k);
    outside::node_port(&k);
    services::several_ports(&k);
    outside::load_balancers(&k);
    outside::host_ports(&k);
    traffic::affinity(&k);
    traffic::names_of_ports_and_udp(&k);
    traffic::node_port_affinity(&k);
    traffic::same_port_different_protocols(&k);
    traffic::slices_by_hand(&k);
    services::deleted_service(&k);
}

fn one(k: &Client<'_>, selector: &str) -> String {
    k.pods(selector).into_iter().next().expect("a pod")
}

fn pod_ip(k: &Client<'_>, pod: &str) -> String {
    k.jsonpath(&["pod", pod], "{.status.podIP}")
}

/// The Service's Endpoints are the addresses of the ready pods.
fn follows(k: &Client<'_>, service: &str, selector: &str, count: usize) {
    let pods = k.ready(selector, count);
    let mut ips: Vec<String> = pods.iter().map(|p| pod_ip(k, p)).collect();
    ips.sort();
    eventually(&format!("Endpoints of {service}"), || {
        let listed = k.endpoints(service);
        if listed == ips { Ok(()) } else { Err(format!("{listed:?} are not {ips:?}")) }
    });
}

fn reachable(k: &Client<'_>, from: &str, url: &str) {
    eventually(&format!("{url} from {from}"), || {
        let output = k.try_exec(from, &["curl", "-sS", "-m", "5", url]);
        if output.status.success() { Ok(()) } else { Err(text(&output.stderr)) }
    });
}

/// What busybox nslookup prints; its exit code also counts families that a name has no address of.
fn lookup(k: &Client<'_>, pod: &str, name: &str) -> String {
    let output = k.try_exec(pod, &["busybox", "nslookup", name]);
    text(&output.stdout) + &text(&output.stderr)
}

//! The steps, in the chapter's order.

use anyhow::{Context, Result};

use super::{Tour, check, explain, headline};

macro_rules! manifests {
    ($($name:literal),*) => { [$(($name, include_str!(concat!("../../../../demo/manifests/", $name)))),*] };
}

pub(super) const MANIFESTS: [(&str, &str); 6] = manifests!(
    "ms-bye-dep.yaml",
    "ms-hello-dep.yaml",
    "ms-bye-svc.yaml",
    "ms-hello-svc.yaml",
    "headless-hello-svc.yaml",
    "np-hello-svc.yaml"
);

const HELLO: &str = "This is the hello world custom node parent";
const BYE: &str = "This is the test bye with custom node parent image";

pub(super) fn all(tour: &Tour) -> Result<()> {
    debug_assert!(tour.path().is_dir());
    pods(tour)?;
    services(tour)?;
    spread(tour)?;
    names(tour)?;
    variables(tour)?;
    following(tour)?;
    headless(tour)?;
    node_port(tour)?;
    gone(tour)
}

const PODS: &str = "get pods --no-headers -l";

/// The names of the running pods with this label.
fn running(tour: &Tour, label: &str, count: usize) -> Result<Vec<String>> {
    let ready = |said: &str| said.lines().filter(|l| l.contains("1/1") && l.contains("Running")).count();
    let said = tour.until(&format!("{PODS} {label}"), |s| ready(s) == count && s.lines().count() == count)?;
    Ok(said.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect())
}

fn field(tour: &Tour, object: &str, path: &str) -> Result<String> {
    Ok(tour.quietly(&format!("get {object} -o jsonpath={path}"))?.trim().to_owned())
}

fn first(mut pods: Vec<String>) -> Result<String> {
    if pods.is_empty() { None } else { Some(pods.swap_remove(0)) }.context("there is no pod")
}

fn bye_pod(tour: &Tour) -> Result<String> {
    first(running(tour, "app=ms-bye-pods", 2)?)
}

fn pods(tour: &Tour) -> Result<()> {
    headline("Pods have addresses of their own");
    tour.kubectl("apply -f ms-bye-dep.yaml")?;
    tour.kubectl("apply -f ms-hello-dep.yaml")?;
    let bye = bye_pod(tour)?;
    let hello = first(running(tour, "app=ms-hello-pods", 2)?)?;
    tour.kubectl("get deploy,rs,po -o wide")?;
    let ip = field(tour, &format!("pod/{bye}"), "{.status.podIP}")?;
    let said = tour.kubectl(&format!("exec {hello} -- curl http://{ip}:9999"))?;
    check(said.trim() == BYE, "one pod reaches another by its address")
}

fn services(tour: &Tour) -> Result<()> {
    headline("A Service gives pods one address that stays");
    tour.kubectl("apply -f ms-bye-svc.yaml")?;
    tour.kubectl("apply -f ms-hello-svc.yaml")?;
    tour.until("get endpoints ms-hello-svc", |s| s.matches(":7777").count() == 2)?;
    let said = tour.kubectl("get services,endpoints -o wide")?;
    check(said.contains("17/TCP"), "the Service listens on port 17, its Endpoints on 7777")
}

fn hello_ip(tour: &Tour) -> Result<String> {
    field(tour, "service/ms-hello-svc", "{.spec.clusterIP}")
}

fn spread(tour: &Tour) -> Result<()> {
    headline("Requests to the Service are spread over its pods");
    let (bye, url) = (bye_pod(tour)?, format!("http://{}:17", hello_ip(tour)?));
    let said = tour.kubectl(&format!("exec {bye} -- curl {url}"))?;
    check(said.trim() == HELLO, "the Service's address leads to a pod")?;
    for _ in 0..39 {
        tour.quietly(&format!("exec {bye} -- curl {url}"))?;
    }
    let client = format!("from {}", field(tour, &format!("pod/{bye}"), "{.status.podIP}")?);
    let mut counts = vec![];
    for pod in running(tour, "app=ms-hello-pods", 2)? {
        counts.push(tour.quietly(&format!("logs {pod}"))?.matches(&client).count());
    }
    explain(&format!("40 requests later the two pods have logged {} and {} of them", counts[0], counts[1]));
    check(counts.iter().sum::<usize>() == 40, "each request reached one pod, which saw the client's own address")?;
    // 40 throws of a fair coin: none on one side is one in 500 billion.
    check(counts.iter().all(|c| *c > 0), "both pods had their share")
}

fn names(tour: &Tour) -> Result<()> {
    headline("DNS knows the Service by name");
    let (bye, ip) = (bye_pod(tour)?, hello_ip(tour)?);
    let said = tour.kubectl(&format!("exec {bye} -- nslookup ms-hello-svc"))?;
    check(
        said.contains(&ip) && said.contains("10.96.0.10"),
        "the cluster's DNS server answers with the Service's address",
    )?;
    let said = tour.kubectl(&format!("exec {bye} -- nc -zv ms-hello-svc 17"))?;
    check(said.contains("open"), "the name is enough to connect")
}

fn variables(tour: &Tour) -> Result<()> {
    headline("Pods started after a Service know it from their environment");
    let before = tour.quietly(&format!("exec {} -- printenv", bye_pod(tour)?))?;
    check(!before.contains("MS_HELLO_SVC"), "a pod older than the Service has no variable of it")?;
    tour.kubectl("scale deployment ms-bye-dep --replicas=0")?;
    running(tour, "app=ms-bye-pods", 0)?;
    tour.kubectl("scale deployment ms-bye-dep --replicas=2")?;
    let said = tour.kubectl(&format!("exec {} -- printenv", bye_pod(tour)?))?;
    check(said.contains(&format!("MS_HELLO_SVC_SERVICE_HOST={}", hello_ip(tour)?)), "a younger one has")
}

fn following(tour: &Tour) -> Result<()> {
    headline("Endpoints follow the pods, the address stays");
    let ip = hello_ip(tour)?;
    tour.kubectl("scale deployment ms-hello-dep --replicas=3")?;
    tour.until("get endpoints ms-hello-svc", |s| s.matches(":7777").count() == 3)?;
    tour.kubectl("get endpoints ms-hello-svc")?;
    check(hello_ip(tour)? == ip, "three endpoints behind the same address")
}

fn headless(tour: &Tour) -> Result<()> {
    headline("A headless Service has no address: its name leads to all pods");
    tour.kubectl("apply -f headless-hello-svc.yaml")?;
    tour.until("get endpoints headless-hello-svc", |s| s.matches(":7777").count() == 3)?;
    let said = tour.kubectl(&format!("exec {} -- nslookup headless-hello-svc", bye_pod(tour)?))?;
    check(said.matches("Address:").count() == 3, "one address for each pod")
}

fn node_port(tour: &Tour) -> Result<()> {
    headline("A NodePort opens the Service to the outside");
    tour.kubectl("apply -f np-hello-svc.yaml")?;
    tour.kubectl("get service np-hello-svc")?;
    let node = tour.shown("skiff ip", &["ip"])?;
    let url = format!("http://{}:31000", node.trim());
    explain(&format!("$ curl {url}        # from this machine, outside of the cluster"));
    let said = crate::sample::page(&url).map_err(anyhow::Error::msg)?;
    explain(&said);
    check(said == HELLO, "the page from outside, by the node's address")
}

fn gone(tour: &Tour) -> Result<()> {
    headline("A deleted Service is gone at once");
    let (bye, ip) = (bye_pod(tour)?, hello_ip(tour)?);
    tour.kubectl("delete service ms-hello-svc")?;
    let connected = tour.quietly(&format!("exec {bye} -- nc -zv {ip} 17")).is_ok();
    let named = tour.quietly(&format!("exec {bye} -- nslookup ms-hello-svc")).is_ok();
    check(!connected && !named, "its address and its name lead nowhere")
}

//! The chapter on Services, step by step, on a real cluster with real pods: once with stock kubectl, once with the one
//! built in. Each function is a row of the walkthrough, in the chapter's order; later rows use what earlier ones made.

mod common;

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use common::{
    Client, Cluster, Kubectl, eventually,
    images::{Samples, manifest},
    text,
};
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
    let pool = format!("{}.0/24", pool_prefix());
    let cluster = Cluster::up("walk", &["--lb-pool", &pool]);
    cluster.skiff_ok(&["image", "load", &samples.archive(dir.path()).display().to_string()]);
    let k = cluster.kubectl(kind);

    deployments(&k, &bye);
    names_labels_and_addresses(&k);
    pods_reach_each_other(&k);
    expose_dry_run(&k);
    variables_before_services(&k);
    services(&k);
    requests_are_spread(&k);
    logs(&k);
    names(&k);
    ping(&k);
    an_address_on_no_interface(&k);
    selectors_and_describe(&k);
    roles(&k);
    scaling_and_healing(&k);
    rolling_update(&k);
    relabel(&k);
    readiness(&k);
    variables_after_services(&k);
    terminating(&k);
    without_selector(&k);
    external_name_then_cluster_ip(&k);
    headless(&k);
    stateful_set(&k);
    node_port(&k);
    several_ports(&k);
    load_balancers(&k);
    host_ports(&k);
    deleted_service(&k);
}

/// W01
fn deployments(k: &Client<'_>, bye_image: &str) {
    assert_eq!(k.apply(&manifest("ms-hello-dep.yaml")), "deployment.apps/ms-hello-dep created\n");
    let bye = manifest("ms-bye-dep.yaml").replace("skiff.local/ms-bye:v4", bye_image);
    assert_eq!(k.apply(&bye), "deployment.apps/ms-bye-dep created\n");
    k.ready(HELLO_PODS, 2);
    k.ready(BYE_PODS, 2);
}

/// W02
fn names_labels_and_addresses(k: &Client<'_>) {
    let shown = k.ok(&["get", "deploy,rs,po", "-o", "wide", "--show-labels"]);
    for column in
        ["READY", "UP-TO-DATE", "AVAILABLE", "CONTAINERS", "IMAGES", "SELECTOR", "DESIRED", "CURRENT", "NOMINATED NODE"]
    {
        assert!(shown.contains(column), "{column}:\n{shown}");
    }
    let row = shown.lines().find(|l| l.starts_with("replicaset.apps/ms-hello-dep-")).expect("a ReplicaSet");
    let rs = row.split_whitespace().next().expect("a name").trim_start_matches("replicaset.apps/");
    let hash = rs.trim_start_matches("ms-hello-dep-");
    assert_eq!(row.matches(&format!("app=ms-hello-pods,pod-template-hash={hash}")).count(), 2, "{row}");
    let pods: Vec<_> = shown.lines().filter(|l| l.starts_with("pod/ms-hello-dep-")).collect();
    assert_eq!(pods.len(), 2, "{shown}");
    for pod in pods {
        assert!(pod.starts_with(&format!("pod/{rs}-")), "{pod}");
        assert!(pod.contains("1/1") && pod.contains("Running") && pod.contains("10.244."), "{pod}");
        assert!(pod.ends_with(&format!("app=ms-hello-pods,pod-template-hash={hash}")), "{pod}");
    }
}

fn one(k: &Client<'_>, selector: &str) -> String {
    k.pods(selector).into_iter().next().expect("a pod")
}

fn pod_ip(k: &Client<'_>, pod: &str) -> String {
    k.jsonpath(&["pod", pod], "{.status.podIP}")
}

/// W03
fn pods_reach_each_other(k: &Client<'_>) {
    let (hello, bye) = (one(k, HELLO_PODS), one(k, BYE_PODS));
    let ip = pod_ip(k, &bye);
    let telnet = k.run(&["exec", &hello, "--", "sh", "-c", &format!("(sleep 0.3; echo) | telnet {ip} 9999")]);
    assert!(text(&telnet.stdout).contains(&format!("Connected to {ip}")), "{telnet:?}");
    assert!(k.exec(&hello, &["ping", "-c", "2", "-i", "0.2", &ip]).contains("0% packet loss"));
    assert_eq!(k.exec(&hello, &["curl", "-s", &format!("{ip}:9999")]), BYE);
    assert_eq!(k.ok(&["exec", "-it", &hello, "--", "curl", "-s", &format!("{ip}:9999")]).trim(), BYE);
    let missing = k.try_exec(&hello, &["sh", "-c", "exit 7"]);
    assert_eq!(missing.status.code(), Some(7), "the command's exit code is kubectl's");
}

/// W04
fn expose_dry_run(k: &Client<'_>) {
    for how in ["--dry-run=client", "--dry-run=server"] {
        let args = [
            "expose",
            "deployment",
            "ms-bye-dep",
            "--name=ms-bye-svc",
            "--port=19",
            "--target-port=9999",
            "--type=ClusterIP",
        ];
        let yaml = k.ok(&[&args[..], &[how, "-o", "yaml"]].concat());
        for line in [
            "kind: Service",
            "    app: ms-bye-dep",
            "  name: ms-bye-svc",
            "  - port: 19",
            "    targetPort: 9999",
            "    app: ms-bye-pods",
        ] {
            assert!(yaml.contains(line), "{how}: {line}:\n{yaml}");
        }
    }
    assert!(k.fails(&["get", "svc", "ms-bye-svc"]).contains("NotFound"));
}

/// W20, first part
fn variables_before_services(k: &Client<'_>) {
    let env = k.exec(&one(k, BYE_PODS), &["printenv"]);
    assert!(env.contains("KUBERNETES_SERVICE_HOST=10.96.0.1"), "{env}");
    assert!(!env.contains("MS_HELLO_SVC"), "{env}");
}

/// W05
fn services(k: &Client<'_>) {
    assert_eq!(k.apply(&manifest("ms-bye-svc.yaml")), "service/ms-bye-svc created\n");
    assert_eq!(k.apply(&manifest("ms-hello-svc.yaml")), "service/ms-hello-svc created\n");
    assert_eq!(k.apply(&manifest("ms-hello-svc.yaml")), "service/ms-hello-svc unchanged\n");
    let ip = k.cluster_ip("ms-hello-svc");
    let octets: Vec<u8> = ip.split('.').map(|o| o.parse().expect("a number")).collect();
    assert!(octets[0] == 10 && (96..112).contains(&octets[1]), "{ip} is of 10.96.0.0/12");
    follows(k, "ms-hello-svc", HELLO_PODS, 2);
    let shown = k.ok(&["get", "pods,services,endpoints", "-o", "wide", "--show-labels"]);
    assert!(shown.contains("17/TCP"), "{shown}");
    let endpoints = shown.lines().find(|l| l.starts_with("endpoints/ms-hello-svc")).expect("Endpoints");
    assert_eq!(endpoints.matches(":7777").count(), 2, "{endpoints}");
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

/// W06, W07
fn requests_are_spread(k: &Client<'_>) {
    const REQUESTS: usize = 80;
    let bye = one(k, BYE_PODS);
    let url = format!("http://{}:17", k.cluster_ip("ms-hello-svc"));
    reachable(k, &bye, &url);
    let script = format!("for i in $(seq {REQUESTS}); do curl -s -X GET {url}/?spread || echo FAILED; done");
    assert_eq!(k.exec(&bye, &["sh", "-c", &script]), HELLO.repeat(REQUESTS));
    let client = format!("?spread from {}", pod_ip(k, &bye));
    let counts: Vec<usize> = k.pods(HELLO_PODS).iter().map(|p| k.ok(&["logs", p]).matches(&client).count()).collect();
    assert_eq!(counts.iter().sum::<usize>(), REQUESTS, "the logged client is the pod itself: {counts:?}");
    // 80 throws of a fair coin: fewer than 20 heads is one in 400,000.
    assert!(counts.iter().all(|c| *c >= 20), "{counts:?}");
    assert_eq!(k.cluster.skiff_ok(&["shell", "--", "curl", "-s", &url]), HELLO);
}

fn reachable(k: &Client<'_>, from: &str, url: &str) {
    eventually(&format!("{url} from {from}"), || {
        let output = k.try_exec(from, &["curl", "-sS", "-m", "5", url]);
        if output.status.success() { Ok(()) } else { Err(text(&output.stderr)) }
    });
}

/// W08
fn logs(k: &Client<'_>) {
    let hello = one(k, HELLO_PODS);
    assert!(k.ok(&["logs", &hello]).contains("ms-hello listens on port 7777"));
    let mut following = k.command(&["logs", "-f", "--tail=1", &hello]);
    let mut following = following.stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let lines = BufReader::new(following.stdout.take().expect("piped")).lines();
    let (tx, rx) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|l| tx.send(l)));
    let ip = pod_ip(k, &hello);
    k.exec(&one(k, BYE_PODS), &["curl", "-s", &format!("http://{ip}:7777/?followed")]);
    let end = Instant::now() + Duration::from_secs(20);
    let mut seen = false;
    while !seen {
        let line = rx.recv_timeout(end.saturating_duration_since(Instant::now())).expect("the followed line");
        seen = line.contains("?followed");
    }
    following.kill().expect("kubectl is ended");
    following.wait().expect("kubectl ends");
}

/// W09, W10, W19
fn names(k: &Client<'_>) {
    let bye = one(k, BYE_PODS);
    let ip = k.cluster_ip("ms-hello-svc");
    let nc = k.try_exec(&bye, &["nc", "-zv", "ms-hello-svc", "17"]);
    assert!(nc.status.success(), "{}", text(&nc.stderr));
    for name in ["ms-hello-svc", "ms-hello-svc.default.svc.cluster.local"] {
        let shown = lookup(k, &bye, name);
        assert!(shown.contains("10.96.0.10"), "{name}: {shown}");
        assert!(shown.contains(&ip), "{name}: {shown}");
    }
    // busybox takes any name with a dot for a full one; the C library walks the search list.
    for name in ["ms-hello-svc.default", "ms-hello-svc.default.svc"] {
        let script = format!("require('dns').lookup('{name}', (error, ip) => console.log(error || ip))");
        assert_eq!(k.exec(&bye, &["node", "-e", &script]).trim(), ip, "{name}");
    }
    assert!(lookup(k, &bye, "10.96.0.10").contains("kube-dns.kube-system.svc.cluster.local"));
    assert!(k.exec(&bye, &["wget", "-q", "-O-", "ms-hello-svc:17"]).contains(HELLO));
    let both = k.exec(&one(k, HELLO_PODS), &["curl", "-s", "localhost:7777/contactByeFromHello?svcDiscovery=DNS"]);
    assert!(both.contains("msgFromByeToHello"), "{both}");
}

/// What busybox nslookup prints; its exit code also counts families that a name has no address of.
fn lookup(k: &Client<'_>, pod: &str, name: &str) -> String {
    let output = k.try_exec(pod, &["busybox", "nslookup", name]);
    text(&output.stdout) + &text(&output.stderr)
}

/// W11
fn ping(k: &Client<'_>) {
    let bye = one(k, BYE_PODS);
    let pinged = k.try_exec(&bye, &["ping", "-c", "1", "-W", "1", &k.cluster_ip("ms-hello-svc")]);
    assert!(text(&pinged.stdout).contains("0 received"), "{pinged:?}");
    assert!(k.exec(&bye, &["ping", "-c", "1", &pod_ip(k, &one(k, HELLO_PODS))]).contains("1 received"));
}

/// W12
fn an_address_on_no_interface(k: &Client<'_>) {
    let service = k.cluster_ip("ms-hello-svc");
    let of_node = k.cluster.skiff_ok(&["shell", "--", "ip", "-o", "address"]);
    assert!(of_node.contains("inet ") && !of_node.contains(&service), "{of_node}");
    let (bye, hello) = (one(k, BYE_PODS), one(k, HELLO_PODS));
    let (client, server) = (pod_ip(k, &bye), pod_ip(k, &hello));
    let mut capture = std::process::Command::new("nsenter");
    capture.arg(format!("--net={}", netns_of(k, &server).display()));
    capture.args(["tcpdump", "-n", "-l", "-i", "eth0", "-c", "8", "tcp", "port", "7777"]);
    let mut capture = capture.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("tcpdump runs");
    let mut said = BufReader::new(capture.stderr.take().expect("piped")).lines();
    assert!(said.any(|l| l.is_ok_and(|l| l.contains("listening on eth0"))), "tcpdump listens");
    // By chance one request in two comes here; fewer than three packets of eight after forty is out of the question.
    k.exec(&bye, &["sh", "-c", &format!("for i in $(seq 40); do curl -s {service}:17 > /dev/null; done")]);
    let seen = text(&capture.wait_with_output().expect("eight packets").stdout);
    assert!(seen.contains(&format!("{client}.")) && seen.contains(&format!("{server}.7777")), "{seen}");
    assert!(!seen.contains(&service), "the Service's address is in the packets of its pod:\n{seen}");
}

/// The network namespace in which this address stands.
fn netns_of(k: &Client<'_>, ip: &str) -> std::path::PathBuf {
    let dir = k.cluster.run_dir().join("nodes").join(&k.cluster.name).join("netns");
    let mut found = std::fs::read_dir(&dir).expect("the pods' namespaces").flatten().map(|e| e.path());
    let has = |path: &std::path::PathBuf| {
        let mut list = std::process::Command::new("nsenter");
        list.arg(format!("--net={}", path.display())).args(["ip", "-o", "-4", "address"]);
        tools::run(&mut list).is_ok_and(|listed| listed.contains(&format!(" {ip}/")))
    };
    found.find(has).unwrap_or_else(|| panic!("no namespace in {} has {ip}", dir.display()))
}

/// W13, W14
fn selectors_and_describe(k: &Client<'_>) {
    let shown =
        k.ok(&["get", "svc,ep,po", "-o", "wide", "--show-labels", "-l", "app in (ms-hello-dep, ms-hello-pods)"]);
    for (start, count) in [("service/ms-hello-svc", 1), ("endpoints/ms-hello-svc", 1), ("pod/ms-hello-dep-", 2)] {
        assert_eq!(shown.lines().filter(|l| l.starts_with(start)).count(), count, "{start}:\n{shown}");
    }
    assert!(!shown.contains("ms-bye"), "{shown}");
    let shown = k.ok(&["describe", "svc", "ms-hello-svc"]);
    let fields = [
        "Name:",
        "Namespace:",
        "Labels:",
        "Annotations:",
        "Selector:",
        "Type:",
        "IP:",
        "Port:",
        "TargetPort:",
        "Endpoints:",
        "Session Affinity:",
        "Events:",
    ];
    for field in fields {
        assert!(shown.lines().any(|l| l.starts_with(field)), "{field}:\n{shown}");
    }
    assert!(shown.contains("<unset>  17/TCP") && shown.contains("7777/TCP"), "{shown}");
}

/// W18
fn roles(k: &Client<'_>) {
    let role = k.ok(&["describe", "clusterrole", "system:controller:service-controller"]);
    for rule in ["services/status", "[patch update]", "[get list watch]", "[create patch update]"] {
        assert!(role.contains(rule), "{rule}:\n{role}");
    }
    let role = k.ok(&["describe", "clusterrole", "system:controller:endpoint-controller"]);
    assert!(role.contains("endpoints/restricted") && role.contains("[create delete get list update]"), "{role}");
    let binding = k.ok(&["describe", "clusterrolebinding", "system:controller:endpoint-controller"]);
    assert!(binding.contains("ServiceAccount  endpoint-controller  kube-system"), "{binding}");
    let who = "--as=system:serviceaccount:kube-system:service-controller";
    assert!(k.ok(&["get", "services", who]).contains("ms-hello-svc"));
    assert!(k.fails(&["get", "pods", who]).contains("Forbidden"), "the role's limits are enforced");
}

/// W15, first part
fn scaling_and_healing(k: &Client<'_>) {
    let ip = k.cluster_ip("ms-hello-svc");
    assert_eq!(k.ok(&["scale", "deployment", "ms-hello-dep", "--replicas=4"]), "deployment.apps/ms-hello-dep scaled\n");
    follows(k, "ms-hello-svc", HELLO_PODS, 4);
    k.ok(&["scale", "deployment/ms-hello-dep", "--replicas=2"]);
    follows(k, "ms-hello-svc", HELLO_PODS, 2);
    k.ok(&["delete", "pod", &one(k, HELLO_PODS)]);
    follows(k, "ms-hello-svc", HELLO_PODS, 2);
    let pod = one(k, HELLO_PODS);
    k.try_exec(&pod, &["sh", "-c", "kill -9 1; kill 1"]);
    eventually("the killed container's restart", || {
        let restarts = k.jsonpath(&["pod", &pod], "{.status.containerStatuses[0].restartCount}");
        if restarts == "1" { Ok(()) } else { Err(format!("restarts: {restarts:?}")) }
    });
    follows(k, "ms-hello-svc", HELLO_PODS, 2);
    assert_eq!(k.cluster_ip("ms-hello-svc"), ip);
}

/// W15, second part: a client in a loop through the Service sees no failed request.
fn rolling_update(k: &Client<'_>) {
    let bye = one(k, BYE_PODS);
    let script = "until [ -e /tmp/enough ]; do curl -sf -m 10 -o /dev/null http://ms-hello-svc:17/ && echo ok || echo FAILED $?; done";
    let mut client = k.command(&["exec", &bye, "--", "sh", "-c", script]);
    let client = client.stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let changed = k.apply(&manifest("ms-hello-dep.yaml").replace("ms-hello:v4", "ms-hello:v5"));
    assert_eq!(changed, "deployment.apps/ms-hello-dep configured\n");
    let status = k.ok(&["rollout", "status", "deployment/ms-hello-dep", "--timeout=60s"]);
    assert!(status.contains("successfully rolled out"), "{status}");
    assert!(k.ok(&["rollout", "history", "deployment/ms-hello-dep"]).lines().any(|l| l.starts_with("2 ")));
    k.ok(&["rollout", "undo", "deployment/ms-hello-dep"]);
    k.ok(&["rollout", "status", "deployment/ms-hello-dep", "--timeout=60s"]);
    let image = k.jsonpath(&["deployment", "ms-hello-dep"], "{.spec.template.spec.containers[0].image}");
    assert_eq!(image, "skiff.local/ms-hello:v4");
    follows(k, "ms-hello-svc", HELLO_PODS, 2);
    k.exec(&bye, &["touch", "/tmp/enough"]);
    let said = text(&client.wait_with_output().expect("the client ends").stdout);
    let failed: Vec<_> = said.lines().filter(|l| *l != "ok").collect();
    assert!(failed.is_empty() && said.lines().count() > 10, "{} requests, failed: {failed:?}", said.lines().count());
}

/// W16
fn relabel(k: &Client<'_>) {
    let pod = one(k, HELLO_PODS);
    let ip = pod_ip(k, &pod);
    assert_eq!(k.ok(&["label", "pod", &pod, "app=aside", "--overwrite"]), format!("pod/{pod} labeled\n"));
    follows(k, "ms-hello-svc", HELLO_PODS, 2);
    assert!(!k.endpoints("ms-hello-svc").contains(&ip), "the relabelled pod has left");
    k.ok(&["label", "pod", &pod, "app=ms-hello-pods", "--overwrite"]);
    follows(k, "ms-hello-svc", HELLO_PODS, 2);
    k.ok(&["delete", "pod", "-l", "app=aside", "--ignore-not-found"]);
}

const PROBED: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: probed}
spec:
  replicas: 1
  selector: {matchLabels: {app: probed}}
  template:
    metadata: {labels: {app: probed}}
    spec:
      terminationGracePeriodSeconds: 8
      containers:
      - name: probed
        image: skiff.local/ms-hello:v4
        command: [sh, -c, \"trap '' TERM; node ms-hello.js & while :; do sleep 1; done\"]
        readinessProbe: {exec: {command: [test, '!', -e, /tmp/unready]}, periodSeconds: 1, failureThreshold: 1}
";

/// W17
fn readiness(k: &Client<'_>) {
    k.apply(PROBED);
    k.ready("app=probed", 1);
    let said = k.ok(&["expose", "deployment", "probed", "--port=80", "--target-port=7777"]);
    assert_eq!(said, "service/probed exposed\n");
    follows(k, "probed", "app=probed", 1);
    let pod = one(k, "app=probed");
    for (command, endpoints) in [("touch", 0), ("rm", 1)] {
        k.exec(&pod, &[command, "/tmp/unready"]);
        eventually(&format!("{endpoints} endpoints after {command}"), || {
            let listed = k.endpoints("probed");
            if listed.len() == endpoints { Ok(()) } else { Err(format!("{listed:?}")) }
        });
    }
}

/// W20, second part
fn variables_after_services(k: &Client<'_>) {
    for deployment in ["deployment/ms-bye-dep", "deployment/ms-hello-dep"] {
        k.ok(&["scale", deployment, "--replicas=0"]);
    }
    k.ready(BYE_PODS, 0);
    k.ready(HELLO_PODS, 0);
    for deployment in ["deployment/ms-bye-dep", "deployment/ms-hello-dep"] {
        k.ok(&["scale", deployment, "--replicas=2"]);
    }
    k.ready(BYE_PODS, 2);
    k.ready(HELLO_PODS, 2);
    let env = k.exec(&one(k, BYE_PODS), &["printenv"]);
    let ip = k.cluster_ip("ms-hello-svc");
    for line in [
        format!("MS_HELLO_SVC_SERVICE_HOST={ip}"),
        "MS_HELLO_SVC_SERVICE_PORT=17".into(),
        format!("MS_HELLO_SVC_PORT=tcp://{ip}:17"),
        format!("MS_HELLO_SVC_PORT_17_TCP=tcp://{ip}:17"),
        "MS_HELLO_SVC_PORT_17_TCP_PROTO=tcp".into(),
        "MS_HELLO_SVC_PORT_17_TCP_PORT=17".into(),
        format!("MS_HELLO_SVC_PORT_17_TCP_ADDR={ip}"),
    ] {
        assert!(env.lines().any(|l| l == line), "{line}:\n{env}");
    }
    let both = k.exec(&one(k, HELLO_PODS), &["curl", "-s", "localhost:7777/contactByeFromHello?svcDiscovery=ENVVAR"]);
    assert!(both.contains("msgFromByeToHello"), "{both}");
}

/// W21: the probed pod ignores SIGTERM, so it stays a while.
fn terminating(k: &Client<'_>) {
    k.ok(&["scale", "deployment/probed", "--replicas=0"]);
    eventually("a Terminating pod out of the Endpoints", || {
        let shown = k.ok(&["get", "po", "-l", "app=probed"]);
        let listed = k.endpoints("probed");
        if shown.contains("Terminating") && listed.is_empty() { Ok(()) } else { Err(format!("{listed:?}\n{shown}")) }
    });
    k.ok(&["delete", "deployment,service", "probed"]);
}

/// A host beside this one: a network namespace with a web server, linked to the host.
struct OtherHost {
    name: String,
    server: std::process::Child,
    _pages: tempfile::TempDir,
}

impl OtherHost {
    const IP: &str = "198.51.100.2";

    fn start() -> Self {
        let name = format!("sk{}", std::process::id() % 1_000_000);
        let pages = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(pages.path().join("index.html"), "the other host\n").expect("a page");
        let script = format!(
            "ip netns add {name} && ip link add {name}h type veth peer name eth0 netns {name} && ip addr add 198.51.100.1/24 dev {name}h \
             && ip link set {name}h up && ip -n {name} addr add {ip}/24 dev eth0 && ip -n {name} link set eth0 up \
             && ip -n {name} link set lo up && ip -n {name} route add default via 198.51.100.1 \
             && echo 1 > /proc/sys/net/ipv4/conf/{name}h/forwarding",
            ip = Self::IP
        );
        tools::run(std::process::Command::new("sh").args(["-c", &script])).expect("another host");
        let serve = ["netns", "exec", &name, "busybox", "httpd", "-f", "-p", "9090", "-h"];
        let server = std::process::Command::new("ip").args(serve).arg(pages.path()).spawn().expect("a web server");
        OtherHost { name, server, _pages: pages }
    }

    fn curl(&self, url: &str) -> String {
        let args = ["netns", "exec", &self.name, "curl", "-sS", "-m", "5", url];
        tools::run(std::process::Command::new("ip").args(args)).unwrap_or_else(|e| e)
    }
}

impl Drop for OtherHost {
    fn drop(&mut self) {
        // What is gone already is what is wanted.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::process::Command::new("ip").args(["netns", "del", &self.name]).output();
        let _ = std::process::Command::new("ip").args(["link", "del", &format!("{}h", self.name)]).output();
    }
}

/// W22, and the part of W27 that is seen from another machine.
fn without_selector(k: &Client<'_>) {
    let other = OtherHost::start();
    let service = |name: &str| {
        format!(
            "{{kind: Service, apiVersion: v1, metadata: {{name: {name}}}, spec: {{ports: [{{protocol: TCP, port: 9090, targetPort: 9090}}]}}}}"
        )
    };
    k.apply(&service("streamset-service"));
    k.apply(&service("sliced-service"));
    assert!(k.fails(&["get", "endpoints", "streamset-service"]).contains("NotFound"), "no selector, no Endpoints");
    let ip = OtherHost::IP;
    k.apply(&format!(
        "{{kind: Endpoints, apiVersion: v1, metadata: {{name: streamset-service}}, subsets: [{{addresses: [{{ip: {ip}}}], ports: [{{port: 9090}}]}}]}}"
    ));
    k.apply(&format!(
        "{{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, addressType: IPv4, \
         metadata: {{name: sliced-service-1, labels: {{kubernetes.io/service-name: sliced-service}}}}, \
         ports: [{{name: '', port: 9090, protocol: TCP}}], endpoints: [{{addresses: [{ip}]}}]}}"
    ));
    let bye = one(k, BYE_PODS);
    for name in ["streamset-service", "sliced-service"] {
        eventually(&format!("{name} from a pod"), || {
            let output = k.try_exec(&bye, &["curl", "-sS", "-m", "5", &format!("http://{name}:9090")]);
            if text(&output.stdout).contains("the other host") { Ok(()) } else { Err(text(&output.stderr)) }
        });
    }
    let mirrored = k.ok(&["get", "endpointslices", "-l", "kubernetes.io/service-name=streamset-service"]);
    assert!(mirrored.contains(ip), "{mirrored}");
    k.apply(&manifest("np-hello-svc.yaml"));
    let url = format!("http://{}:31000", k.cluster.skiff_ok(&["ip"]).trim());
    eventually("the NodePort from another machine", || {
        let said = other.curl(&url);
        if said == HELLO { Ok(()) } else { Err(said) }
    });
    k.ok(&["delete", "service", "streamset-service", "sliced-service"]);
}

/// W23, W24
fn external_name_then_cluster_ip(k: &Client<'_>) {
    k.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: ext-api-svc}, \
         spec: {type: ExternalName, externalName: ms-bye-svc.default.svc.cluster.local, ports: [{port: 80}]}}",
    );
    let shown = k.ok(&["get", "svc", "ext-api-svc"]);
    assert!(shown.contains("ExternalName   <none>       ms-bye-svc.default.svc.cluster.local   80/TCP"), "{shown}");
    assert!(k.fails(&["get", "endpoints", "ext-api-svc"]).contains("NotFound"));
    let bye = one(k, BYE_PODS);
    let shown = eventually("the alias", || {
        let shown = lookup(k, &bye, "ext-api-svc");
        if shown.contains("canonical name") { Ok(shown) } else { Err(shown) }
    });
    assert!(shown.contains(&k.cluster_ip("ms-bye-svc")), "{shown}");
    k.ok(&["create", "deploy", "nginx", "--image=nginx"]);
    k.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: ext-api-svc}, \
         spec: {type: ClusterIP, selector: {app: nginx}, ports: [{name: '80', port: 80, targetPort: 80}]}}",
    );
    follows(k, "ext-api-svc", "app=nginx", 1);
    assert!(k.cluster_ip("ext-api-svc").starts_with("10."));
    eventually("nginx by the name that was an alias", || {
        let output = k.try_exec(&bye, &["curl", "-sS", "-m", "5", "ext-api-svc.default.svc.cluster.local"]);
        if text(&output.stdout).contains("Welcome to nginx!") { Ok(()) } else { Err(text(&output.stderr)) }
    });
}

/// W25
fn headless(k: &Client<'_>) {
    k.apply(&manifest("headless-hello-svc.yaml"));
    follows(k, "headless-hello-svc", HELLO_PODS, 2);
    let shown = k.ok(&["get", "svc", "headless-hello-svc"]);
    assert!(shown.lines().any(|l| l.contains("ClusterIP   None         <none>        17/TCP")), "{shown}");
    assert!(
        k.ok(&["describe", "svc", "headless-hello-svc"]).lines().any(|l| l.starts_with("IP:") && l.ends_with("None"))
    );
    let bye = one(k, BYE_PODS);
    let ips = k.endpoints("headless-hello-svc");
    eventually("the headless Service's names", || {
        let shown = lookup(k, &bye, "headless-hello-svc");
        if ips.iter().all(|ip| shown.contains(ip)) { Ok(()) } else { Err(shown) }
    });
    let name = format!("{}.headless-hello-svc.default.svc.cluster.local", ips[0].replace('.', "-"));
    assert!(lookup(k, &bye, &name).contains(&ips[0]));
    assert!(lookup(k, &bye, &ips[0]).contains(&name));
}

const STATEFUL: &str = "
apiVersion: v1
kind: Service
metadata: {name: stateful-svc}
spec: {clusterIP: None, selector: {app: stateful}, ports: [{port: 7777}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: stateful-svc
  replicas: 2
  selector: {matchLabels: {app: stateful}}
  template:
    metadata: {labels: {app: stateful}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: hello, image: 'skiff.local/ms-hello:v4', ports: [{containerPort: 7777}]}]
";

/// W26
fn stateful_set(k: &Client<'_>) {
    k.apply(STATEFUL);
    let mut pods = k.ready("app=stateful", 2);
    pods.sort();
    assert_eq!(pods, ["web-0", "web-1"]);
    let bye = one(k, BYE_PODS);
    let leads_to = |ip: &str| {
        eventually(&format!("web-0's name leads to {ip}"), || {
            let shown = lookup(k, &bye, "web-0.stateful-svc.default.svc.cluster.local");
            if shown.contains(ip) { Ok(()) } else { Err(shown) }
        });
    };
    let before = pod_ip(k, "web-0");
    leads_to(&before);
    assert_eq!(k.exec("web-0", &["cat", "/etc/hostname"]).trim(), "web-0");
    k.ok(&["delete", "pod", "web-0"]);
    let after = eventually("another web-0 with another address", || {
        let ip = k.run(&["get", "pod", "web-0", "-o", "jsonpath={.status.podIP}"]);
        let ip = text(&ip.stdout);
        if ip.is_empty() || ip == before { Err(ip) } else { Ok(ip) }
    });
    leads_to(&after);
    reachable(k, &bye, "http://web-0.stateful-svc:7777");
    k.ok(&["delete", "statefulset,svc", "web", "stateful-svc", "--ignore-not-found"]);
}

/// W27
fn node_port(k: &Client<'_>) {
    let shown = k.ok(&["get", "svc", "np-hello-svc", "-o", "wide"]);
    assert!(shown.contains("17:31000/TCP") && shown.contains("NodePort"), "{shown}");
    let node = k.cluster.skiff_ok(&["ip"]).trim().to_owned();
    let url = format!("{node}:31000");
    assert_eq!(k.exec(&one(k, BYE_PODS), &["curl", "-s", &url]), HELLO);
    assert_eq!(k.exec(&one(k, BYE_PODS), &["curl", "-s", "np-hello-svc:17"]), HELLO);
    assert_eq!(k.cluster.skiff_ok(&["shell", "--", "curl", "-s", &url]), HELLO);
    assert_eq!(tools::run(std::process::Command::new("curl").args(["-s", &url])).expect("from the host"), HELLO);
    let service = |name: &str, port: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: NodePort, ports: [{{port: 17, nodePort: {port}}}]}}}}"
        )
    };
    for (port, why) in [
        ("80", "provided port is not in the valid range. The range of valid ports is 30000-32767"),
        ("31000", "provided port is already allocated"),
        ("70000", "spec.ports[0].nodePort"),
    ] {
        let refused = k.try_apply(&service("refused", port));
        assert!(!refused.status.success() && text(&refused.stderr).contains(why), "{port}: {}", text(&refused.stderr));
    }
}

const MY_APP: &str = "
apiVersion: v1
kind: Pod
metadata: {name: my-app, labels: {app: MyApp}}
spec:
  containers:
  - name: my-app
    image: skiff.local/ms-hello:v4
    command: [node, -e, \"for (const p of [8080, 5555, 8085]) require('http').createServer((q, r) => r.end('port ' + p)).listen(p)\"]
";

/// W29, W30
fn several_ports(k: &Client<'_>) {
    k.apply(&manifest("mc-mornaft-dep.yaml"));
    k.apply(&manifest("mc-multport-svc.yaml"));
    follows(k, "mc-mornaft-svc", "app=mc-mornaft-pods", 2);
    let bye = one(k, BYE_PODS);
    for (port, time) in [("1234", "morning"), ("4321", "afternoon")] {
        let url = format!("http://mc-mornaft-svc:{port}");
        reachable(k, &bye, &url);
        assert_eq!(k.exec(&bye, &["curl", "-s", &url]), format!("This is the good {time} root"));
    }
    let unnamed = "{apiVersion: v1, kind: Service, metadata: {name: unnamed}, spec: {ports: [{port: 1}, {port: 2}]}}";
    let refused = text(&k.try_apply(unnamed).stderr);
    assert!(
        refused.contains("The Service \"unnamed\" is invalid")
            && refused.contains("spec.ports[0].name: Required value"),
        "{refused}"
    );
    k.apply(MY_APP);
    k.apply(&manifest("my-service.yaml"));
    follows(k, "my-service", "app=MyApp", 1);
    let shown = k.ok(&["get", "svc", "my-service"]);
    assert!(shown.contains("8089:30475/TCP,5555:31261/TCP,8443:30013/TCP"), "{shown}");
    let node = k.cluster.skiff_ok(&["ip"]).trim().to_owned();
    for (url, target) in [("my-service:8089", 8080), ("my-service:5555", 5555), ("my-service:8443", 8085)] {
        reachable(k, &bye, url);
        assert_eq!(k.exec(&bye, &["curl", "-s", url]), format!("port {target}"));
    }
    for (port, target) in [(30475, 8080), (31261, 5555), (30013, 8085)] {
        assert_eq!(k.exec(&bye, &["curl", "-s", &format!("{node}:{port}")]), format!("port {target}"));
    }
}

/// Of this process alone, in the range for tests of network devices.
fn pool_prefix() -> String {
    let number = std::process::id() % 512;
    format!("198.{}.{}", 18 + number / 256, number % 256)
}

fn balancer(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: LoadBalancer, selector: {{app: ms-hello-pods}}, \
         ports: [{{port: 17, targetPort: 7777}}]}}}}"
    )
}

/// The address that the Service comes to have.
fn external_ip(k: &Client<'_>, name: &str) -> String {
    eventually(&format!("{name} has an address"), || {
        let ip = k.jsonpath(&["svc", name], "{.status.loadBalancer.ingress[0].ip}");
        if ip.is_empty() { Err(k.ok(&["describe", "svc", name])) } else { Ok(ip) }
    })
}

/// What the host gets: from outside the cluster, by the link.
fn from_host(url: &str) -> String {
    eventually(&format!("{url} answers the host"), || {
        tools::run(std::process::Command::new("curl").args(["-sS", "-m", "5", url]))
    })
}

/// W28
fn load_balancers(k: &Client<'_>) {
    k.apply(&format!("{}\n---\n{}", balancer("lb-one"), balancer("lb-two")));
    let (one_ip, two_ip) = (external_ip(k, "lb-one"), external_ip(k, "lb-two"));
    assert_ne!(one_ip, two_ip);
    let prefix = format!("{}.", pool_prefix());
    assert!(one_ip.starts_with(&prefix) && two_ip.starts_with(&prefix), "{one_ip} {two_ip}");
    let shown = k.ok(&["get", "svc", "lb-one"]);
    assert!(shown.contains("LoadBalancer") && shown.contains(&one_ip) && shown.contains("17:3"), "{shown}");
    for ip in [&one_ip, &two_ip] {
        assert_eq!(from_host(&format!("http://{ip}:17")), HELLO);
        assert_eq!(k.exec(&one(k, BYE_PODS), &["curl", "-s", &format!("{ip}:17")]), HELLO);
        let addresses = k.cluster.skiff_ok(&["shell", "--", "ip", "-o", "address"]);
        assert!(!addresses.contains(ip.as_str()), "it stands on no interface: {addresses}");
    }
    let port = k.jsonpath(&["svc", "lb-one"], "{.spec.ports[0].nodePort}");
    let node = k.cluster.skiff_ok(&["ip"]).trim().to_owned();
    assert_eq!(from_host(&format!("http://{node}:{port}")), HELLO);
    assert_eq!(k.exec(&one(k, BYE_PODS), &["curl", "-s", "lb-one:17"]), HELLO);
    eventually("the events of a load balancer", || {
        let shown = k.ok(&["describe", "svc", "lb-one"]);
        if shown.contains("EnsuredLoadBalancer") { Ok(()) } else { Err(shown) }
    });
    k.ok(&["delete", "svc", "lb-one"]);
    k.apply(&balancer("lb-three"));
    assert_eq!(external_ip(k, "lb-three"), one_ip, "a deleted Service's address is given out again");
    k.ok(&["delete", "svc", "lb-two", "lb-three"]);
    let url = format!("http://{two_ip}:17");
    eventually("nobody serves an address that was given back", || {
        match tools::run(std::process::Command::new("curl").args(["-sS", "-m", "20", &url])) {
            Ok(page) => Err(page),
            Err(why) if why.contains("timed out") => panic!("an address that was given back hangs: {why}"),
            Err(_) => Ok(()),
        }
    });
}

const SAYS_ITS_NAME: &str = "const name = process.env.HOSTNAME; \
    require('http').createServer((q, r) => r.end(name)).listen(8080); const s = require('dgram').createSocket('udp4'); \
    s.on('message', (m, p) => s.send(name, p.port, p.address)); s.bind(8080)";

/// One port of the node by address and protocol, as Kubernetes' conformance test asks for it, from a pod of the node's
/// network.
fn host_ports(k: &Client<'_>) {
    let node_ip = k.cluster.skiff_ok(&["ip"]).trim().to_owned();
    let node = &k.cluster.name;
    for (name, ip, protocol) in
        [("on-loopback", "127.0.0.1", "TCP"), ("on-node", node_ip.as_str(), "TCP"), ("by-udp", node_ip.as_str(), "UDP")]
    {
        k.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: ported}}}}, spec: {{nodeName: {node}, containers: [\
             {{name: c, image: 'skiff.local/ms-hello:v4', command: [node, -e, \"{SAYS_ITS_NAME}\"], readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}, \
             ports: [{{containerPort: 8080, hostPort: 54323, hostIP: {ip}, protocol: {protocol}}}]}}]}}}}"
        ));
    }
    k.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: asks, labels: {app: asks}}, spec: {hostNetwork: true, \
         terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'skiff.local/ms-hello:v4', command: [sleep, '1000']}]}}",
    );
    k.ready("app=ported", 3);
    k.ready("app=asks", 1);
    let loopback = ["curl", "-sS", "-m", "5", "--interface", &node_ip, "http://127.0.0.1:54323"];
    assert_eq!(k.exec("asks", &loopback), "on-loopback");
    let url = format!("http://{node_ip}:54323");
    assert_eq!(k.exec("asks", &["curl", "-sS", "-m", "5", &url]), "on-node");
    assert_eq!(tools::run(std::process::Command::new("curl").args(["-sS", "-m", "5", &url])).expect("host"), "on-node");
    assert_eq!(k.exec("asks", &["sh", "-c", &format!("echo hi | nc -u -w 1 {node_ip} 54323")]), "by-udp");
    k.ok(&["delete", "pod", "on-loopback", "on-node", "by-udp", "asks"]);
    eventually("the ports are gone", || {
        let left = k.cluster.skiff_ok(&["shell", "--", "nft", "list", "tables"]);
        if left.contains("hostports") { Err(left) } else { Ok(()) }
    });
}

/// W35: gone at once, and refused rather than hung.
fn deleted_service(k: &Client<'_>) {
    let (bye, ip) = (one(k, BYE_PODS), k.cluster_ip("ms-hello-svc"));
    assert_eq!(k.ok(&["delete", "svc", "ms-hello-svc", "np-hello-svc"]).matches("deleted").count(), 2);
    eventually("Endpoints and slices of a deleted Service are gone", || {
        let left = k.ok(&["get", "endpoints,endpointslices", "-A", "--no-headers"]);
        if left.lines().any(|l| l.contains("ms-hello-svc")) { Err(left) } else { Ok(()) }
    });
    let refused = k.try_exec(&bye, &["curl", "-sS", "-m", "5", &format!("http://{ip}:17")]);
    assert_ne!(refused.status.code(), Some(0));
    assert!(
        !text(&refused.stderr).contains("timed out"),
        "a deleted Service's address hangs: {}",
        text(&refused.stderr)
    );
    assert!(!lookup(k, &bye, "ms-hello-svc").contains(&ip));
}

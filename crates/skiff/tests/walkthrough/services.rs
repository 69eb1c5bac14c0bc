//! A ClusterIP Service from within: made, found by name and variable, described; headless and with several ports.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use skiff_testkit::tools;

use crate::{
    BYE_PODS, HELLO, HELLO_PODS,
    common::{Client, eventually, images::manifest, text},
    follows, lookup, one, pod_ip, reachable,
};

/// W04
pub(crate) fn expose_dry_run(k: &Client<'_>) {
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

/// W05
pub(crate) fn services(k: &Client<'_>) {
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

/// W06, W07
pub(crate) fn requests_are_spread(k: &Client<'_>) {
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

/// W09, W10, W19
pub(crate) fn names(k: &Client<'_>) {
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

/// W11
pub(crate) fn ping(k: &Client<'_>) {
    let bye = one(k, BYE_PODS);
    let pinged = k.try_exec(&bye, &["ping", "-c", "1", "-W", "1", &k.cluster_ip("ms-hello-svc")]);
    assert!(text(&pinged.stdout).contains("0 received"), "{pinged:?}");
    assert!(k.exec(&bye, &["ping", "-c", "1", &pod_ip(k, &one(k, HELLO_PODS))]).contains("1 received"));
}

/// W12
pub(crate) fn an_address_on_no_interface(k: &Client<'_>) {
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
pub(crate) fn selectors_and_describe(k: &Client<'_>) {
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

/// W23, W24
pub(crate) fn external_name_then_cluster_ip(k: &Client<'_>) {
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
pub(crate) fn headless(k: &Client<'_>) {
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
pub(crate) fn several_ports(k: &Client<'_>) {
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

/// W35: gone at once, and refused rather than hung.
pub(crate) fn deleted_service(k: &Client<'_>) {
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

//! From and to the outside: other hosts, node ports, load balancers, host ports.

use skiff_testkit::tools;

use crate::{
    BYE_PODS, HELLO,
    common::{Client, eventually, images::manifest, text},
    one,
};

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
pub(crate) fn without_selector(k: &Client<'_>) {
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

/// W27
pub(crate) fn node_port(k: &Client<'_>) {
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

/// Of this process alone, in the range for tests of network devices.
pub(crate) fn pool_prefix() -> String {
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
pub(crate) fn load_balancers(k: &Client<'_>) {
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
pub(crate) fn host_ports(k: &Client<'_>) {
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

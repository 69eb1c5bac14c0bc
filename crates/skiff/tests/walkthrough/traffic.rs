//! Which pod answers: by affinity, by the port's name, over UDP, by slices written by hand. The server says who it is.

use crate::{
    BYE_PODS,
    common::{Client, eventually, text},
    follows, one, pod_ip, reachable,
};

const PODS: &str = "app=who";
const WHO: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: who}
spec:
  replicas: 3
  selector: {matchLabels: {app: who}}
  template:
    metadata: {labels: {app: who}}
    spec:
      containers:
      - name: who
        image: skiff.local/ms-hello:v4
        command:
        - node
        - -e
        - |
          const me = require('os').hostname();
          require('http').createServer((q, r) => r.end(me + '\\n')).listen(8080);
          const udp = require('dgram').createSocket('udp4');
          udp.on('message', (m, from) => udp.send(me, from.port, from.address));
          udp.bind(5353);
        ports:
        - {name: web, containerPort: 8080}
        - {name: ask, containerPort: 5353, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: who}
spec: {selector: {app: who}, ports: [{port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: who-udp}
spec: {selector: {app: who}, ports: [{port: 5300, targetPort: ask, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: who-sctp}
spec: {selector: {app: who}, ports: [{port: 80, targetPort: 80, protocol: SCTP}]}
";

/// One datagram from port 40000, always the same flow; prints who answered.
const ASK: &str = "const udp = require('dgram').createSocket('udp4');
    udp.on('message', m => { console.log(String(m)); process.exit(0) });
    udp.bind(40000, () => udp.send('who', 5300, 'who-udp'));
    setTimeout(() => process.exit(1), 2000);";

/// W31
pub(crate) fn affinity(k: &Client<'_>) {
    k.apply(WHO);
    follows(k, "who", PODS, 3);
    let bye = one(k, BYE_PODS);
    reachable(k, &bye, "who");
    // By chance always the same of three: one in 3^39.
    assert!(answers(k, &bye, "for i in $(seq 40); do curl -s who; done").len() > 1);
    let sticky = |seconds: u32| {
        format!(
            "{{\"spec\": {{\"sessionAffinity\": \"ClientIP\", \
             \"sessionAffinityConfig\": {{\"clientIP\": {{\"timeoutSeconds\": {seconds}}}}}}}}}"
        )
    };
    k.ok(&["patch", "svc", "who", "-p", &sticky(60)]);
    let kept = eventually("one pod answers this client", || {
        let mut all = answers(k, &bye, "for i in $(seq 20); do curl -s who; done");
        if all.len() == 1 { Ok(all.remove(0)) } else { Err(format!("{all:?}")) }
    });
    k.ok(&["delete", "pod", &kept, "--wait=false"]);
    eventually("another pod answers when the one is gone", || {
        let all = answers(k, &bye, "curl -s -m 5 who");
        if all.len() == 1 && all[0] != kept { Ok(()) } else { Err(format!("{all:?}")) }
    });
    follows(k, "who", PODS, 3);
    k.ok(&["patch", "svc", "who", "-p", &sticky(1)]);
    // After each pause the dice are thrown again: always the same of three is one in 3^14.
    let script = "for i in $(seq 15); do sleep 1.5; curl -s who; done";
    eventually("affinity ends with its timeout", || {
        let all = answers(k, &bye, script);
        if all.len() > 1 { Ok(()) } else { Err(format!("{all:?}")) }
    });
    assert!(
        k.ok(&["describe", "svc", "who"])
            .lines()
            .any(|l| l.starts_with("Session Affinity:") && l.ends_with("ClientIP"))
    );
}

/// Conformance: affinity holds for a NodePort too, and is switched on and off by an update.
pub(crate) fn node_port_affinity(k: &Client<'_>) {
    k.ok(&["patch", "svc", "who", "-p", "{\"spec\": {\"type\": \"NodePort\", \"sessionAffinity\": \"None\"}}"]);
    let node = k.cluster.skiff_ok(&["ip"]).trim().to_owned();
    let url = format!("{node}:{}", k.jsonpath(&["svc", "who"], "{.spec.ports[0].nodePort}"));
    let bye = one(k, BYE_PODS);
    reachable(k, &bye, &url);
    let script = format!("for i in $(seq 16); do curl -s -m 5 {url}; done");
    for sticky in [false, true, false] {
        let kind = if sticky { "ClientIP" } else { "None" };
        k.ok(&["patch", "svc", "who", "-p", &format!("{{\"spec\": {{\"sessionAffinity\": \"{kind}\"}}}}")]);
        eventually(&format!("affinity {kind} by NodePort"), || {
            let all = answers(k, &bye, &script);
            if (all.len() == 1) == sticky { Ok(()) } else { Err(format!("{all:?}")) }
        });
    }
}

const SAME_PORT: &str = "
apiVersion: v1
kind: Service
metadata: {name: who-both}
spec:
  selector: {app: who}
  ports:
  - {name: tcp, port: 80, targetPort: web}
  - {name: udp, port: 80, targetPort: ask, protocol: UDP}
";

/// Conformance: one port number with two protocols; the protocol that is taken away stops, the other goes on.
pub(crate) fn same_port_different_protocols(k: &Client<'_>) {
    k.apply(SAME_PORT);
    assert!(k.ok(&["get", "svc", "who-both"]).contains("80/TCP,80/UDP"));
    let bye = one(k, BYE_PODS);
    let tcp = || !k.exec(&bye, &["sh", "-c", "curl -s -m 2 who-both || true"]).is_empty();
    let udp = || !k.exec(&bye, &["sh", "-c", "echo who | nc -u -w 1 who-both 80 || true"]).is_empty();
    let served = |both: (bool, bool)| {
        eventually(&format!("TCP and UDP are served: {both:?}"), || {
            let now = (tcp(), udp());
            if now == both { Ok(()) } else { Err(format!("{now:?}")) }
        });
    };
    served((true, true));
    k.ok(&["patch", "svc", "who-both", "--type=json", "-p", "[{\"op\": \"remove\", \"path\": \"/spec/ports/0\"}]"]);
    served((false, true));
    let tcp_only = "[{\"op\": \"replace\", \"path\": \"/spec/ports/0\", \"value\": {\"name\": \"tcp\", \"port\": 80, \"targetPort\": \"web\"}}]";
    k.ok(&["patch", "svc", "who-both", "--type=json", "-p", tcp_only]);
    served((true, false));
    k.ok(&["delete", "svc", "who-both"]);
}

/// Conformance: a Service without a selector is what all its slices say together, its endpoints and its ports.
pub(crate) fn slices_by_hand(k: &Client<'_>) {
    k.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: by-hand}, \
         spec: {ports: [{name: web, port: 80, targetPort: 8080}, {name: again, port: 81, targetPort: 8080}]}}",
    );
    let ips: Vec<String> = k.pods(PODS).iter().map(|pod| pod_ip(k, pod)).collect();
    for (i, ip) in ips.iter().enumerate() {
        for port in ["web", "again"] {
            k.apply(&format!(
                "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: by-hand-{port}-{i}, \
                 labels: {{kubernetes.io/service-name: by-hand, endpointslice.kubernetes.io/managed-by: tests}}}}, \
                 ports: [{{name: {port}, port: 8080}}], endpoints: [{{addresses: ['{ip}'], conditions: {{ready: true}}}}]}}"
            ));
        }
    }
    let bye = one(k, BYE_PODS);
    for port in [80, 81] {
        // By chance one of three is left out in 40: less than one in three million.
        let script = format!("for i in $(seq 40); do curl -s -m 5 by-hand:{port}; done");
        eventually(&format!("every slice's pod answers at port {port}"), || {
            let all = answers(k, &bye, &script);
            if all.len() == ips.len() { Ok(()) } else { Err(format!("{all:?}")) }
        });
    }
    k.ok(&["delete", "svc", "by-hand"]);
    k.ok(&["delete", "endpointslices", "-l", "kubernetes.io/service-name=by-hand"]);
}

/// W32
pub(crate) fn names_of_ports_and_udp(k: &Client<'_>) {
    let shown = k.ok(&["get", "svc", "who", "who-udp", "who-sctp"]);
    for ports in ["80/TCP", "5300/UDP", "80/SCTP"] {
        assert!(shown.contains(ports), "{shown}");
    }
    assert!(k.ok(&["describe", "svc", "who"]).lines().any(|l| l.starts_with("TargetPort:") && l.contains("web/TCP")));
    let bye = one(k, BYE_PODS);
    let ask = || {
        let output = k.try_exec(&bye, &["node", "-e", ASK]);
        let said = text(&output.stdout).trim().to_owned();
        if output.status.success() { Ok(said) } else { Err(format!("{said} {}", text(&output.stderr))) }
    };
    let first = eventually("an answer over UDP", ask);
    let address = pod_ip(k, &first);
    k.ok(&["delete", "pod", &first]);
    // The flow's conntrack entry would lead to the dead pod for half a minute more, and each try would renew it.
    let second = eventually("the same flow reaches another pod", ask);
    assert_ne!(first, second, "{address} answers although its pod is gone");
}

/// The distinct answers of a script run in a pod.
fn answers(k: &Client<'_>, pod: &str, script: &str) -> Vec<String> {
    let mut all: Vec<String> = k.exec(pod, &["sh", "-c", script]).lines().map(str::to_owned).collect();
    all.sort();
    all.dedup();
    all
}

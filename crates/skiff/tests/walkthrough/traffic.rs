//! Which pod answers: by affinity, by the port's name, over UDP. The server says who it is.

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

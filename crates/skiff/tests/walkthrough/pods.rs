//! What runs: Deployments, ReplicaSets and their pods, which come, change, and go.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use crate::{
    BYE, BYE_PODS, HELLO_PODS,
    common::{Client, eventually, images::manifest, text},
    follows, lookup, one, pod_ip, reachable,
};

/// W01
pub(crate) fn deployments(k: &Client<'_>, bye_image: &str) {
    assert_eq!(k.apply(&manifest("ms-hello-dep.yaml")), "deployment.apps/ms-hello-dep created\n");
    let bye = manifest("ms-bye-dep.yaml").replace("skiff.local/ms-bye:v4", bye_image);
    assert_eq!(k.apply(&bye), "deployment.apps/ms-bye-dep created\n");
    k.ready(HELLO_PODS, 2);
    k.ready(BYE_PODS, 2);
}

/// W02
pub(crate) fn names_labels_and_addresses(k: &Client<'_>) {
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

/// W03
pub(crate) fn pods_reach_each_other(k: &Client<'_>) {
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

/// W08
pub(crate) fn logs(k: &Client<'_>) {
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

/// W18
pub(crate) fn roles(k: &Client<'_>) {
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
pub(crate) fn scaling_and_healing(k: &Client<'_>) {
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
pub(crate) fn rolling_update(k: &Client<'_>) {
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
pub(crate) fn relabel(k: &Client<'_>) {
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
pub(crate) fn readiness(k: &Client<'_>) {
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
pub(crate) fn stateful_set(k: &Client<'_>) {
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

/// W20, first part
pub(crate) fn variables_before_services(k: &Client<'_>) {
    let env = k.exec(&one(k, BYE_PODS), &["printenv"]);
    assert!(env.contains("KUBERNETES_SERVICE_HOST=10.96.0.1"), "{env}");
    assert!(!env.contains("MS_HELLO_SVC"), "{env}");
}

/// W20, second part
pub(crate) fn variables_after_services(k: &Client<'_>) {
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
pub(crate) fn terminating(k: &Client<'_>) {
    k.ok(&["scale", "deployment/probed", "--replicas=0"]);
    eventually("a Terminating pod out of the Endpoints", || {
        let shown = k.ok(&["get", "po", "-l", "app=probed"]);
        let listed = k.endpoints("probed");
        if shown.contains("Terminating") && listed.is_empty() { Ok(()) } else { Err(format!("{listed:?}\n{shown}")) }
    });
    k.ok(&["delete", "deployment,service", "probed"]);
}

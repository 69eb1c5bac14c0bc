//! `skiff explain` on a real cluster with Services that are broken in every way that people break them.

mod common;

use std::net::UdpSocket;

use common::{Client, Cluster, Kubectl, eventually, objects::IMAGE, text};
use serde_json::Value;
use skiff_testkit::tools;

const PAUSE: &str = "sleep 3600";
const SERVE: &str = "httpd -f -p 8080 -h /";

/// A pod: name, labels, port's name, command, and what else its container says.
fn pod(name: &str, labels: &str, node: &str, command: &str, more: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n\
         spec:\n  terminationGracePeriodSeconds: 0\n  nodeName: {node}\n  containers:\n  - name: web\n    image: {IMAGE}\n    \
         command: [sh, -c, '{command}']\n    ports: [{{name: http-web, containerPort: 8080}}]\n{more}"
    )
}

fn service(name: &str, selector: &str, ports: &str, more: &str) -> String {
    let selector = if selector.is_empty() { String::new() } else { format!("selector: {{{selector}}}, ") };
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{selector}ports: [{ports}]{more}}}\n"
    )
}

const NEVER_READY: &str = "    readinessProbe: {httpGet: {path: /no, port: 8080}, periodSeconds: 1}\n";

fn manifest(nodes: &[String; 2]) -> String {
    let [a, b] = nodes;
    let web = "{port: 80, targetPort: 8080}";
    [
        pod("client", "app: client", a, PAUSE, ""),
        pod("web-1", "app: web", a, SERVE, ""),
        pod("web-2", "app: web", b, SERVE, ""),
        pod("deaf", "app: deaf", a, "httpd -f -p 9999 -h /", ""),
        pod("shy", "app: shy", a, "httpd -f -p 127.0.0.1:8080 -h /", ""),
        pod("lazy", "app: lazy", a, SERVE, NEVER_READY),
        pod("far", "app: far", b, SERVE, ""),
        pod("gone", "app: gone", a, "exit 3", "").replace("command: [sh", "command: [nosuchprogram"),
        service("web", "app: web", web, ""),
        service("web-np", "app: web", "{port: 80, targetPort: 8080, nodePort: 31000}", ", type: NodePort"),
        service("headless", "app: web", web, ", clusterIP: None"),
        service("typo", "app: webs", web, ""),
        service("strange", "tier: database", web, ""),
        service("noname", "app: web", "{port: 80, targetPort: web-http}", ""),
        service("deaf", "app: deaf", web, ""),
        service("shy", "app: shy", web, ""),
        service("lazy", "app: lazy", web, ""),
        service("gone", "app: gone", web, ""),
        service("here", "app: far", web, ", internalTrafficPolicy: Local"),
        service(
            "there",
            "app: far",
            "{port: 80, targetPort: 8080, nodePort: 31001}",
            ", type: NodePort, externalTrafficPolicy: Local",
        ),
        service("bare", "", web, ""),
        service("named", "", "{port: 80}", ", type: ExternalName, externalName: nowhere.invalid"),
        service("alias", "", "{port: 80}", ", type: ExternalName, externalName: web.default.svc.cluster.local"),
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n".into(),
        service("till", "app: web", web, "").replace("name: till", "name: till, namespace: shop"),
    ]
    .concat()
}

fn explain(cluster: &Cluster, words: &str) -> (Option<i32>, Value, String) {
    let words: Vec<&str> = words.split(' ').collect();
    let output = cluster.skiff(&[&["explain", "-o", "json"], words.as_slice()].concat());
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code(), report, text(&output.stdout) + &text(&output.stderr))
}

/// A resolver that knows no name.
fn knows_nothing() -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let at = socket.local_addr().expect("it is bound").to_string();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            let question_end = 12 + answer[12..].iter().position(|b| *b == 0).expect("a name's end") + 5;
            answer.truncate(question_end);
            answer[2..12].copy_from_slice(&[0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]);
            let _ = socket.send_to(&answer, from);
        }
    });
    at
}

fn settle(kubectl: Client<'_>) {
    kubectl.ready("app=web", 2);
    for app in ["client", "deaf", "shy", "far"] {
        kubectl.ready(&format!("app={app}"), 1);
    }
    eventually("the failed probe and the failed start are told", || {
        let events = kubectl.ok(&["get", "events"]);
        let pod = kubectl.ok(&["get", "pod", "gone"]);
        let told = events.contains("Unhealthy") && (pod.contains("CrashLoopBackOff") || pod.contains("Error"));
        if told { Ok(()) } else { Err(events + &pod) }
    });
}

/// What is asked, the cause that must be named, a word that must be said, and whether its first command mends it.
type Row = (&'static str, &'static str, &'static str, bool);

const BROKEN: &[Row] = &[
    ("client http://wbe", "noSuchService", "use web", false),
    ("client http://till", "noSuchService", "use till.shop", false),
    ("client http://named", "externalNameUnresolved", "nowhere.invalid", false),
    ("node http://web", "namesAreForPods", "explain", false),
    ("client web:8080", "noSuchPort", "targetPort", false),
    ("client web:99", "noSuchPort", "connect to port 80/TCP", false),
    ("svc/web:99", "noSuchPort", "connect to port 80/TCP", false),
    ("client udp://web:80", "wrongProtocol", "TCP", false),
    ("client http://headless", "headlessTranslatesNoPorts", "headless:8080", false),
    ("client 10.96.77.77:80", "nobodyHasTheAddress", "ClusterIP", false),
    ("outside NODE:31999", "noSuchNodePort", "31000/TCP of default/web-np", false),
    ("outside NODE:80", "noSuchNodePort", "on a node it has", false),
    ("client http://till.shop", "selectorMatchesNothing", "other namespaces match", false),
    ("svc/strange", "selectorMatchesNothing", "like it", false),
    ("svc/typo", "selectorMatchesNothing", "2 pods carry app=web (web-1, web-2)", true),
    ("svc/noname", "targetPortNotFound", "http-web (8080/TCP)", true),
    ("client http://bare", "noSelector", "EndpointSlice", false),
    ("svc/lazy", "noneReady", "Readiness probe failed", false),
    ("svc/gone", "noneReady", "gone: container web", false),
    ("outside NODE:31001", "noLocalEndpoints", "externalTrafficPolicy", true),
    ("client http://here", "noLocalEndpoints", "internalTrafficPolicy", true),
    ("svc/shy", "listensElsewhere", "127.0.0.1", false),
    ("svc/deaf", "nothingListens", "9999/TCP", true),
];

const WHOLE: &[&str] = &[
    "client http://web",
    "pod/client http://web.default.svc.cluster.local/path",
    "svc/web",
    "svc/web-np",
    "svc/headless",
    "client headless:8080",
    "client http://alias",
    "node WEB:80",
    "outside NODE:31000",
    "svc/kubernetes",
    "svc/there",
    "client udp://10.96.0.10:53",
];

#[test]
fn names_the_first_broken_hop() {
    if !tools::root_with(&["busybox"]) {
        return;
    }
    let told = knows_nothing();
    let cluster = Cluster::up("explain", &["--nodes", "2", "--dns-upstream", &told]);
    cluster.load_busybox();
    let nodes = [1, 2].map(|n| format!("{}-{n}", cluster.name));
    let kubectl = cluster.kubectl(Kubectl::BuiltIn);
    kubectl.apply(&manifest(&nodes));
    settle(kubectl);
    let (node, web) = (cluster.skiff_ok(&["ip"]), kubectl.cluster_ip("web"));
    let words = |text: &str| text.replace("NODE", node.trim()).replace("WEB", &web);
    for question in WHOLE {
        let (code, report, said) = explain(&cluster, &words(question));
        assert_eq!((code, &report["works"]), (Some(0), &Value::Bool(true)), "{question}: {said}");
    }
    for (question, cause, word, mends) in BROKEN {
        let (code, report, said) = explain(&cluster, &words(question));
        assert_eq!((code, &report["broken"]["cause"]), (Some(1), &Value::from(*cause)), "{question}: {said}");
        assert!(said.contains(word), "{question} does not say {word:?}: {said}");
        if *mends {
            mend(&cluster, &words(question), &report["broken"]["mend"][0]);
        }
    }
    half_deaf(&cluster, kubectl);
    no_question(&cluster);
}

/// Runs the command that the report gives, word by word as a person would; afterwards it works.
fn mend(cluster: &Cluster, question: &str, command: &Value) {
    let command = command.as_str().expect("a command").replacen("kubectl", "\"$SKIFF\" kubectl", 1);
    let done = cluster.command("sh").args(["-c", &command]).env("SKIFF", common::SKIFF).output().expect("sh runs");
    assert!(done.status.success(), "{command}: {}", text(&done.stderr));
    eventually(&format!("{command} mends {question}"), || {
        let (code, _, said) = explain(cluster, question);
        if code == Some(0) { Ok(()) } else { Err(said) }
    });
}

/// One endpoint of several does not listen: part of the connections fails, which is the hardest to find by trying.
fn half_deaf(cluster: &Cluster, kubectl: Client<'_>) {
    kubectl.ok(&["label", "pod", "deaf", "app=web", "--overwrite"]);
    let (code, report, said) = eventually("three endpoints", || {
        let found = explain(cluster, "client http://web");
        if found.2.contains("33.3 %") { Ok(found) } else { Err(found.2) }
    });
    assert_eq!((code, &report["broken"]["cause"]), (Some(1), &Value::from("nothingListens")), "{said}");
    assert!(said.contains("1 of 3 endpoints"), "{said}");
}

fn no_question(cluster: &Cluster) {
    for (words, why) in [
        ("nobody http://web", "there is no pod"),
        ("clien http://web", "nearly so are called: client"),
        ("client ftp://web", "is not known here"),
        ("node/nowhere web:80", "there is no node"),
    ] {
        let (code, _, said) = explain(cluster, words);
        assert_eq!(code, Some(2), "{words}: {said}");
        assert!(said.contains(why), "{words}: {said}");
    }
}

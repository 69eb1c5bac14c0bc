//! Stock kubectl against a served API over TLS. Skipped where there is no kubectl.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use skiff_apiserver::pki::Pki;
use skiff_apiserver::{Config, Server};
use skiff_store::memory::Memory;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello, labels: {app: hello-dep}}
spec:
  replicas: 2
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec: {containers: [{name: c, image: ms-hello}]}
---
apiVersion: v1
kind: Service
metadata: {name: hello-svc}
spec: {selector: {app: hello}, ports: [{port: 17, targetPort: 7777}]}
"#;

/// One event written through either of the two groups.
const EVENTS: &str = r#"
apiVersion: v1
kind: Event
metadata: {name: hello.1, namespace: default}
involvedObject: {kind: Deployment, name: hello, namespace: default}
reason: Scaled
message: made by the one
type: Normal
firstTimestamp: "2026-01-02T03:04:05Z"
lastTimestamp: "2026-01-02T03:04:05Z"
---
apiVersion: events.k8s.io/v1
kind: Event
metadata: {name: hello.2, namespace: default}
regarding: {kind: Deployment, name: hello, namespace: default}
reason: Scheduled
note: made by the other
type: Normal
action: Binding
eventTime: "2026-01-02T03:04:06.000000Z"
reportingController: example.com/scheduler
reportingInstance: one
"#;

/// Arguments, exit code, and what the output holds.
const STEPS: &[(&str, i32, &str)] = &[
    ("create namespace foo", 0, "namespace/foo created"),
    ("create serviceaccount default", 0, "serviceaccount/default created"),
    ("apply -f manifest.yaml", 0, "deployment.apps/hello created\nservice/hello-svc created"),
    ("apply -f manifest.yaml", 0, "deployment.apps/hello unchanged\nservice/hello-svc unchanged"),
    ("get deployment hello -o wide", 0, "READY   UP-TO-DATE   AVAILABLE   AGE   CONTAINERS   IMAGES     SELECTOR"),
    ("get svc hello-svc -o wide", 0, "<none>        17/TCP"),
    ("describe svc hello-svc", 0, "TargetPort:               7777/TCP"),
    ("describe deployment hello", 0, "2 desired | 0 updated"),
    ("get deploy,svc -l app=hello-dep -o name", 0, "deployment.apps/hello"),
    ("label deployment hello tier=web", 0, "labeled"),
    ("patch svc hello-svc -p {\"spec\":{\"type\":\"NodePort\"}}", 0, "service/hello-svc patched"),
    (
        "autoscale deployment hello --min=1 --max=3 --cpu-percent=70",
        0,
        "horizontalpodautoscaler.autoscaling/hello autoscaled",
    ),
    ("get hpa hello", 0, "Deployment/hello"),
    ("get --raw /livez?verbose", 0, "[+]ping ok"),
    ("get --raw /metrics", 0, "apiserver_request_total{code=\"201\""),
    ("get --raw /metrics/slis", 0, "kubernetes_healthcheck{name=\"ping\",type=\"livez\"} 1"),
    ("get servicecidrs", 0, "kubernetes   10.96.0.0/12"),
    ("get ipaddresses", 0, "services/default/hello-svc"),
    ("create -f event.yaml", 0, "event/hello.1 created\nevent.events.k8s.io/hello.2 created"),
    ("get events", 0, "made by the other"),
    ("events", 0, "made by the other"),
    ("get events.events.k8s.io -o name", 0, "event.events.k8s.io/hello.1\nevent.events.k8s.io/hello.2"),
    ("scale deployment hello --replicas=3", 0, "scaled"),
    ("create deployment nginx --image=nginx", 0, "deployment.apps/nginx created"),
    ("expose deployment nginx --port=80", 0, "service/nginx exposed"),
    ("run one --image=nginx", 0, "pod/one created"),
    ("delete pod one", 0, "pod \"one\" deleted"),
    ("apply --server-side -f manifest.yaml --force-conflicts", 0, "serverside-applied"),
    (
        "create -f manifest.yaml",
        1,
        "Error from server (AlreadyExists): error when creating \"manifest.yaml\": services \"hello-svc\" already exists",
    ),
    ("get pod nope", 1, "Error from server (NotFound): pods \"nope\" not found"),
    (
        "create service nodeport np --tcp=80:80 --node-port=99",
        1,
        "spec.ports[0].nodePort: Invalid value: 99: provided port is not in the valid range. The range of valid ports is 30000-32767",
    ),
    ("auth can-i create pods", 0, "yes"),
    ("auth can-i create pods --as=bob", 1, "no"),
    (
        "get pods --as=bob",
        1,
        "pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
    ),
    ("explain service.spec.ports", 0, "FIELD: ports <[]ServicePort>"),
    ("delete -f manifest.yaml", 0, "service \"hello-svc\" deleted"),
    ("version", 0, "Server Version: v1.36."),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_users_type() {
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        return skiff_testkit::tools::skip("kubectl is not installed");
    }
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pki = Pki::load_or_create(&dir.path().join("pki"), &["127.0.0.1".into()]).unwrap();
    let config = Config::new("test", "192.0.2.1:6443".parse().unwrap(), pki.service_account_key());
    let server = Server::new(config, Arc::new(Memory::new())).await.unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.serve(listener, Arc::new(pki.server_config().unwrap()), stop.clone()));
    std::fs::write(dir.path().join("kubeconfig"), kubeconfig(&pki, &address.to_string())).unwrap();
    std::fs::write(dir.path().join("manifest.yaml"), MANIFEST).unwrap();
    std::fs::write(dir.path().join("event.yaml"), EVENTS).unwrap();
    let path = dir.path().to_path_buf();
    tokio::task::spawn_blocking(move || STEPS.iter().for_each(|step| check(&path, step))).await.unwrap();
    stop.cancel();
    serving.await.unwrap();
}

fn check(dir: &Path, (args, code, want): &(&str, i32, &str)) {
    let mut command = Command::new("kubectl");
    command.args(args.split(' ')).current_dir(dir).env("KUBECONFIG", dir.join("kubeconfig")).env("HOME", dir);
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(*code), "kubectl {args}:\n{text}");
    assert!(text.contains(want), "kubectl {args}: no {want:?} in:\n{text}");
}

fn kubeconfig(pki: &Pki, address: &str) -> String {
    let encode = |text: &str| STANDARD.encode(text);
    let (ca, cert, key) = (encode(pki.ca_pem()), encode(&pki.admin().certificate), encode(&pki.admin().key));
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: \"https://{address}\", certificate-authority-data: {ca}}}}}]\n\
         users: [{{name: u, user: {{client-certificate-data: {cert}, client-key-data: {key}}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
    )
}

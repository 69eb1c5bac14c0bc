//! Bad input gets a clear answer, and nothing is lost: what is refused names the object, the field and the reason, what
//! fails later says so in events, and the server lives on.

mod common;

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

use common::{Client, Cluster, Home, Kubectl, eventually, machine::Machine, objects, text};
use skiff_testkit::{registry::Registry, tools};

/// Stock kubectl where there is one, and always the built-in.
fn judges() -> Vec<Kubectl> {
    let stock = tools::find("kubectl").map(|_| Kubectl::Stock);
    stock.into_iter().chain([Kubectl::BuiltIn]).collect()
}

fn says(what: &str, said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{what}: {word:?} is not in:\n{said}");
    }
}

#[test]
fn bad_input_gets_a_clear_answer() {
    if !tools::root_with(&["docker-registry", "curl", "busybox", "ip"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let registry = Registry::start(dir.path()).expect("a registry");
    let audit = dir.path().join("audit.log");
    let cluster = Cluster::up("bad", &["--audit-log-path", &audit.display().to_string()]);
    cluster.load_busybox();
    let pid = cluster.pid();
    for kind in judges() {
        refused_objects(&cluster.kubectl(kind));
        refused_files(&cluster.kubectl(kind), dir.path());
    }
    refused_bodies(&cluster);
    archives(&cluster, dir.path());
    pods(&cluster.kubectl(judges()[0]), &registry);
    assert_eq!(cluster.pid(), pid, "the daemon is the same");
    assert_eq!(cluster.kubectl(Kubectl::BuiltIn).ok(&["get", "--raw", "/readyz"]).trim(), "ok");
    audited(&audit);
}

/// Who asked, for what, and what came of it, in a file that nobody else reads.
fn audited(log: &Path) {
    let mode = std::fs::metadata(log).expect("the audit log").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let text = std::fs::read_to_string(log).expect("the audit log");
    let events: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).expect("an event")).collect();
    let refused = events.iter().find(|event| {
        event["verb"] == "create"
            && event["objectRef"]["resource"] == "services"
            && event["responseStatus"]["code"] != 201
    });
    let refused = refused.expect("a refused Service");
    assert_eq!(refused["user"]["username"], "kubernetes-admin", "{refused}");
    assert_eq!(refused["sourceIPs"], serde_json::json!(["127.0.0.1"]), "{refused}");
    assert!(
        events.iter().any(|event| event["user"]["username"].as_str().is_some_and(|u| u.starts_with("system:node:")))
    );
}

/// What the API refuses: an object, and what must be said of it.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "{apiVersion: v1, kind: Service, metadata: {name: typo}, spec: {prots: [{port: 80}], ports: [{port: 80}]}}",
        &["strict decoding error", "unknown field \"spec.prots\""],
    ),
    (
        "{apiVersion: v1, kind: Service, metadata: {name: typed}, spec: {ports: [{port: eighty}]}}",
        &["Service in version \"v1\" cannot be handled", "cannot unmarshal string", "spec.ports.port of type int32"],
    ),
    (
        "{apiVersion: v1, kind: Service, metadata: {name: 1st}, spec: {ports: [{port: 80}]}}",
        &["The Service \"1st\" is invalid", "metadata.name", "a DNS-1035 label must"],
    ),
    (
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: Upper_Case}}",
        &["The ConfigMap \"Upper_Case\" is invalid", "metadata.name", "RFC 1123 subdomain must"],
    ),
    (
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: labelled, labels: {a: 'not a value'}}}",
        &["\"labelled\" is invalid", "metadata.labels", "a valid label must"],
    ),
    (
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: lost, namespace: nowhere}}",
        &["NotFound", "namespaces \"nowhere\" not found"],
    ),
    (
        "{apiVersion: v1, kind: Service, metadata: {name: high}, spec: {ports: [{port: 70000}]}}",
        &["\"high\" is invalid", "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535"],
    ),
    (
        "{apiVersion: v1, kind: Service, metadata: {name: far}, spec: {clusterIP: 192.0.2.7, ports: [{port: 80}]}}",
        &["\"far\" is invalid", "spec.clusterIPs", "not in the valid range", "10.96.0.0/12"],
    ),
    (
        "{apiVersion: v1, kind: Service, metadata: {name: taken}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
        &["\"taken\" is invalid", "spec.clusterIPs", "10.96.0.1", "already allocated"],
    ),
    (
        "{apiVersion: v1, kind: Service, metadata: {name: odd}, spec: {type: Wrong, ports: [{port: 80}]}}",
        &["\"odd\" is invalid", "spec.type", "supported values: \"ClusterIP\""],
    ),
    (
        "{apiVersion: v1, kind: Pod, metadata: {name: empty}, spec: {containers: []}}",
        &["\"empty\" is invalid", "spec.containers: Required value"],
    ),
];

fn refused_objects(k: &Client<'_>) {
    for (manifest, words) in REFUSED {
        let refused = k.try_apply(manifest);
        assert_eq!(refused.status.code(), Some(1), "{manifest}: {}", text(&refused.stdout));
        says(manifest, &text(&refused.stderr), words);
    }
}

const DEEP: usize = 100_000;

fn big() -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata: {{k: \"{}\"}}\n", "x".repeat(3_500_000))
}

fn deep() -> String {
    format!("{{\"kind\": \"ConfigMap\", \"apiVersion\": \"v1\", \"data\": {}{}}}", "[".repeat(DEEP), "]".repeat(DEEP))
}

const CUT: &str = "{\"kind\": \"ConfigMap\", \"apiVersion\": \"v1\", \"metadata\": {\"name\": \"cut\"";

fn refused_files(k: &Client<'_>, dir: &Path) {
    // What begins with a brace would be taken for JSON.
    let yaml = format!("---\n{}", deep().replace('"', ""));
    for (name, content, words) in [
        ("big.yaml", big(), &["RequestEntityTooLarge", "limit is 3145728"][..]),
        ("deep.json", deep(), &["deep.json", "depth"]),
        ("deep.yaml", yaml, &["deep.yaml", "depth"]),
        ("cut.json", CUT.into(), &["cut.json"]),
        ("cut.yaml", format!("---\n{}", CUT.replace('"', "")), &["cut.yaml", "did not find expected ',' or '}'"]),
    ] {
        let file = dir.join(name);
        std::fs::write(&file, content).expect("a file");
        let refused = k.run(&["apply", "-f", &file.display().to_string()]);
        assert_eq!(refused.status.code(), Some(1), "{name}");
        says(name, &text(&refused.stderr), words);
    }
}

/// The same and worse, as a client of the API sends it.
fn refused_bodies(cluster: &Cluster) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for (kind, body, code, words) in [
            ("application/json", big().into_bytes(), 413, "limit is 3145728"),
            ("application/json", deep().into_bytes(), 400, "recursion limit exceeded"),
            ("application/yaml", deep().into_bytes(), 400, "exceeded max depth"),
            ("application/json", "{\"a\":".repeat(DEEP).into_bytes(), 400, "recursion limit exceeded"),
            ("application/json", CUT.into(), 400, "EOF while parsing"),
            ("application/json", b"\xff\xfe\0\0".to_vec(), 400, "json parse error"),
            ("application/json", vec![], 400, ""),
            ("application/vnd.kubernetes.protobuf", b"k8s\0\xff\xff\xff\xff".to_vec(), 400, ""),
            ("text/html", b"<html>".to_vec(), 415, "application/json"),
        ] {
            // A connection whose body was not read to its end is closed by the server: the next request has its own.
            let client = objects::client(&cluster.kubeconfig()).await;
            let request = http::Request::post("/api/v1/namespaces/default/configmaps").header("Content-Type", kind);
            let answer = client.request_text(request.body(body).expect("a request")).await;
            match answer {
                Err(kube::Error::Api(status)) => {
                    assert_eq!(status.code, code, "{kind}: {status:?}");
                    says(kind, &status.message, &[words]);
                }
                other => panic!("{kind} {words}: {other:?}"),
            }
        }
    });
}

fn archives(cluster: &Cluster, dir: &Path) {
    let index = dir.join("index.json");
    std::fs::write(&index, "{\"manifests").expect("a file");
    let pack = |archive: &str, what: &str| {
        tools::run(Command::new("tar").current_dir(dir).args(["-cf", archive, what])).expect("tar");
    };
    pack("broken-index.tar", "index.json");
    pack("no-image.tar", "cut.json");
    std::fs::write(dir.join("noise.tar"), [0xfe; 3000]).expect("a file");
    std::fs::write(dir.join("noise.tgz"), b"\x1f\x8bgarbage").expect("a file");
    for (name, words) in [
        ("broken-index.tar", &["entry index.json"][..]),
        ("no-image.tar", &["neither index.json (OCI layout) nor manifest.json"]),
        ("noise.tar", &["neither a tar archive nor a compressed one"]),
        ("noise.tgz", &["cannot be decompressed"]),
        ("nowhere.tar", &["No such file"]),
        (".", &["directory"]),
    ] {
        let output = cluster.skiff(&["image", "load", &dir.join(name).display().to_string()]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        let said = text(&output.stderr);
        says(name, &said, words);
        says(name, &said, &[name]);
        assert!(said.chars().all(|c| c == '\n' || !c.is_control()), "{name}: {said:?}");
    }
}

/// What is accepted and fails later: a pod's name and specification, and what `describe` must say.
fn pods(k: &Client<'_>, registry: &Registry) {
    let image = objects::IMAGE;
    let container = |rest: &str| format!("containers: [{{name: c, image: '{image}', {rest}}}]");
    let node = k.cluster.name.as_str();
    let nowhere = format!("127.0.0.1:{}/samples/nothing:v1", registry.port);
    let rows: Vec<(&str, String, Vec<&str>)> = vec![
        (
            "no-image",
            format!("containers: [{{name: c, image: '{nowhere}'}}]"),
            vec![&nowhere, "ErrImagePull", "manifest unknown"],
        ),
        (
            "bad-image",
            "containers: [{name: c, image: 'not an image'}]".into(),
            vec!["InvalidImageName", "not an image"],
        ),
        (
            "no-registry",
            "containers: [{name: c, image: '127.0.0.1:1/x:v1'}]".into(),
            vec!["ErrImagePull", "127.0.0.1:1", "connection refused"],
        ),
        ("no-command", container("command: [nosuch]"), vec!["nosuch", "executable file not found in $PATH"]),
        (
            "never-ready",
            container("readinessProbe: {exec: {command: [sh, -c, exit 1]}, periodSeconds: 1}"),
            vec!["Unhealthy", "Readiness probe failed"],
        ),
        (
            "no-map",
            container("envFrom: [{configMapRef: {name: later}}]"),
            vec!["CreateContainerConfigError", "configmap \"later\" not found"],
        ),
        (
            "no-secret",
            format!(
                "volumes: [{{name: v, secret: {{secretName: later}}}}], {}",
                container("volumeMounts: [{name: v, mountPath: /v}]")
            ),
            vec!["FailedMount", "secret \"later\" not found"],
        ),
        ("holder", container("ports: [{containerPort: 8080, hostPort: 8099}]"), vec!["Started"]),
    ];
    let manifest = |name: &str, spec: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 1, {spec}}}}}\n"
        )
    };
    let all: String = rows.iter().map(|(name, spec, _)| format!("---\n{}", manifest(name, spec))).collect();
    k.apply(&all);
    k.ok(&["wait", "--for=condition=Ready", "pod/holder", "--timeout=60s"]);
    let taker = container("ports: [{containerPort: 8080, hostPort: 8099}]");
    k.apply(&manifest("taker", &format!("nodeName: {node}, {taker}")));
    let expected = rows.iter().map(|(name, _, words)| (*name, words.clone()));
    for (name, words) in expected.chain([("taker", vec!["host port 8099/TCP is taken by pod default/holder"])]) {
        eventually(&format!("{name} says what is wrong"), || {
            let shown = k.ok(&["describe", "pod", name]);
            words.iter().find(|w| !shown.contains(**w)).map_or(Ok(()), |w| Err(format!("{w:?} is not in:\n{shown}")))
        });
    }
    // What was lacking comes, and all goes on.
    k.ok(&["create", "configmap", "later", "--from-literal=a=b"]);
    k.ok(&["create", "secret", "generic", "later", "--from-literal=a=b"]);
    k.ok(&["delete", "pod", "holder"]);
    k.ok(&["wait", "--for=condition=Ready", "pod/no-map", "pod/no-secret", "pod/taker", "--timeout=60s"]);
}

/// A disk for a cluster's data that is small and soon full.
#[test]
fn a_full_disk_loses_nothing() {
    let Some(machine) = Machine::new() else { return };
    let home = Home::new(Some(machine));
    let cluster = Cluster::at(&home, &format!("full-{}", std::process::id()));
    let disk = cluster.data().parent().expect("a directory").display().to_string();
    // On the machine only: it goes with it.
    cluster.machine().run(&format!("mkdir -p {disk} && mount -t tmpfs -o size=64m skiff-test {disk}"));
    cluster.start(&[]);
    let k = cluster.kubectl(Kubectl::BuiltIn);
    let value = "x".repeat(8 << 10);
    let create = |name: &str| k.run(&["create", "configmap", name, &format!("--from-literal=k={value}")]);
    let mut acknowledged: Vec<String> = vec![];
    let mut count = 0;
    let mut until = |fails: bool| {
        eventually(if fails { "a create is refused" } else { "a create is accepted" }, || {
            count += 1;
            let name = format!("c{count}");
            let output = create(&name);
            let said = text(&output.stderr);
            if output.status.success() {
                acknowledged.push(format!("configmap/{name}"));
            }
            if output.status.success() != fails { Ok(said) } else { Err(said) }
        })
    };
    until(false);
    cluster.machine().run(&format!("dd if=/dev/zero of={disk}/filler bs=64k 2>/dev/null || true"));
    let said = until(true);
    says("a full disk", &said, &["No space left on device"]);
    assert!(k.ok(&["get", "configmaps"]).contains("c1 "), "reads go on");
    cluster.machine().run(&format!("rm {disk}/filler"));
    until(false);
    let all =
        |k: &Client<'_>| k.ok(&["get", "configmaps", "-o", "name"]).lines().map(str::to_owned).collect::<Vec<_>>();
    let there = all(&k);
    assert!(acknowledged.iter().all(|a| there.contains(a)), "{acknowledged:?} {there:?}");
    cluster.skiff_ok(&["down"]);
    cluster.start(&[]);
    let there = all(&k);
    assert!(acknowledged.iter().all(|a| there.contains(a)), "after a restart: {acknowledged:?} {there:?}");
}

#[test]
fn a_root_without_its_rights_is_told_so() {
    if !tools::root_with(&["setpriv", "unshare"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let refused = |program: &str, args: &[&str], words: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).env("SKIFF_ROOT", dir.path()).env("SKIFF_CLUSTER", "bare");
        let output = command.output().expect("it runs");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        says(program, &said, words);
    };
    let bounded = ["--bounding-set=-net_admin,-sys_admin", "--inh-caps=-net_admin,-sys_admin", common::SKIFF, "up"];
    refused("setpriv", &bounded, &["CAP_NET_ADMIN is missing", "CAP_SYS_ADMIN is missing", "--privileged"]);
    let none = format!("echo 0 > /proc/sys/user/max_net_namespaces && exec {} up", common::SKIFF);
    let possible = Command::new("unshare").args(["-Ur", "true"]).status().is_ok_and(|s| s.success());
    match possible {
        true => refused("unshare", &["-Ur", "sh", "-c", &none], &["max_net_namespaces is 0", "sysctl -w"]),
        false => tools::skip("user namespaces cannot be made here"),
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 0, "nothing was begun");
}

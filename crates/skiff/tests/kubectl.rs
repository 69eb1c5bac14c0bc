//! The built-in kubectl beside a stock one of release 1.32: same words in, same bytes out. Skipped where there is no such kubectl.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use skiff_apiserver::{Config, Server, pki::Pki};
use skiff_store::memory::Memory;
use tokio_util::sync::CancellationToken;

const MANIFEST: &str = include_str!("kubectl/objects.yaml");

/// Nothing changes: both ask the same server.
const QUESTIONS: &[&str] = &[
    "get svc",
    "get svc -o wide --show-labels",
    "get deploy,svc,ep -o wide --show-labels",
    "get all -A",
    "get svc/full deploy/web",
    "get svc full nope",
    "get svc -o yaml",
    "get svc -o json",
    "get all -o name",
    "get deploy web -o yaml",
    "get svc full -o jsonpath={.spec.ports[*].port}",
    "get svc -o custom-columns=N:.metadata.name,S:.spec.selector,P:.spec.ports[*].port",
    "get svc --sort-by=.metadata.name --no-headers",
    "get clusterrole system:controller:service-controller -o yaml",
    "get nope",
    "get pods -o foo",
    "get pods -n nowhere",
    "get pods/a b",
    "get svc -l a=b -A",
    "describe svc",
    "describe deploy web",
    "describe rs web-abc",
    "describe ep",
    "describe endpointslices",
    "describe cm cc",
    "describe secret ss",
    "describe ns default",
    "describe role r",
    "describe rolebinding rb",
    "describe clusterrole system:controller:endpoint-controller",
    "describe clusterrolebinding system:controller:endpoint-controller",
    "describe pod nope",
    "expose deployment web --name=x --port=80 --target-port=8080 --dry-run=client -o yaml",
    "expose deployment web --type=NodePort --name=x --dry-run=client -o yaml",
    "expose svc web --name=r --port=3 --dry-run=client -o yaml --protocol=UDP",
    "create deployment web --image=nginx:1 --port=80 --replicas=2 --dry-run=client -o yaml",
    "create service clusterip s --tcp=80:8080 --tcp=443 --dry-run=client -o yaml",
    "create service clusterip s --clusterip=None --dry-run=client -o yaml",
    "create service externalname s --external-name=a.b --dry-run=client -o yaml",
    "create cm c --from-literal=a=b --from-literal=k=v --dry-run=client -o yaml",
    "run x --image=busybox --dry-run=client -o yaml -- sleep 1",
    "exec nope -- ls",
    "exec nope ls",
    "exec nope",
    "logs nope",
    "rollout history deploy/web",
    "rollout undo deploy/web",
    "apply",
    "delete",
    "delete pods",
    "config view",
    "config current-context",
];

/// Each does these on a server of its own, one after the other.
const CHANGES: &[&str] = &[
    "apply -f objects.yaml",
    "apply -f objects.yaml",
    "create -f objects.yaml --dry-run=client",
    "scale deploy web --replicas=3",
    "label deploy web x=y",
    "label deploy web x=y",
    "label deploy web x=z",
    "label deploy web x=z --overwrite",
    "label deploy web x-",
    "label deploy web x-",
    "annotate deploy web q=r",
    "annotate deploy web q-",
    "rollout pause deploy/web",
    "rollout pause deploy/web",
    "rollout resume deploy/web",
    "rollout restart deploy/web",
    "expose deploy web --name=more --port=80",
    "create deployment other --image=nginx",
    "create deployment other --image=nginx",
    "set image deploy/other nginx=nginx:2",
    "wait deploy/other --for=jsonpath={.spec.replicas}=1",
    "delete svc more",
    "delete svc more",
    "delete deploy other --wait=false",
    "delete -f objects.yaml",
    "delete -f objects.yaml --ignore-not-found",
];

fn stock() -> Result<PathBuf, String> {
    let asked = Command::new("kubectl").args(["version", "--client"]).output();
    let text = asked.map_err(|e| format!("kubectl: {e}"))?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    match text.contains("v1.32.") {
        true => Ok("kubectl".into()),
        false => Err(format!("kubectl is not of release 1.32: {}", text.lines().next().unwrap_or_default())),
    }
}

struct Served {
    dir: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pki = Pki::load_or_create(&dir.path().join("pki"), &["127.0.0.1".into()]).unwrap();
    let config = Config::new("test", "192.0.2.1:6443".parse().unwrap(), pki.service_account_key());
    let server = Server::new(config, Arc::new(Memory::new())).await.unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(server.serve(listener, Arc::new(pki.server_config().unwrap()), stop.clone()));
    let encode = |text: &str| STANDARD.encode(text);
    let (ca, cert, key) = (encode(pki.ca_pem()), encode(&pki.admin().certificate), encode(&pki.admin().key));
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: \"https://{address}\", certificate-authority-data: {ca}}}}}]\n\
         users: [{{name: u, user: {{client-certificate-data: {cert}, client-key-data: {key}}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
    );
    std::fs::write(dir.path().join("kubeconfig"), kubeconfig).unwrap();
    std::fs::write(dir.path().join("objects.yaml"), MANIFEST).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_skiff"), dir.path().join("kubectl")).unwrap();
    Served { dir, stop }
}

async fn ask(program: &Path, served: &Served, line: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(program);
    command.args(line.split(' ')).current_dir(served.dir.path());
    command.env("KUBECONFIG", served.dir.path().join("kubeconfig")).env("HOME", served.dir.path());
    let done: Output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (done.status.code(), text(done.stdout), text(done.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn prints_what_stock_kubectl_prints() {
    let stock = match stock() {
        Ok(stock) => stock,
        Err(why) => {
            return skiff_testkit::tools::skip(&why);
        }
    };
    let (one, two) = (serve().await, serve().await);
    let ours = |served: &Served| served.dir.path().join("kubectl");
    let mut wrong = Vec::new();
    ask(&stock, &one, "apply -f objects.yaml").await;
    for line in QUESTIONS {
        // Ages may change between the two.
        let mut pair = None;
        for _ in 0..3 {
            let both = (ask(&stock, &one, line).await, ask(&ours(&one), &one, line).await);
            let same = both.0 == both.1;
            pair = Some(both);
            if same {
                break;
            }
        }
        let (want, got) = pair.unwrap();
        if want != got {
            wrong.push(format!("kubectl {line}\n stock {want:?}\n ours  {got:?}"));
        }
    }
    for line in CHANGES {
        let (want, got) = (ask(&stock, &one, line).await, ask(&ours(&two), &two, line).await);
        // The first `apply` was already done for the questions.
        if want != got && *line != "apply -f objects.yaml" {
            wrong.push(format!("kubectl {line}\n stock {want:?}\n ours  {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

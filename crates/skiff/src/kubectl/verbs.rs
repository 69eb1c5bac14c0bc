//! The verbs: names, flags and help as one table, and the way from a verb to what does it.

use super::{
    Session, about, apply, auth, create, delete, describe, dryrun,
    error::{Error, Result},
    exec, explain, expose,
    flags::{Args, Flag, GLOBAL, Takes, value},
    forward, get, label, logs, manifest, nodes, output, rollout, run as run_pod, scale, wait,
};

pub(super) struct Verb {
    /// All names; the first is the real one. Two words for a verb below another.
    names: &'static [&'static str],
    /// What stands after the name.
    usage: &'static str,
    about: &'static str,
    examples: &'static str,
    pub(super) flags: &'static [&'static [Flag]],
}

impl Verb {
    pub(super) fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or_default()
    }
}

const VERBS: &[Verb] = &[
    Verb {
        names: &["get"],
        usage: "TYPE[,TYPE…] [NAME…] | TYPE/NAME… | -f FILE",
        about: "Show objects: one line each, or in full with -o yaml.",
        examples: "kubectl get pods\nkubectl get deploy,svc,endpoints -o wide --show-labels\nkubectl get pods -l 'app in (web, db)' -A\n\
                   kubectl get svc web -o jsonpath='{.spec.clusterIP}'\nkubectl get pods -w",
        flags: &[get::FLAGS, get::SELECT, output::FLAG, manifest::FLAGS],
    },
    Verb {
        names: &["apply"],
        usage: "-f FILE",
        about: "Make it so: create what the file describes, or change it to be like the file.",
        examples: "kubectl apply -f web.yaml\nkubectl apply -f manifests/ -R\ncat web.yaml | kubectl apply -f -\n\
                   kubectl apply -f web.yaml --dry-run=server",
        flags: &[apply::FLAGS, dryrun::FLAG, output::FLAG, manifest::FLAGS],
    },
    Verb {
        names: &["create"],
        usage: "-f FILE | KIND NAME",
        about: "Create objects. They must not exist yet.",
        examples: "kubectl create -f web.yaml\nkubectl create deployment web --image=nginx --replicas=2\n\
                   kubectl create service nodeport web --tcp=80:8080\nkubectl create namespace test",
        flags: &[create::FLAGS, dryrun::FLAG, output::FLAG, manifest::FLAGS],
    },
    Verb {
        names: &["create deployment", "create deploy", "create dep"],
        usage: "NAME --image=IMAGE… [-- COMMAND ARGS…]",
        about: "Create a Deployment.",
        examples: "kubectl create deployment web --image=nginx --replicas=3 --port=80",
        flags: &[create::DEPLOYMENT, create::FLAGS, dryrun::FLAG, output::FLAG],
    },
    Verb {
        names: &["create service", "create svc"],
        usage: "clusterip|nodeport|loadbalancer|externalname NAME [--tcp=PORT:TARGETPORT…]",
        about: "Create a Service that selects the pods labelled app=NAME.",
        examples: "kubectl create service clusterip web --tcp=80:8080\nkubectl create service clusterip web --clusterip=None\n\
                   kubectl create service externalname db --external-name=db.example.com",
        flags: &[create::SERVICE, create::FLAGS, dryrun::FLAG, output::FLAG],
    },
    Verb {
        names: &["create namespace", "create ns"],
        usage: "NAME",
        about: "Create a namespace.",
        examples: "kubectl create namespace test",
        flags: &[create::FLAGS, dryrun::FLAG, output::FLAG],
    },
    Verb {
        names: &["create serviceaccount", "create sa"],
        usage: "NAME",
        about: "Create a service account.",
        examples: "kubectl create serviceaccount robot",
        flags: &[create::FLAGS, dryrun::FLAG, output::FLAG],
    },
    Verb {
        names: &["create configmap", "create cm"],
        usage: "NAME [--from-literal=KEY=VALUE…] [--from-file=[KEY=]FILE…]",
        about: "Create a ConfigMap from values and files.",
        examples: "kubectl create configmap settings --from-literal=mode=fast --from-file=app.conf",
        flags: &[create::DATA, create::FLAGS, dryrun::FLAG, output::FLAG],
    },
    Verb {
        names: &["create secret generic"],
        usage: "NAME [--from-literal=KEY=VALUE…] [--from-file=[KEY=]FILE…]",
        about: "Create a Secret from values and files.",
        examples: "kubectl create secret generic password --from-literal=password=s3cret",
        flags: &[create::DATA, create::FLAGS, dryrun::FLAG, output::FLAG],
    },
    Verb {
        names: &["delete"],
        usage: "TYPE NAME… | TYPE -l LABELS | TYPE --all | -f FILE",
        about: "Delete objects, and wait until they are gone.",
        examples: "kubectl delete svc web\nkubectl delete -f web.yaml\nkubectl delete pods -l app=web --now\n\
                   kubectl delete pod web-0 --force --grace-period=0",
        flags: &[delete::FLAGS, get::SELECT, dryrun::FLAG, output::FLAG, manifest::FLAGS],
    },
    Verb {
        names: &["exec"],
        usage: "POD | TYPE/NAME [-c CONTAINER] [-it] -- COMMAND ARGS…",
        about: "Run a command in a container. Its exit code is passed on.",
        examples: "kubectl exec web-0 -- curl -s http://db:5432\nkubectl exec -it deploy/web -- sh",
        flags: &[exec::FLAGS],
    },
    Verb {
        names: &["attach"],
        usage: "POD | TYPE/NAME [-c CONTAINER] [-it]",
        about: "Share the streams of what already runs in a container.",
        examples: "kubectl attach -it web-0",
        flags: &[exec::FLAGS],
    },
    Verb {
        names: &["logs", "log"],
        usage: "POD | TYPE/NAME | -l LABELS [-c CONTAINER]",
        about: "Print what a container wrote.",
        examples: "kubectl logs web-0 -f --tail=20\nkubectl logs deploy/web --all-containers\nkubectl logs -l app=web --prefix",
        flags: &[logs::FLAGS],
    },
    Verb {
        names: &["describe"],
        usage: "TYPE [NAME…] | TYPE/NAME… | -f FILE",
        about: "Tell everything about objects, with the events that concern them.",
        examples: "kubectl describe svc web\nkubectl describe pods -l app=web\nkubectl describe node",
        flags: &[describe::FLAGS, get::SELECT, manifest::FLAGS],
    },
    Verb {
        names: &["expose"],
        usage: "TYPE NAME --port=PORT [--target-port=PORT]",
        about: "Put a Service in front of a Deployment, ReplicaSet, Pod or other Service.",
        examples: "kubectl expose deployment web --port=80 --target-port=8080\n\
                   kubectl expose deploy web --port=80 --type=NodePort --name=web-np --dry-run=client -o yaml",
        flags: &[expose::FLAGS, dryrun::FLAG, output::FLAG, manifest::FLAGS],
    },
    Verb {
        names: &["scale"],
        usage: "TYPE NAME --replicas=COUNT",
        about: "Say how many pods there shall be.",
        examples: "kubectl scale deploy web --replicas=3\nkubectl scale rs/web-1 --current-replicas=2 --replicas=0",
        flags: &[scale::FLAGS, SELECTOR, dryrun::FLAG, output::FLAG, manifest::FLAGS],
    },
    Verb {
        names: &["rollout status"],
        usage: "TYPE NAME",
        about: "Wait until a new version is everywhere, and tell how far it has come.",
        examples: "kubectl rollout status deploy/web --timeout=1m",
        flags: ROLLOUT,
    },
    Verb {
        names: &["rollout history"],
        usage: "TYPE NAME [--revision=NUMBER]",
        about: "The versions that there were.",
        examples: "kubectl rollout history deploy/web\nkubectl rollout history deploy/web --revision=2",
        flags: ROLLOUT,
    },
    Verb {
        names: &["rollout undo"],
        usage: "TYPE NAME [--to-revision=NUMBER]",
        about: "Go back to the version before, or to another one.",
        examples: "kubectl rollout undo deploy/web",
        flags: ROLLOUT,
    },
    Verb {
        names: &["rollout restart"],
        usage: "TYPE NAME",
        about: "Replace all pods, a few at a time.",
        examples: "kubectl rollout restart deploy/web",
        flags: ROLLOUT,
    },
    Verb {
        names: &["rollout pause"],
        usage: "TYPE NAME",
        about: "Let changes to the template wait.",
        examples: "kubectl rollout pause deploy/web",
        flags: ROLLOUT,
    },
    Verb {
        names: &["rollout resume"],
        usage: "TYPE NAME",
        about: "Let changes to the template happen again.",
        examples: "kubectl rollout resume deploy/web",
        flags: ROLLOUT,
    },
    Verb {
        names: &["label"],
        usage: "TYPE NAME… KEY=VALUE… KEY-…",
        about: "Set labels; KEY- removes one.",
        examples: "kubectl label pod web-0 app=other --overwrite\nkubectl label pods --all tier-",
        flags: &[label::FLAGS, get::SELECT, dryrun::FLAG, output::FLAG, manifest::FLAGS],
    },
    Verb {
        names: &["annotate"],
        usage: "TYPE NAME… KEY=VALUE… KEY-…",
        about: "Set annotations; KEY- removes one.",
        examples: "kubectl annotate deploy web kubernetes.io/change-cause='new image'",
        flags: &[label::FLAGS, get::SELECT, dryrun::FLAG, output::FLAG, manifest::FLAGS],
    },
    Verb {
        names: &["run"],
        usage: "NAME --image=IMAGE [-- ARGS…]",
        about: "Run one pod.",
        examples: "kubectl run web --image=nginx --port=80\nkubectl run -it --rm try --image=busybox --restart=Never -- sh",
        flags: &[run_pod::FLAGS, dryrun::FLAG, output::FLAG],
    },
    Verb {
        names: &["wait"],
        usage: "TYPE NAME --for=condition=NAME|delete|jsonpath=PATH=VALUE",
        about: "Wait until something holds.",
        examples: "kubectl wait pod/web-0 --for=condition=Ready --timeout=1m\nkubectl wait svc/web --for=delete",
        flags: &[wait::FLAGS, get::SELECT, output::FLAG, manifest::FLAGS],
    },
    Verb {
        names: &["patch"],
        usage: "TYPE NAME -p PATCH",
        about: "Change some fields of an object.",
        examples: "kubectl patch svc web -p '{\"spec\":{\"type\":\"NodePort\"}}'",
        flags: &[scale::PATCH, dryrun::FLAG, output::FLAG, manifest::FLAGS],
    },
    Verb {
        names: &["replace"],
        usage: "-f FILE",
        about: "Put the object of the file in place of the one that is there.",
        examples: "kubectl replace -f web.yaml",
        flags: &[create::FLAGS, dryrun::FLAG, output::FLAG, manifest::FLAGS],
    },
    Verb {
        names: &["set image"],
        usage: "TYPE NAME CONTAINER=IMAGE…",
        about: "Change the image of containers.",
        examples: "kubectl set image deploy/web web=nginx:1.27",
        flags: &[scale::IMAGE, SELECTOR, dryrun::FLAG, output::FLAG, manifest::FLAGS],
    },
    Verb {
        names: &["explain"],
        usage: "TYPE[.FIELD…]",
        about: "What a kind and its fields mean.",
        examples: "kubectl explain svc.spec.ports\nkubectl explain deploy --recursive",
        flags: &[explain::FLAGS],
    },
    Verb {
        names: &["port-forward"],
        usage: "POD | TYPE/NAME [LOCAL:]REMOTE…",
        about: "Make ports of a pod, or of a pod behind a Service, ports of this machine.",
        examples: "kubectl port-forward web-0 8080:80\nkubectl port-forward svc/web :http",
        flags: &[forward::FLAGS],
    },
    Verb {
        names: &["cordon"],
        usage: "NODE… | -l LABELS",
        about: "Let a node take no new pods.",
        examples: "kubectl cordon skiff-2",
        flags: &[SELECTOR, dryrun::FLAG],
    },
    Verb {
        names: &["uncordon"],
        usage: "NODE… | -l LABELS",
        about: "Let a node take new pods again.",
        examples: "kubectl uncordon skiff-2",
        flags: &[SELECTOR, dryrun::FLAG],
    },
    Verb {
        names: &["taint"],
        usage: "nodes NODE… KEY=VALUE:EFFECT… KEY:EFFECT-…",
        about: "Keep pods off a node that do not tolerate it; a final '-' takes a taint away.",
        examples: "kubectl taint nodes skiff-2 disk=slow:NoSchedule\nkubectl taint nodes skiff-2 disk-",
        flags: &[nodes::TAINT, SELECTOR, dryrun::FLAG],
    },
    Verb {
        names: &["auth can-i"],
        usage: "VERB TYPE[/NAME] | VERB /PATH",
        about: "Whether you may do something: yes or no, also by the exit code.",
        examples: "kubectl auth can-i create deployments\nkubectl auth can-i list secrets --as=system:serviceaccount:default:default",
        flags: &[auth::CAN_I],
    },
    Verb {
        names: &["auth whoami"],
        usage: "",
        about: "Who the server takes you for.",
        examples: "kubectl auth whoami",
        flags: &[],
    },
    Verb {
        names: &["top", "top node", "top pod", "top nodes", "top pods"],
        usage: "",
        about: "Not available: no metrics server runs in this cluster.",
        examples: "kubectl top nodes",
        flags: &[],
    },
    Verb {
        names: &["api-resources"],
        usage: "",
        about: "The kinds that the server has.",
        examples: "kubectl api-resources --namespaced=true",
        flags: &[about::RESOURCES],
    },
    Verb {
        names: &["api-versions"],
        usage: "",
        about: "The groups and versions that the server has.",
        examples: "kubectl api-versions",
        flags: &[],
    },
    Verb {
        names: &["cluster-info"],
        usage: "",
        about: "Where the cluster is.",
        examples: "kubectl cluster-info",
        flags: &[],
    },
    Verb {
        names: &["version"],
        usage: "",
        about: "The versions of this program and of the server.",
        examples: "kubectl version -o yaml",
        flags: &[about::VERSION],
    },
    Verb {
        names: &["config view"],
        usage: "",
        about: "The kubeconfig, without secrets.",
        examples: "kubectl config view --minify",
        flags: &[about::CONFIG],
    },
    Verb {
        names: &["config get-contexts"],
        usage: "[NAME…]",
        about: "The contexts of the kubeconfig.",
        examples: "kubectl config get-contexts",
        flags: &[about::CONFIG],
    },
    Verb {
        names: &["config current-context"],
        usage: "",
        about: "The context that is used.",
        examples: "kubectl config current-context",
        flags: &[about::CONFIG],
    },
    Verb {
        names: &["config use-context"],
        usage: "NAME",
        about: "Use another context from now on.",
        examples: "kubectl config use-context skiff-test",
        flags: &[about::CONFIG],
    },
];

const ROLLOUT: &[&[Flag]] = &[rollout::FLAGS, SELECTOR, dryrun::FLAG, output::FLAG, manifest::FLAGS];

const SELECTOR: &[Flag] = &[value("selector", "only objects with these labels").short('l')];

/// The verb that the first words name, and how many of them do.
pub(super) fn find(first: &str, second: Option<&str>) -> Option<(&'static Verb, usize)> {
    let two = second.map(|second| format!("{first} {second}"));
    let named = |name: &str| VERBS.iter().find(|v| v.names.contains(&name));
    if let Some(two) = &two {
        if two == "create secret" {
            return named("create secret generic").map(|v| (v, 2));
        }
        if let Some(verb) = named(two) {
            return Some((verb, 2));
        }
    }
    named(first).map(|verb| (verb, 1))
}

/// The help of a word that only stands before others: `rollout`, `config`.
pub(super) fn group(first: &str) -> Option<String> {
    let prefix = format!("{first} ");
    let below: Vec<&Verb> = VERBS.iter().filter(|v| v.name().starts_with(&prefix)).collect();
    (!below.is_empty()).then(|| list(&below))
}

fn list(verbs: &[&Verb]) -> String {
    let widest = verbs.iter().map(|v| v.name().len()).max().unwrap_or(0);
    verbs.iter().map(|v| format!("  {:widest$}  {}\n", v.name(), v.about)).collect()
}

pub(super) fn overview() -> String {
    let all: Vec<&Verb> = VERBS.iter().collect();
    format!(
        "kubectl speaks to a Kubernetes cluster.\n\nUsage: kubectl VERB [words and flags]\n\nVerbs:\n{}\nFlags of every verb:\n{}\n\
         `kubectl VERB --help` tells more, with examples.\n",
        list(&all),
        flags(&[GLOBAL]),
    )
}

pub(super) fn help(verb: &Verb) -> String {
    let examples: String = verb.examples.lines().map(|l| format!("  {}\n", l.trim_start())).collect();
    format!(
        "{}\n\nUsage: kubectl {} {}\n\nExamples:\n{examples}\nFlags:\n{}\nFlags of every verb: see `kubectl help`.\n",
        verb.about,
        verb.name(),
        verb.usage,
        flags(verb.flags),
    )
}

fn flags(lists: &[&[Flag]]) -> String {
    let mut all: Vec<&Flag> = lists.iter().flat_map(|l| l.iter()).collect();
    all.sort_by_key(|f| f.long);
    let shown = |f: &Flag| {
        let short = if f.short == '\0' { "    ".to_owned() } else { format!("-{}, ", f.short) };
        let value = match f.takes {
            Takes::Nothing => "",
            Takes::Value => "=VALUE",
            Takes::Perhaps(_) => "[=VALUE]",
        };
        format!("{short}--{}{value}", f.long)
    };
    let widest = all.iter().map(|f| shown(f).len()).max().unwrap_or(0);
    all.iter().map(|f| format!("  {:widest$}  {}\n", shown(f), f.help)).collect()
}

pub(super) async fn run(verb: &Verb, args: &Args, as_skiff: bool) -> Result<()> {
    if let Some(what) = verb.name().strip_prefix("config ") {
        return about::config(args, as_skiff, what);
    }
    if verb.name() == "version" && args.on("client") {
        return about::version(None, args).await;
    }
    let session = Session::open(args, as_skiff).await?;
    match verb.name() {
        "get" => get::run(&session, args).await,
        "apply" => apply::run(&session, args).await,
        "create" => create::files(&session, args).await,
        "create service" => {
            let mut args = args.clone();
            if args.words.is_empty() {
                return Err(Error::Plain(
                    "which type of Service? clusterip, nodeport, loadbalancer or externalname".into(),
                ));
            }
            let what = args.words.remove(0);
            match what.as_str() {
                "clusterip" | "nodeport" | "loadbalancer" | "externalname" => {
                    create::generated(&session, &args, &format!("service {what}")).await
                }
                _ => Err(Error::Plain(format!(
                    "unknown type of Service {what:?}: use clusterip, nodeport, loadbalancer or externalname"
                ))),
            }
        }
        "create secret generic" => {
            let mut args = args.clone();
            if args.words.first().map(String::as_str) != Some("generic") {
                return Err(Error::Plain(
                    "only `create secret generic` is supported; others can be created with -f".into(),
                ));
            }
            args.words.remove(0);
            create::generated(&session, &args, "secret generic").await
        }
        name if name.starts_with("create ") => create::generated(&session, args, &name["create ".len()..]).await,
        "delete" => delete::run(&session, args).await,
        "describe" => describe::run(&session, args).await,
        "expose" => expose::run(&session, args).await,
        "scale" => scale::run(&session, args).await,
        "label" => label::run(&session, args, label::What::Labels).await,
        "annotate" => label::run(&session, args, label::What::Annotations).await,
        "run" => run_pod::run(&session, args).await,
        "wait" => wait::run(&session, args).await,
        "patch" => scale::patch(&session, args).await,
        "replace" => scale::replace(&session, args).await,
        "set image" => scale::image(&session, args).await,
        "explain" => explain::run(&session, args).await,
        "api-resources" => about::api_resources(&session, args).await,
        "api-versions" => about::api_versions(&session).await,
        "cluster-info" => about::cluster_info(&session, args).await,
        "version" => about::version(Some(&session), args).await,
        name if name.starts_with("rollout ") => rollout::run(&session, args, &name["rollout ".len()..]).await,
        "port-forward" => forward::run(&session, args).await,
        "cordon" => nodes::cordon(&session, args, true).await,
        "uncordon" => nodes::cordon(&session, args, false).await,
        "taint" => nodes::taint(&session, args).await,
        "auth can-i" => auth::can_i(&session, args).await,
        "auth whoami" => auth::whoami(&session).await,
        "top" => Err(Error::Plain("Metrics API not available".into())),
        "attach" => exec::attach(&session, args).await,
        "exec" => exec::run(&session, args).await,
        "logs" => logs::run(&session, args).await,
        name => Err(Error::Plain(format!("{name} is not built in"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_verb_has_a_flag_twice() {
        for verb in VERBS {
            let mut seen: Vec<(&str, char)> = Vec::new();
            for flag in verb.flags.iter().flat_map(|l| l.iter()) {
                let clash = seen.iter().any(|(l, s)| *l == flag.long || (*s == flag.short && *s != '\0'));
                assert!(!clash, "{}: --{}", verb.name(), flag.long);
                seen.push((flag.long, flag.short));
            }
        }
    }

    #[test]
    fn verbs_by_name() {
        let name = |a, b| find(a, b).map(|(v, n)| (v.name(), n));
        assert_eq!(name("create", Some("deploy")), Some(("create deployment", 2)));
        assert_eq!(name("create", None), Some(("create", 1)));
        assert_eq!(name("create", Some("secret")), Some(("create secret generic", 2)));
        assert_eq!(name("nothing", None), None);
        assert!(!overview().is_empty() && VERBS.iter().all(|v| help(v).contains(v.usage)));
    }
}

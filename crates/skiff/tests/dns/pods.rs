//! Names as programs in pods find them: the C library's resolver (`getent`), musl's, busybox' and dig, each with the
//! pod's own resolv.conf.

use std::{fs, path::Path, process::Command};

use skiff_node::image::make::{Layer, Recipe, archive};
use skiff_testkit::tools;

use crate::{
    common::{Client, Cluster, Kubectl, eventually, images::packages, text},
    resolver,
};

const PACKAGES: [&str; 3] = ["bind9-dnsutils", "libc-bin", "busybox-static"];

/// Prints the IPv4 addresses of its argument, or nothing, as musl's resolver finds them.
const LOOKUP: &str = r#"
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    int error = argc == 2 ? getaddrinfo(argv[1], 0, &hints, &found) : EAI_FAIL;
    if (error) return fprintf(stderr, "%s\n", gai_strerror(error)), 1;
    for (; found; found = found->ai_next) {
        char text[INET_ADDRSTRLEN];
        puts(inet_ntop(AF_INET, &((struct sockaddr_in *)found->ai_addr)->sin_addr, text, sizeof text));
    }
}
"#;

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.7.7, ipFamilyPolicy: PreferDualStack, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 5432}]
endpoints: [{addresses: [10.244.0.201], hostname: db-0}, {addresses: [10.244.0.202]}]
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: web.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: abroad}
spec: {type: ExternalName, externalName: example.org}
---
apiVersion: v1
kind: Pod
metadata: {name: plain}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: names, imagePullPolicy: Never}]}
---
apiVersion: v1
kind: Pod
metadata: {name: own}
spec:
  terminationGracePeriodSeconds: 0
  dnsPolicy: None
  dnsConfig: {nameservers: [10.96.0.10], searches: [svc.cluster.local], options: [{name: ndots, value: '2'}]}
  containers: [{name: main, image: names, imagePullPolicy: Never}]
---
apiVersion: v1
kind: Pod
metadata: {name: many}
spec:
  terminationGracePeriodSeconds: 0
  dnsConfig: {nameservers: [192.0.2.1, 192.0.2.2, 192.0.2.3]}
  containers: [{name: main, image: names, imagePullPolicy: Never}]
";

/// What a name is in a pod with the usual resolv.conf; nothing when it is none.
const NAMES: &[(&str, &[&str])] = &[
    ("web", &["10.96.7.7"]),
    ("web.default", &["10.96.7.7"]),
    ("web.default.svc", &["10.96.7.7"]),
    ("web.default.svc.cluster.local", &["10.96.7.7"]),
    ("WEB.Default.SVC", &["10.96.7.7"]),
    ("db", &["10.244.0.201", "10.244.0.202"]),
    ("db-0.db", &["10.244.0.201"]),
    ("10-244-0-202.db.default.svc.cluster.local", &["10.244.0.202"]),
    ("alias", &["10.96.7.7"]),
    ("abroad", &["192.0.2.99"]),
    ("kubernetes.default", &["10.96.0.1"]),
    ("kube-dns.kube-system", &["10.96.0.10"]),
    ("10-244-0-7.default.pod.cluster.local", &["10.244.0.7"]),
    ("example.org", &["192.0.2.99"]),
    ("missing.default.svc.cluster.local.", &[]),
    ("db-1.db.default.svc.cluster.local.", &[]),
];

#[test]
fn every_resolver_in_a_pod_finds_the_same() {
    if !tools::root_with(&["musl-gcc", "apt-get", "dpkg-deb"]) {
        return;
    }
    let upstream = resolver().to_string();
    let cluster = Cluster::up("names", &["--dns-upstream", &upstream]);
    load(&cluster);
    let k = cluster.kubectl(Kubectl::BuiltIn);
    k.apply(OBJECTS);
    for pod in ["plain", "own", "many"] {
        k.ok(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"]);
    }
    eventually("the node's server has what was applied last", || {
        let found = addresses(&k, "plain", &["dig", "+short", "+search", "abroad"]);
        if found == ["192.0.2.99"] { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let wrong: Vec<String> = NAMES.iter().flat_map(|(name, want)| wrong(&k, name, want)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    other_records(&k);
    own_configuration(&k);
    too_many_resolvers(&k);
    walks_that_end_early(&cluster, &k);
}

/// Where the resolvers of the pod `plain` find something else.
fn wrong(k: &Client<'_>, name: &str, want: &[&str]) -> Vec<String> {
    let resolvers: [&[&str]; 4] = [
        &["dig", "+short", "+search", name, "A"],
        &["getent", "ahostsv4", name],
        &["/lookup", name],
        &["busybox", "nslookup", "-type=a", name],
    ];
    // busybox appends nothing to a name with dots in it, whatever ndots says: it is asked for whole names alone.
    let whole = name.trim_end_matches('.').ends_with("cluster.local") || !name.contains('.') || name == "example.org";
    let asked = resolvers.iter().filter(|command| command[0] != "busybox" || whole);
    let found = asked.map(|command| (command, addresses(k, "plain", command)));
    found.filter(|(_, found)| found != want).map(|(command, found)| format!("{command:?}: {found:?}")).collect()
}

/// The IPv4 addresses that a command in the pod printed as answers, sorted, each once.
fn addresses(k: &Client<'_>, pod: &str, command: &[&str]) -> Vec<String> {
    let said = text(&k.try_exec(pod, command).stdout);
    // busybox first says whom it asks.
    let answers = if command[0] == "busybox" { said.split_once("\n\n").map_or("", |(_, rest)| rest) } else { &said };
    let words = answers.split_whitespace().filter(|word| word.parse::<std::net::Ipv4Addr>().is_ok());
    let mut found: Vec<String> = words.map(str::to_owned).collect();
    found.sort();
    found.dedup();
    found
}

fn other_records(k: &Client<'_>) {
    let said = |command: &[&str]| k.exec("plain", command);
    let ipv6 = k.jsonpath(&["svc", "web"], "{.spec.clusterIPs[1]}");
    assert!(said(&["getent", "ahostsv6", "web"]).contains(&ipv6), "{ipv6}");
    assert!(said(&["getent", "hosts", "10.96.7.7"]).contains("web.default.svc.cluster.local"));
    assert!(said(&["getent", "hosts", &ipv6]).contains("web.default.svc.cluster.local"));
    assert!(said(&["busybox", "nslookup", "10.244.0.201"]).contains("db-0.db.default.svc.cluster.local"));
    let dig = |args: &[&str]| said(&[&["dig", "+short", "+search"], args].concat());
    assert_eq!(dig(&["_http._tcp.web", "SRV"]), "0 100 80 web.default.svc.cluster.local.\n");
    assert_eq!(dig(&["+tcp", "_sql._tcp.db", "SRV"]).lines().count(), 2);
    assert_eq!(dig(&["alias", "CNAME"]), "web.default.svc.cluster.local.\n");
}

/// dnsPolicy None: the search path and `ndots` of dnsConfig alone.
fn own_configuration(k: &Client<'_>) {
    let conf = k.exec("own", &["busybox", "cat", "/etc/resolv.conf"]);
    assert_eq!(conf, "nameserver 10.96.0.10\nsearch svc.cluster.local\noptions ndots:2\n");
    for resolver in [&["getent", "ahostsv4"][..], &["/lookup"]] {
        let find = |name| addresses(k, "own", &[resolver, &[name]].concat());
        assert_eq!(find("web.default"), ["10.96.7.7"], "{resolver:?}");
        assert_eq!(find("db-0.db.default.svc.cluster.local"), ["10.244.0.201"], "{resolver:?}");
        // Not below the namespace, since that is not in the search path: the resolver outside has every name.
        assert_eq!(find("web"), ["192.0.2.99"], "{resolver:?}");
    }
}

/// A resolver reads three: the fourth is left out, and an event says so.
fn too_many_resolvers(k: &Client<'_>) {
    let conf = k.exec("many", &["busybox", "cat", "/etc/resolv.conf"]);
    let servers: Vec<&str> = conf.lines().filter_map(|line| line.strip_prefix("nameserver ")).collect();
    assert_eq!(servers, ["10.96.0.10", "192.0.2.1", "192.0.2.2"]);
    let events = k.jsonpath(
        &["events", "--field-selector", "involvedObject.name=many,reason=DNSConfigForming"],
        "{.items[*].message}",
    );
    assert!(events.ends_with("the applied nameserver line is: 10.96.0.10 192.0.2.1 192.0.2.2"), "{events}");
}

/// With the option, an outside name costs the pod one question of each family instead of one for each suffix.
fn walks_that_end_early(cluster: &Cluster, k: &Client<'_>) {
    let asked = |name: &str| {
        let trace = k.try_exec("plain", &["dig", "+search", "+showsearch", "+noall", "+question", name]);
        text(&trace.stdout).lines().filter(|line| line.starts_with(';') && line.contains("IN")).count()
    };
    assert!(asked("shop.example.org") >= 4, "the specification's walk");
    cluster.skiff_ok(&["down"]);
    cluster.start(&["--dns-end-search-walks=true"]);
    k.ok(&["wait", "--for=condition=Ready", "pod/plain", "--timeout=60s"]);
    eventually("the first question is answered", || match asked("shop.example.org") {
        1 => Ok(()),
        more => Err(format!("{more} questions")),
    });
    for resolver in [&["getent", "ahostsv4"][..], &["/lookup"], &["dig", "+short", "+search"]] {
        for (name, want) in
            [("shop.example.org", "192.0.2.99"), ("web.default", "10.96.7.7"), ("db-0.db", "10.244.0.201")]
        {
            assert_eq!(addresses(k, "plain", &[resolver, &[name]].concat()), [want], "{resolver:?} {name}");
        }
    }
}

/// The image `names`.
fn load(cluster: &Cluster) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let lookup = musl_program(dir.path());
    let base = packages("resolvers", &PACKAGES).expect("Debian's packages");
    let own = Layer::files(&[("lookup", 0o755, &lookup)], &[]).expect("a layer");
    let recipe = Recipe {
        name: "docker.io/library/names:latest",
        layers: vec![&base, &own],
        env: vec!["PATH=/usr/bin:/bin:/usr/sbin:/sbin"],
        cmd: vec!["busybox", "sleep", "1000"],
        working_dir: "/",
    };
    let path = dir.path().join("names.tar");
    archive(&path, &[recipe]).expect("an archive");
    cluster.skiff_ok(&["image", "load", &path.display().to_string()]);
}

fn musl_program(dir: &Path) -> Vec<u8> {
    let (source, program) = (dir.join("lookup.c"), dir.join("lookup"));
    fs::write(&source, LOOKUP).expect("write the source");
    tools::run(Command::new("musl-gcc").args(["-static", "-o"]).arg(&program).arg(&source)).expect("musl-gcc");
    fs::read(program).expect("the program")
}

//! What a cluster of three nodes is asked: over both families, when an address moves, when a node dies.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Endpoints, Node, Pod, Service},
};
use kube::{
    Api,
    api::{AttachParams, Patch, PostParams},
};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::common::{
    Cluster, eventually,
    objects::{IMAGE, PORT, create_pod, node_port, object, pod, pod_ip},
};

/// Asks until every pod has answered once.
pub(crate) fn served_by_all(cluster: &Cluster, node: &str, address: &str, pods: usize) {
    let mut seen = BTreeSet::new();
    eventually(&format!("{address} is served by {pods} pods on {node}"), || {
        seen.insert(cluster.ask(Some(node), address)?);
        if seen.len() == pods { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

pub(crate) fn pods_reach_each_other(cluster: &Cluster, pods: &[Pod]) {
    for from in pods {
        for to in pods {
            assert_eq!(Some(fetch(cluster, from, &pod_ip(to).to_string(), PORT)), to.metadata.name);
        }
    }
}

/// What a web server says to a pod.
fn fetch(cluster: &Cluster, from: &Pod, ip: &str, port: u16) -> String {
    let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc {ip} {port} | tail -n 1");
    let from = from.metadata.name.clone().expect("a name");
    cluster.with(|client| async move {
        let params = AttachParams::default().stderr(false);
        let mut process =
            Api::<Pod>::default_namespaced(client).exec(&from, ["sh", "-c", &ask], &params).await.expect("exec");
        let mut said = String::new();
        process.stdout().expect("standard output").read_to_string(&mut said).await.expect("output");
        said.trim().to_owned()
    })
}

/// Whether the cluster has IPv6: it has where the machine has, and says so where not.
pub(crate) fn has_ipv6(cluster: &Cluster) -> bool {
    let disabled = cluster.machine().run("cat /proc/sys/net/ipv6/conf/all/disable_ipv6 2>&1 || true");
    let has = disabled.trim() == "0";
    if !has {
        skiff_testkit::tools::skip("the machine has no IPv6");
    }
    has
}

fn second_pod_ip(pod: &Pod) -> String {
    let ips = pod.status.as_ref().and_then(|s| s.pod_ips.clone()).unwrap_or_default();
    assert_eq!(ips.len(), 2, "{:?} has an address of each family: {ips:?}", pod.metadata.name);
    assert!(ips[1].ip.contains(':'), "IPv4 comes first: {ips:?}");
    ips[1].ip.clone()
}

fn create(cluster: &Cluster, name: &str, spec: Value) -> Service {
    let service = object(json!({"metadata": {"name": name}, "spec": spec}));
    cluster.with(|client| async move {
        Api::<Service>::default_namespaced(client).create(&PostParams::default(), &service).await.expect("a Service")
    })
}

/// Pods and nodes have addresses of both families. A Service has IPv4 alone, unless it asks for both.
pub(crate) fn both_families(cluster: &Cluster, nodes: &[String], pods: &[Pod]) {
    let sixes: Vec<String> = pods.iter().map(second_pod_ip).collect();
    let ports = json!([{"port": 80, "targetPort": PORT}]);
    let both =
        json!({"type": "NodePort", "ipFamilyPolicy": "PreferDualStack", "selector": {"app": "web"}, "ports": ports});
    let service = create(cluster, "both", both);
    let plain =
        json!({"clusterIP": "None", "ipFamilyPolicy": "PreferDualStack", "selector": {"app": "web"}, "ports": ports});
    create(cluster, "all", plain);
    let cluster_ips = service.spec.as_ref().and_then(|s| s.cluster_ips.clone()).unwrap_or_default();
    let [four, six] = cluster_ips.as_slice() else { panic!("two ClusterIPs: {cluster_ips:?}") };
    let six_by_url = format!("[{six}]");
    for node in nodes {
        served_by_all(cluster, node, four, pods.len());
        served_by_all(cluster, node, &six_by_url, pods.len());
    }
    for (from, to) in pods.iter().flat_map(|from| pods.iter().zip(&sixes).map(move |to| (from, to))) {
        assert_eq!(Some(fetch(cluster, from, to.1, PORT)), to.0.metadata.name);
    }
    assert!(fetch(cluster, &pods[0], six, 80).starts_with("web-"), "a pod reaches the IPv6 ClusterIP");
    let found = eventually("AAAA records of every pod", || {
        let said = crate::common::text(&cluster.skiff(&["dns", "query", "all", "AAAA"]).stdout);
        if sixes.iter().all(|ip| said.contains(ip.as_str())) { Ok(said) } else { Err(said) }
    });
    assert!(!found.contains(&pod_ip(&pods[0]).to_string()), "{found}");
    for ip in second_node_ips(cluster) {
        let address = format!("[{ip}]:{}", node_port(&service));
        served_by_all(cluster, &nodes[0], &address, pods.len());
        let said = cluster.machine().run(&format!("curl -sS -m 5 http://{address}/"));
        assert!(said.starts_with("web-"), "the host asks {address}: {said}");
    }
}

fn second_node_ips(cluster: &Cluster) -> Vec<String> {
    let nodes = cluster
        .with(|client| async move { Api::<Node>::all(client).list(&Default::default()).await.expect("nodes").items });
    let internal = |node: &Node| -> Vec<String> {
        let all = node.status.as_ref().and_then(|s| s.addresses.clone()).unwrap_or_default();
        all.into_iter().filter(|a| a.type_ == "InternalIP").map(|a| a.address).collect()
    };
    nodes.iter().map(|node| internal(node).pop().filter(|ip| ip.contains(':')).expect("an IPv6 InternalIP")).collect()
}

/// A load balancer is reached by the host and by a machine on the nodes' link, over each family. The node that answers for
/// its address is cut off, and another one answers.
pub(crate) fn balancer_moves(cluster: &Cluster, nodes: usize, ipv6: bool) {
    let name = if ipv6 { "both" } else { "web" };
    let ips = cluster.with(|client| async move {
        let api = Api::<Service>::default_namespaced(client);
        let change = Patch::Merge(json!({"spec": {"type": "LoadBalancer"}}));
        api.patch(name, &Default::default(), &change).await.expect("a load balancer");
        loop {
            let ingress = api.get(name).await.expect("the Service").status.and_then(|s| s.load_balancer?.ingress);
            match ingress {
                Some(ips) if !ips.is_empty() => return ips.into_iter().filter_map(|i| i.ip).collect::<Vec<_>>(),
                _ => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    });
    assert_eq!(ips.len(), if ipv6 { 2 } else { 1 }, "{ips:?}");
    assert!(ips[0].starts_with("172.31.255."), "{ips:?} are of the default pool and of the second one");
    let mut link = "ip addr add 172.30.0.77/24 dev skiff && ip route add 172.31.255.0/24 dev skiff".to_owned();
    if ipv6 {
        let subnet = second_node_ips(cluster)[0].replace("::b", "::77/64");
        link += &format!(" && ip addr add {subnet} dev skiff nodad && ip route add fd00:1b::/112 dev skiff");
    }
    cluster.machine().run(&format!("{} sh -c '{link}'", hub(cluster)));
    let mut cut = vec![];
    for ip in &ips {
        moves(cluster, nodes, ip, &mut cut);
    }
    for node in cut {
        cluster.machine().run(&format!("{} ip link set node{node} up", hub(cluster)));
    }
}

fn hub(cluster: &Cluster) -> String {
    format!("nsenter --net={}", cluster.run_dir().join("netns/hub").display())
}

fn served(cluster: &Cluster, from: &str, ip: &str) {
    let address = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    eventually(&format!("{address} answers {from}"), || {
        let said = cluster.machine().run(&format!("{from} curl -sS -m 2 http://{address}/ 2>&1 || true"));
        if said.starts_with("web-") { Ok(()) } else { Err(said) }
    });
}

fn moves(cluster: &Cluster, nodes: usize, ip: &str, cut: &mut Vec<usize>) {
    served(cluster, "", ip);
    served(cluster, &hub(cluster), ip);
    let holder = || {
        let mac = cluster.machine().run(&format!("ip neigh show {ip} | grep -o 'lladdr [^ ]*' || true"));
        let mac = mac.trim().trim_start_matches("lladdr ").to_owned();
        let has = |node: &usize| {
            let netns = cluster.run_dir().join(format!("netns/{}-{node}", cluster.name));
            let shown = cluster.machine().run(&format!("nsenter --net={} ip link show eth0", netns.display()));
            !mac.is_empty() && shown.contains(&mac)
        };
        (1..=nodes).find(has).ok_or(mac)
    };
    let answers = |cut: &[usize]| {
        eventually(&format!("a node that is not cut off answers for {ip}"), || {
            // Neighbours are forgotten: asking is what makes the host look.
            cluster.machine().run(&format!("ping -c 1 -W 1 {ip} || true"));
            holder().and_then(|n| if cut.contains(&n) { Err(format!("node{n}")) } else { Ok(n) })
        })
    };
    let before = answers(cut);
    cut.push(before);
    cluster.machine().run(&format!("{} ip link set node{before} down", hub(cluster)));
    let since = Instant::now();
    answers(cut);
    eprintln!("{ip} moved within {:?}", since.elapsed());
    served(cluster, "", ip);
}

/// W33: the power of a node fails. Its pods are no endpoints any more and move; it comes back and has pods again.
pub(crate) fn node_dies(cluster: &Cluster, nodes: &[String]) {
    deploy(cluster);
    cluster.settled("moves", 3);
    let victim = nodes.last().expect("three nodes").as_str();
    assert!(places(cluster).contains(victim), "pods are spread: {:?}", places(cluster));
    assert!(cluster.skiff_ok(&["node", "stop", victim]).contains("is off"));
    let since = Instant::now();
    ready_is(cluster, victim, "Unknown");
    eprintln!("noticed within {:?}", since.elapsed());
    eventually("three endpoints on the other nodes", || {
        let (ready, places) = (endpoints(cluster, "moves"), places(cluster));
        if ready == 3 && !places.contains(victim) { Ok(()) } else { Err(format!("{ready} endpoints on {places:?}")) }
    });
    eprintln!("its pods moved within {:?}", since.elapsed());
    for ip in balancer_ips(cluster) {
        served(cluster, "", &ip);
    }
    assert!(cluster.skiff_ok(&["node", "start", victim]).contains("is on"));
    ready_is(cluster, victim, "True");
    cluster.with(|client| async move { create_pod(&client, &pod("back", "back", Some(victim))).await });
    cluster.create_service("back", "ClusterIP");
    cluster.settled("back", 1);
    eventually("what was evicted is gone", || {
        let leaving = cluster.pods_now().into_iter().filter(|p| p.metadata.deletion_timestamp.is_some()).count();
        if leaving == 0 { Ok(()) } else { Err(format!("{leaving} pods are leaving")) }
    });
}

fn deploy(cluster: &Cluster) {
    let labels = json!({"app": "moves"});
    let container = json!({"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent"});
    let spread = json!({"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels}});
    let pod =
        json!({"terminationGracePeriodSeconds": 0, "containers": [container], "topologySpreadConstraints": [spread]});
    let deployment: Deployment = object(json!({"metadata": {"name": "moves"}, "spec": {"replicas": 3,
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}}));
    cluster.with(|client| async move {
        Api::<Deployment>::default_namespaced(client)
            .create(&PostParams::default(), &deployment)
            .await
            .expect("created");
    });
    cluster.create_service("moves", "ClusterIP");
}

/// The nodes of the Service's ready endpoints.
fn places(cluster: &Cluster) -> BTreeSet<String> {
    let found = addresses(cluster, "moves");
    found.into_iter().filter_map(|a| a.node_name).collect()
}

fn endpoints(cluster: &Cluster, service: &str) -> usize {
    addresses(cluster, service).len()
}

fn addresses(cluster: &Cluster, service: &str) -> Vec<k8s_openapi::api::core::v1::EndpointAddress> {
    let found = cluster.with(|client| async move {
        Api::<Endpoints>::default_namespaced(client).get_opt(service).await.expect("Endpoints")
    });
    let subsets = found.and_then(|e| e.subsets).unwrap_or_default();
    subsets.into_iter().flat_map(|s| s.addresses.unwrap_or_default()).collect()
}

fn balancer_ips(cluster: &Cluster) -> Vec<String> {
    let all = cluster.with(|client| async move {
        Api::<Service>::default_namespaced(client).list(&Default::default()).await.expect("Services").items
    });
    let ingress = all.into_iter().filter_map(|s| s.status?.load_balancer?.ingress).flatten();
    ingress.filter_map(|i| i.ip).inspect(|ip| assert!(ip.parse::<IpAddr>().is_ok())).collect()
}

fn ready_is(cluster: &Cluster, node: &str, wanted: &str) {
    eventually(&format!("Ready of {node} is {wanted}"), || {
        let found = cluster.with(|client| async move { Api::<Node>::all(client).get(node).await.expect("the node") });
        let conditions = found.status.and_then(|s| s.conditions).unwrap_or_default();
        let ready = conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.status);
        if ready.as_deref() == Some(wanted) { Ok(()) } else { Err(format!("{ready:?}")) }
    });
}

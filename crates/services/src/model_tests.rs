use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Service {
    let object = json!({"metadata": {"namespace": "ns", "name": "a"}, "spec": spec});
    Service::from_api(&serde_json::from_value(object).unwrap()).unwrap()
}

fn slice(object: Value) -> Option<Slice> {
    let mut base = json!({
        "metadata": {"namespace": "ns", "name": "a-1", "labels": {"kubernetes.io/service-name": "a"}},
        "addressType": "IPv4", "endpoints": [],
    });
    base.as_object_mut().unwrap().extend(object.as_object().unwrap().clone());
    Slice::from_api(&serde_json::from_value(base).unwrap())
}

fn show(ips: &[IpAddr]) -> String {
    ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn nameless_objects_are_nothing() {
    for metadata in [json!({}), json!({"name": "a"}), json!({"namespace": "ns"})] {
        let object = json!({"metadata": metadata, "spec": {}});
        assert!(Service::from_api(&serde_json::from_value(object).unwrap()).is_none());
        assert!(slice(json!({"metadata": metadata})).is_none());
    }
    let empty =
        Service::from_api(&serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "a"}})).unwrap());
    assert_eq!(empty.map(|s| (s.headless, s.cluster_ips.len(), s.ports.len())), Some((false, 0, 0)));
}

#[test]
fn addresses_by_type() {
    for (spec, kind, ips, headless) in [
        (json!({"clusterIP": "10.96.0.1"}), ServiceType::ClusterIp, "10.96.0.1", false),
        (json!({"clusterIP": "10.96.0.1", "clusterIPs": []}), ServiceType::ClusterIp, "10.96.0.1", false),
        (
            json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"]}),
            ServiceType::ClusterIp,
            "10.96.0.1 fd00::1",
            false,
        ),
        (json!({"clusterIP": "None", "clusterIPs": ["None"]}), ServiceType::ClusterIp, "", true),
        (json!({"clusterIP": ""}), ServiceType::ClusterIp, "", false),
        (json!({"clusterIP": "nonsense"}), ServiceType::ClusterIp, "", false),
        (json!({"type": "Unheard", "clusterIP": "10.96.0.1"}), ServiceType::ClusterIp, "10.96.0.1", false),
        (json!({"type": "NodePort", "clusterIP": "10.96.0.1"}), ServiceType::NodePort, "10.96.0.1", false),
        (
            json!({"type": "ExternalName", "externalName": "x.y", "clusterIP": "None"}),
            ServiceType::ExternalName,
            "",
            false,
        ),
    ] {
        let got = service(spec.clone());
        assert_eq!((got.kind, show(&got.cluster_ips).as_str(), got.headless), (kind, ips, headless), "{spec}");
    }
    assert_eq!(service(json!({"externalName": "x.y"})).external_name, None, "only the type makes it an alias");
}

#[test]
fn load_balancer_addresses() {
    let with = |kind: &str| {
        let object = json!({
            "metadata": {"namespace": "ns", "name": "a"}, "spec": {"type": kind},
            "status": {"loadBalancer": {"ingress": [
                {"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "VIP"}, {"ip": "192.0.2.3", "ipMode": "Proxy"}, {"hostname": "x"},
            ]}},
        });
        show(&Service::from_api(&serde_json::from_value(object).unwrap()).unwrap().load_balancer_ips)
    };
    assert_eq!(with("LoadBalancer"), "192.0.2.1 192.0.2.2");
    assert_eq!(with("NodePort"), "", "what was left over from another type does not count");
}

#[test]
fn ports_that_cannot_be_are_left_out() {
    let ports = json!([
        {"port": 80}, {"port": 53, "protocol": "UDP", "name": "dns", "nodePort": 30053}, {"port": 0}, {"port": 70000},
        {"port": -1}, {"port": 1, "protocol": "ICMP"}, {"port": 2, "nodePort": 0},
    ]);
    let show = |p: &Port| format!("{}/{}:{}>{:?}", p.name, p.protocol, p.port, p.node_port);
    let ports: Vec<String> = service(json!({"ports": ports})).ports.iter().map(show).collect();
    assert_eq!(ports, ["/TCP:80>None", "dns/UDP:53>Some(30053)", "/TCP:2>None"]);
}

#[test]
fn affinity_and_policies() {
    assert_eq!(service(json!({})).affinity, None);
    assert_eq!(service(json!({"sessionAffinity": "None"})).affinity, None);
    assert_eq!(service(json!({"sessionAffinity": "ClientIP"})).affinity, Some(10_800));
    let config =
        |s: i32| json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": s}}});
    assert_eq!(service(config(5)).affinity, Some(5));
    assert_eq!(service(config(-5)).affinity, Some(10_800));
    let local = service(json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Other"}));
    assert_eq!((local.internal_policy, local.external_policy), (TrafficPolicy::Local, TrafficPolicy::Cluster));
    let ranges = service(json!({"loadBalancerSourceRanges": [" 10.0.0.0/8 ", "nonsense", "::/0"]})).source_ranges;
    assert_eq!(ranges.len(), 2);
}

#[test]
fn slices_that_mean_nothing() {
    assert!(slice(json!({"addressType": "FQDN"})).is_none());
    assert!(slice(json!({"metadata": {"namespace": "ns", "name": "x"}})).is_none(), "no Service's");
    assert!(slice(json!({})).is_some_and(|s| s.endpoints.is_empty() && s.ports.is_empty()));
}

#[test]
fn endpoints_of_a_slice() {
    let got = slice(json!({
        "ports": [{"name": "a", "port": 1}, {"port": 2, "protocol": "UDP"}, {"name": "any"}, {"port": 3, "protocol": "X"}],
        "endpoints": [
            {"addresses": ["10.244.0.1", "10.244.0.9"]},
            {"addresses": []},
            {"addresses": ["fd00::1"]},
            {"addresses": ["nonsense"]},
            {"addresses": ["10.244.0.2"], "conditions": {"ready": false}},
            {"addresses": ["10.244.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.244.0.4"], "targetRef": {"kind": "Pod", "name": "p", "namespace": "ns"}, "hostname": "h"},
            {"addresses": ["10.244.0.5"], "targetRef": {"kind": "Pod", "name": "p", "namespace": "other"}},
            {"addresses": ["10.244.0.6"], "targetRef": {"kind": "VM", "name": "p"}},
            {"addresses": ["10.244.0.7"], "zone": "z", "nodeName": "n", "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "n"}]}},
        ],
    }))
    .unwrap();
    let ports: Vec<String> = got.ports.iter().map(|p| format!("{}/{}:{}", p.name, p.protocol, p.port)).collect();
    assert_eq!(ports, ["a/TCP:1", "/UDP:2"]);
    let flags =
        |e: &Endpoint| format!("{} {}{}{} {:?}", e.ip, e.ready as u8, e.serving as u8, e.terminating as u8, e.pod);
    assert_eq!(
        got.endpoints.iter().map(flags).collect::<Vec<_>>(),
        [
            "10.244.0.1 110 None",
            "10.244.0.2 010 None",
            "10.244.0.3 011 None",
            "10.244.0.4 110 Some(\"p\")",
            "10.244.0.5 110 None",
            "10.244.0.6 110 None",
            "10.244.0.7 110 None",
        ]
    );
    let last = got.endpoints.last().unwrap();
    assert_eq!((last.zone.as_deref(), last.node.as_deref()), (Some("z"), Some("n")));
    assert_eq!((last.hint_zones.len(), last.hint_nodes.len()), (1, 1));
    assert_eq!(got.endpoints[3].hostname.as_deref(), Some("h"));
}

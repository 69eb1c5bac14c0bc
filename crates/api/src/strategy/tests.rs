use serde_json::json;

use super::*;
use crate::resources::{RESOURCES, find};

fn core(plural: &str) -> &'static Resource {
    find("", "v1", plural).unwrap()
}

fn deployments() -> &'static Resource {
    find("apps", "v1", "deployments").unwrap()
}

#[test]
fn create_wipes_the_servers_fields() {
    let check = |res: &Resource, mut object: Value, expect: Value| {
        before_create(res, &mut object);
        assert_eq!(object, expect);
    };
    check(
        deployments(),
        json!({"metadata": {"name": "a", "generation": 7, "deletionTimestamp": "x"}, "spec": {}, "status": {"replicas": 3}}),
        json!({"metadata": {"name": "a", "generation": 1}, "spec": {}, "status": {}}),
    );
    check(
        core("pods"),
        json!({"metadata": {}, "spec": {"containers": [{}]}}),
        json!({"metadata": {"generation": 1}, "spec": {"containers": [{}]}, "status": {"phase": "Pending", "qosClass": "BestEffort"}}),
    );
    check(
        core("secrets"),
        json!({"metadata": {}, "data": {"a": "eA=="}, "stringData": {"b": "hello", "a": "y"}}),
        json!({"metadata": {}, "data": {"a": "eQ==", "b": "aGVsbG8="}}),
    );
    check(
        core("namespaces"),
        json!({"metadata": {}}),
        json!({"metadata": {}, "status": {"phase": "Active"}, "spec": {"finalizers": ["kubernetes"]}}),
    );
    check(
        core("nodes"),
        json!({"metadata": {}, "status": {"capacity": {}}}),
        json!({"metadata": {}, "status": {"capacity": {}}}),
    );
}

#[test]
fn update_keeps_status_and_counts_changes_of_the_spec() {
    let old = json!({"metadata": {"name": "a", "uid": "u", "creationTimestamp": "t", "generation": 3},
                     "spec": {"replicas": 1}, "status": {"replicas": 1}});
    let check = |mut new: Value, subresource: Option<&str>, expect: Value| {
        before_update(deployments(), &mut new, &old, subresource);
        assert_eq!(new, expect);
    };
    let metadata =
        |generation: u32| json!({"name": "a", "uid": "u", "creationTimestamp": "t", "generation": generation});
    check(
        json!({"metadata": {"name": "a", "uid": "forged"}, "spec": {"replicas": 2}, "status": {"replicas": 9}}),
        None,
        json!({"metadata": metadata(4), "spec": {"replicas": 2}, "status": {"replicas": 1}}),
    );
    check(
        json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}}),
        None,
        json!({"metadata": metadata(3), "spec": {"replicas": 1}, "status": {"replicas": 1}}),
    );
    check(
        json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"replicas": 5}, "status": {"replicas": 9}}),
        Some("status"),
        json!({"metadata": metadata(3), "spec": {"replicas": 1}, "status": {"replicas": 9}}),
    );
}

#[test]
fn quality_of_service() {
    let check = |resources: Value, expect: &str| {
        assert_eq!(qos_class(&json!({"spec": {"containers": [{"resources": resources}]}})), expect);
    };
    check(json!({}), "BestEffort");
    check(json!({"requests": {"cpu": "1"}}), "Burstable");
    check(
        json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
        "Guaranteed",
    );
}

fn update_service(old: Value, new: Value) -> Value {
    let (old, mut new) = (
        json!({"metadata": {}, "spec": old, "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}}),
        json!({"metadata": {}, "spec": new}),
    );
    before_update(core("services"), &mut new, &old, None);
    new
}

#[test]
fn services_keep_what_was_allocated() {
    let old = json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
                     "ports": [{"name": "a", "port": 80, "nodePort": 31000}, {"name": "b", "port": 81, "nodePort": 31001}]});
    let check = |new: Value, expect: Value| assert_eq!(update_service(old.clone(), new)["spec"], expect);
    check(
        json!({"type": "NodePort", "ports": [{"name": "a", "port": 90}, {"name": "c", "port": 81}]}),
        json!({"type": "NodePort", "ports": [{"name": "a", "port": 90, "nodePort": 31000}, {"name": "c", "port": 81}],
               "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}),
    );
    check(
        json!({"type": "NodePort", "ports": [{"name": "a", "port": 90}, {"name": "b", "port": 81, "nodePort": 31000}]}),
        json!({"type": "NodePort", "ports": [{"name": "a", "port": 90}, {"name": "b", "port": 81, "nodePort": 31000}],
               "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}),
    );
}

#[test]
fn a_change_of_type_wipes_what_the_client_left_alone() {
    let cluster = json!({"type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"],
                         "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster"});
    let mut external = cluster.clone();
    external["type"] = json!("ExternalName");
    external["externalName"] = json!("a.b");
    assert_eq!(
        update_service(cluster.clone(), external)["spec"],
        json!({"type": "ExternalName", "externalName": "a.b"})
    );

    let balancer = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.9", "externalTrafficPolicy": "Local",
                          "healthCheckNodePort": 32000, "allocateLoadBalancerNodePorts": true, "loadBalancerClass": "x",
                          "ports": [{"port": 80, "nodePort": 31000}]});
    let mut plain = balancer.clone();
    plain["type"] = json!("ClusterIP");
    let updated = update_service(balancer.clone(), plain.clone());
    assert_eq!(updated["spec"], json!({"type": "ClusterIP", "clusterIP": "10.96.0.9", "ports": [{"port": 80}]}));
    assert_eq!(updated["status"], json!({"loadBalancer": {}}));

    plain["ports"][0]["nodePort"] = json!(31005);
    let kept = update_service(balancer, plain);
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], 31005, "a change by the client is left for validation");
}

#[test]
fn the_singular_address_leads() {
    let old = json!({"type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]});
    let new = json!({"type": "ClusterIP", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.9"]});
    assert_eq!(update_service(old, new)["spec"]["clusterIPs"], json!(["10.96.0.10"]));
}

#[test]
fn any_shape_is_survived() {
    let shapes = [
        json!({}),
        json!({"spec": 1}),
        json!({"metadata": [], "spec": {"ports": [1]}, "stringData": {"a": 1}}),
        json!([]),
    ];
    for res in RESOURCES {
        for (a, b) in shapes.iter().flat_map(|a| shapes.iter().map(move |b| (a, b))) {
            let mut new = a.clone();
            before_create(res, &mut new);
            for subresource in [None, Some("status"), Some("scale"), Some("finalize"), Some("approval"), Some("resize")]
            {
                let mut new = a.clone();
                before_update(res, &mut new, b, subresource);
            }
        }
    }
}

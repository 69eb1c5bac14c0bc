//! Rows of the upstream conformance suite that need nothing but the API: ServiceCIDR and IPAddress operations, Services that
//! change their type, a Service's status, collections of Services.

mod support;

use http::Method;
use serde_json::{Value, json};
use support::Api;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "labels": {"test": "yes"}}, "spec": spec})
}

#[tokio::test]
async fn service_cidr_api_operations() {
    let api = Api::new().await;
    let (_, groups) = api.get("/apis").await;
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "networking.k8s.io"));
    let (_, resources) = api.get("/apis/networking.k8s.io/v1").await;
    let served: Vec<&str> =
        resources["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert!(["servicecidrs", "servicecidrs/status", "ipaddresses"].iter().all(|r| served.contains(r)), "{served:?}");
    let path = format!("{RANGES}/kubernetes");
    let (code, got) = api.get(&path).await;
    assert_eq!((code, got["spec"]["cidrs"].as_array().unwrap().is_empty()), (200, false));
    assert_eq!(api.get(RANGES).await.1["items"].as_array().unwrap().len(), 1);
    let version = got["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = api.watch(&format!("{RANGES}?watch=1&resourceVersion={version}")).await;
    let (code, patched) = api.merge(&path, json!({"metadata": {"annotations": {"patched": "true"}}})).await;
    assert_eq!((code, &patched["metadata"]["annotations"]["patched"]), (200, &json!("true")));
    assert_eq!(events.short().await, "MODIFIED kubernetes");
    let (code, status) = api.get(&format!("{path}/status")).await;
    assert_eq!((code, &status["status"]["conditions"][0]["status"]), (200, &json!("True")));
    let condition = json!({"type": "StatusPatched", "status": "True", "reason": "x", "message": "y", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let body = json!({"status": {"conditions": [condition]}});
    let (code, status) = api
        .ask(Method::PATCH, &format!("{path}/status"), "application/strategic-merge-patch+json", body.to_string())
        .await;
    assert_eq!((code, status["status"]["conditions"].as_array().unwrap().len()), (200, 2), "{status}");
    let (code, updated) = api.json(Method::PUT, &format!("{path}/status"), status).await;
    assert_eq!(code, 200, "{updated}");
}

#[tokio::test]
async fn ip_address_api_operations() {
    let api = Api::new().await;
    let address = |name: &str| {
        json!({"metadata": {"name": name, "labels": {"special": "yes"}},
        "spec": {"parentRef": {"group": "foo", "resource": "bar", "namespace": "default", "name": "test"}}})
    };
    let made = api.create(ADDRESSES, address("192.168.1.1")).await;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events =
        api.watch(&format!("{ADDRESSES}?watch=1&labelSelector=special=yes&resourceVersion={version}")).await;
    api.create(ADDRESSES, address("2001:db8::1")).await;
    assert_eq!(events.short().await, "ADDED 2001:db8::1");
    let path = format!("{ADDRESSES}/192.168.1.1");
    let (code, patched) = api.merge(&path, json!({"metadata": {"annotations": {"patched": "true"}}})).await;
    assert_eq!(code, 200);
    let mut next = patched.clone();
    next["metadata"]["annotations"]["updated"] = json!("true");
    assert_eq!(api.json(Method::PUT, &path, next).await.0, 200);
    let mut stolen = patched;
    stolen["metadata"]["resourceVersion"] = Value::Null;
    stolen["spec"]["parentRef"]["name"] = json!("other");
    assert_eq!(api.json(Method::PUT, &path, stolen).await.0, 422);
    let (_, list) = api.get(&format!("{ADDRESSES}?labelSelector=special%3Dyes")).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert_eq!(api.delete(&path).await.0, 200);
    assert_eq!(api.delete(&format!("{ADDRESSES}?labelSelector=special%3Dyes")).await.0, 200);
    let (_, list) = api.get(&format!("{ADDRESSES}?labelSelector=special%3Dyes")).await;
    assert!(list["items"].as_array().unwrap().is_empty());
}

/// A typed client reads the object, changes the type and sends everything back.
async fn change(api: &Api, name: &str, change: impl Fn(&mut Value)) -> Value {
    let path = format!("{SERVICES}/{name}");
    let (_, mut current) = api.get(&path).await;
    change(&mut current["spec"]);
    let (code, updated) = api.json(Method::PUT, &path, current).await;
    assert_eq!(code, 200, "{updated}");
    updated
}

#[tokio::test]
async fn services_change_their_type() {
    let api = Api::new().await;
    let ports = json!([{"name": "http", "port": 80, "targetPort": 9376}]);
    api.create(SERVICES, service("s", json!({"type": "ExternalName", "externalName": "foo.example.com"}))).await;
    // To ClusterIP: an address.
    let cluster = change(&api, "s", |spec| {
        spec["type"] = "ClusterIP".into();
        spec["externalName"] = "".into();
        spec["ports"] = ports.clone();
    })
    .await;
    let ip = cluster["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10."), "{cluster}");
    assert_eq!(cluster["spec"]["ports"][0].get("nodePort"), None);
    // Back: what the server gave goes, though the client sends it.
    let external = change(&api, "s", |spec| {
        spec["type"] = "ExternalName".into();
        spec["externalName"] = "svc.default.svc.cluster.local".into();
    })
    .await;
    for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
        assert_eq!(external["spec"].get(key), None, "{key}");
    }
    // To NodePort: address and port; and back again.
    let node = change(&api, "s", |spec| {
        spec["type"] = "NodePort".into();
        spec["externalName"] = "".into();
    })
    .await;
    let port = node["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30000..=32767).contains(&port));
    assert_eq!(node["spec"]["externalTrafficPolicy"], "Cluster");
    let external = change(&api, "s", |spec| {
        spec["type"] = "ExternalName".into();
        spec["externalName"] = "a.example".into();
    })
    .await;
    assert_eq!(external["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(external["spec"].get("clusterIP"), None);
    // The port is free for others.
    let other = service("o", json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]}));
    api.create(SERVICES, other).await;
}

#[tokio::test]
async fn load_balancers_leave_nothing_behind() {
    let api = Api::new().await;
    let spec = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/x", "externalTrafficPolicy": "Local",
        "ports": [{"port": 80}]});
    let made = api.create(SERVICES, service("lb", spec)).await;
    let health = made["spec"]["healthCheckNodePort"].as_i64().unwrap();
    assert!((30000..=32767).contains(&health) && made["spec"]["allocateLoadBalancerNodePorts"] == true);
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}});
    let (code, with) = api.merge(&format!("{SERVICES}/lb/status"), status).await;
    assert_eq!(
        (code, &with["status"]["loadBalancer"]["ingress"][0]),
        (200, &json!({"ip": "203.0.113.1", "ipMode": "VIP"}))
    );
    let plain = change(&api, "lb", |spec| spec["type"] = "ClusterIP".into()).await;
    for key in ["loadBalancerClass", "allocateLoadBalancerNodePorts", "healthCheckNodePort", "externalTrafficPolicy"] {
        assert_eq!(plain["spec"].get(key), None, "{key}");
    }
    assert_eq!(plain["status"]["loadBalancer"], json!({}));
    assert_eq!(plain["spec"]["ports"][0].get("nodePort"), None);
    let other = service("o", json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": health}]}));
    api.create(SERVICES, other).await;
}

#[tokio::test]
async fn node_ports_of_load_balancers_stay_until_they_are_removed() {
    let api = Api::new().await;
    let made = api.create(SERVICES, service("lb", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))).await;
    let port = &made["spec"]["ports"][0]["nodePort"];
    let kept = change(&api, "lb", |spec| spec["allocateLoadBalancerNodePorts"] = false.into()).await;
    assert_eq!(&kept["spec"]["ports"][0]["nodePort"], port);
    let gone = change(&api, "lb", |spec| spec["ports"][0]["nodePort"] = Value::Null).await;
    assert_eq!(gone["spec"]["ports"][0].get("nodePort"), None);
}

#[tokio::test]
async fn a_service_status_lifecycle() {
    let api = Api::new().await;
    let mut events = api.watch("/api/v1/services?watch=1&labelSelector=test=yes").await;
    let spec = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/internal-vip", "ports": [{"name": "http", "port": 80}]});
    api.create(SERVICES, service("s", spec)).await;
    assert_eq!(events.short().await, "ADDED s");
    let path = format!("{SERVICES}/s/status");
    let body = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}});
    let (code, patched) = api.merge(&path, body).await;
    assert_eq!((code, &patched["metadata"]["annotations"]["patchedstatus"]), (200, &json!("true")));
    assert_eq!(events.next().await.unwrap()["object"]["status"]["loadBalancer"]["ingress"][0]["ip"], "203.0.113.1");
    let (_, mut current) = api.get(&path).await;
    let condition = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from test", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    current["status"]["conditions"] = json!([condition]);
    let (code, updated) = api.json(Method::PUT, &path, current).await;
    assert_eq!((code, &updated["status"]["conditions"][0]["type"]), (200, &json!("StatusUpdate")));
    assert_eq!(events.short().await, "MODIFIED s");
    let labels = json!({"metadata": {"labels": {"test-service": "patched"}}}).to_string();
    let (code, _) =
        api.ask(Method::PATCH, &format!("{SERVICES}/s"), "application/strategic-merge-patch+json", labels).await;
    assert_eq!(code, 200);
    assert_eq!(events.short().await, "MODIFIED s");
    api.delete(&format!("{SERVICES}/s")).await;
    assert_eq!(events.short().await, "DELETED s");
}

#[tokio::test]
async fn a_collection_of_services_is_deleted() {
    let api = Api::new().await;
    for (name, group) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut one = service(name, json!({"ports": [{"port": 80}]}));
        one["metadata"]["labels"] = json!({"group": group});
        api.create(SERVICES, one).await;
    }
    assert_eq!(api.delete(&format!("{SERVICES}?labelSelector=group%3Dx")).await.0, 200);
    let (_, left) = api.get(SERVICES).await;
    let names: Vec<&Value> = left["items"].as_array().unwrap().iter().map(|s| &s["metadata"]["name"]).collect();
    assert_eq!(names, ["c", "kubernetes"]);
    let (_, addresses) = api.get(ADDRESSES).await;
    assert_eq!(addresses["items"].as_array().unwrap().len(), 2);
}

/// A port of a node is one thing; a change of type wipes what is left of the ports, and a balancer's status says something.
#[tokio::test]
async fn ports_between_types_and_checks() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/services";
    let port = |name: &str, port: u16, node: u16| json!({"name": name, "port": port, "nodePort": node});
    let made = api.create(path, json!({"metadata": {"name": "a"}, "spec": {"type": "NodePort", "ports": [port("x", 80, 31000), port("y", 81, 31001)]}})).await;
    let mut next = made.clone();
    next["spec"]["type"] = "ClusterIP".into();
    next["spec"]["ports"].as_array_mut().unwrap().pop();
    let (code, changed) = api.json(Method::PUT, &format!("{path}/a"), next).await;
    assert_eq!((code, changed["spec"]["ports"][0].get("nodePort")), (200, None), "{changed}");

    let balancer = |name: &str, check: u16, node: u16| {
        json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "healthCheckNodePort": check, "ports": [port("x", 80, node)]}})
    };
    let (code, refused) = api.json(Method::POST, path, balancer("both", 31005, 31005)).await;
    assert_eq!(code, 500, "as in the reference: {refused}");
    assert!(refused["message"].as_str().unwrap().contains("provided port is already allocated"), "{refused}");
    api.create(path, balancer("b", 31005, 31006)).await;
    for (ingress, words) in [
        (json!({"ip": "192.0.2.1", "ipMode": "Foo"}), "supported values: \"Proxy\", \"VIP\""),
        (json!({"hostname": "a.example", "ipMode": "VIP"}), "may not be specified when `ip` is not set"),
    ] {
        let body = json!({"status": {"loadBalancer": {"ingress": [ingress]}}});
        let (code, refused) = api.merge(&format!("{path}/b/status"), body).await;
        assert_eq!(code, 422, "{refused}");
        assert!(refused["message"].as_str().unwrap().contains(words), "{refused}");
    }
}

/// Upstream's "EndpointSlice should support creating EndpointSlice API operations".
#[tokio::test]
async fn endpoint_slice_api_operations() {
    const GROUP: &str = "/apis/discovery.k8s.io/v1";
    let api = Api::new().await;
    for (path, list, key, name) in [
        ("/apis", "groups", "name", "discovery.k8s.io"),
        ("/apis/discovery.k8s.io", "versions", "groupVersion", "discovery.k8s.io/v1"),
        (GROUP, "resources", "name", "endpointslices"),
    ] {
        let (_, found) = api.get(path).await;
        assert!(found[list].as_array().unwrap().iter().any(|g| g[key] == name), "{path}: {found}");
    }
    let slices = format!("{GROUP}/namespaces/default/endpointslices");
    let slice = || {
        json!({"metadata": {"generateName": "e2e-example-ing", "labels": {"special-label": "x"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["1.2.3.4", "5.6.7.8"]}]})
    };
    let mut names = Vec::new();
    for _ in 0..3 {
        let made = api.create(&slices, slice()).await;
        names.push(made["metadata"]["name"].as_str().unwrap().to_owned());
    }
    assert!(names.iter().all(|name| name.starts_with("e2e-example-ing")));
    let of_ours = "labelSelector=special-label%3Dx";
    let everywhere = format!("{GROUP}/endpointslices?{of_ours}");
    for path in [format!("{slices}?{of_ours}"), everywhere.clone()] {
        assert_eq!(api.get(&path).await.1["items"].as_array().unwrap().len(), 3, "{path}");
    }
    let (_, list) = api.get(&everywhere).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = api.watch(&format!("{everywhere}&watch=1&resourceVersion={version}")).await;
    let one = format!("{slices}/{}", names[0]);
    let (code, patched) = api.merge(&one, json!({"metadata": {"annotations": {"patched": "true"}}})).await;
    assert_eq!((code, &patched["metadata"]["annotations"]["patched"]), (200, &json!("true")));
    let mut next = patched;
    next["metadata"]["annotations"]["updated"] = "true".into();
    next["endpoints"] = json!([{"addresses": ["9.9.9.9"]}]);
    let (code, updated) = api.json(Method::PUT, &one, next).await;
    assert_eq!((code, &updated["endpoints"][0]["addresses"]), (200, &json!(["9.9.9.9"])));
    assert_eq!(updated["metadata"]["generation"], 2, "only the second change was more than metadata: {updated}");
    for _ in 0..2 {
        assert_eq!(events.short().await, format!("MODIFIED {}", names[0]));
    }
    assert_eq!(api.delete(&one).await.0, 200);
    assert_eq!(events.short().await, format!("DELETED {}", names[0]));
    assert_eq!(api.get(&one).await.0, 404);
    assert_eq!(api.delete(&format!("{slices}?{of_ours}")).await.0, 200);
    assert!(api.get(&everywhere).await.1["items"].as_array().unwrap().is_empty());
}

/// Upstream's "Endpoints should test the lifecycle of an Endpoint", and that a list over all namespaces has `kubernetes`.
#[tokio::test]
async fn an_endpoints_lifecycle() {
    let api = Api::new().await;
    let (all, label) = ("/api/v1/namespaces/default/endpoints", "labelSelector=test-endpoint-static%3Dtrue");
    let subset = |ip: &str, port: u16| json!({"addresses": [{"ip": ip}], "ports": [{"name": "http", "port": port, "protocol": "TCP"}]});
    let everywhere = format!("/api/v1/endpoints?{label}");
    let (_, list) = api.get(&everywhere).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = api.watch(&format!("{everywhere}&watch=1&resourceVersion={version}")).await;
    let metadata = json!({"name": "testservice", "labels": {"test-endpoint-static": "true"}});
    let made = api.create(all, json!({"metadata": metadata, "subsets": [subset("10.0.0.24", 80)]})).await;
    assert_eq!(events.short().await, "ADDED testservice");
    assert_eq!(api.get(&everywhere).await.1["items"].as_array().unwrap().len(), 1);
    let path = format!("{all}/testservice");
    let mut next = made;
    next["metadata"]["labels"]["test-service"] = "updated".into();
    assert_eq!(api.json(Method::PUT, &path, next).await.0, 200);
    assert_eq!(events.short().await, "MODIFIED testservice");
    // The list of subsets has no key to merge by: it is replaced.
    let patch = json!({"metadata": {"labels": {"test-service": "patched"}}, "subsets": [subset("10.0.0.25", 8080)]});
    let media = "application/strategic-merge-patch+json";
    let (code, patched) = api.ask(Method::PATCH, &path, media, patch.to_string()).await;
    assert_eq!((code, &patched["subsets"]), (200, &json!([subset("10.0.0.25", 8080)])));
    assert_eq!(events.short().await, "MODIFIED testservice");
    assert_eq!(api.delete(&format!("{all}?{label}")).await.0, 200);
    assert_eq!(events.short().await, "DELETED testservice");
    assert_eq!(api.get(&path).await.0, 404);
    let (_, services) = api.get("/api/v1/services").await;
    let named = |s: &Value| s["metadata"]["name"] == "kubernetes" && s["metadata"]["namespace"] == "default";
    assert!(services["items"].as_array().unwrap().iter().any(named));
}

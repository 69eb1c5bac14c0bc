//! A cluster of any size, made on demand: Services of ten endpoints each on five nodes.

use std::net::Ipv4Addr;

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};

pub(crate) const ENDPOINTS: u32 = 10;

fn ip(base: u32, n: u32) -> String {
    Ipv4Addr::from(base + n).to_string()
}

pub(crate) fn cluster_ip(n: u32) -> String {
    ip(0x0a60_1000, n)
}

/// The address of an endpoint; those of other versions stand in for the third one after it has changed.
pub(crate) fn endpoint_ip(n: u32, endpoint: u32, version: u32) -> String {
    ip(0x0af8_0000, n * 16 + if endpoint == 3 && version > 0 { ENDPOINTS + version % 6 } else { endpoint })
}

pub(crate) fn service(n: u32) -> Value {
    let ip = cluster_ip(n);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": format!("svc-{n}"), "namespace": "default", "uid": format!("00000000-0000-0000-0000-{n:012}"),
            "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": format!("app-{n}")},
        },
        "spec": {
            "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None", "type": "ClusterIP",
            "selector": {"app": format!("app-{n}")}, "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
        "status": {"loadBalancer": {}},
    })
}

fn endpoint(n: u32, e: u32, version: u32) -> Value {
    json!({
        "addresses": [endpoint_ip(n, e, version)], "nodeName": format!("node-{}", e % 5),
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("app-{n}-7d4b9c8f6d-{e:05}")},
    })
}

/// `version` 0 is what the list holds; each other one has another third endpoint.
pub(crate) fn slice(n: u32, version: u32) -> Value {
    let endpoints: Vec<Value> = (0..ENDPOINTS).map(|e| endpoint(n, e, version)).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("svc-{n}-abcde"), "namespace": "default", "resourceVersion": (1 + version).to_string(),
            "uid": format!("00000000-0000-0000-0001-{n:012}"), "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"kubernetes.io/service-name": format!("svc-{n}")},
        },
        "addressType": "IPv4", "ports": [{"name": "", "protocol": "TCP", "port": 8080}], "endpoints": endpoints,
    })
}

pub(crate) fn typed_service(n: u32) -> Service {
    serde_json::from_value(service(n)).expect("a Service")
}

pub(crate) fn typed_slice(n: u32, version: u32) -> EndpointSlice {
    serde_json::from_value(slice(n, version)).expect("a slice")
}

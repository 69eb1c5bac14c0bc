//! The Service `kube-dns`, which gives the cluster DNS address its name. The address stands on every node's loopback
//! device, so no proxy serves it: the label says so to any proxy that looks.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::config::Config;

const NAME: &str = "kube-dns";
const NAMESPACE: &str = "kube-system";

/// Makes both objects as they should be, whatever they were.
pub(crate) async fn ensure(client: &Client, config: &Config) -> kube::Result<()> {
    let service = service(config.dns_ip().into());
    let nodes: Vec<_> = (0..config.nodes).map(|n| (config.node_name(n), config.node_ip(n).into())).collect();
    let params = PatchParams::apply("skiff").force();
    Api::<Service>::namespaced(client.clone(), NAMESPACE).patch(NAME, &params, &Patch::Apply(service)).await?;
    // Nodes elsewhere have the address as well; who they are is not known here.
    if nodes.is_empty() {
        return Ok(());
    }
    Api::<Endpoints>::namespaced(client.clone(), NAMESPACE)
        .patch(NAME, &params, &Patch::Apply(endpoints(&nodes)))
        .await?;
    Ok(())
}

fn meta() -> serde_json::Value {
    let labels = json!({
        "k8s-app": "kube-dns",
        "kubernetes.io/name": "CoreDNS",
        "kubernetes.io/cluster-service": "true",
        "service.kubernetes.io/service-proxy-name": "skiff-dns",
    });
    json!({"name": NAME, "namespace": NAMESPACE, "labels": labels})
}

const PORTS: [(&str, &str); 2] = [("dns", "UDP"), ("dns-tcp", "TCP")];

fn service(ip: IpAddr) -> serde_json::Value {
    let port = |(name, protocol)| json!({"name": name, "protocol": protocol, "port": 53, "targetPort": 53});
    let spec = json!({"type": "ClusterIP", "clusterIP": ip, "ports": PORTS.map(port)});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(), "spec": spec})
}

fn endpoints(nodes: &[(String, IpAddr)]) -> serde_json::Value {
    let port = |(name, protocol)| json!({"name": name, "protocol": protocol, "port": 53});
    let addresses: Vec<_> = nodes.iter().map(|(name, ip)| json!({"ip": ip, "nodeName": name})).collect();
    let subset = json!({"addresses": addresses, "ports": PORTS.map(port)});
    json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta(), "subsets": [subset]})
}

//! Services, Endpoints, EndpointSlices.

use serde_json::Value;
use skiff_api::json;

use super::{
    Writer,
    fields::{or_none, or_unset, scalar, selector},
};

pub(super) fn service(w: &mut Writer, service: &Value, slices: &[Value]) {
    let text = |path: &str| json::text(service, path);
    w.head(service);
    w.field(0, "Selector", selector(json::get(service, "spec.selector")));
    w.field(0, "Type", text("spec.type"));
    w.maybe(0, "IP Family Policy", text("spec.ipFamilyPolicy"));
    w.field(0, "IP Families", or_none(&json::texts(service, "spec.ipFamilies").join(",")));
    w.field(0, "IP", text("spec.clusterIP"));
    w.field(0, "IPs", or_none(&json::texts(service, "spec.clusterIPs").join(",")));
    w.maybe(0, "External IPs", &json::texts(service, "spec.externalIPs").join(","));
    w.maybe(0, "Desired LoadBalancer IP", text("spec.loadBalancerIP"));
    w.maybe(0, "External Name", text("spec.externalName"));
    let ingress: Vec<String> = json::list(service, "status.loadBalancer.ingress").iter().map(ingress).collect();
    w.maybe(0, "LoadBalancer Ingress", &ingress.join(", "));
    json::list(service, "spec.ports").iter().for_each(|p| port(w, p, slices));
    w.field(0, "Session Affinity", text("spec.sessionAffinity"));
    w.maybe(0, "External Traffic Policy", text("spec.externalTrafficPolicy"));
    w.maybe(0, "Internal Traffic Policy", text("spec.internalTrafficPolicy"));
    match json::int(service, "spec.healthCheckNodePort") {
        0 => {}
        port => w.field(0, "HealthCheck NodePort", port),
    }
    w.maybe(0, "LoadBalancer Source Ranges", &json::texts(service, "spec.loadBalancerSourceRanges").join(","));
}

fn ingress(point: &Value) -> String {
    match (json::text(point, "ip"), json::text(point, "ipMode")) {
        ("", _) => json::text(point, "hostname").to_owned(),
        (ip, "") => ip.to_owned(),
        (ip, mode) => format!("{ip} ({mode})"),
    }
}

fn port(w: &mut Writer, port: &Value, slices: &[Value]) {
    let name = json::text(port, "name");
    let protocol = json::text(port, "protocol");
    w.line(0, format!("Port:\t{}\t{}/{protocol}", or_unset(name), json::int(port, "port")));
    let target = port.get("targetPort").map(scalar).unwrap_or_default();
    w.field(0, "TargetPort", format!("{target}/{protocol}"));
    match json::int(port, "nodePort") {
        0 => {}
        node_port => w.line(0, format!("NodePort:\t{}\t{node_port}/{protocol}", or_unset(name))),
    }
    w.field(0, "Endpoints", ready_endpoints(slices, name));
}

/// At most this many endpoints are named.
const SHOWN: usize = 3;

fn ready_endpoints(slices: &[Value], port_name: &str) -> String {
    let mut all = Vec::new();
    for slice in slices {
        let ports = json::list(slice, "ports");
        let bare = ports.is_empty().then_some(None);
        let named = ports.iter().filter(|p| json::text(p, "name") == port_name).map(Some);
        for port in named.chain(bare) {
            for endpoint in json::list(slice, "endpoints") {
                let ready = json::get(endpoint, "conditions.ready").and_then(Value::as_bool).unwrap_or(true);
                let address = json::texts(endpoint, "addresses").first().copied().unwrap_or_default();
                if ready {
                    all.push(port.map_or_else(|| address.to_owned(), |p| socket(address, json::int(p, "port"))));
                }
            }
        }
    }
    match all.len() {
        0 => "<none>".into(),
        count if count > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), count - SHOWN),
        _ => all.join(","),
    }
}

fn socket(address: &str, port: i64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

pub(super) fn endpoints(w: &mut Writer, endpoints: &Value) -> bool {
    w.head(endpoints);
    w.line(0, "Subsets:");
    for subset in json::list(endpoints, "subsets") {
        for (title, field) in [("Addresses", "addresses"), ("NotReadyAddresses", "notReadyAddresses")] {
            let all: Vec<&str> = json::list(subset, field).iter().map(|a| json::text(a, "ip")).collect();
            w.field(1, title, or_none(&all.join(",")));
        }
        ports(w, json::list(subset, "ports"), 1);
        w.line(0, "");
    }
    true
}

fn ports(w: &mut Writer, ports: &[Value], level: usize) {
    if ports.is_empty() {
        return;
    }
    w.line(level, "Ports:");
    w.line(level + 1, "Name\tPort\tProtocol");
    w.line(level + 1, "----\t----\t--------");
    for port in ports {
        let number = port.get("port").map(scalar).unwrap_or_else(|| "<unset>".into());
        w.line(
            level + 1,
            format!("{}\t{number}\t{}", or_unset(json::text(port, "name")), json::text(port, "protocol")),
        );
    }
}

pub(super) fn slice(w: &mut Writer, slice: &Value) -> bool {
    w.head(slice);
    w.field(0, "AddressType", json::text(slice, "addressType"));
    match json::list(slice, "ports") {
        [] => w.field(0, "Ports", "<unset>"),
        all => ports(w, all, 0),
    }
    let all = json::list(slice, "endpoints");
    if all.is_empty() {
        w.field(0, "Endpoints", "<none>");
        return true;
    }
    w.line(0, "Endpoints:");
    for endpoint in all {
        w.line(1, format!("- Addresses:\t{}", json::texts(endpoint, "addresses").join(",")));
        let ready = json::get(endpoint, "conditions.ready").map(scalar);
        w.line(2, "Conditions:");
        w.field(3, "Ready", ready.as_deref().unwrap_or("<unset>"));
        w.field(2, "Hostname", or_unset(json::text(endpoint, "hostname")));
        if endpoint.get("targetRef").is_some() {
            let target = |field: &str| json::text(endpoint, field).to_owned();
            w.field(2, "TargetRef", format!("{}/{}", target("targetRef.kind"), target("targetRef.name")));
        }
        w.field(2, "NodeName", or_unset(json::text(endpoint, "nodeName")));
        w.field(2, "Zone", or_unset(json::text(endpoint, "zone")));
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_as_kubectl_tells_it() {
        let object = json!({
            "metadata": {"name": "ms-hello-svc", "namespace": "default"},
            "spec": {
                "selector": {"app": "ms-hello-pods"}, "type": "ClusterIP", "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"],
                "clusterIP": "10.96.126.57", "clusterIPs": ["10.96.126.57"], "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 17, "targetPort": 7777, "protocol": "TCP"}],
            },
        });
        let endpoint = |ip: &str| json!({"addresses": [ip], "conditions": {"ready": true}});
        let slice = json!({
            "ports": [{"name": "", "port": 7777, "protocol": "TCP"}],
            "endpoints": [endpoint("10.244.0.5"), endpoint("10.244.0.6")],
        });
        let mut w = Writer::default();
        service(&mut w, &object, &[slice]);
        let want = "\
Name:                     ms-hello-svc
Namespace:                default
Labels:                   <none>
Annotations:              <none>
Selector:                 app=ms-hello-pods
Type:                     ClusterIP
IP Family Policy:         SingleStack
IP Families:              IPv4
IP:                       10.96.126.57
IPs:                      10.96.126.57
Port:                     <unset>  17/TCP
TargetPort:               7777/TCP
Endpoints:                10.244.0.5:7777,10.244.0.6:7777
Session Affinity:         None
Internal Traffic Policy:  Cluster
";
        assert_eq!(w.finish(), want);
    }
}

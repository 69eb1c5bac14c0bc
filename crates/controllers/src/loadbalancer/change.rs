//! What a change of a load balancer's Service is told as, in the reference's words: the first thing that is another.

use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::plan::is_ours;

/// Reason and message of the event.
pub(crate) fn told(old: &Service, new: &Service) -> Option<(&'static str, String)> {
    let (before, now) = (old.spec.as_ref()?, new.spec.as_ref()?);
    match (is_ours(old), is_ours(new)) {
        (false, false) => None,
        (true, true) => differences(before, now).into_iter().flatten().next(),
        _ => Some(("Type", arrow(text(&before.type_), text(&now.type_)))),
    }
}

fn differences(before: &ServiceSpec, now: &ServiceSpec) -> [Option<(&'static str, String)>; 5] {
    let other = |reason, before: String, now: String| (before != now).then(|| (reason, arrow(&before, &now)));
    let ranges = |s: &ServiceSpec| format!("[{}]", list(&s.load_balancer_source_ranges).join(" "));
    let wish = |s: &ServiceSpec| text(&s.load_balancer_ip).to_owned();
    let policy = |s: &ServiceSpec| text(&s.external_traffic_policy).to_owned();
    let check = |s: &ServiceSpec| s.health_check_node_port.unwrap_or(0).to_string();
    [
        other("LoadBalancerSourceRanges", ranges(before), ranges(now)),
        other("LoadbalancerIP", wish(before), wish(now)),
        external_ips(list(&before.external_ips), list(&now.external_ips)),
        other("ExternalTrafficPolicy", policy(before), policy(now)),
        other("HealthCheckNodePort", check(before), check(now)),
    ]
}

fn external_ips(before: &[String], now: &[String]) -> Option<(&'static str, String)> {
    if before.len() != now.len() {
        return Some(("ExternalIP", format!("Count: {}", arrow(&before.len().to_string(), &now.len().to_string()))));
    }
    let added = before.iter().zip(now).find(|(before, now)| before != now)?.1;
    Some(("ExternalIP", format!("Added: {added}")))
}

fn arrow(before: &str, now: &str) -> String {
    format!("{before} -> {now}")
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

fn list(field: &Option<Vec<String>>) -> &[String] {
    field.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixture::object;

    #[test]
    fn the_first_difference_is_told() {
        let service = |spec: Value| -> Service { object(json!({"spec": spec})) };
        let balancer = |more: Value| {
            let mut spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster"});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            service(spec)
        };
        let check = |old: &Service, new: &Service, expect: Option<(&str, &str)>| {
            let said = told(old, new);
            assert_eq!(said.as_ref().map(|(reason, message)| (*reason, message.as_str())), expect);
        };
        let plain = balancer(json!({}));
        check(&plain, &plain, None);
        let cluster = service(json!({"type": "ClusterIP"}));
        check(&cluster, &plain, Some(("Type", "ClusterIP -> LoadBalancer")));
        check(&plain, &cluster, Some(("Type", "LoadBalancer -> ClusterIP")));
        check(&cluster, &service(json!({"type": "NodePort"})), None);
        for (more, reason, message) in [
            (
                json!({"loadBalancerSourceRanges": ["10.0.0.0/8", "192.0.2.0/24"]}),
                "LoadBalancerSourceRanges",
                "[] -> [10.0.0.0/8 192.0.2.0/24]",
            ),
            (json!({"loadBalancerIP": "192.0.2.1"}), "LoadbalancerIP", " -> 192.0.2.1"),
            (json!({"externalIPs": ["192.0.2.1"]}), "ExternalIP", "Count: 0 -> 1"),
            (
                json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 31000}),
                "ExternalTrafficPolicy",
                "Cluster -> Local",
            ),
            (json!({"healthCheckNodePort": 31000}), "HealthCheckNodePort", "0 -> 31000"),
        ] {
            check(&plain, &balancer(more), Some((reason, message)));
        }
        let external = |ip: &str| balancer(json!({"externalIPs": [ip]}));
        check(&external("192.0.2.1"), &external("192.0.2.2"), Some(("ExternalIP", "Added: 192.0.2.2")));
        let foreign = balancer(json!({"loadBalancerClass": "example.com/other"}));
        check(
            &foreign,
            &balancer(json!({"loadBalancerClass": "example.com/other", "loadBalancerIP": "192.0.2.1"})),
            None,
        );
    }
}

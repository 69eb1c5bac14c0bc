use serde_json::{Value, json};

use super::*;
use crate::fixture::object;

/// Made in the order of their numbers; `has` stands in the status.
fn balancer(number: u32, spec: Value, has: &[&str]) -> Arc<Service> {
    let ips: Vec<IpAddr> = has.iter().map(|ip| ip.parse().unwrap()).collect();
    let mut service: Service = object(json!({
        "metadata": {"name": format!("s{number}"), "namespace": "ns", "uid": format!("u{number}"),
            "creationTimestamp": format!("2026-01-01T00:00:{number:02}Z")},
        "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"]},
        "status": {"loadBalancer": {"ingress": status(&ips)}},
    }));
    if !has.is_empty() {
        service.metadata.finalizers = Some(vec![FINALIZER.into()]);
    }
    let mut all = serde_json::to_value(&service).unwrap();
    for (key, value) in spec.as_object().unwrap() {
        all["spec"][key] = value.clone();
    }
    Arc::new(object(all))
}

fn plain(number: u32) -> Arc<Service> {
    balancer(number, json!({}), &[])
}

/// "give IPS", "take", "nothing", "refuse WHY".
fn check(service: &Arc<Service>, others: &[Arc<Service>], expect: &str) {
    let all: Vec<_> = others.iter().chain([service]).cloned().collect();
    let pool = "192.0.2.1-192.0.2.2,fd00::1".parse().unwrap();
    let said = match plan(service, &all, &pool) {
        Plan::Nothing => "nothing".to_string(),
        Plan::Take => "take".into(),
        Plan::Give(ips) => format!("give {}", ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
        Plan::Refuse(why) => format!("refuse {why}"),
    };
    assert!(said.starts_with(expect) && (said.starts_with("refuse") || said == expect), "{said:?}, not {expect:?}");
}

#[test]
fn two_services_have_two_addresses() {
    check(&plain(1), &[], "give 192.0.2.1");
    let first = balancer(1, json!({}), &["192.0.2.1"]);
    check(&first, &[], "nothing");
    check(&plain(2), std::slice::from_ref(&first), "give 192.0.2.2");
    let second = balancer(2, json!({}), &["192.0.2.2"]);
    check(
        &plain(3),
        &[first, second],
        "refuse no free IPv4 address is left in the pool 192.0.2.1-192.0.2.2,fd00::1-fd00::1",
    );
}

#[test]
fn wishes_are_honoured_or_refused_with_the_reason() {
    let wish = |ip: &str, has: &[&str]| balancer(5, json!({"loadBalancerIP": ip}), has);
    check(&wish("192.0.2.2", &[]), &[], "give 192.0.2.2");
    check(&wish("192.0.2.2", &["192.0.2.1"]), &[], "give 192.0.2.2");
    check(&wish("192.0.2.2", &["192.0.2.2"]), &[], "nothing");
    let other = balancer(1, json!({}), &["192.0.2.2"]);
    check(&wish("192.0.2.2", &[]), &[other], "refuse spec.loadBalancerIP 192.0.2.2 is already in use");
    check(&wish("198.51.100.1", &[]), &[], "refuse spec.loadBalancerIP 198.51.100.1 is not in the pool");
    check(&wish("fd00::1", &[]), &[], "refuse spec.loadBalancerIP fd00::1 is not of the Service's IP families");
    check(&wish("nonsense", &[]), &[], "refuse spec.loadBalancerIP \"nonsense\"");
}

#[test]
fn both_families() {
    let dual = |policy: &str, has: &[&str]| {
        balancer(1, json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": policy}), has)
    };
    check(&dual("PreferDualStack", &[]), &[], "give fd00::1 192.0.2.1");
    check(&dual("PreferDualStack", &["192.0.2.2"]), &[], "give fd00::1 192.0.2.2");
    let other = balancer(2, json!({}), &["fd00::1"]);
    check(&dual("RequireDualStack", &[]), &[other], "refuse no free IPv6 address");
    let only_v4 = "192.0.2.0/24".parse().unwrap();
    assert_eq!(plan(&dual("PreferDualStack", &[]), &[], &only_v4), Plan::Give(vec!["192.0.2.1".parse().unwrap()]));
    assert!(
        matches!(plan(&dual("RequireDualStack", &[]), &[], &only_v4), Plan::Refuse(why) if why.contains("no IPv6"))
    );
}

#[test]
fn what_is_no_load_balancer_of_ours_is_left_alone_or_let_go() {
    check(&balancer(1, json!({"loadBalancerClass": "example.com/other"}), &[]), &[], "nothing");
    check(&balancer(1, json!({"loadBalancerClass": CLASS}), &[]), &[], "give 192.0.2.1");
    check(&balancer(1, json!({"type": "ClusterIP"}), &[]), &[], "nothing");
    check(&balancer(1, json!({"type": "ClusterIP"}), &["192.0.2.1"]), &[], "take");
    let going = crate::fixture::changed(&*balancer(1, json!({}), &["192.0.2.1"]), |s| {
        s.metadata.deletion_timestamp = s.metadata.creation_timestamp.clone();
    });
    check(&going, &[], "take");
    check(&plain(2), &[balancer(1, json!({"type": "NodePort"}), &["192.0.2.1"])], "give 192.0.2.1");
}

#[test]
fn damage_is_repaired() {
    let (older, younger) = (balancer(1, json!({}), &["192.0.2.1"]), balancer(2, json!({}), &["192.0.2.1"]));
    check(&older, std::slice::from_ref(&younger), "nothing");
    check(&younger, std::slice::from_ref(&older), "give 192.0.2.2");
    check(&balancer(1, json!({}), &["198.51.100.1"]), &[], "give 192.0.2.1");
    let proxied = crate::fixture::changed(&*older, |s| {
        let balancer = s.status.as_mut().unwrap().load_balancer.as_mut().unwrap();
        balancer.ingress.as_mut().unwrap()[0].ip_mode = Some("Proxy".into());
    });
    check(&proxied, &[], "give 192.0.2.1");
}

use serde_json::{Value, json};

use super::*;

fn service(name: &str, ip: &str) -> Service {
    let object = json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"clusterIP": ip}});
    Service::from_api(&serde_json::from_value(object).unwrap()).unwrap()
}

fn slice(name: &str, service: &str, ips: &[&str]) -> Slice {
    let endpoints: Vec<Value> = ips.iter().map(|ip| json!({"addresses": [ip]})).collect();
    let object = json!({
        "metadata": {"namespace": "ns", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints,
    });
    Slice::from_api(&serde_json::from_value(object).unwrap()).unwrap()
}

fn names(keys: impl IntoIterator<Item = ServiceKey>) -> String {
    keys.into_iter().map(|k| k.name.to_string()).collect::<Vec<_>>().join(" ")
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("ns", name)
}

#[test]
fn only_what_changes_is_dirty() {
    let mut all = Snapshot::default();
    assert_eq!(all.apply_service(service("a", "10.96.0.1")), Some(key("a")));
    assert_eq!(all.apply_service(service("a", "10.96.0.1")), None);
    assert_eq!(all.apply_service(service("a", "10.96.0.2")), Some(key("a")));
    assert_eq!(names(all.apply_slice(slice("a-1", "a", &["10.244.0.1"]))), "a");
    assert_eq!(names(all.apply_slice(slice("a-1", "a", &["10.244.0.1"]))), "");
    assert_eq!(names(all.apply_slice(slice("a-1", "a", &["10.244.0.2"]))), "a");
    assert_eq!(all.remove_service(&key("b")), None);
    assert_eq!(all.remove_slice(&"ns".into(), &"b-1".into()), None);
    assert_eq!(all.remove_slice(&"other".into(), &"a-1".into()), None);
}

#[test]
fn slices_and_services_come_and_go_in_any_order() {
    let mut all = Snapshot::default();
    all.apply_slice(slice("a-1", "a", &["10.244.0.1"]));
    assert!(all.get(&key("a")).unwrap().service.is_none());
    all.apply_service(service("a", "10.96.0.1"));
    assert_eq!(all.remove_service(&key("a")), Some(key("a")));
    assert_eq!(all.remove_service(&key("a")), None, "there are slices, but no Service");
    assert_eq!(all.len(), 1);
    assert_eq!(all.remove_slice(&"ns".into(), &"a-1".into()), Some(key("a")));
    assert!(all.is_empty() && all.slice_home.is_empty());
}

#[test]
fn a_slice_that_moves_leaves_nothing_behind() {
    let mut all = Snapshot::default();
    all.apply_slice(slice("1", "a", &["10.244.0.1"]));
    assert_eq!(names(all.apply_slice(slice("1", "b", &["10.244.0.1"]))), "a b");
    assert!(all.get(&key("a")).is_none());
    assert_eq!(all.get(&key("b")).unwrap().slices.len(), 1);
    assert_eq!(all.slice_home.len(), 1);
}

#[test]
fn after_a_list_the_rest_is_gone() {
    let mut all = Snapshot::default();
    for name in ["a", "b", "c"] {
        all.apply_service(service(name, "10.96.0.1"));
        all.apply_slice(slice(&format!("{name}-1"), name, &["10.244.0.1"]));
    }
    assert_eq!(names(all.retain(|_| true, |_, _| true)), "");
    assert_eq!(names(all.retain(|k| &*k.name != "a", |ns, name| ns == "ns" && name != "b-1")), "a b");
    assert!(all.get(&key("a")).unwrap().service.is_none());
    assert!(all.get(&key("b")).unwrap().slices.is_empty());
    assert_eq!(names(all.retain(|_| false, |_, _| false)), "a b c");
    assert!(all.is_empty() && all.slice_home.is_empty());
}

#[test]
fn the_order_of_events_does_not_show() {
    let (a, one, two) = (service("a", "10.96.0.1"), slice("1", "a", &["10.244.0.1"]), slice("2", "a", &["10.244.0.2"]));
    let (mut first, mut second) = (Snapshot::default(), Snapshot::default());
    first.apply_service(a.clone());
    first.apply_slice(one.clone());
    first.apply_slice(two.clone());
    second.apply_slice(two);
    second.apply_slice(one);
    second.apply_service(a);
    assert_eq!(first, second);
}

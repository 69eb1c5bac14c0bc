use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::*;
use crate::fixture::{at, changed, now, object};

fn set(spec: Value) -> StatefulSet {
    let mut all = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "u", "generation": 3},
        "spec": {"replicas": 3, "serviceName": "web-svc", "selector": {"matchLabels": {"app": "web"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    for (key, value) in spec.as_object().unwrap() {
        all["spec"][key] = value.clone();
    }
    object(all)
}

fn template(image: &str) -> PodTemplateSpec {
    object(json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}))
}

/// "0:a!" is web-0 of revision a, ready; without the mark not ready; "x" terminating; "f" failed.
fn pod(set: &StatefulSet, text: &str) -> Arc<Pod> {
    let (number, rest) = text.split_once(':').unwrap();
    let mut pod = make(set, &template("i"), &rest[..1], number.parse().unwrap());
    pod.metadata.uid = Some(format!("uid-{text}"));
    let ready = if rest.contains('!') { "True" } else { "False" };
    let phase = if rest.contains('f') { "Failed" } else { "Running" };
    pod.status = Some(object(json!({"phase": phase, "conditions": [
        {"type": "Ready", "status": ready, "lastTransitionTime": at(900_000).to_string()}]})));
    if rest.contains('x') {
        pod.metadata.deletion_timestamp = Some(Time(now()));
    }
    Arc::new(pod)
}

/// "+1:a" is made of revision a, "-2" deleted.
fn check(set: &StatefulSet, pods: &str, expect: &str) -> StatefulSetStatus {
    let (old, new) = (template("old"), template("new"));
    let pods: Vec<_> = pods.split_whitespace().map(|p| pod(set, p)).collect();
    let plan = plan(set, &pods, Revisions { current: ("a", &old), update: ("b", &new) }, now());
    let made = plan.create.iter().map(|p| format!("+{}:{}", ordinal(set, p).unwrap(), revision(p)));
    let deleted = plan.delete.iter().map(|p| format!("-{}", ordinal(set, p).unwrap()));
    assert_eq!(made.chain(deleted).collect::<Vec<_>>().join(" "), expect);
    plan.status
}

#[test]
fn pods_are_made_one_after_the_other_and_go_in_reverse() {
    let web = set(json!({}));
    check(&web, "", "+0:b");
    check(&web, "0:b", "");
    check(&web, "0:b!", "+1:b");
    check(&web, "0:b! 2:b!", "+1:b");
    check(&web, "0:b! 1:b!x 2:b!", "");
    let small = set(json!({"replicas": 1}));
    check(&small, "0:b! 1:b! 2:b!", "-2");
    check(&small, "0:b! 1:b! 2:b!x", "");
    check(&small, "0:b 1:b!", "");
    check(&set(json!({"replicas": 0})), "0:b!", "-0");
}

#[test]
fn in_parallel_nobody_waits() {
    let web = set(json!({"podManagementPolicy": "Parallel"}));
    check(&web, "", "+0:b +1:b +2:b");
    check(&web, "1:b 3:b! 4:b!", "+0:b +2:b -4 -3");
}

#[test]
fn a_rolling_update_goes_from_the_highest_down_to_the_partition() {
    let web = set(json!({}));
    check(&web, "0:a! 1:a! 2:a!", "-2");
    check(&web, "0:a! 1:a! 2:b", "");
    check(&web, "0:a! 1:a! 2:b!", "-1");
    let partition = set(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}));
    check(&partition, "0:a! 1:a! 2:a!", "-2");
    check(&partition, "0:a! 1:a! 2:b!", "");
    check(&partition, "0:a! 2:b!", "+1:a");
    let by_hand = set(json!({"updateStrategy": {"type": "OnDelete"}}));
    check(&by_hand, "0:a! 1:a! 2:a!", "");
    check(&by_hand, "0:a! 2:a!", "+1:b");
}

#[test]
fn status_says_how_far_it_is() {
    let web = set(json!({}));
    let status = check(&web, "0:a! 1:a 2:b!", "");
    assert_eq!((status.replicas, status.ready_replicas, status.updated_replicas), (3, Some(2), Some(1)));
    assert_eq!((status.current_replicas, status.current_revision.as_deref()), (Some(2), Some("a")));
    let done = check(&web, "0:b! 1:b! 2:b!", "");
    assert_eq!((done.current_revision, done.update_revision.as_deref()), (Some("b".into()), Some("b")));
    assert_eq!((done.current_replicas, done.observed_generation), (Some(3), Some(3)));
}

#[test]
fn failed_pods_are_made_anew_and_ordinals_may_start_later() {
    check(&set(json!({})), "0:b!f 1:b! 2:b!", "-0");
    let later = set(json!({"ordinals": {"start": 5}, "replicas": 2}));
    check(&later, "5:b!", "+6:b");
    check(&later, "4:b! 5:b! 6:b!", "-4");
}

#[test]
fn pods_have_names_that_last() {
    let web = set(json!({}));
    let made = make(&web, &template("i"), "rev", 1);
    assert_eq!((made.metadata.name.as_deref(), made.metadata.generate_name), (Some("web-1"), None));
    let labels = made.metadata.labels.unwrap();
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "web-1");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "1");
    let spec = made.spec.unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-1"), Some("web-svc")));
}

#[test]
fn a_set_that_is_going_touches_nothing_and_claims_are_refused() {
    let going = changed(&set(json!({})), |s| s.metadata.deletion_timestamp = Some(Time(now())));
    check(&going, "0:b!", "");
    let claims = set(json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}));
    assert!(refusal(&claims).unwrap().contains("persistent volumes"));
    assert_eq!(refusal(&set(json!({}))), None);
}

#[test]
fn waits_for_min_ready_seconds() {
    let web = set(json!({"minReadySeconds": 100_060}));
    let (old, new) = (template("old"), template("new"));
    let revisions = Revisions { current: ("b", &old), update: ("b", &new) };
    let got = plan(&web, &[pod(&web, "0:b!")], revisions, now());
    assert!(got.create.is_empty());
    assert_eq!(got.again, Some(Duration::from_secs(60)));
}

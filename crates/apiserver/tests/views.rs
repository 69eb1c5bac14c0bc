//! One set of objects in two forms: events in core and events.k8s.io, autoscalers in v1 and v2.

mod support;

use http::Method;
use serde_json::{Value, json};
use support::Api;

const CORE: &str = "/api/v1/namespaces/default/events";
const NEW: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn core_event(name: &str) -> Value {
    json!({"metadata": {"name": name}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
           "reason": "Pulled", "message": "Container image pulled", "type": "Normal", "count": 2,
           "source": {"component": "kubelet", "host": "node-1"},
           "firstTimestamp": "2026-01-02T03:04:05Z", "lastTimestamp": "2026-01-02T03:04:09Z"})
}

fn new_event(name: &str) -> Value {
    json!({"metadata": {"name": name}, "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
           "reason": "Scheduled", "note": "Successfully assigned", "type": "Normal", "action": "Binding",
           "eventTime": "2026-01-02T03:04:05.000000Z", "reportingController": "default-scheduler",
           "reportingInstance": "default-scheduler-1"})
}

#[tokio::test]
async fn an_event_is_one_thing_in_both_groups() {
    let api = Api::new().await;
    api.create(CORE, core_event("old")).await;
    api.create(NEW, new_event("new")).await;
    for path in [CORE, NEW] {
        let (_, list) = api.get(path).await;
        let names: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|e| &e["metadata"]["name"]).collect();
        assert_eq!(names, ["new", "old"], "{path}");
    }
    let (_, old) = api.get(&format!("{NEW}/old")).await;
    assert_eq!((&old["apiVersion"], &old["note"]), (&json!("events.k8s.io/v1"), &json!("Container image pulled")));
    assert_eq!((&old["regarding"]["name"], &old["deprecatedCount"]), (&json!("p"), &json!(2)));
    assert_eq!(old["deprecatedSource"], json!({"component": "kubelet", "host": "node-1"}));
    let (_, new) = api.get(&format!("{CORE}/new")).await;
    assert_eq!((&new["apiVersion"], &new["message"]), (&json!("v1"), &json!("Successfully assigned")));
    assert_eq!(
        (&new["involvedObject"]["name"], &new["reportingComponent"]),
        (&json!("p"), &json!("default-scheduler"))
    );
    // Both views have the same revision and uid, and their own fields select.
    assert_eq!(
        api.get(&format!("{NEW}/new")).await.1["metadata"]["resourceVersion"],
        new["metadata"]["resourceVersion"]
    );
    let (_, found) = api.get(&format!("{NEW}?fieldSelector=regarding.kind=Pod,reason=Pulled")).await;
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    let (_, found) = api.get(&format!("{CORE}?fieldSelector=involvedObject.name=p,source=default-scheduler")).await;
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn watches_of_both_groups_see_both() {
    let api = Api::new().await;
    let mut core = api.watch(&format!("{CORE}?watch=1")).await;
    let mut new = api.watch(&format!("{NEW}?watch=1")).await;
    api.create(NEW, new_event("a")).await;
    let (seen, also) = (core.next().await.unwrap(), new.next().await.unwrap());
    assert_eq!((&seen["type"], &seen["object"]["message"]), (&json!("ADDED"), &json!("Successfully assigned")));
    assert_eq!((&also["type"], &also["object"]["note"]), (&json!("ADDED"), &json!("Successfully assigned")));
    api.merge(&format!("{NEW}/a"), json!({"series": {"count": 2, "lastObservedTime": "2026-01-02T03:05:05.000000Z"}}))
        .await;
    assert_eq!(core.next().await.unwrap()["object"]["series"]["count"], 2);
    assert_eq!(new.short().await, "MODIFIED a");
    api.delete(&format!("{CORE}/a")).await;
    assert_eq!(core.short().await, "DELETED a");
    assert_eq!(new.next().await.unwrap()["object"]["regarding"]["name"], "p");
}

#[tokio::test]
async fn new_events_say_who_and_what() {
    let api = Api::new().await;
    let mut bare = new_event("x");
    for key in ["eventTime", "action"] {
        bare.as_object_mut().unwrap().remove(key);
    }
    let (code, status) = api.json(Method::POST, NEW, bare).await;
    assert_eq!(
        (code, status["message"].as_str().unwrap()),
        (422, "Event.events.k8s.io \"x\" is invalid: eventTime: Required value")
    );
    api.create(NEW, new_event("x")).await;
    let (code, status) = api.merge(&format!("{NEW}/x"), json!({"note": "other"})).await;
    assert_eq!(
        (code, status["message"].as_str().unwrap()),
        (422, "Event.events.k8s.io \"x\" is invalid: note: Invalid value: \"other\": field is immutable")
    );
}

#[tokio::test]
async fn autoscalers_have_two_versions() {
    let api = Api::new().await;
    let (v1, v2) = (
        "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
        "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
    );
    let target = json!({"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"});
    api.create(v1, json!({"metadata": {"name": "a"}, "spec": {"scaleTargetRef": target, "maxReplicas": 5, "targetCPUUtilizationPercentage": 70}})).await;
    let (_, two) = api.get(&format!("{v2}/a")).await;
    assert_eq!(two["apiVersion"], "autoscaling/v2");
    assert_eq!(two["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
    api.merge(&format!("{v2}/a"), json!({"spec": {"behavior": {"scaleDown": {"selectPolicy": "Disabled"}}}})).await;
    api.merge(&format!("{v1}/a"), json!({"spec": {"targetCPUUtilizationPercentage": 60}})).await;
    let (_, two) = api.get(&format!("{v2}/a")).await;
    assert_eq!(two["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
    assert_eq!(two["spec"]["behavior"]["scaleDown"]["selectPolicy"], "Disabled");
}

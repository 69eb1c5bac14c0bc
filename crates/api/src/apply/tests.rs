use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::resources::find_kind;

const NOON: &str = "2026-01-01T12:00:00Z";
const ONE: &str = "2026-01-01T13:00:00Z";

fn deployments() -> &'static Resource {
    find_kind("apps", "v1", "Deployment").unwrap()
}

fn config_maps() -> &'static Resource {
    find_kind("", "v1", "ConfigMap").unwrap()
}

fn options(manager: &str) -> Options<'_> {
    Options { manager, force: false, subresource: None, now: NOON.parse().unwrap() }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

fn applied(live: Option<&Value>, config: &Value, manager: &str) -> Value {
    apply(config_maps(), live, config, &options(manager)).unwrap()
}

/// What each manager owns, by name and operation.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let name = |e: &Value| format!("{} {}", e["manager"].as_str().unwrap(), e["operation"].as_str().unwrap());
    entries.iter().map(|e| (name(e), e["fieldsV1"].clone())).collect()
}

fn updated(resource: &Resource, old: Option<&Value>, mut new: Value, manager: &str) -> Value {
    track_update(resource, old, &mut new, manager, None, NOON.parse().unwrap());
    new
}

#[test]
fn what_is_no_longer_applied_goes() {
    let one = applied(None, &config_map(json!({"a": "1", "b": "2"})), "me");
    assert_eq!(owners(&one), [("me Apply".into(), json!({"f:data": {"f:a": {}, "f:b": {}}}))]);
    let entry = &one["metadata"]["managedFields"][0];
    assert_eq!(
        (&entry["time"], &entry["fieldsType"], &entry["apiVersion"]),
        (&json!(NOON), &json!("FieldsV1"), &json!("v1"))
    );
    let two = applied(Some(&one), &config_map(json!({"b": "3"})), "me");
    assert_eq!(two["data"], json!({"b": "3"}));
    let none = applied(Some(&two), &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}), "me");
    assert_eq!((none.get("data"), owners(&none)), (None, vec![]));
}

#[test]
fn null_says_nothing() {
    let containers = json!([{"name": "a", "image": "x", "resources": null}]);
    let config = deployment(
        json!({"replicas": null, "template": {"metadata": {"creationTimestamp": null}, "spec": {"containers": containers}}}),
    );
    let object = apply(deployments(), None, &config, &options("me")).unwrap();
    assert!(!object.to_string().contains("null"), "{object}");
    assert_eq!(owners(&object)[0].1["f:spec"].get("f:replicas"), None);
}

#[test]
fn what_others_own_stays() {
    let one = applied(None, &config_map(json!({"a": "1", "b": "2"})), "me");
    let two = applied(Some(&one), &config_map(json!({"b": "2"})), "you");
    let three = applied(Some(&two), &config_map(json!({"a": "1"})), "me");
    assert_eq!(three["data"], json!({"a": "1", "b": "2"}), "b is also yours");
    let four = applied(Some(&three), &config_map(json!({})), "you");
    assert_eq!(four["data"], json!({"a": "1"}));
}

#[test]
fn conflicts_name_the_owner_and_the_field() {
    let live =
        updated(deployments(), None, deployment(json!({"replicas": 1, "paused": true})), "kubectl-client-side-apply");
    let mine = deployment(json!({"replicas": 3}));
    let error = apply(deployments(), Some(&live), &mine, &options("me")).unwrap_err();
    let words =
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas";
    assert_eq!(error.to_string(), words);
    let both = deployment(json!({"replicas": 3, "paused": false}));
    let error = apply(deployments(), Some(&live), &both, &options("me")).unwrap_err();
    let words = "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .spec.paused\n- .spec.replicas";
    assert_eq!(error.to_string(), words);
    assert_eq!(Status::from(error).code(), 409);
    let forced = apply(deployments(), Some(&live), &mine, &Options { force: true, ..options("me") }).unwrap();
    let expected = [
        ("me Apply".to_string(), json!({"f:spec": {"f:replicas": {}}})),
        ("kubectl-client-side-apply Update".to_string(), json!({"f:spec": {"f:paused": {}}})),
    ];
    assert_eq!((owners(&forced), &forced["spec"]["replicas"]), (expected.to_vec(), &json!(3)));
    let same = apply(deployments(), Some(&live), &deployment(json!({"replicas": 1})), &options("me")).unwrap();
    assert_eq!(owners(&same).len(), 2, "the same value is shared");
}

fn with_ports(ports: Value) -> Value {
    deployment(json!({"template": {"spec": {"containers": [{"name": "a", "image": "x", "ports": ports}]}}}))
}

#[test]
fn list_elements_have_their_own_owners() {
    let one = apply(deployments(), None, &with_ports(json!([{"containerPort": 80}])), &options("me")).unwrap();
    let port = json!({"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}});
    let container = json!({"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {}, "f:ports": port}});
    let expected = json!({"f:spec": {"f:template": {"f:spec": {"f:containers": container}}}});
    assert_eq!(owners(&one), [("me Apply".to_string(), expected)]);
    let udp = with_ports(json!([{"containerPort": 80, "protocol": "UDP"}]));
    let two = apply(deployments(), Some(&one), &udp, &options("me")).unwrap();
    assert_eq!(
        two["spec"]["template"]["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 80, "protocol": "UDP"}])
    );
    let other = deployment(json!({"template": {"spec": {"containers": [{"name": "b", "image": "y"}]}}}));
    let three = apply(deployments(), Some(&two), &other, &options("you")).unwrap();
    let names = |object: &Value| {
        let list = object["spec"]["template"]["spec"]["containers"].as_array().unwrap().clone();
        list.iter().map(|c| c["name"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&three), ["a", "b"]);
    let four = apply(deployments(), Some(&three), &deployment(json!({"paused": true})), &options("me")).unwrap();
    assert_eq!(names(&four), ["b"]);
    let changed = deployment(json!({"template": {"spec": {"containers": [{"name": "b", "image": "z"}]}}}));
    let error = apply(deployments(), Some(&four), &changed, &options("me")).unwrap_err().to_string();
    assert_eq!(
        error,
        "Apply failed with 1 conflict: conflict with \"you\": .spec.template.spec.containers[name=\"b\"].image"
    );
}

#[test]
fn unclear_configurations_are_refused() {
    let list = |containers: Value| deployment(json!({"template": {"spec": {"containers": containers}}}));
    for (config, why) in [
        (json!([]), "must be an object"),
        (
            list(json!([{"name": "a"}, {"name": "a"}])),
            ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
        ),
        (list(json!([{"image": "x"}])), "omits key field \"name\""),
        (json!({"metadata": {"managedFields": [{"manager": "x"}]}}), "metadata.managedFields must be nil"),
    ] {
        let error = apply(deployments(), None, &config, &options("me")).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(Status::from(error).code(), 400);
    }
}

#[test]
fn ordinary_writes_take_what_they_change() {
    let one = updated(config_maps(), None, config_map(json!({"a": "1", "b": "2"})), "me");
    assert_eq!(owners(&one), [("me Update".to_string(), json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}}))]);
    let mut change = one.clone();
    change["data"]["a"] = json!("9");
    let two = updated(config_maps(), Some(&one), change, "you");
    let expected = [
        ("me Update".to_string(), json!({"f:data": {".": {}, "f:b": {}}})),
        ("you Update".to_string(), json!({"f:data": {"f:a": {}}})),
    ];
    assert_eq!(owners(&two), expected);
    let mut bare = two.clone();
    bare["metadata"].as_object_mut().unwrap().remove("managedFields");
    assert_eq!(owners(&updated(config_maps(), Some(&two), bare.clone(), "it")), expected, "nothing changed");
    bare["data"].as_object_mut().unwrap().remove("a");
    assert_eq!(
        owners(&updated(config_maps(), Some(&two), bare.clone(), "it")),
        expected[..1],
        "nobody owns what is gone"
    );
    bare["metadata"]["managedFields"] = json!([{}]);
    assert_eq!(owners(&updated(config_maps(), Some(&two), bare, "it")), [], "one empty entry clears the owners");
}

#[test]
fn subresources_are_owned_apart() {
    let live = updated(deployments(), None, deployment(json!({"replicas": 1})), "me");
    let mut change = live.clone();
    change["status"] = json!({"replicas": 1});
    track_update(deployments(), Some(&live), &mut change, "me", Some("status"), NOON.parse().unwrap());
    let entry = &change["metadata"]["managedFields"][1];
    assert_eq!(
        (&entry["subresource"], &entry["fieldsV1"]),
        (&json!("status"), &json!({"f:status": {"f:replicas": {}}}))
    );
    let mut config = deployment(json!({"replicas": 5}));
    config["status"] = json!({"replicas": 7});
    let status = apply(
        deployments(),
        Some(&change),
        &config,
        &Options { subresource: Some("status"), force: true, ..options("you") },
    )
    .unwrap();
    assert_eq!((&status["spec"]["replicas"], &status["status"]["replicas"]), (&json!(1), &json!(7)));
    let main = apply(deployments(), Some(&change), &config, &Options { force: true, ..options("you") }).unwrap();
    assert_eq!((&main["spec"]["replicas"], &main["status"]["replicas"]), (&json!(5), &json!(1)));
}

#[test]
fn kubectl_may_move_from_the_clients_side_to_the_servers() {
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    let mut object = config_map(json!({"a": "1"}));
    object["metadata"]["annotations"] = json!({ annotation: config_map(json!({"a": "1"})).to_string() });
    let live = updated(config_maps(), None, object, "kubectl-client-side-apply");
    let config = config_map(json!({"a": "2"}));
    assert_eq!(applied(Some(&live), &config, "kubectl")["data"]["a"], "2");
    assert!(apply(config_maps(), Some(&live), &config, &options("other")).is_err());
    let mut touched = live.clone();
    touched["data"]["a"] = json!("5");
    let touched = updated(config_maps(), Some(&live), touched, "somebody");
    assert!(apply(config_maps(), Some(&touched), &config, &options("kubectl")).is_err());
}

#[test]
fn objects_from_before_owners_were_recorded() {
    let error =
        apply(config_maps(), Some(&config_map(json!({"a": "1"}))), &config_map(json!({"a": "2"})), &options("me"));
    let words = "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a";
    assert_eq!(error.unwrap_err().to_string(), words);
}

#[test]
fn there_are_never_too_many_writers() {
    let mut live = config_map(json!({}));
    for index in 0..30 {
        let mut change = live.clone();
        change["data"][format!("k{index}")] = json!("v");
        track_update(config_maps(), Some(&live), &mut change, &format!("writer-{index}"), None, NOON.parse().unwrap());
        live = change;
        assert!(owners(&live).len() <= 10);
    }
    assert!(owners(&live).iter().any(|(name, _)| name == "ancient-changes Update"));
}

#[test]
fn managers_are_named_by_request_or_user_agent() {
    assert_eq!(manager_name(Some("me"), "curl/8"), "me");
    assert_eq!(manager_name(None, "kubectl/v1.32 (linux/amd64)"), "kubectl");
    assert_eq!(manager_name(None, ""), "unknown");
}

fn data() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-d]", "[0-2]", 0..4).prop_map(|map| json!(map))
}

fn containers() -> impl Strategy<Value = Value> {
    let ports = prop::collection::btree_set(80..83i64, 0..3);
    prop::collection::btree_map("[a-c]", ("[x-z]", ports), 0..3).prop_map(|map| {
        map.into_iter()
            .map(|(name, (image, ports))| {
                let ports: Vec<_> = ports.into_iter().map(|port| json!({"containerPort": port})).collect();
                json!({"name": name, "image": image, "ports": ports})
            })
            .collect()
    })
}

fn with_containers(containers: &Value) -> Value {
    deployment(json!({"template": {"spec": {"containers": containers}}}))
}

fn forced<'a>(manager: &'a str) -> Options<'a> {
    Options { force: true, ..options(manager) }
}

proptest! {
    #[test]
    fn applying_twice_changes_nothing(live in containers(), config in containers()) {
        let live = updated(deployments(), None, with_containers(&live), "other");
        let config = with_containers(&config);
        let once = apply(deployments(), Some(&live), &config, &forced("me")).unwrap();
        let later = Options { now: ONE.parse().unwrap(), force: false, ..options("me") };
        prop_assert_eq!(&apply(deployments(), Some(&once), &config, &later).unwrap(), &once);
    }

    #[test]
    fn alone_an_applier_gets_exactly_what_it_says(configs in prop::collection::vec(containers(), 1..4)) {
        let mut live = None;
        for config in &configs {
            live = Some(apply(deployments(), live.as_ref(), &with_containers(config), &options("me")).unwrap());
        }
        let sorted = |object: &Value| {
            let mut list = object["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
            list.sort_by_key(|c| c["name"].to_string());
            list.iter_mut().for_each(|c| {
                if let Some(ports) = c.get_mut("ports").and_then(Value::as_array_mut) { ports.sort_by_key(Value::to_string) }
                if c["ports"] == json!([]) { c.as_object_mut().unwrap().remove("ports"); }
            });
            list
        };
        prop_assert_eq!(sorted(&live.unwrap()), sorted(&with_containers(configs.last().unwrap())));
    }

    #[test]
    fn shared_fields_have_one_value_and_owned_fields_exist(mine in data(), yours in data(), last in data()) {
        let one = applied(None, &config_map(mine), "me");
        let two = apply(config_maps(), Some(&one), &config_map(yours.clone()), &forced("you")).unwrap();
        for (key, value) in yours.as_object().unwrap() {
            prop_assert_eq!(&two["data"][key], value, "force takes over");
        }
        let three = apply(config_maps(), Some(&two), &config_map(last), &forced("me")).unwrap();
        for (_, fields) in owners(&three) {
            for key in fields["f:data"].as_object().into_iter().flat_map(|map| map.keys()).filter(|key| *key != ".") {
                prop_assert!(three["data"].get(&key[2..]).is_some(), "{} in {}", key, three);
            }
        }
        for key in three["data"].as_object().into_iter().flat_map(|map| map.keys()) {
            let step = format!("f:{key}");
            prop_assert!(owners(&three).iter().any(|(_, fields)| fields["f:data"].get(&step).is_some()), "{} has an owner", key);
        }
    }

    #[test]
    fn sets_read_what_they_write(object in containers()) {
        let set = shape::changes(None, &with_containers(&object), Spot::root(merge_keys::root("apps", "Deployment")), Style::Updated);
        prop_assert_eq!(Set::read(&set.write()), set);
    }

    #[test]
    fn any_owners_are_survived(fields in "[fkvi.:{}\"a-c1]{0,12}", config in data()) {
        let mut live = config_map(config.clone());
        live["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Apply", "fieldsV1": {fields: {"f:a": [1]}}}, 7, {}]);
        let _ = apply(config_maps(), Some(&live), &config_map(config), &options("x"));
        track_update(config_maps(), None, &mut live, "y", None, NOON.parse().unwrap());
    }
}

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::merge_keys::root;

fn deployment(object: &Value, patch: Value) -> Result<Value, Error> {
    strategic_as(root("apps", "Deployment"), object, &patch)
}

fn with_containers(names: &[&str]) -> Value {
    let containers: Vec<_> = names.iter().map(|name| json!({"name": name, "image": "old"})).collect();
    json!({"spec": {"template": {"spec": {"containers": containers}}}})
}

fn containers(object: &Value) -> Vec<(&str, &str)> {
    let list = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    list.iter().map(|c| (c["name"].as_str().unwrap(), c["image"].as_str().unwrap_or("-"))).collect()
}

fn pod_spec(spec: Value) -> Value {
    json!({"spec": {"template": {"spec": spec}}})
}

#[test]
fn lists_merge_by_their_key() {
    let have = with_containers(&["a", "b", "c"]);
    for (change, expected) in [
        (json!([{"name": "b", "image": "new"}]), vec![("a", "old"), ("b", "new"), ("c", "old")]),
        (json!([{"name": "d", "image": "new"}]), vec![("d", "new"), ("a", "old"), ("b", "old"), ("c", "old")]),
        (json!([{"name": "a", "$patch": "delete"}]), vec![("b", "old"), ("c", "old")]),
        (json!([{"$patch": "replace"}, {"name": "x", "image": "new"}]), vec![("x", "new")]),
        (json!([{"name": "a", "$patch": "replace"}, {"name": "x", "image": "new"}]), vec![("x", "new")]),
        (json!([{"name": "a", "image": null}]), vec![("a", "-"), ("b", "old"), ("c", "old")]),
    ] {
        let patched = deployment(&have, pod_spec(json!({ "containers": change }))).unwrap();
        assert_eq!(containers(&patched), expected, "{change}");
        assert!(!patched.to_string().contains("$patch"), "{patched}");
    }
}

#[test]
fn the_order_list_rules() {
    let have = with_containers(&["a", "b", "c"]);
    let order = json!([{"name": "c"}, {"name": "x"}, {"name": "a"}]);
    let change = json!({"$setElementOrder/containers": order, "containers": [{"name": "x", "image": "new"}]});
    let patched = deployment(&have, pod_spec(change)).unwrap();
    assert_eq!(containers(&patched), [("b", "old"), ("c", "old"), ("x", "new"), ("a", "old")]);
    let only_order = json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}]});
    let patched = deployment(&have, pod_spec(only_order)).unwrap();
    assert_eq!(containers(&patched), [("c", "old"), ("b", "old"), ("a", "old")]);
    let stray = json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]});
    assert_eq!(deployment(&have, pod_spec(stray)).unwrap_err().code(), 400);
}

#[test]
fn plain_lists_and_sets() {
    let have = json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"args": [1]}});
    for (change, expected) in [
        (json!({"finalizers": ["c"]}), json!(["c", "a", "b"])),
        (json!({"finalizers": ["b"]}), json!(["a", "b"])),
        (json!({"$deleteFromPrimitiveList/finalizers": ["a"]}), json!(["b"])),
        (
            json!({"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["b", "c"], "finalizers": ["c"]}),
            json!(["b", "c"]),
        ),
    ] {
        let patched = deployment(&have, json!({ "metadata": change })).unwrap();
        assert_eq!(patched["metadata"]["finalizers"], expected, "{change}");
    }
    assert_eq!(deployment(&have, json!({"spec": {"args": [2]}})).unwrap()["spec"]["args"], json!([2]));
}

#[test]
fn objects_obey_directives() {
    let have = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    for (change, expected) in [
        (json!({"$retainKeys": ["type"], "type": "Recreate"}), json!({"type": "Recreate"})),
        (json!({"$patch": "replace", "type": "Recreate"}), json!({"type": "Recreate"})),
        (json!({"$patch": "delete"}), json!({})),
        (json!({"rollingUpdate": null}), json!({"type": "RollingUpdate"})),
    ] {
        let patched = deployment(&have, json!({"spec": {"strategy": change}})).unwrap();
        assert_eq!(patched["spec"]["strategy"], expected, "{change}");
    }
    let fresh =
        deployment(&json!({}), json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate", "x": null}}}));
    assert_eq!(fresh.unwrap(), json!({"spec": {"strategy": {"type": "Recreate"}}}));
}

#[test]
fn bad_strategic_patches_say_why() {
    let mut have = with_containers(&["a"]);
    have["metadata"] = json!({"finalizers": []});
    for (patch, why) in [
        (json!([1]), "must be a JSON object, not a list"),
        (pod_spec(json!({"containers": [{"image": "x"}]})), "does not contain declared merge key: name"),
        (pod_spec(json!({"containers": ["x"]})), "containers must be a list of objects, but holds a string"),
        (pod_spec(json!({"$patch": "explode"})), "unknown patch type"),
        (pod_spec(json!({"containers": [{"name": "a", "$patch": "merge"}]})), "merging lists cannot yet be specified"),
        (json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "x"}}), "must be a list, not a string"),
        (json!({"spec": {"strategy": {"$retainKeys": ["a"], "b": 1}, "x": 1}}), "invalid patch format of retainKeys"),
    ] {
        let have = if patch["spec"]["strategy"].is_object() { json!({"spec": {"strategy": {}}}) } else { have.clone() };
        let error = deployment(&have, patch.clone()).unwrap_err();
        assert!(error.to_string().contains(why), "{patch}: {error}");
        assert_eq!(error.code(), 400);
    }
}

#[test]
fn json_patch_is_all_or_nothing() {
    let have = json!({"metadata": {"name": "a"}, "spec": {"list": [1, 2]}});
    let patched = json(
        &have,
        &json!([{"op": "add", "path": "/spec/list/-", "value": 3}, {"op": "remove", "path": "/metadata/name"}]),
    );
    assert_eq!(patched.unwrap(), json!({"metadata": {}, "spec": {"list": [1, 2, 3]}}));
    for (patch, code, why) in [
        (
            json!([{"op": "test", "path": "/metadata/name", "value": "b"}]),
            422,
            "testing value /metadata/name failed: test failed",
        ),
        (
            json!([{"op": "remove", "path": "/x/y"}]),
            422,
            "remove operation does not apply: doc is missing path: \"/x/y\": missing value",
        ),
        (
            json!([{"op": "replace", "path": "/nope", "value": 1}]),
            422,
            "replace operation does not apply: doc is missing path: \"/nope\": missing value",
        ),
        (json!([{"op": "jump"}]), 400, "error decoding patch: unknown variant `jump`"),
        (json!({"op": "add"}), 400, "error decoding patch: "),
        (json!([{"op": "replace", "path": "", "value": 1}]), 422, "by something that is no object"),
    ] {
        let error = json(&have, &patch).unwrap_err();
        assert!(error.to_string().contains(why), "{patch}: {error}");
        assert_eq!(error.code(), code, "{patch}");
    }
    let many = Value::from(vec![json!({"op": "test", "path": "", "value": have}); MAX_OPERATIONS + 1]);
    assert_eq!(json(&have, &many).unwrap_err().code(), 413);
}

/// Controllers add their first finalizer so.
#[test]
fn a_field_that_is_not_there_equals_null() {
    let have = json!({"metadata": {"name": "a", "labels": [1]}});
    let test = |path: &str| json(&have, &json!([{"op": "test", "path": path, "value": null}]));
    assert_eq!(test("/metadata/finalizers").unwrap(), have);
    for wrong in ["/metadata/name", "/metadata/labels/1", "/spec/missing", "/metadata/name/x"] {
        assert!(test(wrong).is_err(), "{wrong}");
    }
    let first = json!([
        {"op": "test", "path": "/metadata/finalizers", "value": null},
        {"op": "add", "path": "/metadata/finalizers", "value": ["f"]},
        {"op": "test", "path": "/metadata/finalizers", "value": ["f"]},
    ]);
    assert_eq!(json(&have, &first).unwrap()["metadata"]["finalizers"], json!(["f"]));
}

#[test]
fn merge_patch_as_in_the_rfc() {
    let have = json!({"a": "b", "c": {"d": "e", "f": "g"}, "l": [1]});
    let patched = merge(&have, &json!({"a": "z", "c": {"f": null}, "l": [2], "n": {"x": null, "y": 1}})).unwrap();
    assert_eq!(patched, json!({"a": "z", "c": {"d": "e"}, "l": [2], "n": {"y": 1}}));
    assert_eq!(merge(&have, &json!([])).unwrap_err().code(), 400);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        (0..5i64).prop_map(Value::from),
        "[a-c]".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(
                prop::sample::select(vec![
                    "metadata",
                    "spec",
                    "template",
                    "containers",
                    "name",
                    "env",
                    "finalizers",
                    "$patch",
                    "$retainKeys",
                    "$setElementOrder/containers",
                    "$deleteFromPrimitiveList/finalizers"
                ]),
                inner,
                0..4
            )
            .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_string(), v)).collect()),
        ]
    })
}

/// A list of containers with distinct names.
fn containers_value() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-e]", 0..3i64, 0..5)
        .prop_map(|map| map.into_iter().map(|(name, image)| json!({"name": name, "image": image})).collect())
}

proptest! {
    #[test]
    fn an_empty_patch_changes_nothing(object in value()) {
        prop_assume!(object.is_object());
        prop_assert_eq!(deployment(&object, json!({})).unwrap(), object.clone());
        prop_assert_eq!(merge(&object, &json!({})).unwrap(), object.clone());
        prop_assert_eq!(json(&object, &json!([])).unwrap(), object);
    }

    #[test]
    fn any_patch_is_survived(object in value(), patch in value()) {
        let _ = deployment(&object, patch.clone());
        let _ = merge(&object, &patch);
        let _ = json(&object, &patch);
    }

    #[test]
    fn patching_twice_is_patching_once(have in containers_value(), change in containers_value()) {
        let patch = pod_spec(json!({ "containers": change }));
        let once = deployment(&pod_spec(json!({ "containers": have })), patch.clone()).unwrap();
        let twice = deployment(&once, patch).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn deletions_then_the_wanted_list_reach_what_is_wanted(have in containers_value(), want in containers_value()) {
        let gone = have.as_array().unwrap().iter().filter(|h| !want.as_array().unwrap().iter().any(|w| w["name"] == h["name"]));
        let mut change: Vec<Value> = want.as_array().unwrap().clone();
        let order: Vec<Value> = change.iter().map(|w| json!({"name": w["name"]})).collect();
        change.extend(gone.map(|h| json!({"$patch": "delete", "name": h["name"]})));
        let patch = pod_spec(json!({"containers": change, "$setElementOrder/containers": order}));
        let patched = deployment(&pod_spec(json!({ "containers": have })), patch).unwrap();
        prop_assert_eq!(patched, pod_spec(json!({ "containers": want })));
    }
}

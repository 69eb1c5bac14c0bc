//! The patch that leads from the live object to what the file says: everything the file sets and the object has not, and
//! the removal of what the last file set and this one does not. Nobody else's fields are touched.

use serde_json::{Map, Value, json};
use skiff_api::merge_keys::{self, Field, Patch, Type};

type Object = Map<String, Value>;

/// `of` is None for kinds whose lists are replaced (a merge patch).
pub(in super::super) fn three_way(of: Option<Type>, original: &Value, modified: &Value, live: &Value) -> Value {
    let empty = Object::new();
    let object = |v: &'_ Value| v.as_object().cloned().unwrap_or_else(|| empty.clone());
    let (original, modified, live) = (object(original), object(modified), object(live));
    let differ = Differ { strategic: of.is_some() };
    Value::Object(differ.objects(of.unwrap_or(&[]), &original, &modified, &live))
}

struct Differ {
    strategic: bool,
}

impl Differ {
    fn objects(&self, of: Type, original: &Object, modified: &Object, live: &Object) -> Object {
        let mut patch = Object::new();
        for key in original.keys() {
            if !modified.contains_key(key) && live.contains_key(key) {
                patch.insert(key.clone(), Value::Null);
            }
        }
        for (key, want) in modified {
            let field = merge_keys::field(of, key);
            let old = original.get(key);
            match live.get(key) {
                None if want.is_null() => {}
                None => {
                    patch.insert(key.clone(), want.clone());
                }
                Some(have) => self.field(field, key, (old, want, have), &mut patch),
            }
        }
        patch
    }

    fn field(
        &self,
        field: Option<&Field>,
        key: &str,
        (old, want, have): (Option<&Value>, &Value, &Value),
        patch: &mut Object,
    ) {
        let below: Type = field.map_or(&[], |f| f.of);
        match (want, have) {
            (Value::Object(want), Value::Object(have)) => {
                let old = old.and_then(Value::as_object).cloned().unwrap_or_default();
                let mut inner = self.objects(below, &old, want, have);
                if field.is_some_and(|f| f.retain_keys) && self.strategic && !inner.is_empty() {
                    inner.insert("$retainKeys".into(), sorted_keys(want));
                }
                if !inner.is_empty() {
                    patch.insert(key.to_owned(), Value::Object(inner));
                }
            }
            (Value::Array(want), Value::Array(have)) if self.strategic => {
                let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                match field.map_or(Patch::Plain, |f| f.patch) {
                    Patch::Plain if want == have => {}
                    Patch::Plain => {
                        patch.insert(key.to_owned(), json!(want));
                    }
                    Patch::Values => values(key, old, want, have, patch),
                    Patch::Key(by) => {
                        self.elements(below, (key, by, field.is_some_and(|f| f.retain_keys)), (old, want, have), patch);
                    }
                }
            }
            (want, have) if same(want, have) => {}
            (want, _) => {
                patch.insert(key.to_owned(), want.clone());
            }
        }
    }

    /// A list whose elements are found by a key.
    fn elements(
        &self,
        of: Type,
        (key, by, retain): (&str, &str, bool),
        (old, want, have): (&[Value], &[Value], &[Value]),
        patch: &mut Object,
    ) {
        let with = |list: &[Value], id: &Value| list.iter().find(|e| e.get(by) == Some(id)).cloned();
        let ids = |list: &[Value]| list.iter().filter_map(|e| e.get(by).cloned()).collect::<Vec<_>>();
        let mut changes = Vec::new();
        for element in want {
            let Some(id) = element.get(by) else {
                patch.insert(key.to_owned(), json!(want));
                return;
            };
            match (with(have, id), element) {
                (Some(Value::Object(live)), Value::Object(wanted)) => {
                    let before = with(old, id).and_then(|v| v.as_object().cloned()).unwrap_or_default();
                    let mut change = self.objects(of, &before, wanted, &live);
                    if change.is_empty() {
                        continue;
                    }
                    if retain {
                        change.insert("$retainKeys".into(), sorted_keys(wanted));
                    }
                    change.insert(by.to_owned(), id.clone());
                    changes.push(Value::Object(change));
                }
                _ => changes.push(element.clone()),
            }
        }
        let wanted = ids(want);
        for id in ids(old) {
            if !wanted.contains(&id) && with(have, &id).is_some() {
                changes.push(json!({"$patch": "delete", by: id}));
            }
        }
        if in_order(&wanted, &ids(have)) && changes.is_empty() {
            return;
        }
        let order: Vec<Value> = wanted.into_iter().map(|id| json!({by: id})).collect();
        patch.insert(format!("$setElementOrder/{key}"), json!(order));
        if !changes.is_empty() {
            patch.insert(key.to_owned(), json!(changes));
        }
    }
}

/// A list of plain values that merges as a set.
fn values(key: &str, old: &[Value], want: &[Value], have: &[Value], patch: &mut Object) {
    let added: Vec<&Value> = want.iter().filter(|v| !have.contains(v)).collect();
    let removed: Vec<&Value> = old.iter().filter(|v| !want.contains(v) && have.contains(v)).collect();
    if !removed.is_empty() {
        patch.insert(format!("$deleteFromPrimitiveList/{key}"), json!(removed));
    }
    if !added.is_empty() {
        patch.insert(key.to_owned(), json!(added));
    }
    if !added.is_empty() || !removed.is_empty() || !in_order(want, have) {
        patch.insert(format!("$setElementOrder/{key}"), json!(want));
    }
}

/// Whether the wanted elements stand in `have` in the wanted order.
fn in_order(want: &[Value], have: &[Value]) -> bool {
    let mut rest = have.iter();
    want.iter().all(|w| rest.any(|h| h == w))
}

fn sorted_keys(object: &Object) -> Value {
    let mut keys: Vec<&String> = object.keys().collect();
    keys.sort();
    json!(keys)
}

/// Equal values; numbers by their value.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(replicas: Value, containers: Value) -> Value {
        let mut spec = json!({"template": {"spec": {"containers": containers}}});
        if !replicas.is_null() {
            spec["replicas"] = replicas;
        }
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": spec})
    }

    /// The patch, applied, gives the wanted object; and applying once more changes nothing.
    fn check(original: &Value, modified: &Value, live: &Value, want: &Value) {
        let of = Some(merge_keys::root("apps", "Deployment"));
        let resource = skiff_api::resources::find_kind("apps", "v1", "Deployment").unwrap();
        let patch = three_way(of, original, modified, live);
        let got = skiff_api::patch::strategic(resource, live, &patch).unwrap();
        assert_eq!(&got, want, "{patch}");
        assert_eq!(three_way(of, modified, modified, &got), json!({}));
    }

    #[test]
    fn other_peoples_fields_stay() {
        let file = deployment(Value::Null, json!([{"name": "c", "image": "i"}]));
        let live = deployment(json!(5), json!([{"name": "c", "image": "i", "terminationMessagePath": "/x"}]));
        check(&file, &file, &live, &live);
    }

    #[test]
    fn removed_from_the_file_is_removed() {
        let old =
            deployment(json!(2), json!([{"name": "c", "image": "i", "command": ["x"]}, {"name": "d", "image": "j"}]));
        let new = deployment(Value::Null, json!([{"name": "c", "image": "k"}]));
        let live = deployment(
            json!(2),
            json!([{"name": "c", "image": "i", "command": ["x"], "tty": true}, {"name": "d", "image": "j"}]),
        );
        let want = deployment(Value::Null, json!([{"name": "c", "image": "k", "tty": true}]));
        check(&old, &new, &live, &want);
    }

    #[test]
    fn new_elements_and_order() {
        let old = deployment(json!(1), json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]));
        let new = deployment(
            json!(1),
            json!([{"name": "b", "image": "i"}, {"name": "n", "image": "i"}, {"name": "a", "image": "i"}]),
        );
        check(&old, &new, &old, &new);
    }

    #[test]
    fn kinds_unknown_here_get_a_merge_patch() {
        let original = json!({"spec": {"a": 1, "l": [1]}});
        let modified = json!({"spec": {"l": [1, 2]}});
        let live = json!({"spec": {"a": 1, "l": [1], "x": 3}});
        assert_eq!(three_way(None, &original, &modified, &live), json!({"spec": {"a": null, "l": [1, 2]}}));
    }
}

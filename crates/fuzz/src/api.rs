//! Bodies and parameters of requests, room by room. `server` sends them through the whole pipeline.

use serde_json::Value;
use skiff_api::{
    columns, defaults, patch as patches, protobuf as pb, quantity,
    resources::{RESOURCES, Resource},
    schema,
    selector::{Fields, Labels},
    strategy, validate, yaml,
};

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Label and field selectors, quantities, names.
pub(crate) fn selector(bytes: &[u8]) {
    let text = text(bytes);
    if let Ok(selector) = Labels::parse(text) {
        let said = selector.to_string();
        let again = Labels::parse(&said).unwrap_or_else(|e| panic!("{said:?} of {text:?}: {e}"));
        assert_eq!(again.to_string(), said);
    }
    if let Ok(fields) = Fields::parse(text) {
        let said = fields.to_string();
        assert_eq!(Fields::parse(&said).map(|f| f.to_string()), Ok(said));
    }
    if let Some(millis) = quantity::millis(text) {
        assert!(quantity::valid(text));
        let _ = (quantity::show(millis, false), quantity::show(millis, true));
    }
    for check in [validate::names::label, validate::names::label_key, validate::names::ip, validate::names::cidr] {
        let _ = check(text);
    }
}

/// The kind that the first byte chooses, and the rest.
fn kind(bytes: &[u8]) -> Option<(&'static Resource, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    Some((&RESOURCES[usize::from(*first) % RESOURCES.len()], rest))
}

/// JSON, or YAML as deep as is allowed.
fn read(bytes: &[u8]) -> Option<Value> {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Some(value);
    }
    yaml::check_depth(bytes).ok()?;
    serde_yaml_ng::from_slice(bytes).ok()
}

/// An object on its way in: checked, given its defaults, judged, shown.
pub(crate) fn object(bytes: &[u8]) {
    let Some((resource, body)) = kind(bytes) else { return };
    let Some(mut object) = read(body).filter(Value::is_object) else { return };
    let issues = schema::check(resource, &object);
    let _ = schema::strict_error(&issues);
    if schema::decode_error(resource, &issues).is_some() {
        return;
    }
    defaults::apply(resource, &mut object);
    strategy::before_create(resource, &mut object);
    let once = object.clone();
    defaults::apply(resource, &mut object);
    assert_eq!(object, once, "defaults of defaults: {}", resource.kind);
    let _ = (validate::create(resource, &object), validate::update(resource, &object, &once));
    let _ = columns::table(resource, &[&object], jiff::Timestamp::UNIX_EPOCH);
}

/// Two documents behind each other: what is patched, and the patch.
pub(crate) fn patch(bytes: &[u8]) {
    let Some((resource, rest)) = kind(bytes) else { return };
    let mut documents = serde_json::Deserializer::from_slice(rest).into_iter::<Value>();
    let (Some(Ok(object)), Some(Ok(patch))) = (documents.next(), documents.next()) else { return };
    let _ = patches::json(&object, &patch);
    if let Ok(merged) = patches::merge(&object, &patch) {
        assert_eq!(patches::merge(&merged, &patch).expect("merged before"), merged, "a merge patch says what is to be");
    }
    let _ = patches::strategic(resource, &object, &patch);
}

/// What was understood can be said, and is then understood as the same.
pub(crate) fn protobuf(bytes: &[u8]) {
    for body in [bytes.to_vec(), [pb::MAGIC, bytes].concat()] {
        let Some(said) = pb::decode(&body).ok().and_then(|object| pb::encode(&object)) else { continue };
        let again = pb::decode(&said).unwrap_or_else(|e| panic!("what was written is not read: {e}"));
        assert_eq!(pb::encode(&again), Some(said));
    }
}

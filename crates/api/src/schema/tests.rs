use serde_json::json;

use super::*;
use crate::resources::{RESOURCES, find};

fn service(spec: Value) -> Vec<Issue> {
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec});
    check(find("", "v1", "services").unwrap(), &object)
}

#[test]
fn names_unknown_fields_with_positions() {
    let issues =
        service(json!({"foo": 1, "ports": [{"port": 1}, {"port": 2, "prot": "TCP"}], "selector": {"any": "x"}}));
    assert_eq!(
        strict_error(&issues).unwrap(),
        "strict decoding error: unknown field \"spec.foo\", unknown field \"spec.ports[1].prot\""
    );
    assert_eq!(decode_error(find("", "v1", "services").unwrap(), &issues), None);
}

#[test]
fn names_wrong_types_as_the_decoder_does() {
    let check = |spec: Value, expect: &str| {
        let issues = service(spec);
        let messages: Vec<String> = issues.iter().map(Issue::message).collect();
        assert_eq!(messages, [expect]);
    };
    check(
        json!({"ports": "x"}),
        "json: cannot unmarshal string into Go struct field ServiceSpec.spec.ports of type []v1.ServicePort",
    );
    check(
        json!({"ports": [{"port": "80"}]}),
        "json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32",
    );
    check(
        json!({"ports": [{"port": 4294967296u64}]}),
        "json: cannot unmarshal number 4294967296 into Go struct field ServicePort.spec.ports.port of type int32",
    );
    check(
        json!({"selector": {"a": 1}}),
        "json: cannot unmarshal number into Go struct field ServiceSpec.spec.selector.a of type string",
    );
    check(json!("x"), "json: cannot unmarshal string into Go struct field Service.spec of type v1.ServiceSpec");
    check(
        json!({"sessionAffinityConfig": {"clientIP": []}}),
        "json: cannot unmarshal array into Go struct field SessionAffinityConfig.spec.sessionAffinityConfig.clientIP of type \
         v1.ClientIPConfig",
    );
    assert_eq!(service(json!({"ports": null, "clusterIP": null, "sessionAffinityConfig": null})), []);
}

#[test]
fn scalars_with_a_form_of_their_own() {
    let pods = find("", "v1", "pods").unwrap();
    let pod = |limit: Value, created: &str| json!({"metadata": {"creationTimestamp": created}, "spec": {"containers": [{"resources": {"limits": {"cpu": limit}}}]}});
    assert_eq!(check(pods, &pod(json!("100m"), "2024-01-02T03:04:05Z")), []);
    assert_eq!(check(pods, &pod(json!(1.5), "2024-01-02T03:04:05Z")), []);
    assert_eq!(check(pods, &pod(json!("1x"), "2024-01-02T03:04:05Z")).len(), 1);
    assert_eq!(check(pods, &pod(json!("1"), "yesterday"))[0].path(), "metadata.creationTimestamp");
    let secrets = find("", "v1", "secrets").unwrap();
    assert_eq!(check(secrets, &json!({"data": {"a": "YWI="}, "stringData": {"b": "!"}})), []);
    assert_eq!(check(secrets, &json!({"data": {"a": "!"}}))[0].message(), "illegal base64 data at input byte 0");
    let services = service(json!({"ports": [{"port": 1, "targetPort": "http"}, {"port": 2, "targetPort": 3}]}));
    assert_eq!(services, []);
}

#[test]
fn every_kind_compiles_and_knows_its_metadata() {
    for res in RESOURCES {
        let object = json!({"apiVersion": res.api_version(), "kind": res.kind, "metadata": {"name": "a", "nope": 1}});
        let issues = check(res, &object);
        assert_eq!(issues, [Issue::Unknown { path: "metadata.nope".into() }], "{res:?}");
    }
}

//! What goes over the wire, as a client with generated types speaks it: protobuf by hand, gzip, what is acceptable.

mod support;

use std::io::Read;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use skiff_api::identity::Identity;
use skiff_apiserver::Body;
use support::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

async fn ask(api: &Api, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.extensions_mut().unwrap().insert(Identity::admin());
    api.server.handle(request.body(Full::new(Bytes::from(body))).unwrap()).await
}

async fn whole(response: Response<Body>) -> (u16, String, Bytes) {
    let code = response.status().as_u16();
    let media = response.headers().get("content-type").map_or("", |v| v.to_str().unwrap()).to_owned();
    (code, media, response.into_body().collect().await.unwrap().to_bytes())
}

/// A field of bytes, shorter than 128.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
}

/// Tag and content of each field; numbers are passed over.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (byte, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut all = vec![];
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        match key & 7 {
            0 => drop(varint(&mut bytes)),
            2 => {
                let length = varint(&mut bytes) as usize;
                let (content, rest) = bytes.split_at(length);
                all.push((key >> 3, content));
                bytes = rest;
            }
            other => panic!("wire type {other}"),
        }
    }
    all
}

fn first(bytes: &[u8], number: u64) -> &[u8] {
    fields(bytes).into_iter().find(|(n, _)| *n == number).unwrap_or_else(|| panic!("no field {number}")).1
}

/// apiVersion, kind and the raw message of a body.
fn envelope(body: &[u8]) -> (&str, &str, &[u8]) {
    let body = body.strip_prefix(b"k8s\0").expect("the magic number");
    let meta = first(body, 1);
    let text = |number| std::str::from_utf8(first(meta, number)).unwrap();
    (text(1), text(2), first(body, 2))
}

fn config_map(name: &str, value: &str) -> Vec<u8> {
    let metadata = field(1, name.as_bytes());
    let entry = [field(1, b"key"), field(2, value.as_bytes())].concat();
    let object = [field(1, &metadata), field(2, &entry)].concat();
    let meta = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
    [b"k8s\0".to_vec(), field(1, &meta), field(2, &object)].concat()
}

const BOTH: [(&str, &str); 2] =
    [("content-type", PROTOBUF), ("accept", "application/vnd.kubernetes.protobuf,application/json")];

#[tokio::test]
async fn protobuf_both_ways() {
    let api = Api::new().await;
    let (code, media, body) = whole(ask(&api, Method::POST, MAPS, &BOTH, config_map("a", "hello")).await).await;
    assert_eq!((code, media.as_str()), (201, PROTOBUF));
    let (version, kind, object) = envelope(&body);
    assert_eq!((version, kind), ("v1", "ConfigMap"));
    assert_eq!(first(first(object, 1), 1), b"a", "metadata.name");
    assert_eq!(first(first(object, 1), 3), b"default", "metadata.namespace");
    assert_eq!(first(first(object, 2), 2), b"hello", "data[key]");
    let (_, stored) = api.get(&format!("{MAPS}/a")).await;
    assert_eq!(stored["data"], json!({"key": "hello"}));

    let (_, media, body) = whole(ask(&api, Method::GET, MAPS, &BOTH, vec![]).await).await;
    let (_, kind, list) = envelope(&body);
    assert_eq!((media.as_str(), kind), (PROTOBUF, "ConfigMapList"));
    let items: Vec<_> = fields(list).into_iter().filter(|(n, _)| *n == 2).collect();
    assert_eq!(items.len(), 1);
    let revision = std::str::from_utf8(first(first(list, 1), 2)).unwrap();
    assert!(revision.parse::<u64>().is_ok(), "{revision}");

    // A read, a change and a write by a client that has only this form lose nothing of the object.
    let (_, _, read) = whole(ask(&api, Method::GET, &format!("{MAPS}/a"), &BOTH, vec![]).await).await;
    let (code, _, _) = whole(ask(&api, Method::PUT, &format!("{MAPS}/a"), &BOTH, read.to_vec()).await).await;
    assert_eq!(code, 200);
    let (_, again) = api.get(&format!("{MAPS}/a")).await;
    for unchanged in ["/data", "/metadata/uid", "/metadata/creationTimestamp", "/metadata/resourceVersion"] {
        assert_eq!(again.pointer(unchanged), stored.pointer(unchanged), "{unchanged}");
    }

    let (code, _, body) = whole(ask(&api, Method::GET, &format!("{MAPS}/none"), &BOTH, vec![]).await).await;
    let status: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((code, &status["reason"]), (404, &json!("NotFound")), "errors are JSON for everybody");
    let media = ("accept", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    let (_, _, body) = whole(ask(&api, Method::GET, &format!("{MAPS}/a"), &[media], vec![]).await).await;
    let (version, kind, object) = envelope(&body);
    assert_eq!((version, kind, fields(object).len()), ("meta.k8s.io/v1", "PartialObjectMetadata", 1));
}

#[tokio::test]
async fn watches_in_protobuf() {
    let api = Api::new().await;
    api.create(MAPS, json!({"metadata": {"name": "a"}})).await;
    let query =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let response = ask(&api, Method::GET, &format!("{MAPS}?{query}"), &BOTH, vec![]).await;
    api.merge(&format!("{MAPS}/a"), json!({"data": {"k": "v"}})).await;
    api.delete(&format!("{MAPS}/a")).await;
    let (code, media, body) = whole(response).await;
    assert_eq!((code, media.as_str()), (200, "application/vnd.kubernetes.protobuf;stream=watch"));
    let (mut rest, mut seen) = (&body[..], vec![]);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (event, after) = after.split_at(u32::from_be_bytes(*length) as usize);
        let (_, kind, object) = envelope(first(first(event, 2), 1));
        let metadata = first(object, 1);
        let name =
            fields(metadata).into_iter().find(|(n, _)| *n == 1).map_or("-", |(_, n)| std::str::from_utf8(n).unwrap());
        seen.push(format!("{} {kind} {name}", std::str::from_utf8(first(event, 1)).unwrap()));
        rest = after;
    }
    assert_eq!(seen, ["ADDED ConfigMap a", "BOOKMARK ConfigMap -", "MODIFIED ConfigMap a", "DELETED ConfigMap a"]);
}

#[tokio::test]
async fn large_answers_are_packed_for_those_who_ask() {
    let api = Api::new().await;
    api.create(MAPS, json!({"metadata": {"name": "small"}})).await;
    api.create(MAPS, json!({"metadata": {"name": "large"}, "data": {"k": "skiff ".repeat(30_000)}})).await;
    for (name, accepts, packed) in [
        ("large", "gzip", true),
        ("large", "br;q=1.0, gzip;q=0.8", true),
        ("large", "gzip;q=0", false),
        ("large", "identity", false),
        ("small", "gzip", false),
    ] {
        let response = ask(&api, Method::GET, &format!("{MAPS}/{name}"), &[("accept-encoding", accepts)], vec![]).await;
        assert_eq!(response.headers().contains_key("content-encoding"), packed, "{name} {accepts}");
        let (_, _, body) = whole(response).await;
        let mut text = vec![];
        match packed {
            true => drop(flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut text).unwrap()),
            false => text = body.to_vec(),
        }
        let object: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(object["metadata"]["name"], name);
        assert!(!packed || body.len() * 10 < text.len());
    }
}

#[tokio::test]
async fn what_is_acceptable() {
    let api = Api::new().await;
    api.create(MAPS, json!({"metadata": {"name": "a"}})).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for (accept, code, media, kind) in [
        ("", 200, "application/json", "ConfigMapList"),
        ("*/*", 200, "application/json", "ConfigMapList"),
        ("application/yaml", 200, "application/yaml", ""),
        (table, 200, "application/json", "Table"),
        (&format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io,{table}"), 200, "application/json", "Table"),
        (
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            200,
            "application/json",
            "PartialObjectMetadataList",
        ),
        ("application/json;as=Table;v=v9;g=meta.k8s.io", 406, "application/json", "Status"),
        ("text/html", 406, "application/json", "Status"),
        ("application/cbor, application/json", 200, "application/json", "ConfigMapList"),
    ] {
        let (seen, of, body) = whole(ask(&api, Method::GET, MAPS, &[("accept", accept)], vec![]).await).await;
        assert_eq!((seen, of.as_str()), (code, media), "{accept}");
        if !kind.is_empty() {
            let value: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(value["kind"], kind, "{accept}");
        }
    }
    let refused = ask(&api, Method::POST, MAPS, &[("content-type", "text/plain")], b"{}".to_vec()).await;
    assert_eq!(refused.status().as_u16(), 415);
}

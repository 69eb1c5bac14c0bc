//! The body of a request: bounded, unpacked, and read into a value.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body_util::BodyExt;
use serde_json::Value;
use skiff_api::protobuf;
use skiff_api::resources::Resource;
use skiff_api::status::Status;

use crate::{Body, Result, object};

/// What a request may send, packed or unpacked.
pub(crate) const MAX_BODY: usize = 3 * 1024 * 1024;

/// The media types of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Json,
    Yaml,
    /// What typed Go clients send whatever they are told.
    Protobuf,
    JsonPatch,
    MergePatch,
    StrategicPatch,
    ApplyPatch,
}

impl Media {
    const ALL: [(Media, &str); 7] = [
        (Media::Json, "application/json"),
        (Media::Yaml, "application/yaml"),
        (Media::Protobuf, protobuf::MEDIA_TYPE),
        (Media::JsonPatch, "application/json-patch+json"),
        (Media::MergePatch, "application/merge-patch+json"),
        (Media::StrategicPatch, "application/strategic-merge-patch+json"),
        (Media::ApplyPatch, "application/apply-patch+yaml"),
    ];
    pub(crate) const OBJECTS: &[Media] = &[Media::Json, Media::Yaml, Media::Protobuf];
    pub(crate) const PATCHES: &[Media] =
        &[Media::JsonPatch, Media::MergePatch, Media::StrategicPatch, Media::ApplyPatch];

    pub(crate) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(m, _)| *m == self).map_or("", |(_, text)| text)
    }

    /// Without a Content-Type the first of `allowed` is meant.
    pub(crate) fn of(headers: &HeaderMap, allowed: &[Media]) -> Result<Media> {
        let given = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence.is_empty() {
            return Ok(allowed[0]);
        }
        let found = Self::ALL.iter().find(|(m, text)| *text == essence && allowed.contains(m));
        found.map(|(m, _)| *m).ok_or_else(|| {
            let names: Vec<&str> = allowed.iter().map(|m| m.as_str()).collect();
            Status::unsupported_media(&names)
        })
    }
}

/// The whole body, unpacked when it is gzip.
pub(crate) async fn read(headers: &HeaderMap, mut body: Body) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Status::bad_request(format!("reading the body failed: {e}")))?;
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if bytes.len() > MAX_BODY {
            return Err(too_large());
        }
    }
    match headers.get(CONTENT_ENCODING).map(|v| v.as_bytes()) {
        None | Some(b"identity") => Ok(bytes.freeze()),
        Some(b"gzip") => gunzip(&bytes),
        Some(_) => Err(Status::bad_request("Content-Encoding: only gzip and identity are understood")),
    }
}

fn too_large() -> Status {
    Status::too_large(MAX_BODY)
}

fn gunzip(bytes: &[u8]) -> Result<Bytes> {
    let mut out = Vec::new();
    let mut reader = flate2::read::GzDecoder::new(bytes).take(MAX_BODY as u64 + 1);
    reader.read_to_end(&mut out).map_err(|e| Status::bad_request(format!("the gzip body cannot be unpacked: {e}")))?;
    if out.len() > MAX_BODY { Err(too_large()) } else { Ok(out.into()) }
}

/// JSON, YAML or protobuf into a value. Depth is bounded by the parsers (128).
pub(crate) fn value(media: Media, bytes: &[u8]) -> Result<Value> {
    match media {
        Media::Yaml | Media::ApplyPatch => {
            yaml(bytes).map_err(|e| Status::bad_request(format!("error converting YAML to JSON: yaml: {e}")))
        }
        Media::Protobuf => protobuf::decode(bytes).map_err(|e| Status::bad_request(e.to_string())),
        _ => serde_json::from_slice(bytes).map_err(|e| Status::bad_request(format!("json parse error: {e}"))),
    }
}

fn yaml(bytes: &[u8]) -> Result<Value, String> {
    skiff_api::yaml::check_depth(bytes)?;
    serde_yaml_ng::from_slice(bytes).map_err(|e| e.to_string())
}

/// An object of this resource: apiVersion and kind fit or are filled in.
pub(crate) fn check_kind(resource: &Resource, value: &mut Value) -> Result<()> {
    expect_kind(&resource.api_version(), resource.kind, value)
}

pub(crate) fn expect_kind(api_version: &str, kind: &str, value: &mut Value) -> Result<()> {
    if !value.is_object() {
        return Err(Status::bad_request(format!(
            "the body is no object: a {kind} in version {api_version:?} is needed"
        )));
    }
    for (field, want) in [("apiVersion", api_version), ("kind", kind)] {
        let got = object::text(value, &format!("/{field}")).to_string();
        if got.is_empty() {
            value[field] = want.into();
        } else if got != want {
            let what = if field == "kind" { "kind" } else { "API version" };
            return Err(Status::bad_request(format!(
                "the {what} in the data ({got}) does not match the expected {what} ({want})"
            )));
        }
    }
    drop_nulls(value);
    if !value["metadata"].is_null() && !value["metadata"].is_object() {
        return Err(Status::bad_request(format!("{kind}.metadata: an object is needed")));
    }
    Ok(())
}

/// Null is how some clients say nothing.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::Write;

    #[test]
    fn kinds_are_filled_in_or_checked() {
        let pods = skiff_api::resources::find("", "v1", "pods").unwrap();
        let mut bare = json!({"metadata": {"name": "a"}});
        check_kind(pods, &mut bare).unwrap();
        assert_eq!(bare["kind"], "Pod");
        let mut wrong = json!({"kind": "Service", "apiVersion": "v1"});
        assert!(check_kind(pods, &mut wrong).is_err());
        assert!(check_kind(pods, &mut json!([])).is_err());
        assert!(check_kind(pods, &mut json!({"metadata": 1})).is_err());
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "[".repeat(100_000);
        assert!(value(Media::Json, deep.as_bytes()).is_err());
        assert!(value(Media::Yaml, deep.as_bytes()).is_err());
    }

    #[test]
    fn a_gzip_bomb_is_refused() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&vec![b' '; MAX_BODY + 2]).unwrap();
        assert_eq!(gunzip(&packer.finish().unwrap()).unwrap_err().code(), 413);
    }
}

//! Replies: which form the client wants, and the object, list or table in that form.

use std::io::Write as _;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY, WARNING};
use http::{HeaderMap, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::protobuf;
use skiff_api::resources::Resource;
use skiff_api::status::Status;

use crate::{Body, Result, object};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    /// Kubernetes' own, for what has a form in it.
    Protobuf,
}

/// The shape in which objects are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    Table,
    Metadata,
}

/// What the client accepts, of what is on offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    pub format: Format,
    pub shape: Shape,
}

impl Accept {
    pub(crate) const JSON: Accept = Accept { format: Format::Json, shape: Shape::Object };

    /// The first acceptable form in the client's order; without the header, JSON.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Accept> {
        let given: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
        if given.iter().all(|g| g.trim().is_empty()) {
            return Ok(Accept::JSON);
        }
        let mut ranges = given.iter().flat_map(|g| g.split(','));
        ranges.find_map(accept_range).ok_or_else(not_acceptable)
    }
}

fn not_acceptable() -> Status {
    Status::not_acceptable(&["application/json", "application/yaml", protobuf::MEDIA_TYPE])
}

/// The value of a parameter of a media range.
pub(crate) fn parameter<'a>(range: &'a str, name: &str) -> Option<&'a str> {
    let pairs = range.split(';').skip(1).filter_map(|p| p.trim().split_once('='));
    pairs.into_iter().find(|(k, _)| *k == name).map(|(_, v)| v.trim_matches('"'))
}

fn accept_range(range: &str) -> Option<Accept> {
    let format = match range.split(';').next().unwrap_or_default().trim() {
        "application/json" | "application/*" | "*/*" => Format::Json,
        "application/yaml" => Format::Yaml,
        protobuf::MEDIA_TYPE => Format::Protobuf,
        _ => return None,
    };
    let of_meta =
        parameter(range, "g").is_none_or(|g| g == "meta.k8s.io") && parameter(range, "v").is_none_or(|v| v == "v1");
    let shape = match parameter(range, "as") {
        None => Shape::Object,
        Some("Table") if of_meta && format != Format::Protobuf => Shape::Table,
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") if of_meta => Shape::Metadata,
        Some(_) => return None,
    };
    Some(Accept { format, shape })
}

/// What a verb answers.
pub(crate) enum Reply {
    /// An object of the resource.
    Object(StatusCode, Value),
    /// Several objects of the resource with the list's metadata.
    List { items: Vec<Value>, metadata: Value },
    /// Anything else, always as itself.
    Plain(StatusCode, Value),
    /// Already a response: streams and proxied answers.
    Raw(Box<Response<Body>>),
}

impl Reply {
    pub(crate) fn ok(value: Value) -> Reply {
        Reply::Object(StatusCode::OK, value)
    }

    pub(crate) fn created(value: Value) -> Reply {
        Reply::Object(StatusCode::CREATED, value)
    }
}

/// How a reply to do with a resource is to be shown.
pub(crate) struct View<'a> {
    pub resource: &'a Resource,
    pub accept: Accept,
    /// `includeObject` of tables.
    pub include: Option<&'a str>,
    pub now: Timestamp,
}

impl View<'_> {
    pub(crate) fn respond(&self, reply: Reply) -> Response<Body> {
        match reply {
            Reply::Raw(response) => *response,
            Reply::Plain(code, value) => write(code, self.accept.format, &value),
            Reply::Object(code, value) => write(code, self.accept.format, &self.object(value)),
            Reply::List { items, metadata } => write(StatusCode::OK, self.accept.format, &self.list(items, metadata)),
        }
    }

    pub(crate) fn object(&self, value: Value) -> Value {
        match self.accept.shape {
            Shape::Object => value,
            Shape::Metadata => partial(&value),
            Shape::Table => {
                let metadata = json!({"resourceVersion": object::resource_version(&value)});
                self.table(&[&value], metadata)
            }
        }
    }

    fn list(&self, mut items: Vec<Value>, metadata: Value) -> Value {
        match self.accept.shape {
            Shape::Object => {
                let kind = format!("{}List", self.resource.kind);
                // Items of a list carry neither, as the list says it for all of them.
                for item in items.iter_mut().filter_map(Value::as_object_mut) {
                    item.shift_remove("apiVersion");
                    item.shift_remove("kind");
                }
                json!({"kind": kind, "apiVersion": self.resource.api_version(), "metadata": metadata, "items": items})
            }
            Shape::Metadata => {
                let items: Vec<Value> = items.iter().map(partial).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
            }
            Shape::Table => self.table(&items.iter().collect::<Vec<_>>(), metadata),
        }
    }

    fn table(&self, rows: &[&Value], metadata: Value) -> Value {
        let mut table = skiff_api::columns::table(self.resource, rows, self.now);
        table["metadata"] = metadata;
        let cells = table.get_mut("rows").and_then(Value::as_array_mut);
        for (row, object) in cells.into_iter().flatten().zip(rows) {
            row["object"] = match self.include {
                Some("None") => Value::Null,
                Some("Object") => (*object).clone(),
                _ => partial(object),
            };
        }
        table
    }
}

fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object::meta(object)})
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn write(code: StatusCode, format: Format, value: &Value) -> Response<Body> {
    match format {
        Format::Protobuf => match protobuf::encode(value) {
            Some(bytes) => respond(code, protobuf::MEDIA_TYPE, bytes),
            None => json_response(code, value),
        },
        Format::Json => json_response(code, value),
        Format::Yaml => {
            let text = serde_yaml_ng::to_string(value).unwrap_or_default();
            respond(code, "application/yaml", text)
        }
    }
}

pub(crate) fn json_response(code: StatusCode, value: &Value) -> Response<Body> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    respond(code, "application/json", bytes)
}

pub(crate) fn respond(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Smaller bodies are sent as they are, as by the reference.
const WORTH_PACKING: u64 = 128 << 10;

/// Packs a large body for a client that understands gzip. Streams have no length and stay as they are.
pub(crate) async fn compress(response: Response<Body>, headers: &HeaderMap) -> Response<Body> {
    let large = response.body().size_hint().exact().is_some_and(|length| length >= WORTH_PACKING);
    if !large || !understands_gzip(headers) || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(whole) = body.collect().await else {
        return error(&Status::internal("a body that was made here could not be read"));
    };
    let pack = move || {
        let mut packed = GzEncoder::new(Vec::new(), Compression::new(4));
        packed.write_all(&whole.to_bytes()).and_then(|()| packed.finish())
    };
    // Megabytes take a while; others are served meanwhile.
    match tokio::task::spawn_blocking(pack).await {
        Ok(Ok(packed)) => {
            parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
            Response::from_parts(parts, full(packed))
        }
        _ => error(&Status::internal("a large answer could not be packed")),
    }
}

fn understands_gzip(headers: &HeaderMap) -> bool {
    let given = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    given.flat_map(|v| v.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && parts.all(|p| !matches!(p, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// An error, always JSON.
pub(crate) fn error(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(code, &status.to_value());
    let retry = status.to_value().pointer("/details/retryAfterSeconds").and_then(Value::as_u64);
    if let Some(seconds) = retry {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}

/// Warnings as `299 - "text"`, what a header cannot hold left out.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings.iter().take(64) {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> Option<(Format, Shape)> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, text.parse().unwrap());
        Accept::of(&headers).ok().map(|a| (a.format, a.shape))
    }

    #[test]
    fn the_first_acceptable_form_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(accept(table), Some((Format::Json, Shape::Table)));
        let other = "application/json;as=Table;v=v9;g=meta.k8s.io,application/json";
        assert_eq!(accept(other), Some((Format::Json, Shape::Object)));
        let protobuf = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(accept(protobuf), Some((Format::Protobuf, Shape::Object)));
        let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json;as=Table";
        assert_eq!(accept(table), Some((Format::Json, Shape::Table)));
        assert_eq!(accept("application/yaml"), Some((Format::Yaml, Shape::Object)));
        assert_eq!(accept("text/html"), None);
        assert_eq!(accept("application/cbor"), None);
        assert_eq!(accept(""), Some((Format::Json, Shape::Object)));
    }
}

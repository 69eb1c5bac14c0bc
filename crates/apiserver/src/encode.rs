//! Replies: which form the client wants, and the object, list or table in that form.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, WARNING};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::resources::Resource;
use skiff_api::status::Status;

use crate::{Body, Result, object};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
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
    Status::not_acceptable(&["application/json", "application/yaml"])
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
        _ => return None,
    };
    let of_meta =
        parameter(range, "g").is_none_or(|g| g == "meta.k8s.io") && parameter(range, "v").is_none_or(|v| v == "v1");
    let shape = match parameter(range, "as") {
        None => Shape::Object,
        Some("Table") if of_meta => Shape::Table,
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
        assert_eq!(accept(protobuf), Some((Format::Json, Shape::Object)));
        assert_eq!(accept("application/yaml"), Some((Format::Yaml, Shape::Object)));
        assert_eq!(accept("text/html"), None);
        assert_eq!(accept("application/vnd.kubernetes.protobuf"), None);
        assert_eq!(accept(""), Some((Format::Json, Shape::Object)));
    }
}

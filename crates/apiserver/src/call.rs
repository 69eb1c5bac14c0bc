//! One request for a resource, after routing: everything that the steps of the pipeline need to know of it.

use std::sync::{Arc, Mutex, PoisonError};

use http::request::Parts;
use http::{HeaderMap, Method};
use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use serde_json::Value;
use skiff_api::apply::manager_name;
use skiff_api::identity::Identity;
use skiff_api::resources::{self, Resource};
use skiff_api::status::Status;

use crate::encode::{Accept, View};
use crate::query::Query;
use crate::route::{Target, Verb};
use crate::storage::Storage;
use crate::{Result, Server, object};

pub(crate) struct Call {
    pub server: Arc<Server>,
    pub identity: Identity,
    pub target: Target,
    pub verb: Verb,
    pub query: Query,
    pub method: Method,
    /// As sent, for passing on.
    pub raw_path: String,
    pub raw_query: String,
    pub headers: HeaderMap,
    /// The connection itself, when the client asked to speak another protocol on it.
    pub upgrade: Mutex<Option<Upgrade>>,
    pub accept: Accept,
    pub now: Timestamp,
    pub dry_run: bool,
    pub warnings: Mutex<Vec<String>>,
}

/// A connection that becomes ours once the reply says so.
pub(crate) struct Upgrade(pub OnUpgrade);

impl Upgrade {
    pub(crate) fn take(parts: &mut Parts) -> Option<Upgrade> {
        parts
            .headers
            .contains_key(http::header::UPGRADE)
            .then(|| parts.extensions.remove::<OnUpgrade>())
            .flatten()
            .map(Upgrade)
    }
}

impl Call {
    /// A write that the server makes itself.
    pub(crate) fn internal(server: &Arc<Server>, object: &Value, identity: Identity, now: Timestamp) -> Result<Call> {
        let (group, version) = resources::split_api_version(object::text(object, "/apiVersion"));
        let kind = object::text(object, "/kind");
        let resource = resources::find_kind(group, version, kind)
            .ok_or_else(|| Status::internal(format!("{kind} in {group}/{version} is not served")))?;
        let namespace = Some(object::namespace(object)).filter(|ns| !ns.is_empty()).map(str::to_string);
        let name = Some(object::name(object).to_string());
        let target = Target { resource, namespace, name, subresource: None, watch: false };
        Ok(Call {
            server: server.clone(),
            identity,
            target,
            verb: Verb::Update,
            query: Query::parse("fieldManager=kube-apiserver"),
            method: Method::PUT,
            raw_path: String::new(),
            raw_query: String::new(),
            headers: HeaderMap::new(),
            upgrade: Mutex::new(None),
            accept: Accept::JSON,
            now,
            dry_run: false,
            warnings: Mutex::default(),
        })
    }

    /// A connection to a pod, which lasts as long as the client wants.
    pub(crate) fn connects(&self) -> bool {
        matches!(self.subresource(), Some("exec" | "attach" | "portforward" | "log" | "proxy"))
    }

    pub(crate) fn resource(&self) -> &'static Resource {
        self.target.resource
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.server.storage
    }

    pub(crate) fn namespace(&self) -> Option<&str> {
        self.target.namespace.as_deref()
    }

    pub(crate) fn subresource(&self) -> Option<&str> {
        self.target.subresource.as_deref()
    }

    pub(crate) fn name(&self) -> Result<&str> {
        self.target.name.as_deref().ok_or_else(|| Status::bad_request("the request names no object"))
    }

    pub(crate) fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).extend(warnings);
    }

    pub(crate) fn view(&self) -> View<'_> {
        View { resource: self.resource(), accept: self.accept, include: self.query.get("includeObject"), now: self.now }
    }

    /// Who is written into managedFields: `fieldManager`, else the first word of the User-Agent.
    pub(crate) fn manager(&self) -> String {
        let agent = self.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        manager_name(self.query.get("fieldManager"), agent)
    }
}

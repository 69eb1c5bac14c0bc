//! Who asks and what they may do: authentication, impersonation and authorization of requests, and keeping the rights in
//! memory in step with the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, Method};
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use skiff_api::identity::Identity;
use skiff_api::resources::{self, Resource};
use skiff_api::selector::Fields;
use skiff_api::status::Status;

use crate::authn::{self, Authenticator, Bound, Tokens, impersonation};
use crate::authz::{Attributes, Authorizer, Decision, Kind, node_name};
use crate::call::Call;
use crate::storage::Storage;
use crate::{Config, Error, Result, object};

pub(crate) const RBAC: &str = "rbac.authorization.k8s.io";

pub(crate) struct Access {
    authenticator: Authenticator,
    authorizer: Authorizer,
    tokens: Arc<Tokens>,
    /// The objects of the start are there: roles made of others follow those from now on.
    aggregates: AtomicBool,
}

impl Access {
    pub(crate) async fn load(config: &Config, storage: &Storage) -> Result<Access, Error> {
        let issuer = config.issuer();
        let tokens = Arc::new(Tokens::new(&config.service_account_key, &issuer, std::slice::from_ref(&issuer))?);
        let authenticator = Authenticator::new(tokens.clone(), Living(storage.clone()), config.anonymous);
        let access =
            Access { authenticator, authorizer: Authorizer::default(), tokens, aggregates: AtomicBool::new(false) };
        for plural in ["roles", "clusterroles", "rolebindings", "clusterrolebindings"] {
            let Some(resource) = resources::find(RBAC, "v1", plural) else { continue };
            let (all, _) =
                storage.all(resource, None).await.map_err(|status| Error::Bootstrap { what: plural.into(), status })?;
            all.iter().for_each(|o| access.learn(resource, &o.value));
        }
        if let Some(pods) = resources::find("", "v1", "pods") {
            let all = storage.all(pods, None).await;
            let (all, _) = all.map_err(|status| Error::Bootstrap { what: "pods".into(), status })?;
            all.iter().for_each(|o| access.learn(pods, &o.value));
        }
        Ok(access)
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub(crate) fn authorizer(&self) -> &Authorizer {
        &self.authorizer
    }

    pub(crate) fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    pub(crate) fn aggregates(&self) -> bool {
        self.aggregates.load(Ordering::Acquire)
    }

    pub(crate) fn begin_aggregation(&self) {
        self.aggregates.store(true, Ordering::Release);
    }

    /// A role, a binding or a pod was written.
    pub(crate) fn learn(&self, resource: &Resource, value: &Value) {
        if resource.id() == ("", "pods") {
            return self.authorizer.put_pod(value);
        }
        let Some(kind) = rbac_kind(resource) else { return };
        if let Err(e) = self.authorizer.put(kind, value) {
            tracing::warn!(name = object::name(value), "{e}");
        }
    }

    /// A role, a binding or a pod is gone.
    pub(crate) fn forget(&self, resource: &Resource, value: &Value) {
        if resource.id() == ("", "pods") {
            return self.authorizer.remove_pod(object::namespace(value), object::name(value));
        }
        if let Some(kind) = rbac_kind(resource) {
            self.authorizer.remove(kind, object::namespace(value), object::name(value));
        }
    }

    pub(crate) async fn authenticate(&self, parts: &Parts, peer: Option<&CertificateDer<'static>>) -> Result<Identity> {
        match self.authenticator.authenticate(parts, peer).await {
            Ok(Some(identity)) => Ok(identity),
            Ok(None) => Err(Status::unauthorized()),
            Err(authn::Error::Refused(why)) => {
                tracing::debug!("refused: {why}");
                Err(Status::unauthorized())
            }
            Err(e @ authn::Error::Unavailable(_)) => Err(Status::internal(e)),
        }
    }

    /// `--as`: the one named, if the asker may be him.
    pub(crate) fn impersonate(&self, headers: &HeaderMap, asker: Identity) -> Result<Identity> {
        let wanted = impersonation::requested(headers).map_err(|e| Status::bad_request(e.to_string()))?;
        let Some((identity, claims)) = wanted else { return Ok(asker) };
        for claim in &claims {
            self.demand(&claim.attributes(&asker))?;
        }
        Ok(identity)
    }

    /// A node may have heard of its new pod a moment before the index of pods has: then the store is asked.
    pub(crate) async fn authorize(&self, call: &Call) -> Result<()> {
        let refused = match self.decide(call) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        let (Some(_), Some(namespace)) = (node_name(&call.identity), call.namespace()) else { return Err(refused) };
        let Some(pods) = resources::find("", "v1", "pods") else { return Err(refused) };
        let (all, _) = call.storage().all(pods, Some(namespace)).await?;
        all.iter().for_each(|pod| self.learn(pods, &pod.value));
        self.decide(call)
    }

    fn decide(&self, call: &Call) -> Result<()> {
        let resource = call.resource();
        // A namespace is in itself, as far as rights go.
        let own = (resource.id() == ("", "namespaces")).then_some(call.target.name.as_deref()).flatten();
        // A collection of one name, or of one node's pods. A selector that cannot be read is refused later, in better words.
        let fields = Fields::parse(call.query.get("fieldSelector").unwrap_or_default()).unwrap_or_default();
        let named = call.target.name.as_deref().or_else(|| fields.exact("metadata.name"));
        self.demand(&Attributes {
            group: resource.group,
            resource: resource.plural,
            subresource: call.subresource().unwrap_or_default(),
            name: named.unwrap_or_default(),
            on_node: fields.exact("spec.nodeName").unwrap_or_default(),
            namespace: call.namespace().or(own).unwrap_or_default(),
            ..Attributes::of(&call.identity, call.verb.as_str())
        })
    }

    pub(crate) fn authorize_path(&self, identity: &Identity, method: &Method, path: &str) -> Result<()> {
        let verb = method.as_str().to_ascii_lowercase();
        self.demand(&Attributes { path: Some(path), ..Attributes::of(identity, &verb) })
    }

    /// Allowed, or refused in the reference's words.
    pub(crate) fn demand(&self, wish: &Attributes<'_>) -> Result<()> {
        match self.authorizer.authorize(wish) {
            Decision::Allow { .. } => Ok(()),
            Decision::Deny { reason } => Err(refusal(wish, &reason)),
        }
    }
}

fn rbac_kind(resource: &Resource) -> Option<Kind> {
    (resource.group == RBAC).then(|| Kind::of_resource(resource.plural)).flatten()
}

fn refusal(wish: &Attributes<'_>, reason: &str) -> Status {
    let (user, verb) = (&wish.user.name, wish.verb);
    let tail = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if let Some(path) = wish.path {
        return Status::forbidden_path(format!("User {user:?} cannot {verb} path {path:?}{tail}"));
    }
    let what = match wish.subresource {
        "" => wish.resource.to_string(),
        subresource => format!("{}/{subresource}", wish.resource),
    };
    let place = match wish.namespace {
        "" => "at the cluster scope".to_string(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let why = format!("User {user:?} cannot {verb} resource {what:?} in API group {:?} {place}{tail}", wish.group);
    Status::forbidden_group(wish.group, wish.resource, wish.name, why)
}

/// What tokens are bound to, as the store has it.
struct Living(Storage);

impl Bound for Living {
    fn uid<'a>(
        &'a self,
        resource: &'static str,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<String>, String>> {
        Box::pin(async move {
            let Some(resource) = resources::find("", "v1", resource) else { return Ok(None) };
            let namespace = Some(namespace).filter(|_| resource.namespaced());
            let found = self.0.find(resource, namespace, name).await.map_err(|e| e.to_string())?;
            Ok(found.map(|o| object::uid(&o.value).to_string()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_in_the_words_of_the_reference() {
        let user = Identity::component("jane");
        let wish = Attributes { resource: "pods", name: "p", namespace: "default", ..Attributes::of(&user, "get") };
        let words = "pods \"p\" is forbidden: User \"jane\" cannot get resource \"pods\" in API group \"\" in the namespace \"default\"";
        assert_eq!(refusal(&wish, "").message(), words);
        let wish = Attributes {
            group: "apps",
            resource: "deployments",
            subresource: "scale",
            ..Attributes::of(&user, "update")
        };
        let words = "deployments.apps is forbidden: User \"jane\" cannot update resource \"deployments/scale\" in API group \"apps\" at the cluster scope";
        assert_eq!(refusal(&wish, "").message(), words);
        let wish = Attributes { path: Some("/metrics"), ..Attributes::of(&user, "get") };
        assert_eq!(refusal(&wish, "").message(), "forbidden: User \"jane\" cannot get path \"/metrics\"");
    }
}

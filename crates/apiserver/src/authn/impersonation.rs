//! Acting as somebody else: the `Impersonate-*` headers, and what the asker must be allowed for them.

use std::collections::BTreeMap;

use http::HeaderMap;
use skiff_api::identity::Identity;

use super::{AUTHENTICATED, Error};
use crate::authz::Attributes;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// One thing the asker must be allowed to `impersonate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    group: &'static str,
    resource: &'static str,
    subresource: String,
    namespace: String,
    name: String,
}

impl Claim {
    /// The wish to authorize; the request is refused unless each is allowed.
    pub fn attributes<'a>(&'a self, asker: &'a Identity) -> Attributes<'a> {
        Attributes {
            group: self.group,
            resource: self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            ..Attributes::of(asker, "impersonate")
        }
    }
}

/// As whom the request wants to act, and what the asker must be allowed to; None if it wants to act as itself.
pub fn requested(headers: &HeaderMap) -> Result<Option<(Identity, Vec<Claim>)>, Error> {
    let groups = all(headers, GROUP)?;
    let uid = all(headers, UID)?.pop();
    let extra = extra(headers)?;
    let Some(name) = all(headers, USER)?.pop().filter(|name| !name.is_empty()) else {
        return match groups.is_empty() && uid.is_none() && extra.is_empty() {
            true => Ok(None),
            false => Err(Error::Refused("requested impersonation without a user: set Impersonate-User".into())),
        };
    };
    let claims = claims(&name, &groups, uid.as_deref(), &extra);
    let groups = implied_groups(&name, groups);
    Ok(Some((Identity { name, uid: uid.unwrap_or_default(), groups, extra }, claims)))
}

fn all(headers: &HeaderMap, name: &str) -> Result<Vec<String>, Error> {
    let text = |value: &http::HeaderValue| value.to_str().map(String::from);
    let values = headers.get_all(name).iter().map(text).collect::<Result<_, _>>();
    values.map_err(|_| Error::Refused(format!("the {name} header is no text")))
}

fn extra(headers: &HeaderMap) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let keys = headers.keys().filter_map(|key| key.as_str().strip_prefix(EXTRA));
    keys.map(|key| Ok((key.to_string(), all(headers, &format!("{EXTRA}{key}"))?))).collect()
}

fn claims(name: &str, groups: &[String], uid: Option<&str>, extra: &BTreeMap<String, Vec<String>>) -> Vec<Claim> {
    let claim = |group, resource, name: &str| Claim {
        group,
        resource,
        subresource: String::new(),
        namespace: String::new(),
        name: name.into(),
    };
    let mut claims = vec![match service_account(name) {
        Some((namespace, name)) => Claim { namespace: namespace.into(), ..claim("", "serviceaccounts", name) },
        None => claim("", "users", name),
    }];
    claims.extend(groups.iter().map(|group| claim("", "groups", group)));
    claims.extend(uid.map(|uid| claim("authentication.k8s.io", "uids", uid)));
    for (key, values) in extra {
        let of =
            |value: &String| Claim { subresource: key.clone(), ..claim("authentication.k8s.io", "userextras", value) };
        claims.extend(values.iter().map(of));
    }
    claims
}

/// The groups that whoever really were this user would be in.
fn implied_groups(name: &str, mut groups: Vec<String>) -> Vec<String> {
    if name == Identity::anonymous().name {
        groups.push("system:unauthenticated".into());
        return groups;
    }
    if let Some((namespace, account)) = service_account(name)
        && groups.is_empty()
    {
        groups = Identity::service_account(namespace, account).groups;
    }
    if !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.into());
    }
    groups
}

fn service_account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

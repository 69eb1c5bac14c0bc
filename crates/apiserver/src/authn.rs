//! Who asks: by client certificate, by a ServiceAccount's token, by a static token, or nobody.
//!
//! A request that shows something which does not hold is refused; one that shows nothing is anonymous, if that is allowed.

pub mod certificate;
pub mod impersonation;
pub mod token;

use std::collections::HashMap;

use futures::future::BoxFuture;
use http::{HeaderMap, header::AUTHORIZATION, request};
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use skiff_api::identity::Identity;

pub use token::{Claims, Tokens};

/// Every identity that was established is in this group.
pub const AUTHENTICATED: &str = "system:authenticated";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was shown does not hold: 401. The reason is for the log; the client is told `Unauthorized` only.
    #[error("{0}")]
    Refused(String),
    /// It could not be looked up: 500, the client may try again.
    #[error("cannot check the token: {0}")]
    Unavailable(String),
}

/// Looks up what a ServiceAccount's token is bound to; the API server answers from its store.
pub trait Bound: Send + Sync {
    /// The uid of a live object, None if there is none. `resource` is `serviceaccounts`, `pods`, `secrets` or `nodes`
    /// (which have no namespace).
    fn uid<'a>(
        &'a self,
        resource: &'static str,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<String>, String>>;
}

pub struct Authenticator {
    tokens: std::sync::Arc<Tokens>,
    bound: Box<dyn Bound>,
    fixed: HashMap<String, Identity>,
    anonymous: bool,
}

impl Authenticator {
    pub fn new(tokens: std::sync::Arc<Tokens>, bound: impl Bound + 'static, anonymous: bool) -> Self {
        Authenticator { tokens, bound: Box::new(bound), fixed: HashMap::new(), anonymous }
    }

    /// Adds a token that stands for an identity as long as the process lives.
    pub fn with_fixed_token(mut self, token: String, identity: Identity) -> Self {
        self.fixed.insert(token, identity);
        self
    }

    /// None: nothing was shown and anonymous requests are not allowed. `peer` is the client certificate that the TLS
    /// handshake has verified.
    pub async fn authenticate(
        &self,
        request: &request::Parts,
        peer: Option<&CertificateDer<'_>>,
    ) -> Result<Option<Identity>, Error> {
        if let Some(certificate) = peer {
            return certificate::identity(certificate).map(Some);
        }
        if let Some(token) = bearer(&request.headers)? {
            let (identity, _) = self.authenticate_token(token, self.tokens.audiences(), Timestamp::now()).await?;
            return Ok(Some(identity));
        }
        Ok(self.anonymous.then(Identity::anonymous))
    }

    /// Whom a token stands for, and for which of the `audiences` it is meant. Also answers TokenReviews.
    pub async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<(Identity, Vec<String>), Error> {
        if let Some(identity) = self.fixed.get(token) {
            return Ok((identity.clone(), audiences.to_vec()));
        }
        let claims = self.tokens.verify(token, now).map_err(|error| Error::Refused(error.to_string()))?;
        let meant: Vec<_> = audiences.iter().filter(|audience| claims.aud.contains(audience)).cloned().collect();
        if meant.is_empty() {
            return Err(Error::Refused(format!("the token is for {:?}, not for {audiences:?}", claims.aud)));
        }
        self.check_bound(&claims).await?;
        Ok((claims.identity(), meant))
    }

    /// A token ends with what it is bound to, before its time is over.
    async fn check_bound(&self, claims: &Claims) -> Result<(), Error> {
        for (resource, namespace, object) in claims.bound_to() {
            let uid = self.bound.uid(resource, namespace, &object.name).await.map_err(Error::Unavailable)?;
            if uid.as_deref() != Some(&*object.uid) {
                let name = &object.name;
                return Err(Error::Refused(format!(
                    "the token is bound to {resource} {namespace}/{name}, which is gone"
                )));
            }
        }
        Ok(())
    }
}

/// The token of `Authorization: Bearer TOKEN`; other schemes are nothing shown.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let value = value.to_str().map_err(|_| Error::Refused("the Authorization header is no text".into()))?;
    let Some((scheme, token)) = value.trim().split_once(' ') else { return Ok(None) };
    let token = token.trim();
    Ok((scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token))
}

#[cfg(test)]
mod tests;

//! The tokens of ServiceAccounts: JSON web tokens signed by the cluster's key with ES256, and the documents by which others
//! can check them.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use jiff::Timestamp;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skiff_api::identity::Identity;

/// Longer tokens are refused unread.
const MAX_TOKEN: usize = 16 << 10;
/// How far clocks may differ.
const LEEWAY_SECONDS: i64 = 60;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the ServiceAccount key cannot be used: {0}")]
    Key(String),
    #[error("cannot sign a token: {0}")]
    Sign(String),
    #[error("the token is no JSON web token of ours: {0}")]
    Malformed(&'static str),
    #[error("the token's signature does not hold, or another cluster's key made it")]
    Signature,
    #[error("the token is from {0:?}, which is not this cluster")]
    Issuer(String),
    #[error("the token ended at {0}")]
    Expired(i64),
    #[error("the token begins only at {0}")]
    NotYet(i64),
}

/// What a token says. Times are in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    #[serde(default)]
    pub iss: String,
    #[serde(default)]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Kubernetes,
    pub nbf: i64,
    #[serde(default)]
    pub sub: String,
}

/// The ServiceAccount, and what else must live for the token to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Object>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Object>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Object>,
    pub serviceaccount: Object,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub name: String,
    pub uid: String,
}

impl Claims {
    /// A token's claims; `iss`, `sub` and `jti` are filled in when it is issued.
    pub fn new(kubernetes: Kubernetes, audiences: Vec<String>, now: Timestamp, seconds: i64) -> Self {
        let now = now.as_second();
        let (iss, jti, sub) = Default::default();
        Claims { aud: audiences, exp: now.saturating_add(seconds), iat: now, iss, jti, kubernetes, nbf: now, sub }
    }

    pub fn identity(&self) -> Identity {
        let Kubernetes { namespace, node, pod, serviceaccount, .. } = &self.kubernetes;
        let mut identity = Identity::service_account(namespace, &serviceaccount.name);
        identity.uid = serviceaccount.uid.clone();
        let mut extra = |key: &str, value: String| {
            identity.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        };
        extra("credential-id", format!("JTI={}", self.jti));
        for (kind, object) in [("pod", pod), ("node", node)] {
            if let Some(object) = object {
                extra(&format!("{kind}-name"), object.name.clone());
                extra(&format!("{kind}-uid"), object.uid.clone());
            }
        }
        identity
    }

    /// Resource, namespace and object of all that must live. A pod's token also names its node, but does not end with it.
    pub fn bound_to(&self) -> impl Iterator<Item = (&'static str, &str, &Object)> {
        let Kubernetes { namespace, node, pod, secret, serviceaccount } = &self.kubernetes;
        let node = node.as_ref().filter(|_| pod.is_none());
        let account = [("serviceaccounts", namespace.as_str(), serviceaccount)].into_iter();
        account
            .chain(pod.iter().map(move |pod| ("pods", namespace.as_str(), pod)))
            .chain(secret.iter().map(move |secret| ("secrets", namespace.as_str(), secret)))
            .chain(node.into_iter().map(|node| ("nodes", "", node)))
    }
}

/// Issues and checks tokens.
pub struct Tokens {
    key: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
    issuer: String,
    audiences: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

impl Tokens {
    /// `key` is PKCS #8 in PEM. `issuer` is the URL at which the discovery document is; it is also the audience of tokens
    /// that ask for none, beside `audiences`.
    pub fn new(key: &str, issuer: &str, audiences: &[String]) -> Result<Self, Error> {
        let random = SystemRandom::new();
        let der = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| Error::Key(error.to_string()))?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_der(), &random);
        let key = key.map_err(|error| Error::Key(error.to_string()))?;
        let key_id = BASE64.encode(Sha256::digest(key.public_key().as_ref()));
        let mut all = vec![issuer.to_string()];
        all.extend(audiences.iter().filter(|audience| *audience != issuer).cloned());
        Ok(Tokens { key, random, key_id, issuer: issuer.into(), audiences: all })
    }

    /// Whom this API server is to tokens; the first is the default.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    pub fn issue(&self, mut claims: Claims) -> Result<String, Error> {
        let account = &claims.kubernetes;
        claims.sub = format!("system:serviceaccount:{}:{}", account.namespace, account.serviceaccount.name);
        claims.iss = self.issuer.clone();
        claims.jti = uuid::Uuid::new_v4().to_string();
        let header = Header { alg: "ES256".into(), kid: self.key_id.clone() };
        let part = |json: serde_json::Result<Vec<u8>>| {
            json.map(|json| BASE64.encode(json)).map_err(|error| Error::Sign(error.to_string()))
        };
        let signed = format!("{}.{}", part(serde_json::to_vec(&header))?, part(serde_json::to_vec(&claims))?);
        let signature =
            self.key.sign(&self.random, signed.as_bytes()).map_err(|error| Error::Sign(error.to_string()))?;
        Ok(format!("{signed}.{}", BASE64.encode(signature)))
    }

    /// The claims of a token that this cluster signed and whose time it is. What it is bound to is not looked up.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, Error> {
        if token.len() > MAX_TOKEN {
            return Err(Error::Malformed("it is too long"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Error::Malformed("it has no parts"))?;
        let (header, claims) = signed.split_once('.').ok_or(Error::Malformed("it has two parts"))?;
        let header: Header = decode(header)?;
        if header.alg != "ES256" || header.kid != self.key_id {
            return Err(Error::Signature);
        }
        let signature = BASE64.decode(signature).map_err(|_| Error::Malformed("its signature is no base64"))?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key());
        public.verify(signed.as_bytes(), &signature).map_err(|_| Error::Signature)?;
        self.in_force(decode(claims)?, now.as_second())
    }

    fn in_force(&self, claims: Claims, now: i64) -> Result<Claims, Error> {
        match () {
            () if claims.iss != self.issuer => Err(Error::Issuer(claims.iss)),
            () if now > claims.exp.saturating_add(LEEWAY_SECONDS) => Err(Error::Expired(claims.exp)),
            () if now < claims.nbf.saturating_sub(LEEWAY_SECONDS) => Err(Error::NotYet(claims.nbf)),
            () => Ok(claims),
        }
    }

    /// `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        // An uncompressed point: 0x04, then both coordinates.
        let point = self.key.public_key().as_ref();
        let (x, y) = point[1..].split_at((point.len() - 1) / 2);
        let (x, y) = (BASE64.encode(x), BASE64.encode(y));
        json!({ "keys": [
            { "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256", "x": x, "y": y },
        ] })
    }

    /// `/.well-known/openid-configuration`.
    pub fn discovery(&self, jwks_uri: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, Error> {
    let json = BASE64.decode(part).map_err(|_| Error::Malformed("a part is no base64"))?;
    serde_json::from_slice(&json).map_err(|_| Error::Malformed("a part is no JSON of the right shape"))
}

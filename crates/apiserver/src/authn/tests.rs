use std::sync::Arc;

use futures::FutureExt;
use serde_json::{Value, json};

use super::{
    token::{Error as TokenError, Kubernetes, Object},
    *,
};

fn key() -> String {
    rcgen::KeyPair::generate().expect("a key").serialize_pem()
}

fn tokens() -> Tokens {
    Tokens::new(&key(), "https://kubernetes.default.svc", &["skiff".into()]).expect("tokens")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn object(name: &str, uid: &str) -> Object {
    Object { name: name.into(), uid: uid.into() }
}

fn claims(tokens: &Tokens, pod: Option<Object>) -> Claims {
    let kubernetes =
        Kubernetes { namespace: "red".into(), serviceaccount: object("sa", "u1"), pod, ..Kubernetes::default() };
    Claims::new(kubernetes, tokens.audiences().to_vec(), at(1_000_000), 3600)
}

/// A ServiceAccount red/sa with uid u1, a pod red/web with uid u2.
struct World;

impl Bound for World {
    fn uid<'a>(
        &'a self,
        resource: &'static str,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<String>, String>> {
        let uid = match (resource, namespace, name) {
            ("serviceaccounts", "red", "sa") => Some("u1".into()),
            ("pods", "red", "web") => Some("u2".into()),
            _ => None,
        };
        async move { Ok(uid) }.boxed()
    }
}

fn request(authorization: &str) -> request::Parts {
    let request = http::Request::builder().header(AUTHORIZATION, authorization).body(()).expect("a request");
    request.into_parts().0
}

#[test]
fn a_token_holds_in_its_time_only() {
    let tokens = tokens();
    let token = tokens.issue(claims(&tokens, None)).expect("signed");
    let verify = |second| tokens.verify(&token, at(second));
    assert_eq!(verify(1_000_000).expect("holds").sub, "system:serviceaccount:red:sa");
    assert!(verify(1_003_600).is_ok());
    assert!(matches!(verify(1_003_700), Err(TokenError::Expired(1_003_600))));
    assert!(matches!(verify(999_000), Err(TokenError::NotYet(1_000_000))));
}

#[test]
fn forged_tokens_are_refused() {
    let (ours, theirs) = (tokens(), tokens());
    let token = ours.issue(claims(&ours, None)).expect("signed");
    assert!(matches!(theirs.verify(&token, at(1_000_000)), Err(TokenError::Signature)));
    for at_byte in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at_byte] = if bytes[at_byte] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(bytes).expect("ASCII");
        assert!(ours.verify(&forged, at(1_000_000)).is_err(), "byte {at_byte}");
    }
    for nonsense in ["", ".", "..", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", &"x".repeat(1 << 20)] {
        assert!(ours.verify(nonsense, at(1_000_000)).is_err());
    }
}

#[test]
fn the_published_key_checks_a_token() {
    let tokens = tokens();
    let jwks = tokens.jwks();
    let key = &jwks["keys"][0];
    let coordinate = |name: &str| {
        base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, key[name].as_str().expect("text"))
            .expect("base64")
    };
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let token = tokens.issue(claims(&tokens, None)).expect("signed");
    let (signed, signature) = token.rsplit_once('.').expect("parts");
    let signature = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, signature).expect("base64");
    let public = ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point);
    public.verify(signed.as_bytes(), &signature).expect("holds");
    let discovery: Value = tokens.discovery("https://10.0.0.1:6443/openid/v1/jwks");
    assert_eq!(discovery["issuer"], json!("https://kubernetes.default.svc"));
}

#[tokio::test]
async fn a_token_ends_with_what_it_is_bound_to() {
    let tokens = Arc::new(tokens());
    let authenticator = Authenticator::new(tokens.clone(), World, false);
    let cases = [
        (None, true),
        (Some(object("web", "u2")), true),
        (Some(object("web", "older")), false),
        (Some(object("gone", "u3")), false),
    ];
    for (pod, holds) in cases {
        let token = tokens.issue(claims(&tokens, pod.clone())).expect("signed");
        let answer = authenticator.authenticate_token(&token, tokens.audiences(), at(1_000_000)).await;
        assert_eq!(answer.is_ok(), holds, "{pod:?}: {answer:?}");
    }
    let token = tokens.issue(claims(&tokens, Some(object("web", "u2")))).expect("signed");
    let (identity, meant) = authenticator
        .authenticate_token(&token, &["skiff".into(), "other".into()], at(1_000_000))
        .await
        .expect("holds");
    assert_eq!((&*identity.name, &*identity.uid), ("system:serviceaccount:red:sa", "u1"));
    assert_eq!(identity.extra["authentication.kubernetes.io/pod-name"], ["web"]);
    assert_eq!(meant, ["skiff"]);
    assert!(authenticator.authenticate_token(&token, &["other".into()], at(1_000_000)).await.is_err());
}

#[tokio::test]
async fn what_is_shown_decides() {
    let authenticator = |anonymous| {
        let fixed = ("secret".to_string(), Identity::node("n1"));
        Authenticator::new(Arc::new(tokens()), World, anonymous).with_fixed_token(fixed.0, fixed.1)
    };
    let nothing = http::Request::new(()).into_parts().0;
    assert_eq!(authenticator(false).authenticate(&nothing, None).await.expect("checked"), None);
    assert_eq!(authenticator(true).authenticate(&nothing, None).await.expect("checked"), Some(Identity::anonymous()));
    let fixed = authenticator(true).authenticate(&request("bearer  secret"), None).await.expect("checked");
    assert_eq!(fixed, Some(Identity::node("n1")));
    assert!(authenticator(true).authenticate(&request("Bearer wrong"), None).await.is_err());
    let basic = authenticator(true).authenticate(&request("Basic abc"), None).await.expect("checked");
    assert_eq!(basic, Some(Identity::anonymous()));
}

#[tokio::test]
async fn a_certificate_names_user_and_groups() {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = crate::pki::Pki::load_or_create(dir.path(), &["localhost".into()]).expect("made");
    let chain = pki.admin().chain().expect("PEM");
    let nothing = http::Request::new(()).into_parts().0;
    let authenticator = Authenticator::new(Arc::new(tokens()), World, false);
    let admin = authenticator.authenticate(&nothing, Some(&chain[0])).await.expect("checked").expect("somebody");
    assert_eq!(
        (admin.name.as_str(), admin.groups),
        ("kubernetes-admin", vec!["system:masters".into(), AUTHENTICATED.into()])
    );
    let node = pki.node("n1", &["172.30.0.11".into()]).expect("made").client.chain().expect("PEM");
    let node = authenticator.authenticate(&nothing, Some(&node[0])).await.expect("checked").expect("somebody");
    assert_eq!((&node.name, &node.groups), (&Identity::node("n1").name, &Identity::node("n1").groups));
    assert!(certificate::identity(&CertificateDer::from(vec![1, 2, 3])).is_err());
}

fn impersonate(headers: &[(&'static str, &str)]) -> Result<Option<(Identity, usize)>, Error> {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().expect("a value")))
        .collect();
    Ok(impersonation::requested(&headers)?.map(|(identity, claims)| (identity, claims.len())))
}

#[test]
fn impersonation_takes_a_claim_for_each_part() {
    assert!(impersonate(&[]).expect("fine").is_none());
    assert!(impersonate(&[("impersonate-group", "g")]).is_err());
    let headers = [("impersonate-user", "ann"), ("impersonate-group", "g"), ("impersonate-extra-scopes", "x")];
    let (ann, claims) = impersonate(&headers).expect("fine").expect("somebody");
    assert_eq!(
        (ann.groups, ann.extra["scopes"].clone(), claims),
        (vec!["g".into(), AUTHENTICATED.into()], vec!["x".into()], 3)
    );
    let (account, _) =
        impersonate(&[("impersonate-user", "system:serviceaccount:red:sa")]).expect("fine").expect("somebody");
    assert_eq!(account.groups, Identity::service_account("red", "sa").groups);
}

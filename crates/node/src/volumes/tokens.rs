//! ServiceAccount tokens for pods, asked from the API server and kept until four fifths of their time are over.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection},
};
use kube::{Api, api::PostParams};

/// The tokens of one pod, by audience.
#[derive(Debug, Default)]
pub struct Tokens(Mutex<HashMap<String, Kept>>);

#[derive(Clone, Debug)]
struct Kept {
    token: String,
    renew: Timestamp,
}

impl Tokens {
    pub async fn get(
        &self,
        client: &kube::Client,
        pod: &Pod,
        wish: &ServiceAccountTokenProjection,
    ) -> Result<String, kube::Error> {
        let audience = wish.audience.clone().unwrap_or_default();
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&audience).cloned();
        if let Some(kept) = kept.filter(|k| k.renew > Timestamp::now()) {
            return Ok(kept.token);
        }
        let answer = request(client, pod, wish, &audience).await?;
        let seconds = answer.spec.and_then(|s| s.expiration_seconds).unwrap_or(3600).max(60);
        let no_token = || kube::Error::Service("the API server answered a token request without a token".into());
        let token = answer.status.and_then(|s| s.token).ok_or_else(no_token)?;
        let renew = Timestamp::now() + SignedDuration::from_secs(seconds * 4 / 5);
        let kept = Kept { token: token.clone(), renew };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(audience, kept);
        Ok(token)
    }

    /// When the next token wants renewal.
    pub fn renew(&self) -> Option<Timestamp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().map(|k| k.renew).min()
    }
}

async fn request(
    client: &kube::Client,
    pod: &Pod,
    wish: &ServiceAccountTokenProjection,
    audience: &str,
) -> Result<TokenRequest, kube::Error> {
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone());
    let account = account.filter(|a| !a.is_empty()).unwrap_or_else(|| "default".into());
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    };
    let spec = TokenRequestSpec {
        audiences: (!audience.is_empty()).then(|| vec![audience.into()]),
        bound_object_ref: Some(bound),
        expiration_seconds: Some(wish.expiration_seconds.unwrap_or(3600)),
    };
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), super::namespace(pod));
    api.create_token_request(&account, &PostParams::default(), &TokenRequest { spec: Some(spec), ..Default::default() })
        .await
}

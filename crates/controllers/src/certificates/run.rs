//! Carries out what [`super::plan`] decides.

use std::sync::Arc;

use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Error,
    api::{DeleteParams, PostParams, Preconditions},
};
use skiff_client::{
    cache::{Cache, Key},
    reconcile::{Done, Queue},
};

use super::{
    Sign,
    plan::{self, Plan},
};
use crate::{
    Job,
    context::{Context, Reconcile, on_self},
    object::{is_not_found, name},
};

const IDENTITY: &str = "certificate-controller";

struct Controller {
    api: Api<CertificateSigningRequest>,
    requests: Arc<Cache<CertificateSigningRequest>>,
    sign: Sign,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let me = Controller { api: Api::all(cx.client(IDENTITY)), requests: cx.cache(), sign: cx.config.sign.clone() };
    on_self(&me.requests, &queue);
    cx.spawn(queue, me)
}

impl Controller {
    /// A signer that does not accept the request says so in a condition; what is somebody else's to sign is left alone.
    async fn sign(&self, request: &CertificateSigningRequest, seconds: i64) -> Result<(), Error> {
        let spec = &request.spec;
        let pem = String::from_utf8_lossy(&spec.request.0);
        let usages = spec.usages.clone().unwrap_or_default();
        let Some(signed) = (self.sign.0)(&spec.signer_name, &pem, &usages, seconds) else { return Ok(()) };
        let mut request = request.clone();
        let status = request.status.get_or_insert_default();
        match signed {
            Ok(certificate) => status.certificate = Some(ByteString(certificate.into_bytes())),
            Err(reason) => status.conditions.get_or_insert_default().push(failed(reason)),
        }
        let written = self.api.replace_status(name(&request.metadata), &PostParams::default(), &request).await;
        written.map(|request| self.requests.put(request))
    }

    async fn remove(&self, request: &CertificateSigningRequest) -> Result<(), Error> {
        let same = Preconditions { uid: request.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(same), ..Default::default() };
        match self.api.delete(name(&request.metadata), &params).await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

fn failed(reason: String) -> CertificateSigningRequestCondition {
    let now = Some(Time(Timestamp::now()));
    CertificateSigningRequestCondition {
        type_: "Failed".into(),
        status: "True".into(),
        reason: Some("SignerValidationFailure".into()),
        message: Some(reason),
        last_update_time: now.clone(),
        last_transition_time: now,
    }
}

impl Reconcile for Controller {
    const NAME: &'static str = "certificates";
    const PARALLEL: usize = 2;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let Some(request) = self.requests.get(&key) else { return Ok(Done::Settled) };
        match plan::plan(&request, Timestamp::now()) {
            Plan::Sign { seconds } => self.sign(&request, seconds).await?,
            Plan::Remove => self.remove(&request).await?,
            Plan::Wait(time) => return Ok(Done::Again(time.unsigned_abs())),
        }
        Ok(Done::Settled)
    }
}

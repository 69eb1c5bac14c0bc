//! Certificates for approved CertificateSigningRequests, and the end of old requests.

pub(crate) mod plan;
pub(crate) mod run;

use std::{fmt, sync::Arc};

/// Signs with the cluster's authority: the signer's name, the request (PEM), its usages and how many seconds the certificate
/// shall be good for. None: the signer is somebody else. An error is what the signer does not accept of the request.
#[derive(Clone)]
pub struct Sign(pub Arc<SignFn>);

/// See [`Sign`].
pub type SignFn = dyn Fn(&str, &str, &[String], i64) -> Option<Result<String, String>> + Send + Sync;

impl fmt::Debug for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sign")
    }
}

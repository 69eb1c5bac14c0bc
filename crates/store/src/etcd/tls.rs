//! The certificates that etcd and its clients know each other by.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::Unusable;

/// PEM files, as etcd's own `--cacert`, `--cert` and `--key`.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Who has signed etcd's certificate.
    pub ca: Option<PathBuf>,
    /// Who this client is.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

fn unusable(path: &Path, reason: impl ToString) -> Unusable {
    Unusable::File { path: path.to_owned(), reason: reason.to_string() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let pem = fs::read(path).map_err(|error| unusable(path, error))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let read = read.map_err(|error| unusable(path, error))?;
    if read.is_empty() {
        return Err(unusable(path, "there is no certificate in it (PEM, -----BEGIN CERTIFICATE-----)"));
    }
    Ok(read)
}

impl TlsFiles {
    /// None: no files are named.
    pub(super) fn load(&self) -> Result<Option<Arc<ClientConfig>>, Unusable> {
        let Some(ca) = &self.ca else {
            return match (&self.certificate, &self.key) {
                (None, None) => Ok(None),
                _ => Err(Unusable::NoAuthority),
            };
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(|error| unusable(ca, error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| unusable(ca, error))?.with_root_certificates(roots);
        let mut config = match (&self.certificate, &self.key) {
            (None, None) => config.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let secret = fs::read(key).map_err(|error| unusable(key, error))?;
                let secret = PrivateKeyDer::from_pem_slice(&secret).map_err(|error| unusable(key, error))?;
                let chain = certificates(certificate)?;
                config.with_client_auth_cert(chain, secret).map_err(|error| unusable(key, error))?
            }
            _ => return Err(Unusable::HalfAPair),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Some(Arc::new(config)))
    }
}

//! TLS between the cluster's parts, from credentials.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{Credential, Error, Result};

fn roots(ca: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|error| Error::Tls(error.to_string()))?;
        roots.add(certificate).map_err(|error| Error::Tls(error.to_string()))?;
    }
    Ok(roots)
}

/// TLS for a client that shows `credential` and trusts servers signed by `ca`.
pub fn client_config(ca: &str, credential: &Credential) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Error::Tls(error.to_string()))?.with_root_certificates(roots(ca)?);
    let config = builder.with_client_auth_cert(credential.chain()?, credential.private_key()?);
    config.map_err(|error| Error::Tls(error.to_string()))
}

/// TLS for a server that shows `serving` and takes, but does not ask for, client certificates signed by `client_ca`.
pub fn server_config(client_ca: &str, serving: &Credential) -> Result<ServerConfig> {
    let tls = |error: &dyn std::fmt::Display| Error::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(client_ca)?), provider.clone());
    let verifier = verifier.allow_unauthenticated().build().map_err(|error| tls(&error))?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| tls(&error))?.with_client_cert_verifier(verifier);
    let config = builder.with_single_cert(serving.chain()?, serving.private_key()?);
    let mut config = config.map_err(|error| tls(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

//! Who may speak to the node: holders of a certificate of the cluster's CA that names the API server or a master.

use std::{io, sync::Arc};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig, server::WebPkiClientVerifier};

use crate::agent::Tls;

const API_SERVER: &str = "kube-apiserver-kubelet-client";
const MASTERS: &str = "system:masters";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the node's certificate, key or client CA is no PEM: {0}")]
    Pem(String),
    #[error("the node's certificate cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("the client CA cannot be used: {0}")]
    Verifier(io::Error),
}

pub(super) fn config(tls: &Tls) -> Result<ServerConfig, Error> {
    let pem = |e: rustls_pki_types::pem::Error| Error::Pem(e.to_string());
    let read = |text: &str| CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(pem);
    let mut roots = RootCertStore::empty();
    for certificate in read(&tls.client_ca)? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| Error::Verifier(io::Error::other(e)))?;
    let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes()).map_err(pem)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(read(&tls.certificate)?, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The chain was verified by the handshake; this looks at the name.
pub(super) fn is_api_server(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let subject = parsed.subject();
    let named = subject.iter_common_name().any(|n| n.as_str() == Ok(API_SERVER));
    named || subject.iter_organization().any(|o| o.as_str() == Ok(MASTERS))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(name: &str, organization: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn only_the_api_server_and_masters() {
        assert!(is_api_server(&certificate(API_SERVER, "x")));
        assert!(is_api_server(&certificate("admin", MASTERS)));
        assert!(!is_api_server(&certificate("system:node:a", "system:nodes")));
    }
}

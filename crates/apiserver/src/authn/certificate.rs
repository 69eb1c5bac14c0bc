//! A client certificate's subject: the common name is the user, each organization a group.

use std::collections::BTreeMap;

use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use skiff_api::identity::Identity;
use x509_parser::{
    certificate::X509Certificate,
    prelude::{FromDer, X509Name},
    x509::AttributeTypeAndValue,
};

use super::{AUTHENTICATED, Error};

pub fn identity(certificate: &CertificateDer<'_>) -> Result<Identity, Error> {
    let parsed = X509Certificate::from_der(certificate);
    let (_, parsed) =
        parsed.map_err(|error| Error::Refused(format!("the client certificate is unreadable: {error}")))?;
    let subject: &X509Name<'_> = parsed.subject();
    let name = texts(subject.iter_common_name()).pop().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Error::Refused("the client certificate names no user (CN)".into()))?;
    let mut groups = texts(subject.iter_organization());
    groups.push(AUTHENTICATED.into());
    let fingerprint: String = Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect();
    let credential = ("authentication.kubernetes.io/credential-id".into(), vec![format!("X509SHA256={fingerprint}")]);
    Ok(Identity { name, uid: String::new(), groups, extra: BTreeMap::from([credential]) })
}

fn texts<'a, 'b: 'a>(attributes: impl Iterator<Item = &'a AttributeTypeAndValue<'b>>) -> Vec<String> {
    attributes.filter_map(|attribute| attribute.as_str().ok()).map(String::from).collect()
}

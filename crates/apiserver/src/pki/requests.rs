//! Certificates for those who ask by a CertificateSigningRequest: what each signer demands of a request, and the signature.
//! The rules are the reference's (certificates.k8s.io, "Kubernetes signers").

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::{Credential, Pki};

const FIVE_MINUTES: i64 = 300;

/// The signers that this authority is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// Any client of the API server.
    Client,
    /// A node as a client of the API server.
    NodeClient,
    /// A node as a server.
    NodeServing,
}

impl Signer {
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "kubernetes.io/kube-apiserver-client" => Some(Signer::Client),
            "kubernetes.io/kube-apiserver-client-kubelet" => Some(Signer::NodeClient),
            "kubernetes.io/kubelet-serving" => Some(Signer::NodeServing),
            _ => None,
        }
    }

    fn purpose(self) -> (&'static str, ExtendedKeyUsagePurpose) {
        match self {
            Signer::NodeServing => ("server auth", ExtendedKeyUsagePurpose::ServerAuth),
            _ => ("client auth", ExtendedKeyUsagePurpose::ClientAuth),
        }
    }

    fn check_usages(self, usages: &[String]) -> Result<(), String> {
        let (purpose, _) = self.purpose();
        let allowed = |usage: &String| [purpose, "digital signature", "key encipherment"].contains(&usage.as_str());
        match usages.iter().find(|usage| !allowed(usage)) {
            Some(other) => Err(format!("invalid usages: {other:?} is not permitted for this signer")),
            None if usages.iter().any(|usage| usage == purpose) => Ok(()),
            None => Err(format!("invalid usages: {purpose:?} is required")),
        }
    }

    fn check_subject(self, request: &CertificateSigningRequestParams) -> Result<(), String> {
        let names = &request.params.subject_alt_names;
        let (users, groups) = subject(request);
        if self == Signer::Client {
            return Ok(());
        }
        if groups != ["system:nodes"] {
            return Err("subject organization is not system:nodes".into());
        }
        if !matches!(users.as_slice(), [user] if user.starts_with("system:node:")) {
            return Err("subject common name does not begin with system:node:".into());
        }
        let hosts = names.iter().filter(|name| matches!(name, SanType::DnsName(_) | SanType::IpAddress(_))).count();
        match self {
            Signer::NodeServing if hosts == 0 => Err("DNS or IP subjectAltName is required".into()),
            Signer::NodeServing if hosts < names.len() => Err("email and URI subjectAltNames are not allowed".into()),
            Signer::NodeClient if !names.is_empty() => Err("subjectAltNames are not allowed".into()),
            _ => Ok(()),
        }
    }
}

/// Common names and organizations.
fn subject(request: &CertificateSigningRequestParams) -> (Vec<String>, Vec<String>) {
    let text = |value: &rcgen::DnValue| match value {
        rcgen::DnValue::Utf8String(text) => text.clone(),
        rcgen::DnValue::PrintableString(text) => text.as_str().to_owned(),
        rcgen::DnValue::Ia5String(text) => text.as_str().to_owned(),
        other => format!("{other:?}"),
    };
    let of = |kind: DnType| {
        let all = request.params.distinguished_name.iter();
        all.filter(|(of, _)| **of == kind).map(|(_, value)| text(value)).collect::<Vec<_>>()
    };
    (of(DnType::CommonName), of(DnType::OrganizationName))
}

/// The groups that a request (PEM) would make its bearer a member of.
///
/// # Errors
/// When it is no certificate request, or its own signature does not hold.
pub fn groups(pem: &str) -> Result<Vec<String>, String> {
    Ok(subject(&parse(pem)?).1)
}

fn parse(pem: &str) -> Result<CertificateSigningRequestParams, String> {
    CertificateSigningRequestParams::from_pem(pem).map_err(|e| format!("unable to parse the certificate request: {e}"))
}

/// Signs requests with the cluster's authority.
#[derive(Clone)]
pub struct Authority(Credential);

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl Pki {
    pub fn authority(&self) -> Authority {
        Authority(self.ca.clone())
    }
}

impl Authority {
    /// The certificate (PEM) for a request (PEM), good for `seconds` from now.
    ///
    /// # Errors
    /// What the signer does not accept of it, in words for its author.
    pub fn sign(&self, signer: Signer, request: &str, usages: &[String], seconds: i64) -> Result<String, String> {
        signer.check_usages(usages)?;
        let mut request = parse(request)?;
        signer.check_subject(&request)?;
        let failed = |e: rcgen::Error| format!("signing failed: {e}");
        let issuer = KeyPair::from_pem(&self.0.key).and_then(|key| Issuer::from_ca_cert_pem(&self.0.certificate, key));
        let params = &mut request.params;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.custom_extensions.clear();
        params.key_usages = usages.iter().filter_map(|usage| key_usage(usage)).collect();
        params.extended_key_usages = vec![signer.purpose().1];
        // Clocks differ: it is good a little before it is made, as the reference does.
        let now = Timestamp::now().as_second();
        let at = |seconds: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.max(0) as u64);
        params.not_before = at(now - FIVE_MINUTES);
        params.not_after = at(now.saturating_add(seconds));
        let signed = request.signed_by(&issuer.map_err(failed)?).map_err(failed)?;
        Ok(signed.pem())
    }
}

fn key_usage(name: &str) -> Option<KeyUsagePurpose> {
    match name {
        "digital signature" => Some(KeyUsagePurpose::DigitalSignature),
        "key encipherment" => Some(KeyUsagePurpose::KeyEncipherment),
        _ => None,
    }
}

//! The cluster's certificates and keys: made on the first start, kept as files only their owner can read, renewed before
//! they end or when the names they must carry have changed. The certificate authority is made once.
//!
//! | files | who shows it |
//! |---|---|
//! | `ca.crt`, `ca.key` | signs everything below; clients trust it |
//! | `apiserver.*` | the API server to its clients |
//! | `admin.*` | the administrator, in the kubeconfig |
//! | `kubelet-client.*` | the API server to the nodes |
//! | `node-NAME.*`, `node-NAME-serving.*` | a node to the API server, and to it as a server |
//! | `sa.key` | signs the tokens of ServiceAccounts |

pub mod requests;
mod tls;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp, ToSpan, civil::Date, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::{extensions::GeneralName, prelude::FromDer};

pub use tls::{client_config, server_config};

const CA_YEARS: i16 = 10;
const YEARS: i16 = 1;
/// A certificate that ends sooner than this is replaced at the next start.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {step} {path}: {error}")]
    File { step: &'static str, path: PathBuf, error: io::Error },
    /// A file is there but is not what its name says. Remove it to have it made anew; without `ca.key` every client needs
    /// a new kubeconfig.
    #[error("{path} cannot be used: {reason}; restore it, or remove the whole directory to have everything made anew")]
    Unusable { path: PathBuf, reason: String },
    #[error("cannot make the certificate {name}: {reason}")]
    Sign { name: String, reason: String },
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A certificate with its key, both as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    pub certificate: String,
    pub key: String,
}

impl Credential {
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        let parsed = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>();
        parsed.map_err(|error| Error::Tls(format!("a certificate is no PEM: {error}")))
    }

    pub fn private_key(&self) -> Result<PrivateKeyDer<'static>> {
        let parsed = PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        parsed.map_err(|error| Error::Tls(format!("a private key is no PEM: {error}")))
    }
}

/// What a node shows: to the API server as a client, and to it as a server for logs and exec.
#[derive(Clone)]
pub struct NodeCredentials {
    pub client: Credential,
    pub serving: Credential,
}

pub struct Pki {
    dir: PathBuf,
    ca: Credential,
    serving: Credential,
    admin: Credential,
    kubelet_client: Credential,
    service_account_key: String,
}

/// What a certificate must say.
struct Wanted<'a> {
    /// Its files' name.
    file: &'a str,
    user: &'a str,
    groups: &'a [&'a str],
    /// DNS names and addresses; a certificate with some is a server's.
    names: &'a [String],
}

impl Pki {
    /// `names` are the DNS names and addresses at which clients reach the API server.
    pub fn load_or_create(dir: &Path, names: &[String]) -> Result<Self> {
        let failed = |error| Error::File { step: "create", path: dir.to_path_buf(), error };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let ca = authority(dir)?;
        let make = |file, user, groups: &[&str], names: &[String]| {
            load_or_sign(dir, &ca, &Wanted { file, user, groups, names })
        };
        let serving = make("apiserver", "kube-apiserver", &[], names)?;
        let admin = make("admin", "kubernetes-admin", &["system:masters"], &[])?;
        let kubelet_client = make("kubelet-client", "kube-apiserver-kubelet-client", &["system:masters"], &[])?;
        let service_account_key = service_account_key(dir)?;
        Ok(Pki { dir: dir.to_path_buf(), serving, admin, kubelet_client, service_account_key, ca })
    }

    /// What clients trust.
    pub fn ca_pem(&self) -> &str {
        &self.ca.certificate
    }

    pub fn serving(&self) -> &Credential {
        &self.serving
    }

    pub fn admin(&self) -> &Credential {
        &self.admin
    }

    pub fn kubelet_client(&self) -> &Credential {
        &self.kubelet_client
    }

    /// PKCS #8, PEM, on the curve P-256.
    pub fn service_account_key(&self) -> &str {
        &self.service_account_key
    }

    pub fn node(&self, name: &str, addresses: &[String]) -> Result<NodeCredentials> {
        let user = format!("system:node:{name}");
        let (file, serving) = (format!("node-{name}"), format!("node-{name}-serving"));
        let names: Vec<String> = addresses.iter().cloned().chain([name.to_string()]).collect();
        let groups = &["system:nodes"];
        let client = Wanted { file: &file, user: &user, groups, names: &[] };
        let serving = Wanted { file: &serving, user: &user, groups, names: &names };
        Ok(NodeCredentials {
            client: load_or_sign(&self.dir, &self.ca, &client)?,
            serving: load_or_sign(&self.dir, &self.ca, &serving)?,
        })
    }

    /// A client certificate for any other component, kept under `client-NAME`.
    pub fn client(&self, name: &str, user: &str, groups: &[&str]) -> Result<Credential> {
        let file = format!("client-{name}");
        load_or_sign(&self.dir, &self.ca, &Wanted { file: &file, user, groups, names: &[] })
    }

    /// TLS for the API server: HTTP/2 or 1.1; a client may show a certificate of the cluster's authority.
    pub fn server_config(&self) -> Result<ServerConfig> {
        server_config(&self.ca.certificate, &self.serving)
    }

    /// TLS for the API server as a client of the nodes.
    pub fn node_client_config(&self) -> Result<ClientConfig> {
        client_config(&self.ca.certificate, &self.kubelet_client)
    }
}

fn authority(dir: &Path) -> Result<Credential> {
    if let Some(ca) = load(dir, "ca")? {
        let path = dir.join("ca.crt");
        check_key(dir, "ca", &ca)?;
        let seen = examine(&ca.certificate).map_err(|reason| Error::Unusable { path: path.clone(), reason })?;
        if seen.not_after <= Timestamp::now() {
            return Err(Error::Unusable { path, reason: format!("it ended at {}", seen.not_after) });
        }
        return Ok(ca);
    }
    let sign = |error: rcgen::Error| Error::Sign { name: "ca".into(), reason: error.to_string() };
    let mut params = params("skiff-ca", CA_YEARS, &[]).map_err(sign)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().map_err(sign)?;
    let certificate = params.self_signed(&key).map_err(sign)?.pem();
    save(dir, "ca", Credential { certificate, key: key.serialize_pem() })
}

fn load_or_sign(dir: &Path, ca: &Credential, wanted: &Wanted<'_>) -> Result<Credential> {
    if let Some(have) = load(dir, wanted.file)?
        && still_good(&have, ca, wanted)
    {
        return Ok(have);
    }
    let signed =
        sign(ca, wanted).map_err(|error| Error::Sign { name: wanted.file.into(), reason: error.to_string() })?;
    save(dir, wanted.file, signed)
}

fn sign(ca: &Credential, wanted: &Wanted<'_>) -> Result<Credential, rcgen::Error> {
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key)?)?;
    let mut params = params(wanted.user, YEARS, wanted.names)?;
    for group in wanted.groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = match wanted.names {
        [] => vec![ExtendedKeyUsagePurpose::ClientAuth],
        _ => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?.pem();
    Ok(Credential { certificate, key: key.serialize_pem() })
}

/// Valid from yesterday, so that clocks which differ a little do not matter.
fn params(common_name: &str, years: i16, names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let day = |date: Date| rcgen::date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8);
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = day(today.saturating_sub(1.day()));
    params.not_after = day(today.saturating_add(years.years()));
    Ok(params)
}

/// What matters of a certificate that is there.
struct Seen {
    not_after: Timestamp,
    subject: String,
    issuer_key: Option<Vec<u8>>,
    subject_key: Option<Vec<u8>>,
    names: Vec<String>,
}

fn examine(pem: &str) -> Result<Seen, String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| format!("no PEM: {error}"))?;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&der)
        .map_err(|error| format!("no certificate: {error}"))?;
    let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp());
    let mut seen = Seen {
        not_after: not_after.map_err(|error| error.to_string())?,
        subject: certificate.subject().to_string(),
        issuer_key: None,
        subject_key: None,
        names: Vec::new(),
    };
    for extension in certificate.extensions() {
        use x509_parser::extensions::ParsedExtension::{
            AuthorityKeyIdentifier, SubjectAlternativeName, SubjectKeyIdentifier,
        };
        match extension.parsed_extension() {
            AuthorityKeyIdentifier(id) => seen.issuer_key = id.key_identifier.as_ref().map(|id| id.0.to_vec()),
            SubjectKeyIdentifier(id) => seen.subject_key = Some(id.0.to_vec()),
            SubjectAlternativeName(names) => seen.names = names.general_names.iter().filter_map(name).collect(),
            _ => {}
        }
    }
    Ok(seen)
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_string()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => Some(std::net::IpAddr::from(v4).to_string()),
            Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|v6| std::net::IpAddr::from(v6).to_string()),
        },
        _ => None,
    }
}

/// Of this authority, for this user and these names, with its key, and not about to end.
fn still_good(have: &Credential, ca: &Credential, wanted: &Wanted<'_>) -> bool {
    let (Ok(seen), Ok(ca)) = (examine(&have.certificate), examine(&ca.certificate)) else { return false };
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names.dedup();
        names
    };
    let organizations = wanted.groups.iter().map(|group| format!(", O={group}"));
    let subject: String = std::iter::once(format!("CN={}", wanted.user)).chain(organizations).collect();
    seen.issuer_key.is_some()
        && seen.issuer_key == ca.subject_key
        && seen.subject == subject
        && sorted(&seen.names) == sorted(wanted.names)
        && seen.not_after.duration_since(Timestamp::now()) > RENEW_BEFORE
        && key_fits(have)
}

fn key_fits(have: &Credential) -> bool {
    let (Ok(key), Ok(der)) =
        (KeyPair::from_pem(&have.key), CertificateDer::from_pem_slice(have.certificate.as_bytes()))
    else {
        return false;
    };
    let certificate = x509_parser::certificate::X509Certificate::from_der(&der);
    certificate.is_ok_and(|(_, it)| *it.public_key().subject_public_key.data == *key.public_key_raw())
}

fn check_key(dir: &Path, file: &str, have: &Credential) -> Result<()> {
    if key_fits(have) {
        return Ok(());
    }
    let reason = format!("it does not belong to {file}.crt, or one of the two is damaged");
    Err(Error::Unusable { path: dir.join(format!("{file}.key")), reason })
}

fn service_account_key(dir: &Path) -> Result<String> {
    let path = dir.join("sa.key");
    if let Some(key) = read(&path)? {
        KeyPair::from_pem(&key).map_err(|error| Error::Unusable { path, reason: error.to_string() })?;
        return Ok(key);
    }
    let key = KeyPair::generate().map_err(|error| Error::Sign { name: "sa".into(), reason: error.to_string() })?;
    let pem = key.serialize_pem();
    write(&path, &pem)?;
    Ok(pem)
}

/// None unless both files are there; a certificate without its key (or the other way round) is the trace of a crash.
fn load(dir: &Path, file: &str) -> Result<Option<Credential>> {
    let certificate = read(&dir.join(format!("{file}.crt")))?;
    let key = read(&dir.join(format!("{file}.key")))?;
    Ok(certificate.zip(key).map(|(certificate, key)| Credential { certificate, key }))
}

fn save(dir: &Path, file: &str, credential: Credential) -> Result<Credential> {
    write(&dir.join(format!("{file}.key")), &credential.key)?;
    write(&dir.join(format!("{file}.crt")), &credential.certificate)?;
    Ok(credential)
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::File { step: "read", path: path.to_path_buf(), error }),
    }
}

/// Whole or not at all, durable, and never readable by others.
fn write(path: &Path, text: &str) -> Result<()> {
    let unfinished = path.with_extension("tmp");
    let failed = |error| Error::File { step: "write", path: path.to_path_buf(), error };
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&unfinished, path).map_err(failed)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests;

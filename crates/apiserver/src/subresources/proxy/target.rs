//! What a name like `https:web:443` means: scheme, object and port; and where that listens.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use skiff_api::json::{int, list, text};
use skiff_api::resources;
use skiff_api::status::Status;

use crate::Result;
use crate::call::Call;

pub(super) struct Target {
    pub host: String,
    pub port: u16,
    pub tls: Tls,
}

pub(super) enum Tls {
    None,
    With(Arc<ClientConfig>),
}

impl Target {
    pub(super) fn authority(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

/// The path below `…/proxy`, as the client wrote it.
pub(super) fn rest(path: &str, namespaced: bool) -> &str {
    // /api/v1/namespaces/NS/pods/NAME/proxy, /api/v1/nodes/NAME/proxy
    let steps = if namespaced { 7 } else { 5 };
    path.match_indices('/').nth(steps).map_or("", |(i, _)| &path[i..])
}

/// `[http:|https:]NAME[:PORT]`.
#[derive(Debug, PartialEq, Eq)]
struct Name<'a> {
    https: bool,
    name: &'a str,
    port: &'a str,
}

fn split(text: &str) -> Option<Name<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts[..] {
        [name] => ("", name, ""),
        // Two parts are a name and a port: a scheme needs a second colon, though nothing may follow it.
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => return None,
    };
    let known = matches!(scheme, "" | "http" | "https");
    (known && !name.is_empty()).then_some(Name { https: scheme == "https", name, port })
}

pub(super) async fn find(call: &Call) -> Result<Target> {
    let asked = call.name()?;
    let kind = call.resource().singular;
    let name = split(asked).ok_or_else(|| Status::bad_request(format!("invalid {kind} request {asked:?}")))?;
    match call.resource().plural {
        "pods" => pod(call, &name).await,
        "services" => service(call, &name).await,
        _ => node(call, &name).await,
    }
}

fn target(host: &str, port: u16, https: bool) -> Target {
    Target { host: host.to_owned(), port, tls: if https { Tls::With(trusting()) } else { Tls::None } }
}

fn usual(https: bool) -> u16 {
    if https { 443 } else { 80 }
}

async fn pod(call: &Call, name: &Name<'_>) -> Result<Target> {
    let pod = call.storage().get(call.resource(), call.namespace(), name.name).await?.value;
    let ip = match text(&pod, "status.podIP") {
        "" => return Err(Status::bad_request(format!("pod {} does not have an IP address yet", name.name))),
        ip => ip,
    };
    let port = match name.port {
        "" => first_port(&pod).unwrap_or(usual(name.https)),
        number => number
            .parse()
            .map_err(|_| Status::bad_request(format!("invalid pod request: {number:?} is no port number")))?,
    };
    Ok(target(ip, port, name.https))
}

/// The first port that any container declares.
fn first_port(pod: &Value) -> Option<u16> {
    let ports = list(pod, "spec.containers").iter().flat_map(|c| list(c, "ports"));
    ports.map(|p| int(p, "containerPort")).next().and_then(|p| u16::try_from(p).ok())
}

async fn service(call: &Call, name: &Name<'_>) -> Result<Target> {
    let service = call.storage().get(call.resource(), call.namespace(), name.name).await?.value;
    let port = port_name(&service, name)?;
    let resource =
        resources::find("", "v1", "endpoints").ok_or_else(|| Status::internal("endpoints are not served"))?;
    let endpoints = call.storage().find(resource, call.namespace(), name.name).await?;
    let ready = endpoints.map(|e| addresses(&e.value, port)).unwrap_or_default();
    let none = || Status::unavailable(format!("no endpoints available for service {:?}", name.name));
    let (ip, port) = ready.get(rand::random_range(0..ready.len().max(1))).ok_or_else(none)?;
    Ok(target(ip, *port, name.https))
}

/// Endpoints know ports by name: a number is one of the Service's own.
fn port_name<'a>(service: &'a Value, name: &Name<'a>) -> Result<&'a str> {
    let Ok(number) = name.port.parse::<i64>() else { return Ok(name.port) };
    let port = list(service, "spec.ports").iter().find(|p| int(p, "port") == number);
    let missing = || Status::unavailable(format!("no service port {number} found for service {:?}", name.name));
    port.map(|p| text(p, "name")).ok_or_else(missing)
}

/// Every ready address with the port of that name.
fn addresses(endpoints: &Value, port: &str) -> Vec<(String, u16)> {
    let mut found = Vec::new();
    for subset in list(endpoints, "subsets") {
        let ports = list(subset, "ports").iter().filter(|p| text(p, "name") == port);
        for number in ports.filter_map(|p| u16::try_from(int(p, "port")).ok()) {
            found.extend(list(subset, "addresses").iter().map(|a| (text(a, "ip").to_owned(), number)));
        }
    }
    found
}

/// The node's own server, unless another port is asked for.
async fn node(call: &Call, name: &Name<'_>) -> Result<Target> {
    let (ip, own) = super::super::node::node_address(call, name.name).await?;
    let port: Option<u16> = match name.port {
        "" => None,
        number => Some(
            number
                .parse()
                .map_err(|_| Status::bad_request(format!("invalid node request: {number:?} is no port number")))?,
        ),
    };
    match port.filter(|port| *port != own) {
        Some(port) => Ok(target(&ip, port, name.https)),
        None => {
            let tls = call.server.config.node_tls.clone();
            let tls =
                tls.ok_or_else(|| Status::unavailable("this server has no certificate to speak to nodes with"))?;
            Ok(Target { host: ip, port: own, tls: Tls::With(tls.0) })
        }
    }
}

/// TLS to what runs in pods: they have certificates of their own making, and the client chose to talk to them.
fn trusting() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let make = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.expect("the provider has the usual protocol versions").dangerous();
        Arc::new(builder.with_custom_certificate_verifier(Arc::new(Trusting(provider))).with_no_client_auth())
    };
    CONFIG.get_or_init(make).clone()
}

#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_of_all_forms() {
        let check = |text: &str, expect: Option<(bool, &str, &str)>| {
            assert_eq!(split(text), expect.map(|(https, name, port)| Name { https, name, port }), "{text}");
        };
        check("web", Some((false, "web", "")));
        check("web:80", Some((false, "web", "80")));
        check("web:http", Some((false, "web", "http")));
        check("http:web:80", Some((false, "web", "80")));
        check("https:web:tls", Some((true, "web", "tls")));
        check("https:web:", Some((true, "web", "")));
        check("ftp:web:21", None);
        check("https::443", None);
        check("", None);
        check("a:b:c:d", None);
    }

    #[test]
    fn the_rest_is_kept_as_written() {
        assert_eq!(rest("/api/v1/namespaces/n/pods/p/proxy", true), "");
        assert_eq!(rest("/api/v1/namespaces/n/pods/p/proxy/", true), "/");
        assert_eq!(rest("/api/v1/namespaces/n/pods/p/proxy/a%2Fb//c/", true), "/a%2Fb//c/");
        assert_eq!(rest("/api/v1/nodes/n/proxy/logs/", false), "/logs/");
    }

    #[test]
    fn ports_of_services_are_found_by_number_or_name() {
        let service = json!({"spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}});
        let port = |port| port_name(&service, &Name { https: false, name: "s", port }).map(str::to_owned);
        assert_eq!(port("81").unwrap(), "b");
        assert_eq!(port("a").unwrap(), "a");
        assert_eq!(port("82").unwrap_err().message(), "no service port 82 found for service \"s\"");
        let endpoints = json!({"subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"name": "a", "port": 8080}, {"name": "b", "port": 8081}]},
            {"notReadyAddresses": [{"ip": "10.0.0.3"}], "ports": [{"name": "a", "port": 8080}]}]});
        assert_eq!(addresses(&endpoints, "a"), [("10.0.0.1".into(), 8080), ("10.0.0.2".into(), 8080)]);
        assert!(addresses(&endpoints, "c").is_empty());
    }
}

//! Carrying out one check.

use std::{io, net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls};

use crate::{pod::context::Context, runtime::ExecSpec};

/// Bytes of an answer or of output that are looked at.
const OUTPUT: usize = 10 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Exec(Vec<String>),
    Tcp { host: String, port: u16 },
    Grpc { host: String, port: u16, service: String },
    Http { tls: bool, host: String, port: u16, path: String, headers: Vec<(String, String)> },
}

pub(super) fn http_check(container: &Container, http: &HTTPGetAction, ip: IpAddr) -> Result<Check, String> {
    let path = http.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".into());
    Ok(Check::Http {
        tls: http.scheme.as_deref() == Some("HTTPS"),
        host: http.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| ip.to_string()),
        port: super::port(container, &http.port)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        headers: http.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    })
}

/// The caller limits the time.
pub(super) async fn run(ctx: &Context, id: &str, check: &Check) -> Result<(), String> {
    match check {
        Check::Exec(args) => exec(ctx, id, args).await,
        Check::Tcp { host, port } => connect(host, *port).await.map(drop),
        Check::Grpc { host, port, service } => {
            let to = |e| format!("error: failed to connect service at \"{host}:{port}\": {e}");
            super::grpc::check(connect(host, *port).await.map_err(to)?, host, *port, service).await
        }
        Check::Http { tls, host, port, path, headers } => {
            let scheme = if *tls { "https" } else { "http" };
            let to = |e| format!("Get \"{scheme}://{host}:{port}{path}\": {e}");
            let stream = connect(host, *port).await.map_err(to)?;
            let request = request(host, *port, path, headers);
            if *tls { http(secure(stream).await?, &request).await } else { http(stream, &request).await }
        }
    }
}

async fn exec(ctx: &Context, id: &str, args: &[String]) -> Result<(), String> {
    let spec = ExecSpec { args: args.to_vec(), ..Default::default() };
    let session = ctx.runtime.exec(id, spec).await.map_err(|e| e.to_string())?;
    match session.output(OUTPUT).await {
        (0, _) => Ok(()),
        (code, output) => Err(format!("command exited with {code}: {}", String::from_utf8_lossy(&output))),
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let connected = TcpStream::connect((host, port)).await;
    connected.map_err(|e| format!("dial tcp {host}:{port}: connect: {}", plain(&e)))
}

/// An error of the system in the words that other tools use: `connection refused`.
fn plain(e: &io::Error) -> String {
    let text = e.to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn request(host: &str, port: u16, path: &str, headers: &[(String, String)]) -> String {
    let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut text = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
    if !given("host") {
        text.push_str(&format!("Host: {host}:{port}\r\n"));
    }
    if !given("user-agent") {
        text.push_str("User-Agent: kube-probe/1.36\r\n");
    }
    if !given("accept") {
        text.push_str("Accept: */*\r\n");
    }
    headers.iter().filter(|(_, v)| !v.is_empty()).for_each(|(n, v)| text.push_str(&format!("{n}: {v}\r\n")));
    text.push_str("\r\n");
    text
}

async fn http(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Result<(), String> {
    stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut answer = vec![];
    let mut limited = stream.take(OUTPUT as u64);
    while !answer.windows(2).any(|w| w == b"\r\n") {
        if limited.read_buf(&mut answer).await.map_err(|e| e.to_string())? == 0 {
            return Err("EOF before an HTTP status line".into());
        }
    }
    match status_code(&answer) {
        Some(code @ 200..=399) => {
            let _ = code;
            Ok(())
        }
        Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
        None => Err("the answer is no HTTP".into()),
    }
}

fn status_code(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|b| *b == b'\r').next()?;
    let text = std::str::from_utf8(line).ok()?;
    text.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
}

async fn secure(stream: TcpStream) -> Result<impl AsyncRead + AsyncWrite + Unpin, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    let name = rustls_pki_types::ServerName::try_from("probe.invalid").map_err(|e| e.to_string())?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| e.to_string())
}

/// A probe asks whether the server answers, not who it is: certificates are not checked, as the reference says.
#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        assert_eq!(status_code(b"HTTP/1.1 404 Not Found\r\n"), Some(404));
        assert_eq!(status_code(b"HTTP/1.0 200\r\n"), Some(200));
        assert_eq!(status_code(b"SSH-2.0-x\r\n"), None);
    }

    #[tokio::test]
    async fn answers_are_judged_by_their_status() {
        for (answer, good) in [("HTTP/1.1 302 Found\r\n\r\n", true), ("HTTP/1.1 500 X\r\n\r\n", false), ("", false)] {
            let (client, mut server) = tokio::io::duplex(1024);
            let served = tokio::spawn(async move {
                let mut buffer = [0; 512];
                let _ = server.read(&mut buffer).await;
                let _ = server.write_all(answer.as_bytes()).await;
            });
            assert_eq!(http(client, &request("h", 80, "/", &[])).await.is_ok(), good, "{answer}");
            served.await.unwrap();
        }
    }
}

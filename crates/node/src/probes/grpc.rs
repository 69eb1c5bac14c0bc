//! The check of gRPC's health protocol (`grpc.health.v1.Health/Check`): one unary call over HTTP/2 without TLS.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// Bytes of an answer that are looked at.
const ANSWER: usize = 4096;
const UNIMPLEMENTED: u32 = 12;

/// The caller limits the time.
pub(super) async fn check(stream: TcpStream, host: &str, port: u16, service: &str) -> Result<(), String> {
    let failed = |what: &dyn std::fmt::Display| format!("error: health rpc failed: {what}");
    let request = Request::post(format!("http://{host}:{port}{PATH}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/1.36")
        .body(Full::new(question(service)))
        .map_err(|e| failed(&e))?;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    let call = async {
        let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
        if response.status() != http::StatusCode::OK {
            return Err(failed(&format!("the server answers {}", response.status())));
        }
        let headers = response.headers().clone();
        let body = Limited::new(response.into_body(), ANSWER).collect().await.map_err(|e| failed(&e))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        verdict(&headers, &trailers, &body.to_bytes())
    };
    tokio::select! {
        // A server may close as soon as it has answered.
        biased;
        said = call => said,
        ended = connection => Err(failed(&ended.err().map_or("the connection ended".into(), |e| e.to_string()))),
    }
}

/// A message with its length before it: field 1 is the service's name.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        let mut length = service.len();
        while length > 0x7f {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    framed.freeze()
}

/// The call's status stands in the trailers, or in the headers when there is no message.
fn verdict(headers: &HeaderMap, trailers: &HeaderMap, body: &[u8]) -> Result<(), String> {
    let field = |name: &str| trailers.get(name).or_else(|| headers.get(name)).and_then(|v| v.to_str().ok());
    let message = field("grpc-message").unwrap_or_default();
    match field("grpc-status").and_then(|s| s.parse().ok()) {
        Some(0) => {}
        Some(UNIMPLEMENTED) => {
            return Err(format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
            ));
        }
        Some(code) => return Err(format!("error: health rpc failed: rpc error: code = {code} desc = {message}")),
        None => return Err("error: health rpc failed: the answer is no gRPC (it has no grpc-status)".into()),
    }
    match serving(body) {
        Some(1) => Ok(()),
        Some(other) => Err(format!("service unhealthy (responded with {:?})", name(other))),
        None => Err("error: health rpc failed: the answer is no HealthCheckResponse".into()),
    }
}

fn name(status: u64) -> &'static str {
    match status {
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

/// Field 1 of the message; absent means 0.
fn serving(body: &[u8]) -> Option<u64> {
    let (head, rest) = body.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    // Compressed answers are not asked for.
    let message = rest.get(..length).filter(|_| head[0] == 0)?;
    match message {
        [] => Some(0),
        [0x08, value] if *value < 0x80 => Some(u64::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{HeaderValue, Response};
    use http_body_util::StreamBody;
    use hyper::{body::Frame, service::service_fn};
    use tokio::net::TcpListener;

    use super::*;

    fn answer(status: &[u8]) -> Vec<u8> {
        [&[0, 0, 0, 0, status.len() as u8], status].concat()
    }

    fn trailers(status: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static(status))])
    }

    #[test]
    fn verdicts() {
        let none = HeaderMap::new();
        let said = |status, body: &[u8]| verdict(&none, &trailers(status), body);
        assert_eq!(said("0", &answer(&[8, 1])), Ok(()));
        assert_eq!(said("0", &answer(&[8, 2])), Err("service unhealthy (responded with \"NOT_SERVING\")".into()));
        assert_eq!(said("0", &answer(&[])), Err("service unhealthy (responded with \"UNKNOWN\")".into()));
        assert!(said("12", b"").unwrap_err().contains("does not implement"));
        assert!(verdict(&trailers("5"), &none, b"").unwrap_err().contains("code = 5"));
        for nonsense in [&b""[..], &[0; 4], &[0, 0xff, 0xff, 0xff, 0xff], &[1, 0, 0, 0, 0], &answer(&[0xff; 9])] {
            assert!(said("0", nonsense).is_err(), "{nonsense:?}");
        }
        assert!(verdict(&none, &none, &answer(&[8, 1])).unwrap_err().contains("no gRPC"));
    }

    #[test]
    fn questions() {
        assert_eq!(&question("")[..], [0; 5]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(question(&"x".repeat(300))[5..8], [0x0a, 0xac, 2]);
    }

    /// Serves one connection; healthy is the service named "well".
    async fn server(listener: TcpListener) {
        let (stream, _) = listener.accept().await.unwrap();
        let serve = service_fn(|request: Request<hyper::body::Incoming>| async move {
            assert_eq!(request.uri().path(), PATH);
            let asked = request.into_body().collect().await.unwrap().to_bytes();
            let status = if asked.ends_with(b"well") { 1 } else { 2 };
            let frames = [Frame::data(Bytes::from(answer(&[8, status]))), Frame::trailers(trailers("0"))];
            let frames = frames.map(Ok::<_, Infallible>);
            Ok::<_, Infallible>(Response::new(StreamBody::new(futures::stream::iter(frames))))
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), serve).await;
    }

    #[tokio::test]
    async fn a_server_is_asked() {
        for (service, healthy) in [("well", true), ("ill", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = tokio::spawn(server(listener));
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let said = check(stream, "127.0.0.1", port, service).await;
            assert_eq!(said.is_ok(), healthy, "{said:?}");
            server.abort();
        }
    }
}

//! A server on its own, without nodes or controllers: `serve DIR [ADDRESS]` keeps its store and keys in DIR and writes
//! DIR/kubeconfig for kubectl.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use skiff_apiserver::pki::Pki;
use skiff_apiserver::{Config, Server};
use skiff_store::memory::Memory;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: serve DIR [ADDRESS]")?;
    let dir = Path::new(&dir);
    let address: SocketAddr = args.next().as_deref().unwrap_or("127.0.0.1:0").parse()?;
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let pki = Pki::load_or_create(&dir.join("pki"), &[address.ip().to_string()])?;
    let config = Config::new("example", address, pki.service_account_key());
    let server = Server::new(config, Arc::new(Memory::new())).await?;
    std::fs::write(dir.join("kubeconfig"), kubeconfig(&pki, address))?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.serve(listener, Arc::new(pki.server_config()?), stop.clone()));
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    Ok(serving.await?)
}

fn kubeconfig(pki: &Pki, address: SocketAddr) -> String {
    let encode = |text: &str| STANDARD.encode(text);
    let (ca, cert, key) = (encode(pki.ca_pem()), encode(&pki.admin().certificate), encode(&pki.admin().key));
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: \"https://{address}\", certificate-authority-data: {ca}}}}}]\n\
         users: [{{name: u, user: {{client-certificate-data: {cert}, client-key-data: {key}}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
    )
}

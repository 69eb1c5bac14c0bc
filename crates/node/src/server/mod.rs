//! The node's own API, for the API server only: logs, exec, attach and port-forward of the pods that run here.

use std::{io, net::SocketAddr, sync::Arc};

use skiff_client::life::Stop;
use tokio::net::TcpListener;

use crate::{agent::Config, pod::context::Context};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {cause}")]
    Listen { address: SocketAddr, cause: io::Error },
}

pub struct Server {
    listener: TcpListener,
    port: u16,
}

impl Server {
    pub async fn bind(config: &Config) -> Result<Self, Error> {
        let address = SocketAddr::new(config.node_ip, config.port);
        let listen = |cause| Error::Listen { address, cause };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let port = listener.local_addr().map_err(listen)?.port();
        Ok(Server { listener, port })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub async fn run(self, _ctx: Arc<Context>, stop: Stop) {
        let _keep = self.listener;
        stop.cancelled().await;
    }
}

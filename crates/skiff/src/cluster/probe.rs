//! Whether a cluster really answers: asked on each node, as a pod would ask.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use skiff_dns::wire::{self, Name, rtype};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{config::Config, network::netns, paths::Paths};
use crate::dns::ask::exchange;

/// The first answer may take this long; each try this long, with this pause between them.
const PATIENCE: Duration = Duration::from_secs(20);
const TRY: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(5);

/// Returns when DNS and the `kubernetes` ClusterIP answer on every node.
pub(crate) async fn answers(config: &Config, paths: &Paths) -> Result<()> {
    for number in 0..config.nodes {
        let name = config.node_name(number);
        let netns = paths.netns(&name);
        // A node that is switched off cannot.
        if !netns::is_namespace(&netns) {
            continue;
        }
        let (dns, api) = (SocketAddr::from((config.dns_ip(), 53)), SocketAddr::from((config.kubernetes_ip(), 443)));
        let domain = config.domain.clone();
        let asked = tokio::task::spawn_blocking(move || {
            netns::inside(&netns, || async {
                patiently(|| dns_answers(dns, &domain, api.ip())).await?;
                patiently(|| async { TcpStream::connect(api).await.map(drop) }).await
            })
        });
        asked
            .await?
            .with_context(|| format!("node {name} gets no answer from DNS or from the kubernetes ClusterIP"))?;
    }
    Ok(())
}

async fn patiently<F: Future<Output = io::Result<()>>>(mut ask: impl FnMut() -> F) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match timeout(TRY, ask()).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Asks for the address of `kubernetes.default`, which must be `expect`.
async fn dns_answers(server: SocketAddr, domain: &str, expect: IpAddr) -> io::Result<()> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let name = Name::parse(&format!("kubernetes.default.svc.{domain}")).ok_or_else(|| wrong("no DNS name"))?;
    let answer = exchange(server, &name, rtype::A).await?;
    let IpAddr::V4(expect) = expect else { return Ok(()) };
    let right = wire::Data::Other { rtype: rtype::A, bytes: expect.octets().to_vec() };
    match answer.response.answers.iter().any(|r| r.data == right) {
        true => Ok(()),
        false => Err(wrong("DNS does not know kubernetes.default yet")),
    }
}

//! The controllers and the scheduler: each a pure `plan` and a `run` that observes through shared caches, plans, and
//! writes under an identity of its own. All are level-triggered: a plan starts from what there is, never from what
//! happened, so a crash or a lost event costs time and nothing else.

mod certificates;
mod context;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod endpointslice;
#[cfg(test)]
mod fixture;
mod garbage;
mod history;
mod job;
pub mod leader;
mod loadbalancer;
mod mirroring;
mod namespace;
mod nodeipam;
mod nodelifecycle;
mod object;
mod podgc;
mod pods;
mod replicaset;
mod rootca;
mod scheduler;
mod serviceaccount;
mod statefulset;

use std::{future::Future, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use skiff_client::life::{Ready, Stop};
use tokio::task::JoinSet;

pub use crate::certificates::{Sign, SignFn};
use crate::context::Context;
pub use crate::loadbalancer::{Pool, PoolError};

/// Gives the client of an identity: a ServiceAccount's name in kube-system, or a component such as
/// `system:kube-scheduler`.
pub type Clients = Arc<dyn Fn(&str) -> kube::Client + Send + Sync>;

/// What the reference waits before a silent node is not ready.
pub const NODE_MONITOR_GRACE_PERIOD: Duration = Duration::from_secs(40);

/// A range of pod addresses, and the bits of each node's part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRange {
    pub cluster: ipnet::IpNet,
    pub node_mask: u8,
}

#[derive(Clone, Debug)]
pub struct Config {
    /// Pods get their addresses from here: one range, or one of each family, the first one's being a pod's first.
    pub pod_ranges: Vec<PodRange>,
    /// A node that was not heard of for so long is not ready any more.
    pub node_monitor_grace_period: Duration,
    /// Services of type LoadBalancer get their addresses from here.
    pub lb_pool: Pool,
    /// The certificates (PEM) by which pods trust the API server.
    pub ca: String,
    /// Answers CertificateSigningRequests.
    pub sign: Sign,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("controller {0} ended by itself, which it must not: this is a bug; the process should be restarted")]
    Ended(&'static str),
    #[error(
        "node mask /{mask} does not fit into the cluster's pod range {range}: choose a mask from /{at_least} to /{most}"
    )]
    Mask { mask: u8, range: ipnet::IpNet, at_least: u8, most: u8 },
}

/// What a controller's `start` returns: it has taken its caches, and runs until told to stop.
pub(crate) type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs every controller until told to stop. Ready once every cache has its first list.
pub async fn run(config: Config, clients: Clients, ready: Ready, stop: Stop) -> Result<(), Error> {
    check(&config)?;
    let cx = Arc::new(Context::new(config, clients, stop.clone()));
    let mut tasks = JoinSet::new();
    for (name, job) in jobs(&cx) {
        tasks.spawn(async move {
            job.await;
            name
        });
    }
    tokio::select! {
        () = report(&cx, ready, &stop) => {}
        Some(ended) = tasks.join_next() => {
            if !stop.is_cancelled() {
                return Err(Error::Ended(ended.unwrap_or("(it panicked)")));
            }
        }
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

fn jobs(cx: &Arc<Context>) -> Vec<(&'static str, Job)> {
    vec![
        ("replicaset", replicaset::run::start(cx)),
        ("deployment", deployment::run::start(cx)),
        ("daemonset", daemonset::run::start(cx)),
        ("statefulset", statefulset::run::start(cx)),
        ("job", job::run::start(cx)),
        ("scheduler", scheduler::run::start(cx)),
        ("endpoints", endpoints::run::start(cx)),
        ("endpointslice", endpointslice::run::start(cx)),
        ("endpointslicemirroring", mirroring::run::start(cx)),
        ("service", loadbalancer::run::start(cx)),
        ("nodeipam", nodeipam::run::start(cx)),
        ("nodelifecycle", nodelifecycle::run::start(cx)),
        ("namespace", namespace::run::start(cx)),
        ("serviceaccount", serviceaccount::start(cx)),
        ("rootca", rootca::start(cx)),
        ("garbage", garbage::run::start(cx)),
        ("podgc", podgc::run::start(cx)),
        ("disruption", disruption::run::start(cx)),
        ("certificates", certificates::run::start(cx)),
    ]
}

async fn report(cx: &Context, ready: Ready, stop: &Stop) {
    cx.synced().await;
    ready.set();
    stop.cancelled().await;
}

fn check(config: &Config) -> Result<(), Error> {
    for PodRange { cluster: range, node_mask: mask } in config.pod_ranges.iter().copied() {
        let most = match range.addr() {
            IpAddr::V4(_) => 30,
            IpAddr::V6(_) => 126,
        };
        if mask < range.prefix_len() || mask > most {
            return Err(Error::Mask { mask, range, at_least: range.prefix_len(), most });
        }
    }
    Ok(())
}

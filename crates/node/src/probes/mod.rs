//! Startup, liveness and readiness probes, and the life-cycle hooks that act like them.

mod act;
mod grpc;
mod judge;
mod listening;

use std::{net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, LifecycleHandler, Pod, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use self::{act::Check, judge::Judge};
use crate::pod::{context::Context, events::Kind};

/// A running container to be probed.
#[derive(Clone)]
pub struct Target {
    pub ctx: Arc<Context>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub id: String,
    pub ip: IpAddr,
}

/// What probing found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Started,
    Ready(bool),
    /// The container is to be ended; `grace` when the probe has one of its own.
    Failed {
        kind: &'static str,
        grace: Option<i64>,
    },
}

/// Probes until the container is to be ended, or for ever; aborted with the container.
pub async fn run(target: Target, report: impl Fn(Change) + Clone) {
    if let Some(probe) = target.container.startup_probe.clone() {
        if !startup(&target, &probe).await {
            report(Change::Failed { kind: "startup", grace: probe.termination_grace_period_seconds });
            return;
        }
        report(Change::Started);
    }
    let readiness = async {
        if let Some(probe) = target.container.readiness_probe.clone() {
            ready(&target, &probe, |ready| report(Change::Ready(ready))).await;
        } else if listens(&target.container) {
            listening::wait(&target).await;
            report(Change::Ready(true));
        }
    };
    let liveness = async {
        if let Some(probe) = target.container.liveness_probe.clone() {
            alive(&target, &probe).await;
            report(Change::Failed { kind: "liveness", grace: probe.termination_grace_period_seconds });
        }
    };
    tokio::join!(readiness, liveness);
}

/// A container that says on which TCP ports it listens, and has no readiness probe, is given a moment to do so.
pub fn listens(container: &Container) -> bool {
    container.readiness_probe.is_none() && listening::ports(container).next().is_some()
}

/// True when it passed, false when it failed for good.
async fn startup(target: &Target, probe: &Probe) -> bool {
    let mut judge = Judge::new(probe, false);
    let mut times = Times::begin(probe).await;
    loop {
        let ok = attempt(target, probe, "Startup").await;
        match judge.observe(ok) {
            Some(verdict) => return verdict,
            None => times.next().await,
        }
    }
}

async fn ready(target: &Target, probe: &Probe, report: impl Fn(bool)) {
    let mut judge = Judge::new(probe, false);
    let mut times = Times::begin(probe).await;
    loop {
        let ok = attempt(target, probe, "Readiness").await;
        judge.observe(ok).into_iter().for_each(&report);
        times.next().await;
    }
}

/// Returns when the container is found dead.
async fn alive(target: &Target, probe: &Probe) {
    let mut judge = Judge::new(probe, true);
    let mut times = Times::begin(probe).await;
    loop {
        let ok = attempt(target, probe, "Liveness").await;
        if judge.observe(ok) == Some(false) {
            return;
        }
        times.next().await;
    }
}

struct Times {
    period: Duration,
    next: tokio::time::Instant,
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default))
}

impl Times {
    async fn begin(probe: &Probe) -> Self {
        tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
        Times { period: seconds(probe.period_seconds, 10), next: tokio::time::Instant::now() }
    }

    async fn next(&mut self) {
        self.next = (self.next + self.period).max(tokio::time::Instant::now());
        tokio::time::sleep_until(self.next).await;
    }
}

async fn attempt(target: &Target, probe: &Probe, kind: &str) -> bool {
    let limit = seconds(probe.timeout_seconds, 1);
    let result = match check(target, probe) {
        Ok(check) => match tokio::time::timeout(limit, act::run(&target.ctx, &target.id, &check)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {limit:?}")),
        },
        Err(message) => Err(message),
    };
    if let Err(why) = &result {
        let message = format!("{kind} probe failed: {why}");
        target.ctx.recorder.pod(&target.pod, Some(&target.container.name), Kind::Warning, "Unhealthy", message);
    }
    result.is_ok()
}

fn check(target: &Target, probe: &Probe) -> Result<Check, String> {
    if let Some(exec) = &probe.exec {
        return Ok(Check::Exec(exec.command.clone().unwrap_or_default()));
    }
    if let Some(http) = &probe.http_get {
        return act::http_check(&target.container, http, target.ip);
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = tcp.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.ip.to_string());
        return Ok(Check::Tcp { host, port: port(&target.container, &tcp.port)? });
    }
    match &probe.grpc {
        Some(grpc) => {
            let port = u16::try_from(grpc.port).map_err(|_| format!("{} is no port", grpc.port))?;
            let service = grpc.service.clone().unwrap_or_default();
            Ok(Check::Grpc { host: target.ip.to_string(), port, service })
        }
        None => Err("the probe has no action".into()),
    }
}

/// A number, or the name of one of the container's ports.
pub fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => u16::try_from(*n).ok(),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name));
            named.and_then(|p| u16::try_from(p.container_port).ok()).or_else(|| name.parse().ok())
        }
    };
    number.filter(|n| *n > 0).ok_or_else(|| format!("couldn't find port {port:?} in container {}", container.name))
}

/// postStart and preStop.
pub async fn hook(
    ctx: &Arc<Context>,
    pod: &Pod,
    container: &Container,
    id: &str,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(exec) = &hook.exec {
        return act::run(ctx, id, &Check::Exec(exec.command.clone().unwrap_or_default())).await;
    }
    let Some(http) = &hook.http_get else { return Ok(()) };
    let ip = pod.status.as_ref().and_then(|s| s.pod_ip.as_ref()).and_then(|i| i.parse().ok());
    let ip = ip.ok_or("the pod has no address")?;
    act::run(ctx, id, &act::http_check(container, http, ip)?).await
}

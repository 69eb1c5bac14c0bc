//! What a pod's worker has done beside it: each of these does one thing and reports how it went.

use std::{fs, io, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use kube::Api;

use super::{
    context::Context,
    events::Kind,
    start::{self, Attempt},
    state::{PodState, Pulled},
};
use crate::{
    hostports::{self, Published},
    image::{Auth, Image, PullError},
    network::Attachment,
    probes,
    runtime::Exit,
    volumes::{self, tokens::Tokens},
};

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(e.to_string()))
}

pub async fn attach(ctx: &Arc<Context>, pod: &Arc<Pod>) -> Result<Attachment, String> {
    let (shared, pod) = (ctx.clone(), pod.clone());
    let attached = blocking(move || connect(&shared, &pod)).await;
    let network = ctx.network.clone();
    // The next pod finds the pool filled again.
    tokio::task::spawn_blocking(move || network.fill().map_err(|e| tracing::warn!("{e}")));
    attached
}

/// The pod's namespace, then the node's ports that lead there: all or nothing.
fn connect(ctx: &Context, pod: &Pod) -> Result<Attachment, String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let mut attachment = ctx.network.attach(uid).map_err(|e| e.to_string())?;
    attachment.host_ports = hostports::wanted(pod, attachment.ip);
    let name = format!("{}/{}", volumes::namespace(pod), pod.metadata.name.as_deref().unwrap_or_default());
    let published = Published { pod: name, ip: attachment.ip, ports: attachment.host_ports.clone() };
    match ctx.host_ports.publish(uid, published) {
        Ok(()) => Ok(attachment),
        Err(e) => {
            // The reason is the port; a namespace that stays is swept by the next start.
            let _ = ctx.network.detach(uid, &attachment);
            Err(e.to_string())
        }
    }
}

pub async fn mount(ctx: &Context, pod: &Pod, tokens: &Tokens) -> Result<(), String> {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let objects = Default::default();
    let around = start::around(ctx, pod, None, &objects);
    let sources = volumes::Sources { client: &ctx.client, tokens, around, pod_dir: &ctx.pod_dir(&uid) };
    volumes::prepare(sources).await.map_err(|e| e.to_string())
}

/// Reason and message as the container's status shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullFailure {
    pub reason: &'static str,
    pub message: String,
}

/// The image, from this node's store or its registry by the pull policy.
pub async fn pull(ctx: &Context, pod: &Pod, container: &Container) -> Result<Pulled, PullFailure> {
    let reference = container.image.clone().unwrap_or_default();
    let invalid = |message: String| PullFailure { reason: "InvalidImageName", message };
    let here = ctx.images.find(&reference).map_err(|e| invalid(e.to_string()))?;
    let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    let image = match (here, policy) {
        (Some(image), policy) if policy != "Always" => {
            let message = format!("Container image \"{reference}\" already present on machine");
            ctx.recorder.pod(pod, Some(&container.name), Kind::Normal, "Pulled", message);
            image
        }
        (None, "Never") => {
            let message = format!("Container image \"{reference}\" is not present with pull policy of Never");
            return Err(PullFailure { reason: "ErrImageNeverPull", message });
        }
        (here, _) => fetch(ctx, pod, container, here).await?,
    };
    let id = image.digests.first().cloned().unwrap_or_else(|| image.id.clone());
    Ok(Pulled { id, image })
}

/// From the registry. A machine that reaches none runs the image that was loaded by hand, and says so.
async fn fetch(ctx: &Context, pod: &Pod, container: &Container, here: Option<Image>) -> Result<Image, PullFailure> {
    let reference = container.image.as_deref().unwrap_or_default();
    let event = |kind, reason, message| ctx.recorder.pod(pod, Some(&container.name), kind, reason, message);
    event(Kind::Normal, "Pulling", format!("Pulling image \"{reference}\""));
    let begun = std::time::Instant::now();
    let auth = credentials(ctx, pod, reference).await;
    match (ctx.images.pull(reference, auth.as_ref(), &|_, _| {}).await, here) {
        (Ok(image), _) => {
            let (took, size) = (begun.elapsed(), image.size);
            let message = format!("Successfully pulled image \"{reference}\" in {took:.3?}. Image size: {size} bytes.");
            event(Kind::Normal, "Pulled", message);
            Ok(image)
        }
        (Err(PullError::Unreachable { reason, .. }), Some(image)) if image.digests.is_empty() => {
            let message = format!(
                "The registry of \"{reference}\" cannot be reached ({reason}): using the image of that name \
                 that was loaded by hand"
            );
            event(Kind::Warning, "RegistryUnreachable", message);
            Ok(image)
        }
        (Err(e), _) => {
            let message = format!("Failed to pull image \"{reference}\": {e}");
            Err(PullFailure { reason: "ErrImagePull", message })
        }
    }
}

/// From the pod's imagePullSecrets, the one for the image's registry.
async fn credentials(ctx: &Context, pod: &Pod, reference: &str) -> Option<Auth> {
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), volumes::namespace(pod));
    for secret in pod.spec.as_ref()?.image_pull_secrets.iter().flatten() {
        let Ok(Some(secret)) = api.get_opt(&secret.name).await else { continue };
        let text = secret.data.as_ref().and_then(|d| d.get(".dockerconfigjson")).map(|b| b.0.clone());
        if let Some(auth) = text.and_then(|t| docker_auth(&t, reference)) {
            return Some(auth);
        }
    }
    None
}

/// The entry of a docker configuration for a reference's registry.
fn docker_auth(config: &[u8], reference: &str) -> Option<Auth> {
    use base64::Engine;
    let config: serde_json::Value = serde_json::from_slice(config).ok()?;
    let first = reference.split('/').next().unwrap_or_default();
    let named = reference.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let registry = if named { first } else { "docker.io" };
    let matches = |key: &str| {
        let key = key.trim_start_matches("https://").trim_start_matches("http://");
        let host = key.split('/').next().unwrap_or_default();
        host == registry || (registry == "docker.io" && host == "index.docker.io")
    };
    let (_, entry) = config.get("auths")?.as_object()?.iter().find(|(k, _)| matches(k))?;
    let text = |field: &str| entry.get(field).and_then(|v| v.as_str()).map(String::from);
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some(Auth { username, password });
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
    let (username, password) = String::from_utf8(decoded).ok()?.split_once(':').map(|(u, p)| (u.into(), p.into()))?;
    Some(Auth { username, password })
}

/// Starts an attempt; what is left of the former one goes first.
pub async fn start(ctx: &Context, pod: &Pod, attempt: &Attempt, former: Option<String>) -> Result<(), start::Error> {
    if let Some(former) = former {
        // What cannot be removed now is removed with the pod.
        let _ = ctx.runtime.remove(&former).await;
        prune_logs(ctx, pod, &attempt.container.name, attempt.number);
    }
    start::start(ctx, pod, attempt).await?;
    let name = &attempt.container.name;
    ctx.recorder.pod(pod, Some(name), Kind::Normal, "Created", format!("Created container: {name}"));
    Ok(())
}

/// Keeps the log of the attempt before this one.
fn prune_logs(ctx: &Context, pod: &Pod, container: &str, attempt: i32) {
    for old in (0..attempt - 1).rev().take(2) {
        let _ = fs::remove_file(ctx.log_path(pod, container, old));
    }
}

/// How long a pod that is deleted still takes connections before it is told to end, at least: by then proxies of other
/// machines have dropped it. The API has no word for "all proxies know"; Endpoints and rules follow a deletion within tens
/// of milliseconds.
const FAREWELL: Duration = Duration::from_millis(300);
/// Proxies of this process are asked. On a machine that has too much to do they may need longer, but no longer than this.
const LONGEST_FAREWELL: Duration = Duration::from_secs(2);
/// Connections that a proxy let through a moment ago are served.
const LAST_GUESTS: Duration = Duration::from_millis(50);

/// What ends a container.
pub struct Stop {
    pub container: Container,
    pub id: String,
    /// The image's stop signal.
    pub signal: Option<String>,
    pub grace: i64,
    /// Clients may be on their way: the pod was ready and is deleted.
    pub serving: bool,
}

/// preStop within the grace, then the stop signal, at the grace's end SIGKILL. Aborted when the container ends.
pub async fn stop(ctx: &Arc<Context>, pod: &Pod, stop: Stop) {
    let grace = Duration::from_secs(u64::try_from(stop.grace).unwrap_or(0));
    let deadline = tokio::time::Instant::now() + grace;
    if !grace.is_zero() {
        tokio::join!(pre_stop(ctx, pod, &stop, deadline), farewell(ctx, pod, &stop, grace));
        let number = stop.signal.as_deref().and_then(signal_number).unwrap_or(libc::SIGTERM);
        // A container that has ended meanwhile needs no signal.
        let _ = ctx.runtime.signal(&stop.id, number);
        // After a long hook the process still has two seconds.
        tokio::time::sleep_until(deadline.max(tokio::time::Instant::now() + Duration::from_secs(2).min(grace))).await;
    }
    let _ = ctx.runtime.signal(&stop.id, libc::SIGKILL);
}

/// Until nobody is sent to the pod any more.
async fn farewell(ctx: &Context, pod: &Pod, stop: &Stop, grace: Duration) {
    if !stop.serving {
        return;
    }
    // The address of a pod in the host's network is not its own.
    let own = pod.spec.as_ref().is_some_and(|s| s.host_network != Some(true));
    let ip = pod.status.as_ref().filter(|_| own).and_then(|s| s.pod_ip.as_deref()).and_then(|ip| ip.parse().ok());
    let heard = async {
        if let Some(ip) = ip {
            ctx.config.farewells.heard_by_all(ip).await;
            tokio::time::sleep(LAST_GUESTS).await;
        }
    };
    let heard = tokio::time::timeout(LONGEST_FAREWELL.min(grace), heard);
    let _ = tokio::join!(heard, tokio::time::sleep(FAREWELL.min(grace)));
}

async fn pre_stop(ctx: &Arc<Context>, pod: &Pod, stop: &Stop, deadline: tokio::time::Instant) {
    let Some(hook) = stop.container.lifecycle.as_ref().and_then(|l| l.pre_stop.clone()) else { return };
    let ran = tokio::time::timeout_at(deadline, probes::hook(ctx, pod, &stop.container, &stop.id, &hook)).await;
    let message = match ran {
        Ok(Ok(())) => return,
        Ok(Err(message)) => message,
        Err(_) => "the grace period is over".into(),
    };
    ctx.recorder.pod(pod, Some(&stop.container.name), Kind::Warning, "FailedPreStopHook", message);
}

/// `SIGTERM`, `TERM` or `15`.
fn signal_number(text: &str) -> Option<i32> {
    let name = text.trim().trim_start_matches("SIG");
    let known = [
        ("HUP", libc::SIGHUP),
        ("INT", libc::SIGINT),
        ("QUIT", libc::SIGQUIT),
        ("KILL", libc::SIGKILL),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("TERM", libc::SIGTERM),
        ("WINCH", libc::SIGWINCH),
        ("CONT", libc::SIGCONT),
        ("RTMIN+3", 37),
    ];
    let by_name = known.iter().find(|(n, _)| *n == name).map(|(_, s)| *s);
    by_name.or_else(|| name.parse().ok().filter(|n| (1..=64).contains(n)))
}

/// Containers, network, volumes, and with the object also the logs. Goes on over errors and reports the first.
pub async fn tear_down(ctx: &Arc<Context>, pod: &Pod, state: &PodState, logs: bool) -> Result<(), String> {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let mut first = Ok(());
    for container in ctx.runtime.containers().into_iter().filter(|c| c.spec.pod_uid == uid) {
        let removed = ctx.runtime.remove(&container.spec.id).await.map_err(|e| e.to_string());
        first = first.and(removed);
    }
    let (attachment, shared) = (state.network.done().cloned().flatten(), ctx.clone());
    let (directory, log_dir) = (ctx.pod_dir(&uid), ctx.log_dir(pod));
    let rest = blocking(move || {
        let withdrawn = shared.host_ports.withdraw(&uid).map_err(|e| e.to_string());
        let detached = attachment.map_or(Ok(()), |a| shared.network.detach(&uid, &a).map_err(|e| e.to_string()));
        let removed = volumes::remove(&directory).map_err(|e| format!("cannot remove {}: {e}", directory.display()));
        let unlogged = if logs { remove_all(&log_dir) } else { Ok(()) };
        withdrawn.and(detached).and(removed).and(unlogged)
    });
    let rest = rest.await;
    first.and(rest)
}

pub fn remove_all(path: &std::path::Path) -> Result<(), String> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(format!("cannot remove {}: {e}", path.display())),
        _ => Ok(()),
    }
}

const MESSAGE_BYTES: usize = 4096;
const LOG_BYTES: usize = 2048;

/// What the container wrote about its own end, or by its policy the end of its log.
pub fn termination_message(ctx: &Context, pod: &Pod, container: &Container, attempt: i32, exit: &mut Exit) {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let file = start::termination_file(&ctx.pod_dir(&uid), &container.name, attempt);
    let own = fs::read(&file).unwrap_or_default();
    if !own.is_empty() {
        exit.message = String::from_utf8_lossy(&own[..own.len().min(MESSAGE_BYTES)]).into_owned();
        return;
    }
    let from_log = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError") && exit.code != 0;
    if from_log && exit.message.is_empty() {
        let log = fs::read(ctx.log_path(pod, &container.name, attempt)).unwrap_or_default();
        exit.message = log_tail(&log);
    }
}

/// The last lines of a log in CRI's format, without times and stream names.
fn log_tail(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log);
    let lines: Vec<&str> = text.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap_or_default()).collect();
    let mut from = lines.len();
    let mut size = 0;
    while from > 0 && lines.len() - from < 80 && size + lines[from - 1].len() < LOG_BYTES {
        from -= 1;
        size += lines[from].len() + 1;
    }
    lines[from..].iter().map(|l| format!("{l}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_by_registry() {
        let config = br#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "localhost:5000": {"username": "a", "password": "b"}}}"#;
        let found = |reference| docker_auth(config, reference).map(|a| format!("{}:{}", a.username, a.password));
        assert_eq!(found("nginx").as_deref(), Some("u:p"));
        assert_eq!(found("localhost:5000/x:1").as_deref(), Some("a:b"));
        assert_eq!(found("quay.io/x"), None);
    }

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(signal_number("SIGQUIT"), Some(libc::SIGQUIT));
        assert_eq!(signal_number("9"), Some(9));
        assert_eq!(signal_number("SIGNOTHING"), None);
    }

    #[test]
    fn the_end_of_a_log_without_its_frame() {
        let log = b"2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr F two three\n";
        assert_eq!(log_tail(log), "one\ntwo three\n");
    }
}

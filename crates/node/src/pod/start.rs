//! From a container's specification to what the runtime starts.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, PodSpec, Secret, SecurityContext};
use kube::Api;

use super::{
    context::Context,
    env,
    events::Kind,
    hosts, quantity, resolv,
    state::{Pulled, container_id},
};
use crate::{
    network::Attachment,
    runtime::{ContainerSpec, Mount, Resources, StartError, User},
    volumes::{self, mounts},
};

/// Why a container was not started, in the words of its status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing was tried: the specification needs something that is not there (`CreateContainerConfigError`, …).
    #[error("{reason}: {message}")]
    Config { reason: &'static str, message: String },
    #[error(transparent)]
    Start(#[from] StartError),
}

/// The reason of what waits for an object that is not there.
pub const NO_CONFIG: &str = "CreateContainerConfigError";

fn config(message: impl ToString) -> Error {
    Error::Config { reason: NO_CONFIG, message: message.to_string() }
}

fn create(message: impl ToString) -> Error {
    Error::Config { reason: "CreateContainerError", message: message.to_string() }
}

/// One attempt of one container.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub container: Container,
    pub number: i32,
    pub pulled: Pulled,
    pub network: Option<Attachment>,
}

/// Starts the attempt; when this returns the process runs. Leaves nothing behind on error but the attempt's log.
pub async fn start(ctx: &Context, pod: &Pod, attempt: &Attempt) -> Result<(), Error> {
    let spec = prepare(ctx, pod, attempt).await?;
    ctx.runtime.start(&spec).await?;
    Ok(())
}

async fn prepare(ctx: &Context, pod: &Pod, attempt: &Attempt) -> Result<ContainerSpec, Error> {
    let objects = objects(ctx, pod, &attempt.container).await?;
    let variables = variables(ctx, pod, attempt, &objects).await?;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let directory = ctx.pod_dir(&uid);
    let spec = pod.spec.clone().unwrap_or_default();
    let known: BTreeMap<String, String> = variables.iter().cloned().collect();
    let mut mounts = mounts::of(&spec, &attempt.container, &directory, &known).map_err(config)?;
    files(ctx, pod, attempt, &directory, &mut mounts).map_err(create)?;
    build(ctx, pod, &spec, attempt, &variables, mounts)
}

/// The ConfigMaps and Secrets that the environment mentions.
async fn objects(ctx: &Context, pod: &Pod, container: &Container) -> Result<env::Objects, Error> {
    let (maps, secrets) = env::references(container);
    let namespace = volumes::namespace(pod);
    let mut objects = env::Objects::default();
    for name in maps {
        let api: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
        let found = api.get_opt(&name).await.map_err(config)?;
        objects.config_maps.extend(found.map(|o| (name, o)));
    }
    for name in secrets {
        let api: Api<Secret> = Api::namespaced(ctx.client.clone(), namespace);
        let found = api.get_opt(&name).await.map_err(config)?;
        objects.secrets.extend(found.map(|o| (name, o)));
    }
    Ok(objects)
}

pub fn around<'a>(
    ctx: &Context,
    pod: &'a Pod,
    network: Option<&Attachment>,
    objects: &'a env::Objects,
) -> env::Around<'a> {
    let host = pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true));
    env::Around {
        pod,
        pod_ips: if host { Some(ctx.config.node_ips) } else { network.map(Attachment::ips) },
        node_ips: ctx.config.node_ips,
        objects,
        node_cpu_milli: i128::from(ctx.machine.cpus) * 1000,
        node_memory: i128::from(ctx.machine.memory),
    }
}

async fn variables(
    ctx: &Context,
    pod: &Pod,
    attempt: &Attempt,
    objects: &env::Objects,
) -> Result<Vec<(String, String)>, Error> {
    ctx.services
        .wait_until_ready()
        .await
        .map_err(|_| config("services have not yet been read at least once, cannot construct envvars"))?;
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let all = ctx.services.state();
    let services = env::service_variables(all.iter().map(AsRef::as_ref), volumes::namespace(pod), links);
    env::environment(&attempt.container, &services, around(ctx, pod, attempt.network.as_ref(), objects)).map_err(config)
}

/// /etc/hosts, /etc/resolv.conf, /etc/hostname and the termination message, unless the container mounts its own.
fn files(ctx: &Context, pod: &Pod, attempt: &Attempt, directory: &Path, mounts: &mut Vec<Mount>) -> io::Result<()> {
    let (resolv, cut) = resolv_conf(ctx, pod);
    // Said once, with the file.
    for said in cut.into_iter().filter(|_| !directory.join("resolv.conf").exists()) {
        ctx.recorder.pod(pod, None, Kind::Warning, "DNSConfigForming", said);
    }
    let name = hosts::kernel_name(pod, &ctx.config.dns.domain).map_err(io::Error::other)?;
    let own = [
        ("etc-hosts", "/etc/hosts", hosts_file(ctx, pod, attempt)?),
        ("resolv.conf", "/etc/resolv.conf", resolv.render()),
        ("etc-hostname", "/etc/hostname", format!("{name}\n")),
    ];
    fs::create_dir_all(directory)?;
    for (file, target, text) in own {
        let source = directory.join(file);
        if !source.exists() {
            fs::write(&source, text)?;
        }
        add(mounts, source, target);
    }
    let message = termination_file(directory, &attempt.container.name, attempt.number);
    message.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(&message, "")?;
    fs::set_permissions(&message, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    add(mounts, message, attempt.container.termination_message_path.as_deref().unwrap_or("/dev/termination-log"));
    Ok(())
}

fn add(mounts: &mut Vec<Mount>, source: PathBuf, target: &str) {
    if mounts.iter().all(|m| m.target != Path::new(target)) {
        mounts.push(Mount { source, target: target.into(), read_only: false });
    }
}

pub fn termination_file(pod_dir: &Path, container: &str, attempt: i32) -> PathBuf {
    pod_dir.join("containers").join(container).join(format!("{attempt}.message"))
}

fn hosts_file(ctx: &Context, pod: &Pod, attempt: &Attempt) -> io::Result<String> {
    let ips: Vec<_> = attempt.network.iter().flat_map(|a| a.ips().iter()).collect();
    let host = pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true));
    let own = if host { Some(fs::read_to_string("/etc/hosts")?) } else { None };
    Ok(hosts::render(pod, &ips, &ctx.config.dns.domain, own.as_deref()))
}

/// The file, and what had to be left out.
pub fn resolv_conf(ctx: &Context, pod: &Pod) -> (resolv::Resolv, Vec<String>) {
    let dns = &ctx.config.dns;
    // A host without the file resolves nothing itself; the pod's own servers still serve.
    let host = fs::read_to_string(&dns.host_resolv_conf).unwrap_or_default();
    resolv::of(pod, resolv::Cluster { ip: dns.ip, domain: &dns.domain }, &resolv::Resolv::parse(&host))
}

fn build(
    ctx: &Context,
    pod: &Pod,
    spec: &PodSpec,
    attempt: &Attempt,
    variables: &[(String, String)],
    mounts: Vec<Mount>,
) -> Result<ContainerSpec, Error> {
    let container = &attempt.container;
    let image = attempt.pulled.image.clone();
    let known: BTreeMap<String, String> = variables.iter().cloned().collect();
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|t| env::expand(t, |n| known.get(n).cloned())).collect()
    };
    let args = command_line(&expanded(&container.command), &expanded(&container.args), &image.config);
    if args.is_empty() {
        return Err(create(format!(
            "no command specified: neither container {:?} nor its image names one",
            container.name
        )));
    }
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let security = container.security_context.clone().unwrap_or_default();
    let capabilities = security.capabilities.clone().unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    let name = hosts::kernel_name(pod, &ctx.config.dns.domain).map_err(create)?;
    Ok(ContainerSpec {
        id: container_id(&uid, &container.name, attempt.number),
        user: user(spec, &security, &image.config.user)?,
        supplemental_groups: groups(spec),
        env: merged(&image.config.env, variables, &name),
        cwd: container
            .working_dir
            .clone()
            .filter(|d| !d.is_empty())
            .unwrap_or_else(|| image.config.working_dir.clone()),
        hostname: (!host_network).then_some(name),
        netns: attempt.network.as_ref().map(|a| a.netns.clone()),
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        mounts,
        resources: resources(container),
        privileged: security.privileged == Some(true),
        caps_add: capabilities.add.unwrap_or_default(),
        caps_drop: capabilities.drop.unwrap_or_default(),
        no_new_privileges: security.allow_privilege_escalation == Some(false),
        read_only_root: security.read_only_root_filesystem == Some(true),
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        log_path: ctx.log_path(pod, &container.name, attempt.number),
        annotations: BTreeMap::from([
            ("skiff.container".to_string(), container.name.clone()),
            ("skiff.attempt".to_string(), attempt.number.to_string()),
        ]),
        pod_uid: uid,
        image,
        args,
    })
}

/// command replaces the image's entrypoint and its arguments; args alone replaces only the arguments.
pub fn command_line(command: &[String], args: &[String], image: &crate::image::Config) -> Vec<String> {
    match (command.is_empty(), args.is_empty()) {
        (false, _) => [command, args].concat(),
        (true, false) => [&image.entrypoint[..], args].concat(),
        (true, true) => [&image.entrypoint[..], &image.cmd[..]].concat(),
    }
}

/// The image's variables below the pod's.
fn merged(image: &[String], own: &[(String, String)], hostname: &str) -> Vec<String> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_string();
    let taken = |n: &str| own.iter().any(|(o, _)| o == n);
    let mut env: Vec<String> = image.iter().filter(|e| !taken(&name(e))).cloned().collect();
    if !taken("PATH") && !env.iter().any(|e| e.starts_with("PATH=")) {
        env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    }
    if !taken("HOSTNAME") && !env.iter().any(|e| e.starts_with("HOSTNAME=")) {
        env.push(format!("HOSTNAME={hostname}"));
    }
    env.extend(own.iter().map(|(n, v)| format!("{n}={v}")));
    env
}

fn user(spec: &PodSpec, own: &SecurityContext, image: &str) -> Result<User, Error> {
    let pod = spec.security_context.clone().unwrap_or_default();
    let id = |own: Option<i64>, pod: Option<i64>| own.or(pod).and_then(|v| u32::try_from(v).ok());
    let uid = id(own.run_as_user, pod.run_as_user);
    let non_root = own.run_as_non_root.or(pod.run_as_non_root) == Some(true);
    let image_root = matches!(image.split(':').next(), None | Some("" | "0" | "root"));
    if non_root && (uid == Some(0) || (uid.is_none() && image_root)) {
        let whose = if uid == Some(0) {
            "container's runAsUser breaks non-root policy"
        } else {
            "container has runAsNonRoot and image will run as root"
        };
        return Err(config(whose));
    }
    Ok(User { name: image.into(), uid, gid: id(own.run_as_group, pod.run_as_group) })
}

fn groups(spec: &PodSpec) -> Vec<u32> {
    let Some(security) = &spec.security_context else { return vec![] };
    let all = security.supplemental_groups.iter().flatten().chain(&security.fs_group);
    all.filter_map(|g| u32::try_from(*g).ok()).collect()
}

/// Limits for the control group, from requests and limits.
pub fn resources(container: &Container) -> Resources {
    let all = container.resources.clone().unwrap_or_default();
    let limit = |name: &str| all.limits.as_ref()?.get(name).map(|q| q.0.clone());
    let request = |name: &str| all.requests.as_ref()?.get(name).map(|q| q.0.clone()).or_else(|| limit(name));
    let positive = |v: Option<i128>| v.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
    let cpu = positive(limit("cpu").and_then(|q| quantity::milli(&q)));
    let wish = positive(request("cpu").and_then(|q| quantity::milli(&q)));
    Resources {
        memory: positive(limit("memory").and_then(|q| quantity::units(&q))),
        cpu_quota: cpu.map(|milli| (milli * 100).max(1000)),
        cpu_period: cpu.map(|_| 100_000),
        cpu_shares: Some(wish.map_or(2, |milli| (milli * 1024 / 1000).max(2))),
        pids: None,
        oom_score_adj: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn command_and_args_replace_the_images() {
        let image = crate::image::Config {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["default".into()],
            ..Default::default()
        };
        let line = |command: &[&str], args: &[&str]| {
            let own = |l: &[&str]| l.iter().map(|s| s.to_string()).collect::<Vec<_>>();
            command_line(&own(command), &own(args), &image).join(" ")
        };
        assert_eq!(line(&[], &[]), "/entry default");
        assert_eq!(line(&[], &["a"]), "/entry a");
        assert_eq!(line(&["c"], &[]), "c");
        assert_eq!(line(&["c"], &["a"]), "c a");
    }

    #[test]
    fn limits_become_cgroup_values() {
        let container: Container = from_value(json!({"name": "c", "resources":
            {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}}))
        .unwrap();
        let got = resources(&container);
        assert_eq!((got.memory, got.cpu_quota, got.cpu_shares), (Some(64 << 20), Some(50_000), Some(256)));
    }

    #[test]
    fn the_pods_variables_win_over_the_images() {
        let env = merged(&["A=1".into(), "B=2".into()], &[("B".into(), "3".into())], "h");
        assert_eq!(env[..1], ["A=1".to_string()]);
        assert_eq!(env.last().unwrap(), "B=3");
    }
}

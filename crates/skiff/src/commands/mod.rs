//! One file per subcommand: each reads its arguments, asks the rooms, and prints.

mod backup;
mod down;
mod image;
mod node_access;
mod node_power;
pub(crate) mod preflight;
mod proxy;
mod status;
mod up;

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use skiff_apiserver::pki::Pki;

use crate::{
    cli::{Cli, Command, Which},
    cluster::{
        config::Config,
        daemon,
        kubeconfig::{Access, render},
        lock,
        paths::Paths,
    },
    report::Sink,
};

pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Up(args) => up::run(&args),
        Command::Down(args) => down::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Ip { which, node } => node_access::ip(&which, node.as_deref()),
        Command::Shell { which, node, command } => node_access::shell(&which, node.as_deref(), &command),
        Command::Kubeconfig { which, path, node, address } => match node.zip(address) {
            Some((node, address)) => node_kubeconfig(&which, &node, address),
            None => kubeconfig(&which, path),
        },
        Command::Backup(args) => backup::back_up(&args),
        Command::Restore(args) => backup::restore(&args),
        Command::Image(args) => image::run(&args),
        Command::Demo(args) => crate::demo::run(&args),
        Command::Kubectl { args } => Ok(kubectl(&args)),
        Command::Server(args) => {
            let paths = paths_of(&args.which)?;
            let config = up::decide(&args.which.name, &paths, &args.shape)?;
            daemon::run(config, paths, if args.report { Sink::Pipe } else { Sink::Human })
        }
        Command::Dns(args) => crate::dns::run(&args),
        Command::Agent(args) => crate::cluster::agent::run(&args),
        Command::Explain(args) => Ok(crate::explain::run(&args)),
        Command::Proxy(args) => proxy::run(&args),
        Command::Node(power) => node_power::run(&power),
        Command::Version => version(),
    }
}

/// kubectl, with the arguments after its name.
pub(crate) fn kubectl(args: &[String]) -> ExitCode {
    crate::kubectl::main(args)
}

/// The directories of the cluster that is meant, once its name is known to be a good one.
fn paths_of(which: &Which) -> Result<Paths> {
    crate::cluster::paths::check_name(&which.name).map_err(anyhow::Error::msg)?;
    Ok(Paths::of(&which.name))
}

/// The cluster's configuration; an error when it was never started.
fn existing(which: &Which) -> Result<(Config, Paths)> {
    let paths = paths_of(which)?;
    match Config::load(&paths.config())? {
        Some(config) => Ok((config, paths)),
        None => bail!("there is no cluster {:?}: {}", which.name, known_clusters()),
    }
}

fn known_clusters() -> String {
    match Paths::clusters().as_slice() {
        [] => "no cluster was started here yet; `skiff up` starts one".into(),
        names => format!("known are {}; `skiff up --name NAME` starts a new one", names.join(", ")),
    }
}

/// An error unless the cluster's daemon runs.
pub(crate) fn running(which: &Which) -> Result<(Config, Paths)> {
    let (config, paths) = existing(which)?;
    if lock::holder(&paths.lock())?.is_none() {
        bail!("cluster {:?} is not running; start it with `skiff up --name {}`", which.name, which.name);
    }
    Ok((config, paths))
}

fn kubeconfig(which: &Which, path: bool) -> Result<ExitCode> {
    let (_, paths) = existing(which)?;
    let file = paths.kubeconfig();
    if path {
        print(&format!("{}\n", file.display()))?;
    } else {
        print(&read(&file)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// For a node on another machine: its certificate serves both ways, as client and as server of logs and exec.
fn node_kubeconfig(which: &Which, node: &str, address: std::net::IpAddr) -> Result<ExitCode> {
    let (config, paths) = existing(which)?;
    let pki = Pki::load_or_create(&paths.pki(), &daemon::server_names(&config))?;
    let credential = pki.node(node, &[address.to_string()])?.serving;
    let access = Access {
        cluster: &config.name,
        server: format!("https://{}", config.advertised()),
        ca_pem: pki.ca_pem(),
        cert_pem: &credential.certificate,
        key_pem: &credential.key,
    };
    print(&render(&access))?;
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| file.display().to_string())
}

fn version() -> Result<ExitCode> {
    print(&format!("skiff {} (Kubernetes API {})\n", env!("CARGO_PKG_VERSION"), "v1.36.0"))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a result to standard output; a reader that went away (a closed pipe) is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("write to standard output"),
    }
}

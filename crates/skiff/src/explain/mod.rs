//! `skiff explain`: walks a connection's way through a Service hop by hop, and names the first that is broken, with its
//! cause and what mends it. Three rooms: `gather` observes and decides nothing, `diagnose` decides and touches nothing,
//! `report` says it.

mod diagnose;
mod evidence;
mod gather;
mod nearest;
mod objects;
mod question;
mod report;
mod ways;

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};

use self::{
    gather::{Local, gather},
    question::Question,
    report::Report,
};
use crate::{
    cli::{Explain, Output},
    commands,
};

/// The question or the cluster is at fault, not the Service.
const NOT_EXPLAINED: u8 = 2;
/// What is only just being changed looks broken for a moment: it is asked again.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(300);

/// Exit code 0: it works; 1: a hop is broken; 2: it could not be explained.
pub(crate) fn run(args: &Explain) -> ExitCode {
    match explain(args) {
        Ok(report) if report.works => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            crate::report::error(&error);
            ExitCode::from(NOT_EXPLAINED)
        }
    }
}

fn explain(args: &Explain) -> Result<Report> {
    let question = question::parse(&args.what, args.from.as_deref(), &args.namespace).map_err(anyhow::Error::msg)?;
    let (config, paths) = commands::running(&args.which)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(ask(&question, &Local { config, paths }))?;
    let text = match args.output {
        Output::Table => report::render(&report, colour()),
        Output::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
        Output::Yaml => serde_yaml_ng::to_string(&report)?,
    };
    commands::print(&text)?;
    Ok(report)
}

fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

async fn ask(question: &Question, local: &Local) -> Result<Report> {
    let file = local.paths.kubeconfig();
    let read = Kubeconfig::read_from(&file).with_context(|| file.display().to_string())?;
    let mut config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_secs(30));
    let client = kube::Client::try_from(config)?;
    for _ in 1..TRIES {
        let report = diagnose::diagnose(&gather(question, local, &client).await?);
        if !report.broken.as_ref().is_some_and(passes) {
            return Ok(report);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(diagnose::diagnose(&gather(question, local, &client).await?))
}

/// Causes that a change under way looks like.
fn passes(broken: &report::Broken) -> bool {
    matches!(broken.cause, "dnsBehind" | "rulesBehind" | "noRules" | "endpointsBehind" | "noAnswer")
}

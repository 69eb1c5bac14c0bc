//! `skiff node stop` and `start`: a node's power.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::{
    cli::Power,
    cluster::control::{self, Request},
};

pub(crate) fn run(power: &Power) -> Result<ExitCode> {
    let (Power::Stop { which, node } | Power::Start { which, node }) = power;
    let (config, paths) = super::running(which)?;
    let request = match power {
        Power::Stop { .. } => Request::StopNode(node.clone()),
        Power::Start { .. } => Request::StartNode(node.clone()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(control::ask(&paths, &request));
    match answer.with_context(|| format!("ask the daemon of cluster {:?} (this needs root)", config.name))? {
        Ok(done) => super::print(&format!("{done}\n"))?,
        Err(why) => bail!("{why}"),
    }
    Ok(ExitCode::SUCCESS)
}

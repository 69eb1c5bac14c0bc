//! `skiff ip` and `skiff shell`: the node as a place.

use std::{os::unix::process::CommandExt, process::ExitCode};

use anyhow::{Context, Result};

use crate::{
    cli::Which,
    cluster::{config::Config, network::netns},
};

pub(crate) fn ip(which: &Which, node: Option<&str>) -> Result<ExitCode> {
    let (config, _) = super::existing(which)?;
    let number = number(&config, node)?;
    super::print(&format!("{}\n", config.node_ip(number)))?;
    Ok(ExitCode::SUCCESS)
}

/// Becomes the command, inside the node's network namespace.
pub(crate) fn shell(which: &Which, node: Option<&str>, command: &[String]) -> Result<ExitCode> {
    let (config, paths) = super::running(which)?;
    let name = config.node_name(number(&config, node)?);
    super::preflight::check()?;
    netns::enter(&paths.netns(&name)).with_context(|| format!("enter node {name}"))?;
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
    let (program, args) = command.split_first().map_or((&shell, &[][..]), |(p, a)| (p, a));
    let error = std::process::Command::new(program).args(args).env("SKIFF_NODE", &name).exec();
    Err(error).with_context(|| format!("run {program} on node {name}"))
}

fn number(config: &Config, node: Option<&str>) -> Result<u8> {
    let Some(wanted) = node else { return Ok(0) };
    let names: Vec<String> = (0..config.nodes).map(|n| config.node_name(n)).collect();
    let found = names.iter().position(|n| n == wanted);
    let number = found
        .with_context(|| format!("cluster {:?} has no node {wanted:?}, only {}", config.name, names.join(", ")))?;
    Ok(number as u8)
}

//! `skiff dns`: the cluster's DNS server alone, for any Kubernetes API server; and `skiff dns query`, which shows how a name
//! is found.

mod args;
pub(crate) mod ask;
mod query;
mod serve;

use std::process::ExitCode;

use anyhow::Result;

use self::args::DnsCommand;

pub(crate) use self::args::Dns;

pub(crate) fn run(args: &Dns) -> Result<ExitCode> {
    match &args.command {
        Some(DnsCommand::Query(args)) => query::run(args),
        None => serve::run(&args.serve),
    }
}

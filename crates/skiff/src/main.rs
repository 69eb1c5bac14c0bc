//! The front door: what the program is called with decides which room it enters.

mod cli;
mod cluster;
mod commands;
mod demo;
mod dns;
mod explain;
mod kubectl;
mod report;
mod sample;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    // A container's shim must stay single-threaded, so it is entered before anything else is set up.
    if args.get(1).is_some_and(|a| a == "shim") {
        skiff_node::shim::main();
    }
    let called = args.first().and_then(|a| a.rsplit('/').next()).unwrap_or_default();
    if let Some(code) = sample::called(called, args.get(1..).unwrap_or_default()) {
        return code;
    }
    if called == "kubectl" || called.starts_with("kubectl-") {
        return commands::kubectl(&args[1..]);
    }
    match commands::run(cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}

//! The guided tour.

use std::process::ExitCode;

use crate::cli::Demo;

pub(crate) fn run(_args: &Demo) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::FAILURE)
}

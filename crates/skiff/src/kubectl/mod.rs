//! The kubectl verbs.

use std::process::ExitCode;

pub(crate) fn main(_args: &[String]) -> ExitCode {
    ExitCode::FAILURE
}

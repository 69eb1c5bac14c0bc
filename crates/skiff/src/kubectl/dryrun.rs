//! `--dry-run`: not at all, on this side only, or up to the store.

use super::{
    error::{Result, plain},
    flags::{Args, Flag, perhaps},
    session::Call,
};

pub(super) const FLAG: &[Flag] =
    &[perhaps("dry-run", "unchanged", "client: only print what would be sent; server: send it, but store nothing")];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DryRun {
    No,
    Client,
    Server,
}

impl DryRun {
    pub(super) fn of(args: &Args) -> Result<DryRun> {
        match args.get("dry-run") {
            None | Some("none") => Ok(DryRun::No),
            Some("client") => Ok(DryRun::Client),
            Some("server") => Ok(DryRun::Server),
            Some("unchanged" | "true") => plain(
                "--dry-run flag without a value was specified. A value must be set: \"none\", \"server\", or \"client\".",
            ),
            Some(other) => {
                plain(format!("Invalid dry-run value ({other}). Must be \"none\", \"server\", or \"client\"."))
            }
        }
    }

    /// What stands after the verb of a message: ` (dry run)`.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            DryRun::No => "",
            DryRun::Client => " (dry run)",
            DryRun::Server => " (server dry run)",
        }
    }

    pub(super) fn mark(self, call: Call) -> Call {
        if self == DryRun::Server { call.query("dryRun", "All") } else { call }
    }
}

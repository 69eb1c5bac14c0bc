//! kubectl, built in. Reads the command line as kubectl does, asks the API server as any client would, and prints what
//! kubectl prints, so that the documents people follow hold without installing anything.

mod about;
mod apply;
mod auth;
mod create;
mod delete;
mod describe;
mod dryrun;
mod error;
mod exec;
mod explain;
mod expose;
mod flags;
mod forward;
mod get;
mod jsonpath;
mod kinds;
mod label;
mod logs;
mod manifest;
mod nodes;
mod output;
mod pods;
mod rollout;
mod run;
mod scale;
mod session;
mod table;
mod targets;
mod text;
mod verbs;
mod wait;
mod yaml;

use std::process::ExitCode;

use error::{Error, Result};
use flags::Args;
use session::Session;
use verbs::Verb;

/// `args`: what stands after the program's name (or after `skiff kubectl`).
pub(crate) fn main(args: &[String]) -> ExitCode {
    match run(&for_cluster(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            text::note(&error.report());
            ExitCode::from(error.exit_code())
        }
    }
}

/// `skiff kubectl -c NAME VERB …` speaks to cluster NAME. Behind the verb, `-c` names a container.
fn for_cluster(args: &[String]) -> Vec<String> {
    match args {
        [flag, name, rest @ ..] if flag == "-c" && called_as_skiff() => {
            let kubeconfig = crate::cluster::paths::Paths::of(name).kubeconfig();
            let mut all = vec![format!("--kubeconfig={}", kubeconfig.display())];
            all.extend_from_slice(rest);
            all
        }
        _ => args.to_vec(),
    }
}

fn run(args: &[String]) -> Result<()> {
    let words = flags::leading_words(args);
    let word = |at: usize| words.get(at).map(|&at| args[at].as_str());
    let Some(first) = word(0) else { return text::emit(&verbs::overview()) };
    if first == "help" {
        return match word(1).and_then(|second| verbs::find(second, None)) {
            Some((verb, _)) => text::emit(&verbs::help(verb)),
            None => text::emit(&verbs::overview()),
        };
    }
    let Some(understood) = understand(args) else {
        return match verbs::group(first) {
            Some(group) => text::emit(&group),
            None => Err(Error::Plain(format!("unknown command {first:?} for \"kubectl\""))),
        };
    };
    let (verb, args) = understood?;
    if args.on("help") {
        return text::emit(&verbs::help(verb));
    }
    perform(verb, &args)
}

/// The verb that the words name, and its arguments; None where they name none.
fn understand(args: &[String]) -> Option<Result<(&'static Verb, Args)>> {
    let words = flags::leading_words(args);
    let word = |at: usize| words.get(at).map(|&at| args[at].as_str());
    let (verb, used) = verbs::find(word(0)?, word(1))?;
    let rest: Vec<String> =
        args.iter().enumerate().filter(|(at, _)| !words[..used].contains(at)).map(|(_, a)| a.clone()).collect();
    Some(flags::parse(&rest, verb.flags).map(|args| (verb, args)).map_err(|e| usage(verb, e)))
}

/// Whether there is such a command here: other parts of skiff advise no other.
#[cfg(test)]
pub(crate) fn knows(args: &[String]) -> bool {
    understand(args).is_some_and(|understood| understood.is_ok())
}

fn usage(verb: &Verb, error: Error) -> Error {
    Error::Plain(format!("{error}\nSee 'kubectl {} --help' for usage.", verb.name()))
}

fn perform(verb: &Verb, args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::Plain(format!("cannot start: {e}")))?;
    let ended = runtime.block_on(verbs::run(verb, args, called_as_skiff()));
    // A read of standard input cannot be interrupted; it must not hold up the end.
    runtime.shutdown_background();
    ended
}

/// Whether this is `skiff kubectl`, which looks for skiff's own cluster first.
fn called_as_skiff() -> bool {
    let name = std::env::args().next().unwrap_or_default();
    !name.rsplit('/').next().unwrap_or_default().starts_with("kubectl")
}

//! `skiff down`: the daemon ends, then everything that it and its pods had on this machine is removed. What is removed is
//! found by where it is, not by what the daemon remembered, so a killed daemon's remains go the same way.

use std::{fs, io, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{
    cli::Down,
    cluster::{config::Config, lock, paths::Paths, sweep},
    report::{Sink, Story},
};

/// How long the daemon may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(args: &Down) -> Result<ExitCode> {
    let paths = super::paths_of(&args.which)?;
    let config = match Config::load(&paths.config()) {
        Ok(Some(config)) => config,
        Ok(None) => bail!("there is no cluster {:?}: {}", args.which.name, super::known_clusters()),
        // A broken configuration must not keep its cluster from being deleted.
        Err(_) if args.delete => Config::new(&args.which.name, u8::MAX, 1, 0),
        Err(e) => return Err(e.into()),
    };
    if config.nodes > 0 {
        super::preflight::check()?;
    }
    let mut story = Story::new(Sink::Human);
    if let Some(pid) = lock::holder(&paths.lock())? {
        lock::end(pid, PATIENCE).context("end the cluster's daemon")?;
        story.step("daemon ended");
    }
    if config.nodes > 0 {
        let swept = sweep::run(&config, &paths)?;
        story.step(format!("removed {swept}"));
    } else {
        remove(&paths.run)?;
    }
    if args.delete {
        delete(&paths)?;
        story.step("deleted the cluster's data");
        if let Some(etcd) = &config.etcd {
            story.step(format!("left its objects in etcd: `etcdctl del --prefix {}/` removes them", etcd.prefix));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).context(dir.display().to_string()),
        _ => Ok(()),
    }
}

fn delete(paths: &Paths) -> Result<()> {
    remove(&paths.data)?;
    // The directory of all clusters goes with the last one.
    paths.data.parent().map(fs::remove_dir);
    Ok(())
}

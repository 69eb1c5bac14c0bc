//! `skiff backup` and `skiff restore`: a cluster's objects and keys to a file and back.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use skiff_store::backup::Backup as Objects;

use super::up;
use crate::{
    cli::{BackUp, Restore},
    cluster::{
        backup::{Backup, KEYS},
        config::Config,
        lock,
        paths::Paths,
    },
    report::{Sink, Story},
};

/// How far the restored history goes on above the copy: more than any cluster writes between a copy and its use.
const JUMP: u64 = 1_000_000_000;

pub(crate) fn back_up(args: &BackUp) -> Result<ExitCode> {
    let (config, paths) = super::existing(&args.which)?;
    if config.etcd.is_some() {
        bail!("cluster {:?} has its objects in etcd: `etcdctl snapshot save` backs those up", config.name);
    }
    let mut story = Story::new(Sink::Human);
    let objects = Objects::take(&paths.store())?;
    let backup = Backup { keys: keys(&paths.pki())?, objects, config };
    let said = summary(&backup);
    let made = jiff::Timestamp::now().to_string();
    if args.file.as_os_str() == "-" {
        backup.write(made, io::stdout().lock()).context("write to standard output")?;
    } else {
        save(&args.file, |out| backup.write(made, out)).with_context(|| args.file.display().to_string())?;
    }
    story.step(said);
    Ok(ExitCode::SUCCESS)
}

fn summary(backup: &Backup) -> String {
    let Backup { config, objects, .. } = backup;
    format!("cluster {:?}: {} objects at revision {}", config.name, objects.entries.len(), objects.rev)
}

fn keys(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let read = |name: &&str| {
        let path = dir.join(name);
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(((*name).to_owned(), bytes))
    };
    KEYS.iter().map(read).collect()
}

/// Whole or not at all, and for its owner's eyes only: it holds the cluster's keys.
fn save(path: &Path, write: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(dir)?;
    write(file.as_file())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

pub(crate) fn restore(args: &Restore) -> Result<ExitCode> {
    let mut story = Story::new(Sink::Human);
    let backup = read(&args.file)?;
    let name = args.name.as_deref().unwrap_or(&backup.config.name);
    crate::cluster::paths::check_name(name).map_err(anyhow::Error::msg)?;
    let paths = Paths::of(name);
    let Some(_lock) = lock::take(&paths.lock()).context("lock the cluster; restoring needs root")? else {
        bail!("cluster {name:?} is running; stop it first: `skiff down --name {name}`");
    };
    if paths.store().exists() && !args.force {
        bail!(
            "cluster {name:?} exists in {}; give the restored one another --name, or replace the old one's objects and keys \
             with --force (they are kept beside as *.replaced)",
            paths.data.display()
        );
    }
    let config = configuration(name, &paths, &backup.config)?;
    put(&backup, &paths)?;
    config.save(&paths.config())?;
    story.step(summary(&backup));
    if name != backup.config.name {
        story.warn(format!(
            "nodes are named after their cluster: those of {:?} stay as nodes that are not ready until you delete them \
             (`skiff kubectl delete node NAME`)",
            backup.config.name
        ));
    }
    eprintln!("Start it: skiff up --name {name}");
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<Backup> {
    if path.as_os_str() == "-" {
        return Backup::read(BufReader::new(io::stdin().lock())).context("standard input");
    }
    let file = File::open(path).with_context(|| path.display().to_string())?;
    Backup::read(BufReader::new(file)).with_context(|| path.display().to_string())
}

/// The shape of the saved cluster, in the place of the one that is here or in a free one.
fn configuration(name: &str, paths: &Paths, saved: &Config) -> Result<Config> {
    let place = match Config::load(&paths.config()) {
        Ok(Some(here)) => (here.index, here.api_port),
        Ok(None) | Err(_) => up::place(saved)?,
    };
    let config = Config { name: name.into(), index: place.0, api_port: place.1, ..saved.clone() };
    config.check().map_err(anyhow::Error::msg)?;
    Ok(config)
}

/// Everything is written beside first; then each directory changes places with the old one in one step.
fn put(backup: &Backup, paths: &Paths) -> Result<()> {
    let new = |path: &Path| path.with_extension("restored");
    let (store, pki) = (paths.store(), paths.pki());
    for path in [&store, &pki] {
        remove(&new(path))?;
    }
    backup.objects.restore(&new(&store), JUMP)?;
    write_keys(&new(&pki), &backup.keys)?;
    swap(&new(&pki), &pki)?;
    swap(&new(&store), &store)
}

fn write_keys(dir: &Path, keys: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| dir.display().to_string())?;
    for (name, bytes) in keys {
        let path = dir.join(name);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()));
        written.with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn swap(new: &Path, path: &Path) -> Result<()> {
    if !path.exists() {
        return fs::rename(new, path).with_context(|| path.display().to_string());
    }
    renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE).with_context(|| path.display().to_string())?;
    let replaced = path.with_extension("replaced");
    remove(&replaced)?;
    fs::rename(new, &replaced).with_context(|| replaced.display().to_string())
}

fn remove(path: &PathBuf) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).with_context(|| path.display().to_string()),
        _ => Ok(()),
    }
}

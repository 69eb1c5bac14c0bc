//! `skiff image load|list|rm`: the image directory, which all nodes of the cluster on this machine share. The cluster need not run.

use std::{io, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use skiff_node::image::{Image as Stored, Images};

use crate::{
    cli::{Image, ImagesOf, Output},
    cluster::{agent, paths::Paths, sweep},
    report,
};

pub(crate) fn run(args: &Image) -> Result<ExitCode> {
    match args {
        Image::Load { of, archive } => {
            let images = open(of)?;
            let names = if archive.as_os_str() == "-" { load_stdin(&images)? } else { images.load(archive)? };
            for name in names {
                super::print(&format!("Loaded {name}\n"))?;
            }
        }
        Image::List { of, output } => list(&open(of)?, *output)?,
        Image::Rm { of, images } => {
            let (group, paths) = place(of)?;
            remove(&open(of)?, &sweep::layers_in_use(&group, &paths)?, images)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(of: &ImagesOf) -> Result<Images> {
    let (_, paths) = place(of)?;
    Ok(Images::open(paths.images(), Default::default())?)
}

/// The control group of those who use the images, and where these are.
fn place(of: &ImagesOf) -> Result<(String, Paths)> {
    match &of.agent {
        Some(node) => Ok((agent::cgroup(node), Paths::of_agent(node))),
        None => super::existing(&of.which).map(|(config, paths)| (sweep::cgroup(&config.name), paths)),
    }
}

/// An archive's index may stand at its end, so what comes by a pipe is kept in a file first.
fn load_stdin(images: &Images) -> Result<Vec<String>> {
    let mut file = tempfile::NamedTempFile::new().context("make a temporary file")?;
    io::copy(&mut io::stdin(), &mut file).context("read standard input")?;
    Ok(images.load(file.path())?)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    names: Vec<String>,
    id: String,
    size_bytes: u64,
}

fn list(images: &Images, output: Output) -> Result<()> {
    let row = |i: Stored| Row { names: i.references, id: i.id, size_bytes: i.size };
    let rows: Vec<Row> = images.list()?.into_iter().map(row).collect();
    match output {
        Output::Json => super::print(&format!("{}\n", serde_json::to_string_pretty(&rows)?)),
        Output::Yaml => super::print(&serde_yaml_ng::to_string(&rows)?),
        Output::Table => {
            let mut table = vec![["NAME".to_owned(), "ID".to_owned(), "SIZE".to_owned()]];
            for r in &rows {
                let id: String = r.id.trim_start_matches("sha256:").chars().take(12).collect();
                table.extend(r.names.iter().map(|n| [n.clone(), id.clone(), size(r.size_bytes)]));
            }
            super::print(&report::table(&table))
        }
    }
}

fn size(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn remove(images: &Images, used: &[PathBuf], names: &[String]) -> Result<()> {
    for name in names {
        if !images.remove(name, used)? {
            bail!("there is no image {name:?}; `skiff image list` shows those that are");
        }
        super::print(&format!("Removed {name}\n"))?;
    }
    Ok(())
}

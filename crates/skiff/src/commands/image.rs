//! `skiff image load|list|rm`: the image directory, which all nodes of the cluster share. The cluster need not run.

use std::{io, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use skiff_node::image::{Image as Stored, Images};

use crate::{
    cli::{Image, Output, Which},
    cluster::sweep,
    report,
};

pub(crate) fn run(args: &Image) -> Result<ExitCode> {
    match args {
        Image::Load { which, archive } => {
            let images = open(which)?;
            let names = if archive.as_os_str() == "-" { load_stdin(&images)? } else { images.load(archive)? };
            for name in names {
                super::print(&format!("Loaded {name}\n"))?;
            }
        }
        Image::List { which, output } => list(&open(which)?, *output)?,
        Image::Rm { which, images } => {
            let (config, paths) = super::existing(which)?;
            remove(&open(which)?, &sweep::layers_in_use(&config, &paths)?, images)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(which: &Which) -> Result<Images> {
    let (_, paths) = super::existing(which)?;
    Ok(Images::open(paths.images(), Default::default())?)
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

//! The tour's image: this program, the libraries that it is linked with, and links by which it is called.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use skiff_node::image::{
    Images,
    make::{Layer, Recipe, archive},
};

use crate::sample::NAMES;

/// Makes the images of the manifests and puts them into the cluster's image directory.
pub(super) fn install(images: &Path, dir: &Path) -> Result<()> {
    let layer = layer().context("make the sample image")?;
    let recipe = |name, program| Recipe {
        name,
        layers: vec![&layer],
        env: vec!["PATH=/bin"],
        cmd: vec![program],
        working_dir: "/",
    };
    let file = dir.join("samples.tar");
    archive(&file, &[recipe("skiff.local/ms-hello:v4", "ms-hello"), recipe("skiff.local/ms-bye:v4", "ms-bye")])?;
    Images::open(images, Default::default())?.load(&file)?;
    Ok(fs::remove_file(file)?)
}

fn layer() -> Result<Layer> {
    let program = fs::read("/proc/self/exe").context("read this program's own file")?;
    let mut files = vec![("bin/skiff".to_owned(), program)];
    for library in libraries()? {
        files.push((library.trim_start_matches('/').to_owned(), fs::read(&library).context(library)?));
    }
    let users = "root:x:0:0:root:/:/bin/skiff\n".into();
    files.push(("etc/passwd".into(), users));
    let listed: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), 0o755, bytes.as_slice())).collect();
    let links: Vec<_> = NAMES.iter().map(|name| (format!("bin/{name}"), "skiff")).collect();
    let links: Vec<_> = links.iter().map(|(path, target)| (path.as_str(), *target)).collect();
    Ok(Layer::files(&listed, &links)?)
}

/// The loader and the libraries of this process by the paths that its file asks for them; none in a static build.
fn libraries() -> Result<Vec<String>> {
    let maps = fs::read_to_string("/proc/self/maps").context("/proc/self/maps")?;
    let is_library = |path: &str| path.contains(".so") && path.starts_with('/');
    let mut found: Vec<String> =
        maps.lines().filter_map(|l| l.split_whitespace().nth(5)).filter(|p| is_library(p)).map(str::to_owned).collect();
    found.sort();
    found.dedup();
    // The loader is asked for by a path of the ABI, which a distribution may have as a link to where it really is.
    for (real, abi) in
        [("ld-linux-x86-64", "/lib64/ld-linux-x86-64.so.2"), ("ld-linux-aarch64", "/lib/ld-linux-aarch64.so.1")]
    {
        if found.iter().any(|p| p.contains(real)) && !found.iter().any(|p| p == abi) {
            found.push(abi.to_owned());
        }
    }
    Ok(found)
}

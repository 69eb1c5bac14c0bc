//! A root file system of Debian packages, without installing anything on the machine.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::tools::run;

/// Packages of a base system that no sample needs at run time: their closure would be half of Debian.
const LEFT_OUT: [&str; 6] = ["debconf", "cdebconf", "perl-base", "dpkg", "install-info", "init-system-helpers"];

/// As on a machine where nothing is installed: what is, may come from elsewhere than Debian.
const CLEAN: [&str; 4] = ["-o", "Dir::State::status=/dev/null", "-o", "Dir::Cache::pkgcache="];

/// Unpacks the packages with everything that they depend on into `root`. Downloads are kept in `cache`.
pub fn unpack(packages: &[&str], cache: &Path, root: &Path) -> Result<(), String> {
    let made = |path: &Path| fs::create_dir_all(path).map_err(|e| format!("{}: {e}", path.display()));
    made(cache)?;
    // The usual merged layout, laid before any package: /bin and the like are links into /usr.
    for dir in ["bin", "sbin", "lib", "lib64"] {
        made(&root.join("usr").join(dir))?;
        std::os::unix::fs::symlink(format!("usr/{dir}"), root.join(dir)).map_err(|e| format!("{dir}: {e}"))?;
    }
    for archive in download(&closure(packages)?, cache)? {
        // dpkg-deb -x would replace the links above by directories of the archive; tar keeps them.
        let script = format!(
            "dpkg-deb --fsys-tarfile '{}' | tar -x -C '{}' --keep-directory-symlink",
            archive.display(),
            root.display()
        );
        run(Command::new("sh").args(["-c", &script]))?;
    }
    for dir in ["proc", "sys", "dev", "tmp", "etc", "root"] {
        made(&root.join(dir))?;
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
    let write =
        |name: &str, text: &str| fs::write(root.join("etc").join(name), text).map_err(|e| format!("{name}: {e}"));
    write("passwd", users)?;
    write("group", "root:x:0:\nnogroup:x:65534:\n")
}

/// The packages and what they depend on, by name.
fn closure(packages: &[&str]) -> Result<BTreeSet<String>, String> {
    let quiet = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"].map(|w| format!("--no-{w}"));
    let listed = run(Command::new("apt-cache").args(CLEAN).args(["depends", "--recurse"]).args(quiet).args(packages))?;
    let name = |line: &str| -> Option<String> {
        let plain = !line.starts_with([' ', '<', '|']) && !line.contains(':');
        (plain && !LEFT_OUT.contains(&line)).then(|| line.trim().to_owned())
    };
    Ok(listed.lines().filter_map(name).collect())
}

fn download(packages: &BTreeSet<String>, cache: &Path) -> Result<Vec<PathBuf>, String> {
    run(Command::new("apt-get").args(CLEAN).arg("download").args(packages).current_dir(cache))?;
    let wanted = |file: &str| packages.iter().any(|p| file.starts_with(&format!("{p}_")));
    let entries = fs::read_dir(cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    let files = entries.flatten().map(|e| e.path());
    Ok(files.filter(|f| f.file_name().and_then(|n| n.to_str()).is_some_and(wanted)).collect())
}

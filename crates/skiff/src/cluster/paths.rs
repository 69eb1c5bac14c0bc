//! Where a cluster keeps its things. Everything is below one of two directories, so that `down` knows what to remove.

use std::path::{Path, PathBuf};

/// A cluster's name is part of directory names, interface names and certificates: a DNS label of at most 32 characters.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ok = !name.is_empty() && name.len() <= 32 && name.chars().all(label);
    if ok && !name.starts_with('-') && !name.ends_with('-') {
        return Ok(());
    }
    Err(format!(
        "cluster name {name:?}: use 1 to 32 lower case letters, digits and '-', beginning and ending with a letter or digit"
    ))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Paths {
    /// Survives `down`: the store, certificates, images, volumes, logs.
    pub(crate) data: PathBuf,
    /// Gone after `down` and after a reboot: namespaces, bundles, the lock.
    pub(crate) run: PathBuf,
}

impl Paths {
    /// The directories of cluster `name`, below `$SKIFF_ROOT` where that is set (as the tests do).
    pub(crate) fn of(name: &str) -> Self {
        match std::env::var_os("SKIFF_ROOT") {
            Some(root) => {
                let root = Path::new(&root);
                Paths { data: root.join("lib").join(name), run: root.join("run").join(name) }
            }
            None => Paths { data: Path::new("/var/lib/skiff").join(name), run: Path::new("/run/skiff").join(name) },
        }
    }

    /// The directories of the agent of node `name`, beside those of the clusters.
    pub(crate) fn of_agent(name: &str) -> Self {
        match std::env::var_os("SKIFF_ROOT") {
            Some(root) => {
                let root = Path::new(&root);
                Paths { data: root.join("lib-agent").join(name), run: root.join("run-agent").join(name) }
            }
            None => Paths {
                data: Path::new("/var/lib/skiff-agent").join(name),
                run: Path::new("/run/skiff-agent").join(name),
            },
        }
    }

    /// The names of all clusters that have a data or a run directory here.
    pub(crate) fn clusters() -> Vec<String> {
        let one = Paths::of("x");
        let mut names: Vec<String> = [one.data.parent(), one.run.parent()]
            .into_iter()
            .flatten()
            .filter_map(|dir| std::fs::read_dir(dir).ok())
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|n| check_name(n).is_ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.data.join("cluster.json")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.data.join("pki")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    pub(crate) fn server_log(&self) -> PathBuf {
        self.data.join("server.log")
    }

    pub(crate) fn node_data(&self, node: &str) -> PathBuf {
        self.data.join("nodes").join(node)
    }

    pub(crate) fn node_run(&self, node: &str) -> PathBuf {
        self.run.join("nodes").join(node)
    }

    pub(crate) fn netns(&self, name: &str) -> PathBuf {
        self.run.join("netns").join(name)
    }

    /// Where the daemon is asked.
    pub(crate) fn control(&self) -> PathBuf {
        self.run.join("control")
    }

    /// Held locked by the daemon for as long as it lives; holds its process id.
    pub(crate) fn lock(&self) -> PathBuf {
        self.run.join("server.pid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "skiff", "ci-1"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a/b", "..", "a b", &"x".repeat(33)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}

//! The pod's state on disk, under the runtime directory: it lives as long as the machine runs, like the containers it
//! describes. An agent that died is continued from here.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::state::PodState;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub state: PodState,
}

#[derive(Debug, thiserror::Error)]
#[error("{what} {path}: {cause}")]
pub struct Error {
    what: &'static str,
    path: PathBuf,
    cause: io::Error,
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |cause| Error { what, path: path.into(), cause }
}

/// One file per pod, named by its uid.
#[derive(Clone, Debug)]
pub struct Records {
    directory: PathBuf,
}

impl Records {
    pub fn open(directory: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&directory).map_err(at("cannot make", &directory))?;
        Ok(Records { directory })
    }

    pub fn load(&self) -> Result<Vec<Record>, Error> {
        let mut found = vec![];
        for entry in fs::read_dir(&self.directory).map_err(at("cannot list", &self.directory))? {
            let path = entry.map_err(at("cannot list", &self.directory))?.path();
            if path.extension().is_some_and(|e| e == "json") {
                let bytes = fs::read(&path).map_err(at("cannot read", &path))?;
                found.push(serde_json::from_slice(&bytes).map_err(io::Error::from).map_err(at("cannot parse", &path))?);
            }
        }
        Ok(found)
    }

    /// Whole or not at all.
    pub fn save(&self, record: &Record) -> Result<(), Error> {
        let path = self.path(&record.uid);
        let next = path.with_extension("new");
        let bytes = serde_json::to_vec(record).map_err(io::Error::from).map_err(at("cannot write", &path))?;
        fs::write(&next, bytes).map_err(at("cannot write", &next))?;
        fs::rename(&next, &path).map_err(at("cannot rename", &next))
    }

    pub fn remove(&self, uid: &str) -> Result<(), Error> {
        let path = self.path(uid);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at("cannot remove", &path)(e)),
            _ => Ok(()),
        }
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.directory.join(format!("{uid}.json"))
    }
}

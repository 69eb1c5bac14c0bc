//! A directory of files that changes as a whole: readers see the old set or the new one.
//!
//! `..data` is a link to the current set (`..N`), every file of the set has a link of its own through `..data`; changing
//! the set is one rename of `..data`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Component, Path, PathBuf},
};

/// One file of the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    pub owner: Option<u32>,
}

/// By path within the volume.
pub type Files = BTreeMap<String, File>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is no path inside a volume")]
    Path(String),
    #[error("{path}: {cause}")]
    Io { path: PathBuf, cause: io::Error },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |cause| Error::Io { path: path.into(), cause }
}

/// Brings the directory to hold exactly `files`; false when it did already.
pub fn write(directory: &Path, files: &Files, group: Option<u32>) -> Result<bool, Error> {
    files.keys().try_for_each(|p| check(p))?;
    fs::create_dir_all(directory).map_err(at(directory))?;
    let data = directory.join("..data");
    let before = fs::read_link(&data).ok();
    if before.is_some() && matches(&data, files) {
        return Ok(false);
    }
    let set = PathBuf::from(format!("..{}", uuid::Uuid::new_v4().simple()));
    fill(&directory.join(&set), files, group)?;
    let next = directory.join("..data_next");
    let _ = fs::remove_file(&next);
    symlink(&set, &next).map_err(at(&next))?;
    fs::rename(&next, &data).map_err(at(&data))?;
    links(directory, files)?;
    if let Some(old) = before {
        let old = directory.join(old);
        fs::remove_dir_all(&old).map_err(at(&old))?;
    }
    Ok(true)
}

fn check(path: &str) -> Result<(), Error> {
    let normal = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if path.is_empty() || !normal || path.starts_with("..") { Err(Error::Path(path.into())) } else { Ok(()) }
}

fn matches(data: &Path, files: &Files) -> bool {
    let same = files.iter().all(|(path, file)| fs::read(data.join(path)).is_ok_and(|have| have == file.data));
    same && count(data).is_ok_and(|n| n == files.len())
}

fn count(directory: &Path) -> io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}

fn fill(set: &Path, files: &Files, group: Option<u32>) -> Result<(), Error> {
    fs::create_dir(set).map_err(at(set))?;
    fs::set_permissions(set, fs::Permissions::from_mode(0o755)).map_err(at(set))?;
    for (path, file) in files {
        let path = set.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(at(parent))?;
        }
        fs::write(&path, &file.data).map_err(at(&path))?;
        let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
        if group.is_some() || file.owner.is_some() {
            chown(&path, file.owner, group).map_err(at(&path))?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(at(&path))?;
    }
    Ok(())
}

/// The names that readers use; those of files that are gone are removed.
fn links(directory: &Path, files: &Files) -> Result<(), Error> {
    let top = |path: &str| path.split('/').next().unwrap_or_default().to_string();
    let wanted: BTreeSet<String> = files.keys().map(|p| top(p)).collect();
    for name in &wanted {
        let link = directory.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), &link).map_err(at(&link))?;
        }
    }
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let entry = entry.map_err(at(directory))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            fs::remove_file(entry.path()).map_err(at(&entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |data: &str| File { data: data.into(), mode: 0o644, owner: None };
        list.iter().map(|(p, d)| (p.to_string(), file(d))).collect()
    }

    #[test]
    fn the_set_changes_as_a_whole() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("v");
        assert!(write(&dir, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert_eq!(fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        assert!(!write(&dir, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert!(write(&dir, &files(&[("a", "3")]), None).unwrap());
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
    }

    #[test]
    fn paths_stay_inside() {
        let root = tempfile::tempdir().unwrap();
        for bad in ["../x", "/etc/x", "", "..data", "a/../../b"] {
            assert!(write(root.path(), &files(&[(bad, "")]), None).is_err(), "{bad}");
        }
    }
}

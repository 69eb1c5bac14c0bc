//! Unpacking one layer into a directory that overlayfs can use. What is in the archive may be hostile: every step goes
//! through descriptors below the layer's own directory, and no link is followed out of it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io,
    io::Read,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use tar::{Entry, EntryType};

/// More entries are refused.
const ENTRIES: usize = 2_000_000;

/// What an entry asks for. Pure.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Hide what lower layers have of this name.
    Whiteout(PathBuf),
    /// Hide everything that lower layers have in this directory.
    Opaque(PathBuf),
    /// The layer's own root directory.
    Root,
    Put(PathBuf),
    Skip,
}

/// Which step a path means; `Err` when it leads out of the layer.
fn step(path: &Path) -> Result<Step, &'static str> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => return Err("its path leads out of the layer by `..`"),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let Some(name) = clean.file_name() else { return Ok(Step::Root) };
    let parent = clean.parent().unwrap_or(Path::new("")).to_owned();
    Ok(match name.as_bytes().strip_prefix(b".wh.") {
        Some(b".wh..opq") => Step::Opaque(parent),
        Some(rest) if rest.starts_with(b".wh.") => Step::Skip,
        Some(rest) if rest.is_empty() || rest == b"." || rest == b".." || rest.contains(&b'/') => {
            return Err("its whiteout names nothing");
        }
        Some(rest) => Step::Whiteout(parent.join(OsStr::from_bytes(rest))),
        None => Step::Put(clean),
    })
}

/// Unpacks the tar stream `from` below `dir` and returns the bytes written. At most `limit` of them.
pub(super) fn unpack(from: impl Read, dir: &Path, limit: u64) -> Result<u64, String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(dir, flags, Mode::empty()).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut unpacker =
        Unpacker { root, times: BTreeMap::new(), written: 0, limit, owner: rustix::process::geteuid().is_root() };
    let mut archive = tar::Archive::new(from);
    let entries = archive.entries().map_err(|e| format!("not a tar archive: {e}"))?;
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(|e| format!("after {count} entries: {e}"))?;
        if count >= ENTRIES {
            return Err(format!("it has more than {ENTRIES} entries"));
        }
        let path = entry.path().map_err(|e| format!("entry {count}: {e}"))?.into_owned();
        unpacker.entry(&path, &mut entry).map_err(|e| format!("entry {}: {e}", path.display()))?;
    }
    unpacker.finish().map_err(|e| e.to_string())?;
    Ok(unpacker.written)
}

struct Unpacker {
    root: OwnedFd,
    /// Directories' times, set last: filling a directory changes its own.
    times: BTreeMap<PathBuf, u64>,
    written: u64,
    limit: u64,
    /// Owners and devices need root.
    owner: bool,
}

impl Unpacker {
    fn entry<R: Read>(&mut self, path: &Path, entry: &mut Entry<'_, R>) -> io::Result<()> {
        match step(path).map_err(io::Error::other)? {
            Step::Skip => Ok(()),
            Step::Opaque(dir) => self.opaque(&dir),
            Step::Whiteout(path) => self.whiteout(&path),
            Step::Root => {
                let header = entry.header();
                let root = self.open_dir(Path::new(""))?;
                rustix::fs::chmodat(&root, ".", Mode::from_raw_mode(header.mode()? & 0o7777), AtFlags::empty())?;
                Ok(())
            }
            Step::Put(path) => self.put(&path, entry),
        }
    }

    fn open_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?)
    }

    /// The directory that is to hold `path`, made when missing.
    fn parent(&self, path: &Path) -> io::Result<OwnedFd> {
        let parent = path.parent().unwrap_or(Path::new(""));
        match self.open_dir(parent) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let above = self.parent(parent)?;
                match rustix::fs::mkdirat(&above, name(parent)?, Mode::from_raw_mode(0o755)) {
                    Err(e) if e != Errno::EXIST => Err(e.into()),
                    _ => self.open_dir(parent),
                }
            }
            other => other,
        }
    }

    fn opaque(&self, dir: &Path) -> io::Result<()> {
        let dir = match self.open_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let parent = self.parent(dir)?;
                rustix::fs::mkdirat(&parent, name(dir)?, Mode::from_raw_mode(0o755))?;
                self.open_dir(dir)?
            }
            other => other?,
        };
        Ok(rustix::fs::fsetxattr(&dir, c"trusted.overlay.opaque", b"y", XattrFlags::empty())?)
    }

    fn whiteout(&self, path: &Path) -> io::Result<()> {
        let parent = self.parent(path)?;
        match rustix::fs::mknodat(&parent, name(path)?, FileType::CharacterDevice, Mode::empty(), 0) {
            // The layer itself has something of that name: only what lies below it is to be hidden.
            Err(Errno::EXIST) if self.open_dir(path).is_ok() => self.opaque(path),
            Err(e) if e != Errno::EXIST => Err(e.into()),
            _ => Ok(()),
        }
    }

    fn put<R: Read>(&mut self, path: &Path, entry: &mut Entry<'_, R>) -> io::Result<()> {
        let (parent, file) = (self.parent(path)?, name(path)?);
        let kind = entry.header().entry_type();
        if !matches!(kind, EntryType::Directory | EntryType::XGlobalHeader) {
            self.clear(&parent, file, path)?;
        }
        match kind {
            EntryType::Directory => return self.directory(path, &parent, file, entry),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.regular(&parent, file, entry)?,
            EntryType::Symlink => rustix::fs::symlinkat(&*link(entry)?, &parent, file)?,
            EntryType::Link => return self.hard_link(&parent, file, &link(entry)?),
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                if !self.special(&parent, file, kind, entry)? {
                    return Ok(());
                }
            }
            EntryType::XGlobalHeader => return Ok(()),
            other => return Err(io::Error::other(format!("its type {other:?} is not known"))),
        }
        self.attributes(&parent, file, entry, kind == EntryType::Symlink)?;
        set_time(&parent, file, entry.header().mtime()?)
    }

    /// A later entry replaces an earlier one of the same name.
    fn clear(&self, parent: &OwnedFd, file: &OsStr, path: &Path) -> io::Result<()> {
        match rustix::fs::unlinkat(parent, file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => rustix::fs::unlinkat(parent, file, AtFlags::REMOVEDIR)
                .map_err(|e| io::Error::other(format!("it would replace the directory {}: {e}", path.display()))),
            Err(e) => Err(e.into()),
        }
    }

    fn directory<R: Read>(
        &mut self,
        path: &Path,
        parent: &OwnedFd,
        file: &OsStr,
        entry: &mut Entry<'_, R>,
    ) -> io::Result<()> {
        match rustix::fs::mkdirat(parent, file, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(parent, file, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    rustix::fs::unlinkat(parent, file, AtFlags::empty())?;
                    rustix::fs::mkdirat(parent, file, Mode::from_raw_mode(0o755))?;
                }
            }
            other => other?,
        }
        self.attributes(parent, file, entry, false)?;
        self.times.insert(path.to_owned(), entry.header().mtime()?);
        Ok(())
    }

    fn regular<R: Read>(&mut self, parent: &OwnedFd, file: &OsStr, entry: &mut Entry<'_, R>) -> io::Result<()> {
        let left = self.limit.saturating_sub(self.written);
        if entry.size() > left {
            return Err(io::Error::other(format!("the image unpacks to more than {} bytes", self.limit)));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut out = std::fs::File::from(rustix::fs::openat(parent, file, flags, Mode::from_raw_mode(0o600))?);
        let copied = io::copy(entry, &mut out)?;
        if copied < entry.size() && entry.header().entry_type() != EntryType::GNUSparse {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle of it"));
        }
        self.written += copied;
        Ok(())
    }

    fn hard_link(&self, parent: &OwnedFd, file: &OsStr, target: &Path) -> io::Result<()> {
        let Ok(Step::Put(target)) = step(target) else {
            return Err(io::Error::other(format!("it links to {}, which is not in the layer", target.display())));
        };
        let missing = |e: io::Error| io::Error::other(format!("it links to {}: {e}", target.display()));
        let from = self.open_dir(target.parent().unwrap_or(Path::new(""))).map_err(missing)?;
        rustix::fs::linkat(&from, name(&target)?, parent, file, AtFlags::empty()).map_err(|e| missing(e.into()))
    }

    /// False when the machine does not let us make devices: containers get their own in `/dev`.
    fn special<R: Read>(
        &self,
        parent: &OwnedFd,
        file: &OsStr,
        kind: EntryType,
        entry: &Entry<'_, R>,
    ) -> io::Result<bool> {
        let header = entry.header();
        let number = |n: io::Result<Option<u32>>| n.map(Option::unwrap_or_default);
        let device = rustix::fs::makedev(number(header.device_major())?, number(header.device_minor())?);
        let (kind, device) = match kind {
            EntryType::Char => (FileType::CharacterDevice, device),
            EntryType::Block => (FileType::BlockDevice, device),
            _ => (FileType::Fifo, 0),
        };
        match rustix::fs::mknodat(parent, file, kind, Mode::from_raw_mode(0o600), device) {
            Err(Errno::PERM) => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    /// Owner first: changing it takes set-user-id bits and file capabilities away.
    fn attributes<R: Read>(
        &self,
        parent: &OwnedFd,
        file: &OsStr,
        entry: &mut Entry<'_, R>,
        is_link: bool,
    ) -> io::Result<()> {
        let number = |n: io::Result<u64>| n.map(|n| u32::try_from(n).unwrap_or(u32::MAX - 1));
        let (uid, gid, mode) = (number(entry.header().uid())?, number(entry.header().gid())?, entry.header().mode()?);
        if self.owner {
            rustix::fs::chownat(
                parent,
                file,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
        }
        if is_link {
            return Ok(());
        }
        rustix::fs::chmodat(parent, file, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            let key = extension.key().unwrap_or_default();
            if let Some(key) = key.strip_prefix("SCHILY.xattr.").filter(|key| allowed(key)) {
                set_xattr(parent, file, key, extension.value_bytes())?;
            }
        }
        Ok(())
    }

    fn finish(&self) -> io::Result<()> {
        self.times.iter().rev().try_for_each(|(path, time)| {
            let parent = self.parent(path)?;
            set_time(&parent, name(path)?, *time)
        })
    }
}

fn name(path: &Path) -> io::Result<&OsStr> {
    path.file_name().ok_or_else(|| io::Error::other("it has no name"))
}

fn link<R: Read>(entry: &Entry<'_, R>) -> io::Result<PathBuf> {
    entry.link_name()?.map(std::borrow::Cow::into_owned).ok_or_else(|| io::Error::other("it is a link to nothing"))
}

/// overlayfs's own attributes are ours to set, never an image's.
fn allowed(key: &str) -> bool {
    key.starts_with("user.") || key == "security.capability"
}

fn set_xattr(parent: &OwnedFd, file: &OsStr, key: &str, value: &[u8]) -> io::Result<()> {
    let path = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(file);
    match rustix::fs::lsetxattr(path, key, value, XattrFlags::empty()) {
        // A file system without them, or not enough rights: the file is of use without.
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        other => Ok(other?),
    }
}

fn set_time(parent: &OwnedFd, file: &OsStr, seconds: u64) -> io::Result<()> {
    let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(parent.as_fd(), file, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_paths_mean() {
        let put = |p: &str| Ok(Step::Put(PathBuf::from(p)));
        assert_eq!(step(Path::new("./usr/bin/x")), put("usr/bin/x"));
        assert_eq!(step(Path::new("/etc/passwd")), put("etc/passwd"));
        assert_eq!(step(Path::new("./")), Ok(Step::Root));
        assert_eq!(step(Path::new("a/.wh.b")), Ok(Step::Whiteout(PathBuf::from("a/b"))));
        assert_eq!(step(Path::new("a/.wh..wh..opq")), Ok(Step::Opaque(PathBuf::from("a"))));
        assert_eq!(step(Path::new("a/.wh..wh.plnk")), Ok(Step::Skip));
        assert!(step(Path::new("a/../../b")).is_err());
        assert!(step(Path::new("a/.wh...")).is_err());
    }

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn header(kind: EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o4755);
        header.set_mtime(1_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    #[test]
    fn a_hostile_layer_stays_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (layer, outside) = (dir.path().join("layer"), dir.path().join("outside"));
        std::fs::create_dir(&layer).unwrap();
        std::fs::create_dir(&outside).unwrap();
        let bytes = archive(|b| {
            b.append_link(&mut header(EntryType::Symlink, 0), "way", &outside).unwrap();
            b.append_data(&mut header(EntryType::Regular, 3), "way/f", &b"abc"[..]).unwrap();
        });
        // The link is read as the container would: inside the layer.
        unpack(&bytes[..], &layer, 1000).unwrap_or_default();
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        let bytes = archive(|b| {
            b.append_link(&mut header(EntryType::Link, 0), "passwd", "/../../etc/passwd").unwrap();
        });
        assert!(unpack(&bytes[..], &layer, 1000).unwrap_err().starts_with("entry passwd: it links to"));
    }

    #[test]
    fn broken_archives_name_the_entry() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = archive(|b| {
            b.append_data(&mut header(EntryType::Regular, 2000), "big", &[7; 2000][..]).unwrap();
        });
        assert_eq!(
            unpack(&bytes[..], dir.path(), 1000).unwrap_err(),
            "entry big: the image unpacks to more than 1000 bytes"
        );
        bytes.truncate(1024);
        let error = unpack(&bytes[..], dir.path(), 10_000).unwrap_err();
        assert!(error.starts_with("entry big: "), "{error}");
        assert!(unpack(&b"nothing of the kind, but longer than one block"[..], dir.path(), 10).is_err());
    }

    #[test]
    fn files_links_and_times() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = archive(|b| {
            b.append_data(&mut header(EntryType::Directory, 0), "d", io::empty()).unwrap();
            b.append_data(&mut header(EntryType::Regular, 3), "d/f", &b"abc"[..]).unwrap();
            b.append_data(&mut header(EntryType::Regular, 2), "d/f", &b"xy"[..]).unwrap();
            b.append_link(&mut header(EntryType::Link, 0), "d/hard", "d/f").unwrap();
            b.append_link(&mut header(EntryType::Symlink, 0), "soft", "d/f").unwrap();
            b.append_data(&mut header(EntryType::Regular, 1), "new/dir/f", &b"z"[..]).unwrap();
        });
        assert_eq!(unpack(&bytes[..], dir.path(), 1000).unwrap(), 6);
        assert_eq!(std::fs::read(dir.path().join("d/hard")).unwrap(), b"xy");
        assert_eq!(std::fs::read(dir.path().join("soft")).unwrap(), b"xy");
        let stat = std::fs::metadata(dir.path().join("d")).unwrap();
        let (mode, time) = (std::os::unix::fs::MetadataExt::mode(&stat), std::os::unix::fs::MetadataExt::mtime(&stat));
        assert_eq!((mode & 0o7777, time), (0o4755, 1_000_000));
    }
}

//! A container's root file system: the overlay, and looking up or making things in it without ever leaving it.

use std::{
    fs,
    fs::File,
    io,
    io::Read,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
};

use super::oci::Identity;
use crate::runtime::User;

/// A mount namespace of our own, which hears of the host's unmounts but never speaks. Control groups are taken out of
/// sight: libcontainer would make groups of its own, and fail where there are none.
pub(crate) fn enter_mount_namespace() -> io::Result<()> {
    super::sys::unshare_mounts()?;
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for point in cgroup_mounts(&mounts) {
        rustix::mount::unmount(point, UnmountFlags::DETACH)?;
    }
    if Path::new("/sys/fs/cgroup").is_dir() {
        rustix::mount::mount("tmpfs", "/sys/fs/cgroup", "tmpfs", MountFlags::empty(), Some(c"size=64k,mode=755"))?;
    }
    Ok(())
}

/// Last mounted first.
fn cgroup_mounts(mountinfo: &str) -> Vec<&str> {
    let mut points: Vec<&str> = mountinfo
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .filter(|(_, right)| right.starts_with("cgroup ") || right.starts_with("cgroup2 "))
        .filter_map(|(left, _)| left.split(' ').nth(4))
        .collect();
    points.reverse();
    points
}

/// Mounts `layers` (lowest first) with a writable layer in `data` at `target`.
pub(crate) fn mount_overlay(layers: &[PathBuf], data: &Path, target: &Path) -> io::Result<()> {
    let (upper, work, none) = (data.join("upper"), data.join("work"), data.join("none"));
    for dir in [&upper, &work, &none, &target.to_owned()] {
        fs::create_dir_all(dir)?;
    }
    let none = [none];
    let layers = if layers.is_empty() { &none[..] } else { layers };
    let base = common_parent(layers);
    // Short relative names: all options together must fit a page.
    std::env::set_current_dir(&base)?;
    let result = try_overlay(&lower(layers, &base), &upper, &work, target);
    std::env::set_current_dir("/")?;
    result
}

/// `volatile` spares syncing the writable layer when the container ends; kernels before 5.10 do not know it.
fn try_overlay(lower: &str, upper: &Path, work: &Path, target: &Path) -> io::Result<()> {
    let options = format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), work.display());
    let mount = |options: &str| {
        let options = std::ffi::CString::new(options)?;
        Ok(rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), Some(options.as_c_str()))?)
    };
    mount(&format!("{options},volatile")).or_else(|_: io::Error| mount(&options))
}

fn common_parent(layers: &[PathBuf]) -> PathBuf {
    let first = layers.first().and_then(|l| l.parent()).unwrap_or(Path::new("/"));
    if layers.iter().all(|l| l.parent() == Some(first)) { first.to_owned() } else { PathBuf::from("/") }
}

/// overlayfs wants the uppermost first.
fn lower(layers: &[PathBuf], base: &Path) -> String {
    let names = layers.iter().rev().map(|l| l.strip_prefix(base).unwrap_or(l).display().to_string());
    names.map(|name| name.replace('\\', "\\\\").replace(':', "\\:")).collect::<Vec<_>>().join(":")
}

/// A directory whose contents may be hostile: no link leads out of it.
pub(crate) struct Root {
    dir: OwnedFd,
}

impl Root {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Root { dir: rustix::fs::open(path, flags, Mode::empty())? })
    }

    fn open_at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path == Path::new("/") { Path::new(".") } else { path };
        Ok(rustix::fs::openat2(self.dir.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)?)
    }

    /// A small text file; empty when it is not there.
    pub(crate) fn read(&self, path: &str) -> String {
        let mut text = String::new();
        if let Ok(fd) = self.open_at(Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK) {
            // A file that is no text has no users in it.
            let _ = File::from(fd).take(1 << 20).read_to_string(&mut text);
        }
        text
    }

    /// The directory and all above it, as a container's working directory is made by the reference.
    pub(crate) fn make_dirs(&self, path: &Path) -> io::Result<()> {
        let mut at = PathBuf::from("/");
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let parent = self.open_at(&at, OFlags::PATH)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Err(e) if e != rustix::io::Errno::EXIST => return Err(e.into()),
                _ => at.push(name),
            }
        }
        Ok(())
    }
}

/// Who `user` is by the image's own files. Pure.
pub(crate) fn identify(user: &User, supplemental: &[u32], passwd: &str, group: &str) -> Result<Identity, String> {
    let (name, wanted_group) = user.name.split_once(':').map_or((user.name.as_str(), None), |(n, g)| (n, Some(g)));
    let record = find_user(user.uid, name, passwd);
    let uid = match (user.uid, &record) {
        (Some(uid), _) => uid,
        (None, Some((uid, ..))) => *uid,
        (None, None) if name.is_empty() => 0,
        (None, None) => {
            name.parse().map_err(|_| format!("unable to find user {name}: no matching entries in passwd file"))?
        }
    };
    let named_group = wanted_group.filter(|g| !g.is_empty() && user.uid.is_none());
    let gid = match (user.gid, named_group) {
        (Some(gid), _) => gid,
        (None, Some(name)) => find_group(name, group)?,
        (None, None) => record.as_ref().map_or(0, |(_, gid, _)| *gid),
    };
    let mut groups: Vec<u32> = supplemental.to_vec();
    if let (Some((_, _, name)), None) = (&record, named_group) {
        groups.extend(memberships(name, group));
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(Identity { uid, gid, groups })
}

fn find_user(uid: Option<u32>, name: &str, passwd: &str) -> Option<(u32, u32, String)> {
    let name = if name.is_empty() { "0" } else { name };
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [entry, _, number, gid, ..] = fields[..] else { return None };
        let number: u32 = number.parse().ok()?;
        let matches = match uid {
            Some(uid) => number == uid,
            None => entry == name || name.parse() == Ok(number),
        };
        matches.then(|| gid.parse().ok().map(|gid| (number, gid, entry.to_owned())))?
    })
}

fn find_group(name: &str, group: &str) -> Result<u32, String> {
    let entry = group.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f.first() == Some(&name));
    let number = entry.and_then(|f| f.get(2)?.parse().ok()).or_else(|| name.parse().ok());
    number.ok_or_else(|| format!("unable to find group {name}: no matching entries in group file"))
}

fn memberships(user: &str, group: &str) -> Vec<u32> {
    let fields = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields
        .filter(|f| f.get(3).is_some_and(|m| m.split(',').any(|m| m == user)))
        .filter_map(|f| f[2].parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1001::/home/node:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nnode:x:1001:\nwheel:x:10:root,node\naudio:x:29:node\n";

    fn check(name: &str, uid: Option<u32>, gid: Option<u32>, expect: Result<(u32, u32, &[u32]), &str>) {
        let user = User { name: name.to_owned(), uid, gid };
        let got = identify(&user, &[5], PASSWD, GROUP);
        let expect =
            expect.map(|(uid, gid, groups)| Identity { uid, gid, groups: groups.to_vec() }).map_err(str::to_owned);
        assert_eq!(got, expect, "{name}");
    }

    #[test]
    fn users_by_name_and_number() {
        check("", None, None, Ok((0, 0, &[5, 10])));
        check("node", None, None, Ok((1000, 1001, &[5, 10, 29])));
        check("1000", None, None, Ok((1000, 1001, &[5, 10, 29])));
        check("node:wheel", None, None, Ok((1000, 10, &[5])));
        check("node:77", None, None, Ok((1000, 77, &[5])));
        check("4242", None, None, Ok((4242, 0, &[5])));
        check("node:wheel", Some(0), Some(3), Ok((0, 3, &[5, 10])));
        check("who", None, None, Err("unable to find user who: no matching entries in passwd file"));
        check("node:none", None, None, Err("unable to find group none: no matching entries in group file"));
    }

    #[test]
    fn links_never_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, root) = (dir.path().join("outside"), dir.path().join("root"));
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("passwd"), "secret").unwrap();
        std::os::unix::fs::symlink(outside.join("passwd"), root.join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("way")).unwrap();
        let root = Root::open(&root).unwrap();
        assert_eq!(root.read("/etc/passwd"), "");
        assert!(root.make_dirs(Path::new("/way/new")).is_err());
        assert!(!outside.join("new").exists());
        root.make_dirs(Path::new("/deep/er")).unwrap();
        assert!(dir.path().join("root/deep/er").is_dir());
    }

    #[test]
    fn uppermost_layer_comes_first() {
        let layers = [PathBuf::from("/i/layers/a"), PathBuf::from("/i/layers/b:c")];
        let base = common_parent(&layers);
        assert_eq!(base, Path::new("/i/layers"));
        assert_eq!(lower(&layers, &base), "b\\:c:a");
        assert_eq!(common_parent(&[PathBuf::from("/a/b"), PathBuf::from("/c/d")]), Path::new("/"));
    }

    #[test]
    fn control_groups_in_reverse() {
        let text =
            "1 0 0:1 / /a rw - cgroup x rw\n2 0 0:2 / /b rw - tmpfs x rw\n3 0 0:3 / /c rw shared:1 - cgroup2 x rw";
        assert_eq!(cgroup_mounts(text), ["/c", "/a"]);
    }
}

//! A pod's network namespace: a thread leaves the node's namespace for a fresh one and the namespace is kept alive by a
//! bind mount. The thread ends afterwards, since it can do nothing else any more.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::{
    mount::{UnmountFlags, mount_bind, unmount},
    thread::UnshareFlags,
};

use super::{
    messages,
    netlink::{self, Netlink},
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make a network namespace ({0}): the agent needs CAP_SYS_ADMIN")]
    Unshare(io::Error),
    #[error("cannot keep the network namespace at {path}: {cause}")]
    Keep { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
}

/// A namespace whose loopback device is up, with a socket inside to configure the rest.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) inside: Netlink,
}

impl Namespace {
    pub(super) fn create(path: PathBuf) -> Result<Self, Error> {
        let result = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || inside_new(&path));
            let thread = thread.map_err(Error::Unshare)?;
            thread.join().unwrap_or_else(|_| Err(Error::Unshare(io::Error::other("the thread died"))))
        });
        if result.is_err() {
            // Half made: nothing may stay behind.
            let _ = remove(&path);
        }
        let (file, inside) = result?;
        Ok(Namespace { path, file, inside })
    }

    pub(super) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn inside_new(path: &Path) -> Result<(File, Netlink), Error> {
    leave_namespace().map_err(Error::Unshare)?;
    let keep = |cause: io::Error| Error::Keep { path: path.into(), cause };
    File::create(path).map_err(keep)?;
    mount_bind("/proc/thread-self/ns/net", path).map_err(|e| keep(e.into()))?;
    let file = File::open(path).map_err(keep)?;
    // As container runtimes do: any user of the pod may bind low ports and ping.
    super::sysctl("net/ipv4/ip_unprivileged_port_start", "0");
    super::sysctl("net/ipv4/ping_group_range", "0 2147483647");
    super::sysctl("net/ipv6/conf/default/accept_dad", "0");
    // A pod's routes are ours to give: no short cut past the gateway, none from a pod that plays router.
    super::sysctl("net/ipv6/conf/default/accept_redirects", "0");
    super::sysctl("net/ipv6/conf/default/accept_ra", "0");
    let mut inside = Netlink::open()?;
    inside.send(vec![messages::link_up("lo")])?;
    Ok((file, inside))
}

#[allow(unsafe_code)]
fn leave_namespace() -> io::Result<()> {
    // SAFETY: only NEWNET is unshared; file descriptors and memory stay shared, which is what the rest of the process
    // relies on. The calling thread was made for this and ends soon after.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from)
}

/// Lets a namespace go; one that is gone already is no error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    // Not mounted (EINVAL) or not there (ENOENT): what remains to do is to delete the file.
    let _ = unmount(path, UnmountFlags::DETACH);
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

//! Network namespaces that outlive the process: made in a thread of their own and kept by a bind mount.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::Path,
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::mount::{UnmountFlags, mount_bind, unmount};

/// Makes the namespace unless it is there already; true when it was made.
pub(crate) fn ensure(path: &Path) -> io::Result<bool> {
    if is_namespace(path) {
        return Ok(false);
    }
    let dir = path.parent().expect("a namespace's path has a parent");
    fs::create_dir_all(dir)?;
    File::create(path)?;
    let target = path.to_owned();
    // A thread can leave its namespace without touching the rest of the process.
    let made = thread::spawn(move || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(mount_bind("/proc/thread-self/ns/net", &target)?)
    });
    made.join().map_err(|_| io::Error::other("the thread that makes a namespace panicked"))??;
    Ok(true)
}

/// True when the path is a mounted namespace and not the plain file left by a reboot.
pub(crate) fn is_namespace(path: &Path) -> bool {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type == NSFS_MAGIC)
}

/// Removes the namespace's name; the namespace goes with its last process and its devices with it.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if is_namespace(path) {
        unmount(path, UnmountFlags::DETACH)?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Moves the calling thread into the namespace. Threads that it starts afterwards are born there.
pub(crate) fn enter(path: &Path) -> io::Result<()> {
    Ok(setns(File::open(path)?.as_fd(), CloneFlags::CLONE_NEWNET)?)
}

/// Runs `work` on a thread inside the namespace, with a small runtime of its own.
pub(crate) fn inside<T, F, R>(path: &Path, work: F) -> io::Result<T>
where
    T: Send,
    F: FnOnce() -> R + Send,
    R: Future<Output = io::Result<T>>,
{
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(path)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(work())
        });
        thread.join().map_err(|_| io::Error::other("a thread inside a namespace panicked"))?
    })
}

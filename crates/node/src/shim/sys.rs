//! The few system calls that no crate of ours wraps safely. The only unsafe code of this room.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use tokio::io::unix::AsyncFd;

/// One descriptor to wait for.
pub(crate) struct Wait<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) write: bool,
}

/// Which of the descriptors are ready (readable, writable, hung up or in error); none when the time is over.
pub(crate) fn poll(waits: &[Wait<'_>], timeout_ms: i32) -> io::Result<Vec<bool>> {
    let mut list: Vec<libc::pollfd> = waits
        .iter()
        .map(|w| libc::pollfd {
            fd: w.fd.as_raw_fd(),
            events: if w.write { libc::POLLOUT } else { libc::POLLIN },
            revents: 0,
        })
        .collect();
    // SAFETY: the pointer and length are of a live Vec; the descriptors are borrowed for the call.
    let ready = unsafe { libc::poll(list.as_mut_ptr(), list.len() as libc::nfds_t, timeout_ms) };
    match ready {
        -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => Ok(vec![false; waits.len()]),
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(list.iter().map(|p| p.revents != 0).collect()),
    }
}

/// A mount namespace of our own. To be called while the process has one thread.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: CLONE_NEWNS concerns no memory, only what paths mean to this process from now on.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })
}

/// Any signal number, real-time ones too, to the very process that `pidfd` stands for.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers but a null siginfo, which asks for the one that kill(2) would send.
    let done = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    check(done as i32)
}

/// To every process of a group.
pub(crate) fn kill_group(group: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory involved.
    check(unsafe { libc::kill(-group, signal) })
}

pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory involved.
    check(unsafe { libc::kill(pid, signal) })
}

/// Gives free memory back to the system: a shim's start needs much more than its long life.
pub(crate) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim only releases free chunks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A descriptor of ours for the reactor.
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is given away whole; nobody but the `AsyncFd` closes it, after deregistration.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

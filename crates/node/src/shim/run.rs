//! Starting one container: group, mounts, user, libcontainer; then watching it to its end.

use std::{
    fs,
    fs::File,
    io,
    io::{PipeReader, PipeWriter},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
};

use libcontainer::{
    container::{Container, builder::ContainerBuilder},
    syscall::syscall::SyscallType,
};
use rustix::{fs::OFlags, process::Pid};

use super::{
    executor, failure,
    log::Log,
    oci,
    oci::Identity,
    root,
    root::Root,
    sys,
    watch::{Streams, Watch},
    wire,
    wire::Report,
};
use crate::{
    cgroup,
    cgroup::Group,
    runtime::{
        Phase, Resources, StartError,
        record::{self, Orders, Paths, Process, State},
    },
};

/// libcontainer's name for the one container in its state directory.
pub(super) const NAME: &str = "c";
/// For a container's process to become its program.
const EXEC_TIMEOUT_MS: i32 = 30_000;

pub(super) fn main(dir: &Path) -> i32 {
    let control = io::stdin();
    let paths = Paths { dir: dir.to_owned() };
    match launch(&paths) {
        Ok(mut watch) => {
            // The agent may have died meanwhile; the container runs all the same.
            let _ = wire::send(control.as_fd(), &Report::Started { pid: watch.pid() as u32 }, &[]);
            sys::trim_memory();
            watch.see_out();
            0
        }
        Err(error) => {
            // An agent that is gone finds the orders without a running shim, and cleans up.
            let _ = wire::send(control.as_fd(), &Report::Failed(error), &[]);
            1
        }
    }
}

fn launch(paths: &Paths) -> Result<Watch, StartError> {
    let orders: Orders = record::read(&paths.orders()).map_err(|e| failure("orders", &e))?;
    detach().map_err(|e| failure("detach from the agent", &e))?;
    let shim =
        Process::of(std::process::id() as i32).ok_or_else(|| failure("/proc", &io::Error::other("not mounted")))?;
    let mut state = State { shim, init: None, phase: Phase::Starting, problems: Vec::new() };
    save(paths, &state)?;

    let mut group = Group::create(&orders.cgroup, &orders.spec.resources, orders.spec.privileged);
    group.join();
    let mut way_back = Group::create(&orders.shims, &Resources::default(), true).doors();
    let (oom, device_control) = (group.oom_counter(), group.controls("devices"));
    state.problems = group.problems;

    let user = prepare(paths, &orders, device_control)?;
    let log = Log::open(&orders.spec.log_path).map_err(|e| failure("log file", &e))?;
    let (mut container, streams, status) = create(paths, &orders, &user)?;
    let pid = container.pid().map_or(0, |pid| pid.as_raw());
    adjust_oom_score(pid, orders.spec.resources.oom_score_adj);
    let init = Pid::from_raw(pid).ok_or_else(|| failure("libcontainer", &io::Error::other("it named no process")))?;
    let init_fd = rustix::process::pidfd_open(init, rustix::process::PidfdFlags::empty())
        .map_err(|e| failure("pidfd_open", &io::Error::from(e)))?;
    start(&mut container, status, init)?;
    drop(container);
    if let Err(e) = cgroup::enter(&mut way_back) {
        state.problems.push(format!("the shim stays in its container's control group: {e}"));
    }
    state.init = Process::of(pid);
    state.phase = Phase::Running { pid: pid as u32, started: jiff::Timestamp::now() };
    save(paths, &state)?;
    Watch::new(paths.clone(), &orders.spec, state, init, init_fd, streams, log, oom)
        .map_err(|e| failure("attach socket", &e))
}

fn save(paths: &Paths, state: &State) -> Result<(), StartError> {
    record::write_atomically(&paths.state(), state).map_err(|e| failure("state file", &e))
}

/// A session of its own, no groups that a container could inherit, and orphans of the container come to us.
fn detach() -> io::Result<()> {
    // Already a leader when started by hand from a shell: nothing to leave then.
    let _ = rustix::process::setsid();
    rustix::thread::set_thread_groups(&[])?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    std::env::set_current_dir("/")
}

/// Mounts the root file system and writes libcontainer's configuration.
fn prepare(paths: &Paths, orders: &Orders, device_control: bool) -> Result<Identity, StartError> {
    let spec = &orders.spec;
    for mount in &spec.mounts {
        fs::symlink_metadata(&mount.source)
            .map_err(|e| failure(&format!("mount {} at {}", mount.source.display(), mount.target.display()), &e))?;
    }
    root::enter_mount_namespace().map_err(|e| failure("mount namespace", &e))?;
    root::mount_overlay(&spec.image.layers, &orders.data, &paths.rootfs())
        .map_err(|e| failure("overlay of the image's layers", &e))?;
    let root = Root::open(&paths.rootfs()).map_err(|e| failure("root file system", &e))?;
    let user =
        root::identify(&spec.user, &spec.supplemental_groups, &root.read("/etc/passwd"), &root.read("/etc/group"))
            .map_err(|e| failure("user", &io::Error::other(e)))?;
    if !spec.cwd.is_empty() {
        root.make_dirs(Path::new(&spec.cwd)).map_err(|e| failure(&format!("working directory {}", spec.cwd), &e))?;
    }
    let held = oci::held_capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    let caps = oci::capabilities(spec, device_control, held);
    let process = oci::process(spec, &user, &caps);
    record::write_atomically(&paths.bundle().join("config.json"), &oci::config(spec, process))
        .map_err(|e| failure("bundle", &e))?;
    Ok(user)
}

/// libcontainer makes the container's first process, which waits to be told to go on.
fn create(
    paths: &Paths,
    orders: &Orders,
    user: &Identity,
) -> Result<(Container, Streams, executor::Status), StartError> {
    let (program, status) = executor::program(None).map_err(|e| failure("pipe", &e))?;
    fs::create_dir_all(paths.library()).map_err(|e| failure("state directory", &e))?;
    let builder = ContainerBuilder::new(NAME.to_owned(), SyscallType::Linux).with_executor(program);
    let mut builder = builder.with_root_path(paths.library()).map_err(|e| failure("state directory", &e))?;
    let mut streams = Streams::default();
    let console = if orders.spec.tty {
        Some(console_listener(&paths.dir).map_err(|e| failure("console socket", &e))?)
    } else {
        None
    };
    if console.is_some() {
        builder = builder.with_console_socket(Some(paths.dir.join(CONSOLE)));
    } else {
        let ends = pipes(&mut streams, orders.spec.stdin, user).map_err(|e| failure("pipes", &e))?;
        builder = builder.with_stdin(ends.0).with_stdout(ends.1).with_stderr(ends.2);
    }
    let init = builder.as_init(paths.bundle()).with_systemd(false).with_detach(true);
    let container = match init.build() {
        Ok(container) => container,
        Err(e) => return Err(status.wait(0).unwrap_or_else(|| failure("create container", &e))),
    };
    if let Some(listener) = console {
        streams.set_terminal(wire::receive_console(&listener).map_err(|e| failure("console", &e))?);
    }
    Ok((container, streams, status))
}

/// Its name fits a socket address only relative to its directory.
const CONSOLE: &str = "console.sock";

pub(super) fn console_listener(dir: &Path) -> io::Result<UnixListener> {
    std::env::set_current_dir(dir)?;
    let listener = UnixListener::bind(CONSOLE);
    std::env::set_current_dir("/")?;
    listener
}

/// The container's ends of its three streams, which its user may reopen by `/dev/stdout`.
fn pipes(streams: &mut Streams, stdin: bool, user: &Identity) -> io::Result<(OwnedFd, OwnedFd, OwnedFd)> {
    let (out, out_end) = output(user)?;
    let (err, err_end) = output(user)?;
    (streams.out, streams.err) = (Some(File::from(OwnedFd::from(out))), Some(File::from(OwnedFd::from(err))));
    let in_end = if stdin {
        let (end, writer) = io::pipe()?;
        own(&end, user)?;
        rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK)?;
        streams.stdin = Some(File::from(OwnedFd::from(writer)));
        OwnedFd::from(end)
    } else {
        OwnedFd::from(File::open("/dev/null")?)
    };
    Ok((in_end, OwnedFd::from(out_end), OwnedFd::from(err_end)))
}

fn output(user: &Identity) -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK)?;
    own(&writer, user)?;
    Ok((reader, writer))
}

fn own(fd: &impl AsFd, user: &Identity) -> io::Result<()> {
    let owner = rustix::fs::Uid::from_raw(user.uid);
    Ok(rustix::fs::fchown(fd, Some(owner), Some(rustix::fs::Gid::from_raw(user.gid)))?)
}

/// Lets the process go on, and learns whether it became its program.
fn start(container: &mut Container, status: executor::Status, init: Pid) -> Result<(), StartError> {
    let started = container.start().map_err(|e| failure("start container", &e));
    match status.wait(EXEC_TIMEOUT_MS).map_or(started, Err) {
        Ok(()) => Ok(()),
        Err(error) => {
            // It may have ended by itself already; either way it is ours to bury.
            let _ = sys::kill(init.as_raw_nonzero().get(), libc::SIGKILL);
            let _ = rustix::process::waitpid(Some(init), rustix::process::WaitOptions::empty());
            Err(error)
        }
    }
}

/// Lowering needs a privilege that not every machine gives; the container runs with what it has then.
fn adjust_oom_score(pid: i32, score: Option<i32>) {
    if let Some(score) = score {
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string());
    }
}

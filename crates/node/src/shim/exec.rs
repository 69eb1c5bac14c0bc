//! One command in a running container. The agent holds the other end of our stdin: when it is gone, so is the command.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use libcontainer::{container::builder::ContainerBuilder, syscall::syscall::SyscallType};
use rustix::process::{Pid, PidfdFlags, WaitOptions};
use serde_json::{Value, json};

use super::{
    executor, failure, oci, root,
    root::Root,
    run::{NAME, console_listener},
    sys, wire,
    wire::Report,
};
use crate::{
    cgroup::Group,
    runtime::{
        ExecSpec, StartError,
        record::{self, Orders, Paths, State},
    },
};

/// Between asking a command to end and killing it.
const GRACE_MS: i32 = 2_000;

pub(super) fn main(dir: &Path, request: &Path) -> i32 {
    let control = io::stdin();
    let paths = Paths { dir: dir.to_owned() };
    let report = match launch(&paths, request) {
        Ok((pid, terminal)) => {
            let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
            // A dead agent is noticed below, as a hang-up.
            let _ = wire::send(control.as_fd(), &Report::Started { pid: pid.as_raw_nonzero().get() as u32 }, &fds);
            drop(fds);
            drop(terminal);
            sys::trim_memory();
            Report::Exited { code: wait(pid, &control) }
        }
        Err(error) => Report::Failed(error),
    };
    i32::from(wire::send(control.as_fd(), &report, &[]).is_err())
}

fn launch(paths: &Paths, request: &Path) -> Result<(Pid, Option<OwnedFd>), StartError> {
    let exec: ExecSpec = record::read(request).map_err(|e| failure("request", &e))?;
    fs::remove_file(request).map_err(|e| failure("request", &e))?;
    let orders: Orders = record::read(&paths.orders()).map_err(|e| failure("orders", &e))?;
    let state: State = record::read(&paths.state()).map_err(|e| failure("state", &e))?;
    let streams = if exec.tty { Vec::new() } else { receive_streams().map_err(|e| failure("streams", &e))? };
    let process = process(paths, &orders, &state, &exec)?;
    let process_file = request.with_extension("process.json");
    record::write_atomically(&process_file, &process).map_err(|e| failure("process", &e))?;

    rustix::thread::set_thread_groups(&[]).map_err(|e| failure("groups", &io::Error::from(e)))?;
    Group::find(&orders.cgroup).join();
    root::enter_mount_namespace().map_err(|e| failure("mount namespace", &e))?;
    let started = build(paths, request, &process_file, streams, &exec);
    // Only libcontainer needed it.
    let _ = fs::remove_file(process_file);
    started
}

fn receive_streams() -> io::Result<Vec<OwnedFd>> {
    let (_, fds) = wire::receive_raw(io::stdin().as_fd(), &mut [0; 16])?;
    if fds.len() == 3 { Ok(fds) } else { Err(io::Error::other("three were to come")) }
}

/// The container's own process description with what this command changes.
fn process(paths: &Paths, orders: &Orders, state: &State, exec: &ExecSpec) -> Result<Value, StartError> {
    let config: Value = record::read(&paths.bundle().join("config.json")).map_err(|e| failure("bundle", &e))?;
    let mut process = config["process"].clone();
    process["args"] = json!(exec.args);
    process["terminal"] = json!(exec.tty);
    let mut env: Vec<String> = orders.spec.env.clone();
    env.retain(|have| !exec.env.iter().any(|new| name(new) == name(have)));
    env.extend(exec.env.iter().cloned());
    if !env.iter().any(|e| name(e) == "PATH") {
        env.push(oci::PATH.to_owned());
    }
    if exec.tty && !env.iter().any(|e| name(e) == "TERM") {
        env.push("TERM=xterm".to_owned());
    }
    process["env"] = json!(env);
    if let Some(cwd) = &exec.cwd {
        process["cwd"] = json!(cwd);
    }
    if let Some(user) = &exec.user {
        let pid = state.init.map_or(0, |init| init.pid);
        let root = Root::open(Path::new(&format!("/proc/{pid}/root"))).map_err(|e| failure("root file system", &e))?;
        let user =
            root::identify(user, &orders.spec.supplemental_groups, &root.read("/etc/passwd"), &root.read("/etc/group"))
                .map_err(|e| failure("user", &io::Error::other(e)))?;
        process["user"] = json!({ "uid": user.uid, "gid": user.gid, "additionalGids": user.groups });
        let effective = if user.uid == 0 { process["capabilities"]["bounding"].clone() } else { json!([]) };
        process["capabilities"]["effective"] = effective;
    }
    Ok(process)
}

fn name(variable: &str) -> &str {
    variable.split('=').next().unwrap_or_default()
}

fn build(
    paths: &Paths,
    request: &Path,
    process: &Path,
    streams: Vec<OwnedFd>,
    exec: &ExecSpec,
) -> Result<(Pid, Option<OwnedFd>), StartError> {
    let (program, status) = executor::program(exec.size.filter(|_| exec.tty)).map_err(|e| failure("pipe", &e))?;
    let builder = ContainerBuilder::new(NAME.to_owned(), SyscallType::Linux).with_executor(program);
    let mut builder = builder.with_root_path(paths.library()).map_err(|e| failure("state directory", &e))?;
    let mut listener = None;
    if exec.tty {
        // Commands at the same time need a console socket each.
        let dir = request.with_extension("d");
        fs::create_dir(&dir).map_err(|e| failure("console socket", &e))?;
        listener = Some(console_listener(&dir).map_err(|e| failure("console socket", &e))?);
        builder = builder.with_console_socket(Some(dir.join("console.sock")));
    }
    let mut streams = streams.into_iter();
    if let (Some(stdin), Some(stdout), Some(stderr)) = (streams.next(), streams.next(), streams.next()) {
        builder = builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr);
    }
    let built = builder.as_tenant().with_detach(true).with_process(Some(process)).build();
    let terminal = match (&built, listener) {
        (Ok(_), Some(listener)) => Some(wire::receive_console(&listener).map_err(|e| failure("console", &e))?),
        _ => None,
    };
    // Left over only when it cannot be removed, and then removed with the container.
    let _ = fs::remove_dir_all(request.with_extension("d"));
    let pid = built.map_err(|e| status.wait(0).unwrap_or_else(|| failure("exec", &e)))?;
    let pid = Pid::from_raw(pid.as_raw())
        .ok_or_else(|| failure("exec", &io::Error::other("libcontainer named no process")))?;
    Ok((pid, terminal))
}

/// Until the command has ended, or the agent is gone: then the command is made to end.
fn wait(pid: Pid, control: &io::Stdin) -> i32 {
    let Ok(fd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return reap(pid) };
    let ended = |timeout, with_control: bool| {
        let mut waits = vec![sys::Wait { fd: fd.as_fd(), write: false }];
        waits.extend(with_control.then(|| sys::Wait { fd: control.as_fd(), write: false }));
        sys::poll(&waits, timeout)
    };
    loop {
        match ended(-1, true).as_deref() {
            Ok([true, ..]) => break,
            Ok([false, false]) => {}
            _ => {
                let group = pid.as_raw_nonzero().get();
                // It may have ended by itself at this very moment.
                let _ = sys::kill_group(group, libc::SIGHUP);
                if !matches!(ended(GRACE_MS, false).as_deref(), Ok([true])) {
                    let _ = sys::kill_group(group, libc::SIGKILL);
                }
                break;
            }
        }
    }
    reap(pid)
}

fn reap(pid: Pid) -> i32 {
    match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
        Ok(Some((_, status))) => status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0)),
        _ => 255,
    }
}

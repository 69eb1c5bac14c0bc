//! Real containers, as root: start, output, end, limits, commands inside, and taking over after a crash.

mod common;

use std::{fs, path::Path, process::Command, time::Duration};

use common::{Place, can_run, finish, run};
use skiff_node::runtime::{ExecSpec, Mount, Phase, User};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn sh(script: &str) -> [&str; 3] {
    ["/bin/sh", "-c", script]
}

fn command(args: &[&str]) -> ExecSpec {
    ExecSpec { args: args.iter().map(|a| (*a).to_owned()).collect(), ..ExecSpec::default() }
}

#[tokio::test]
async fn output_and_exit_codes() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let runtime = place.runtime();
    let mut exits = runtime.exits();
    let exit = run(&runtime, &place.spec("a", &sh("echo out; echo err >&2; printf part; exit 3"))).await;
    assert_eq!((exit.code, exit.signal, exit.oom, exit.reason.as_str()), (3, None, false, "Error"));
    assert!(exit.started.unwrap() <= exit.finished);
    assert_eq!(exits.recv().await.unwrap().id, "a");
    let log = place.log("a");
    for line in ["stdout F out", "stderr F err", "stdout P part"] {
        assert!(log.contains(line), "{log}");
    }
    assert!(matches!(runtime.container("a").unwrap().phase, Phase::Exited(_)));
    let exit = run(&runtime, &place.spec("b", &["true"])).await;
    assert_eq!((exit.code, exit.reason.as_str()), (0, "Completed"));
    for id in ["a", "b"] {
        runtime.remove(id).await.unwrap();
    }
    assert!(runtime.containers().is_empty());
    assert_eq!(fs::read_dir(place.dir.path().join("data/containers")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.dir.path().join("run/containers")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_a_container_sees() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let runtime = place.runtime();
    let volume = place.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("f"), "from outside").unwrap();
    let script = "id; pwd; hostname; echo $$; cat /vol/f; echo; touch /vol/x || echo ro; echo $A; cat /proc/self/status | \
                  while read k v; do [ $k = CapEff: ] && echo cap $v; done; ls /dev; echo x > /etc/new && echo rw; echo x > /dev/stderr";
    let mut spec = place.spec("a", &sh(script));
    spec.user = User { name: "user".into(), ..User::default() };
    spec.supplemental_groups = vec![77];
    spec.cwd = "/made/for/me".to_owned();
    spec.env = vec!["A=b c".to_owned()];
    spec.mounts = vec![Mount { source: volume.clone(), target: "/vol".into(), read_only: true }];
    let exit = run(&runtime, &spec).await;
    let log = place.log("a");
    for line in [
        "uid=1000(user) gid=1001(user) groups=10(wheel),77",
        "F /made/for/me",
        "F tiny",
        "stdout F 1\n",
        "F from outside",
        "F ro",
        "F b c",
        "F cap 0000000000000000",
        "F null",
        "F ptmx",
        "stderr F x",
    ] {
        assert!(log.contains(line), "{line}\nin\n{log}\n{exit:?}");
    }
    assert!(!log.contains("F rw"), "{log}");
    assert!(!volume.join("x").exists());
    runtime.remove("a").await.unwrap();
}

#[tokio::test]
async fn a_read_only_root_and_a_missing_volume() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let runtime = place.runtime();
    let mut spec = place.spec("a", &sh("touch /x; touch /dev/shm/y && echo shm"));
    spec.read_only_root = true;
    run(&runtime, &spec).await;
    let log = place.log("a");
    assert!(log.contains("Read-only file system") && log.contains("F shm"), "{log}");
    let mut spec = place.spec("b", &["true"]);
    spec.mounts = vec![Mount { source: "/no/such/volume".into(), target: "/v".into(), read_only: false }];
    let error = runtime.start(&spec).await.unwrap_err();
    assert_eq!(error.message, "mount /no/such/volume at /v: No such file or directory (os error 2)");
    runtime.remove("a").await.unwrap();
}

#[tokio::test]
async fn commands_that_cannot_be_run() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let runtime = place.runtime();
    for (args, message, code) in [
        (&["foo"][..], "exec: \"foo\": executable file not found in $PATH", 127),
        (&["/foo"], "exec: \"/foo\": stat /foo: no such file or directory", 127),
        (&["/etc/text"], "exec: \"/etc/text\": permission denied", 126),
        (&["/etc"], "exec: \"/etc\": is a directory", 126),
    ] {
        let error = runtime.start(&place.spec("a", args)).await.unwrap_err();
        assert_eq!(error.message, format!("unable to start container process: {message}"));
        assert_eq!((error.reason.as_str(), error.exit_code), ("StartError", code));
        assert!(runtime.container("a").is_none());
    }
    let mut spec = place.spec("a", &["true"]);
    spec.user.name = "nobody".to_owned();
    let error = runtime.start(&spec).await.unwrap_err();
    assert!(error.message.contains("unable to find user nobody"), "{error}");
    runtime.start(&place.spec("b", &["sleep", "1000"])).await.unwrap();
    let error = runtime.exec("b", command(&["foo"])).await.err().unwrap();
    assert_eq!(error.message, "unable to start container process: exec: \"foo\": executable file not found in $PATH");
    assert_eq!(error.exit_code, 127);
    runtime.remove("b").await.unwrap();
}

#[tokio::test]
async fn commands_in_a_container() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let runtime = place.runtime();
    runtime.start(&place.spec("a", &["sleep", "1000"])).await.unwrap();
    let (out, err, code) = finish(runtime.exec("a", command(&sh("echo o; echo e >&2; exit 7"))).await.unwrap()).await;
    assert_eq!((out.as_str(), err.as_str(), code), ("o\n", "e\n", 7));

    let mut spec = command(&["cat"]);
    spec.stdin = true;
    let mut session = runtime.exec("a", spec).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"through").await.unwrap();
    assert_eq!(finish(session).await, ("through".to_owned(), String::new(), 0));

    let mut spec = command(&sh("id; pwd; echo $X; cat /proc/1/cmdline"));
    spec.user = Some(User { name: "user".into(), ..User::default() });
    (spec.cwd, spec.env) = (Some("/tmp".into()), vec!["X=y".into()]);
    let (out, _, code) = finish(runtime.exec("a", spec).await.unwrap()).await;
    assert!(out.contains("uid=1000(user)") && out.contains("/tmp\ny\nsleep"), "{out}");
    assert_eq!(code, 0);

    let (_, _, code) = finish(runtime.exec("a", command(&sh("kill -9 $$"))).await.unwrap()).await;
    assert_eq!(code, 137);
    runtime.remove("a").await.unwrap();
    assert!(runtime.exec("a", command(&["true"])).await.is_err());
}

#[tokio::test]
async fn a_terminal() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let runtime = place.runtime();
    runtime.start(&place.spec("a", &["sleep", "1000"])).await.unwrap();
    let mut spec = command(&sh("tty; stty size; read x; stty size; echo got $x; exit 5"));
    (spec.tty, spec.stdin, spec.size) = (true, true, Some((101, 33)));
    let mut session = runtime.exec("a", spec).await.unwrap();
    let mut seen = String::new();
    let mut chunk = [0; 1024];
    while !seen.contains("33 101") {
        let n = session.stdout.as_mut().unwrap().read(&mut chunk).await.unwrap();
        assert!(n > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&chunk[..n]));
    }
    session.resizer().resize(90, 20);
    session.stdin.as_mut().unwrap().write_all(b"hi\n").await.unwrap();
    let (rest, _, code) = finish(session).await;
    seen.push_str(&rest);
    assert!(seen.contains("/dev/pts/") && seen.contains("20 90") && seen.contains("got hi"), "{seen}");
    assert_eq!(code, 5);
    runtime.remove("a").await.unwrap();
}

#[tokio::test]
async fn attaching() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let runtime = place.runtime();
    let mut spec = place.spec("a", &sh("read x; echo got $x; cat; exit 4"));
    (spec.stdin, spec.stdin_once) = (true, true);
    runtime.start(&spec).await.unwrap();
    let mut session = runtime.attach("a").await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"one\ntwo").await.unwrap();
    assert_eq!(finish(session).await, ("got one\ntwo".to_owned(), String::new(), 4));
    let mut spec = place.spec("t", &sh("read x; tty; stty size; exit 6"));
    (spec.stdin, spec.tty) = (true, true);
    runtime.start(&spec).await.unwrap();
    let mut session = runtime.attach("t").await.unwrap();
    session.resizer().resize(70, 40);
    session.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    let (out, _, code) = finish(session).await;
    assert!(out.contains("/dev/pts/0") && out.contains("40 70"), "{out}");
    assert_eq!(code, 6);
    assert!(place.log("t").contains("/dev/pts/0"));
    for id in ["a", "t"] {
        runtime.remove(id).await.unwrap();
    }
}

#[tokio::test]
async fn output_ends_with_its_command() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let runtime = place.runtime();
    runtime.start(&place.spec("a", &["sleep", "1000"])).await.unwrap();
    let left_behind = command(&sh("sleep 1000 & dd if=/dev/zero bs=1k count=300; exit 3"));
    let output = async { runtime.exec("a", left_behind).await.unwrap().output(1000).await };
    let (code, bytes) = tokio::time::timeout(Duration::from_secs(20), output).await.expect("it ends");
    assert_eq!((code, &bytes[..1000]), (3, &[0; 1000][..]));
    assert!(String::from_utf8_lossy(&bytes[1000..]).contains("300+0"));
    runtime.remove("a").await.unwrap();
}

#[tokio::test]
async fn attaching_to_output_alone() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let runtime = place.runtime();
    runtime.start(&place.spec("a", &sh("while ! [ -e /go ]; do sleep 0.02; done; echo out; exit 4"))).await.unwrap();
    let session = runtime.attach("a").await.unwrap();
    runtime.exec("a", command(&["touch", "/go"])).await.unwrap().output(0).await;
    assert_eq!(finish(session).await, ("out\n".to_owned(), String::new(), 4));
    runtime.remove("a").await.unwrap();
}

#[tokio::test]
async fn a_dropped_session_ends_its_command() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let runtime = place.runtime();
    runtime.start(&place.spec("a", &["sleep", "1000"])).await.unwrap();
    let mut session = runtime.exec("a", command(&sh("echo up; sleep 777"))).await.unwrap();
    let mut up = [0; 3];
    session.stdout.as_mut().unwrap().read_exact(&mut up).await.unwrap();
    drop(session);
    let gone = async {
        loop {
            let (out, ..) = finish(runtime.exec("a", command(&sh("cat /proc/[0-9]*/cmdline"))).await.unwrap()).await;
            if !out.contains("777") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the command ends");
    runtime.remove("a").await.unwrap();
}

#[tokio::test]
async fn signals() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let runtime = place.runtime();
    runtime
        .start(&place.spec("a", &sh("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done")))
        .await
        .unwrap();
    while !place.log("a").contains("ready") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    runtime.signal("a", libc::SIGTERM).unwrap();
    let exit = runtime.wait("a").await.unwrap();
    assert_eq!((exit.code, exit.signal), (0, None));
    assert!(place.log("a").contains("stdout F bye"));
    runtime.start(&place.spec("b", &["sleep", "1000"])).await.unwrap();
    runtime.signal("b", libc::SIGKILL).unwrap();
    let exit = runtime.wait("b").await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.oom), (137, Some(9), false));
    runtime.signal("b", libc::SIGKILL).unwrap();
    for id in ["a", "b"] {
        runtime.remove(id).await.unwrap();
    }
}

#[tokio::test]
async fn out_of_memory() {
    let memory = skiff_node::cgroup::hierarchies()
        .unwrap_or_default()
        .iter()
        .any(|h| h.controllers.iter().any(|c| c == "memory"));
    if !can_run() {
        return;
    }
    if !memory {
        return skiff_testkit::tools::skip("no memory controller");
    }
    let place = Place::new();
    let runtime = place.runtime();
    let mut spec = place.spec("a", &["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]);
    spec.resources.memory = Some(32 << 20);
    let exit = run(&runtime, &spec).await;
    assert_eq!((exit.code, exit.oom, exit.reason.as_str()), (137, true, "OOMKilled"), "{}", place.log("a"));
    runtime.remove("a").await.unwrap();
}

/// The child process: starts a container and waits to be killed.
#[tokio::test]
async fn an_agent_to_be_killed() {
    let Some(dir) = std::env::var_os("SKIFF_TEST_AGENT_DIR") else { return };
    let mut place = Place::new();
    let own = std::mem::replace(&mut place.dir, tempfile::tempdir().unwrap());
    let cgroup = std::env::var("SKIFF_TEST_AGENT_CGROUP").unwrap();
    let dir = Path::new(&dir);
    let runtime =
        skiff_node::runtime::Runtime::with_shim(common::shim(), dir.join("run"), dir.join("data"), &cgroup).unwrap();
    let mut spec = place.spec("a", &sh("i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done"));
    spec.image.layers = vec![dir.join("layers/base")];
    spec.log_path = dir.join("logs/a/0.log");
    spec.annotations.insert("kept".to_owned(), "yes".to_owned());
    runtime.start(&spec).await.unwrap();
    fs::write(dir.join("started"), "").unwrap();
    drop(own);
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn containers_outlive_their_agent() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_agent_to_be_killed", "--nocapture"])
        .env("SKIFF_TEST_AGENT_DIR", place.dir.path())
        .env("SKIFF_TEST_AGENT_CGROUP", &place.cgroup)
        .spawn()
        .unwrap();
    while !place.dir.path().join("started").exists() {
        assert!(agent.try_wait().unwrap().is_none(), "the agent ended");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
    let lines = place.log("a").lines().count();
    let runtime = place.runtime();
    let found = runtime.container("a").unwrap();
    assert!(matches!(found.phase, Phase::Running { .. }));
    assert_eq!(found.spec.annotations["kept"], "yes");
    let more = async {
        while place.log("a").lines().count() <= lines + 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), more).await.expect("the log goes on");
    let (out, ..) = finish(runtime.exec("a", command(&["echo", "again"])).await.unwrap()).await;
    assert_eq!(out, "again\n");
    runtime.signal("a", libc::SIGKILL).unwrap();
    assert_eq!(runtime.wait("a").await.unwrap().code, 137);
    runtime.remove("a").await.unwrap();
}

#[tokio::test]
async fn a_killed_shim_takes_its_container_along() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let runtime = place.runtime();
    runtime.start(&place.spec("a", &["sleep", "1000"])).await.unwrap();
    let Phase::Running { pid, .. } = runtime.container("a").unwrap().phase else { panic!("it runs") };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let shim: i32 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(shim).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    let exit = runtime.wait("a").await.unwrap();
    assert_eq!((exit.code, exit.reason.as_str()), (137, "ContainerStatusUnknown"));
    runtime.remove("a").await.unwrap();
    let ended = async {
        while fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.starts_with("sleep")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("nothing is left running");
}

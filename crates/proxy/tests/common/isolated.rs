//! Tests that need a network of their own.

use std::process::Command;

const INSIDE: &str = "SKIFF_TEST_INSIDE";

/// Runs the body in namespaces of its own.
pub fn isolated(test: &str, body: impl FnOnce()) {
    let flags = if rustix::process::geteuid().is_root() { "-nm" } else { "-Urnm" };
    in_namespaces(flags, test, body);
}

/// The same with the rights that a plain user can give himself, whoever runs the test.
pub fn in_user_namespace(test: &str, body: impl FnOnce()) {
    in_namespaces("-Urnm", test, body);
}

fn in_namespaces(flags: &str, test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let possible = Command::new("unshare").args([flags, "ip", "link", "set", "lo", "up"]).status();
    if !possible.is_ok_and(|s| s.success()) {
        return skiff_testkit::tools::skip("no network namespaces here (unshare -n, for plain users -Ur)");
    }
    let me = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.arg(flags).arg(me).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

pub fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

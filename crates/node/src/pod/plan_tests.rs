use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, from_value, json};

use super::{
    plan::{Action, Why, plan},
    state::{Container, Ended, Phase, PodState, Pulled, Step},
    status::{self, Around},
};
use crate::{network::Ips, runtime::Exit};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn pod(spec: Value) -> Pod {
    from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
}

fn two() -> Value {
    json!({"containers": [{"name": "b", "image": "i"}, {"name": "a", "image": "i"}]})
}

fn with_init() -> Value {
    json!({"containers": [{"name": "main", "image": "i"}], "initContainers": [
        {"name": "one", "image": "i"}, {"name": "side", "image": "i", "restartPolicy": "Always"}, {"name": "two", "image": "i"}]})
}

fn pulled() -> Option<Pulled> {
    let image = crate::image::Image {
        id: "sha256:1".into(),
        references: vec![],
        digests: vec![],
        layers: vec![],
        config: Default::default(),
        size: 0,
    };
    Some(Pulled { id: "sha256:1".into(), image })
}

fn waiting() -> Container {
    Container { image: pulled(), ..Default::default() }
}

fn running() -> Container {
    let phase = Phase::Running { id: "id".into(), since: now() };
    Container { phase, started: true, ready: true, ..waiting() }
}

fn exited(code: i32) -> Container {
    let exit = Exit {
        code,
        signal: None,
        oom: false,
        started: Some(now()),
        finished: now(),
        reason: if code == 0 { "Completed" } else { "Error" }.into(),
        message: String::new(),
    };
    Container { phase: Phase::Exited(Ended { id: "id".into(), exit }), ..waiting() }
}

fn prepared(containers: &[(&str, Container)]) -> PodState {
    PodState {
        network: Step::Done(None),
        volumes: Step::Done(()),
        containers: containers.iter().map(|(n, c)| (n.to_string(), c.clone())).collect(),
        started: Some(now()),
        ..Default::default()
    }
}

fn start(name: &str) -> Action {
    Action::Start(name.into())
}

fn check(spec: Value, state: PodState, want: &[Action]) {
    assert_eq!(plan(&pod(spec), &state, now()).actions, want);
}

#[test]
fn everything_is_prepared_at_once() {
    let pull = |n: &str| Action::Pull(n.into());
    check(two(), PodState::default(), &[Action::Attach, Action::Mount, pull("b"), pull("a")]);
    let busy = PodState { network: Step::Busy, volumes: Step::Busy, ..prepared(&[("a", waiting()), ("b", waiting())]) };
    check(two(), busy, &[]);
    check(two(), prepared(&[("a", waiting()), ("b", running())]), &[start("a")]);
}

#[test]
fn init_containers_go_in_turn() {
    let all = |one: Container, side: Container, two: Container| {
        prepared(&[("one", one), ("side", side), ("two", two), ("main", waiting())])
    };
    check(with_init(), all(waiting(), waiting(), waiting()), &[start("one")]);
    check(with_init(), all(running(), waiting(), waiting()), &[]);
    check(with_init(), all(exited(0), waiting(), waiting()), &[start("side")]);
    check(with_init(), all(exited(0), running(), waiting()), &[start("two")]);
    check(with_init(), all(exited(0), running(), exited(0)), &[start("main")]);
    check(with_init(), all(exited(1), waiting(), waiting()), &[start("one")]);
}

#[test]
fn restarts_follow_the_policy_and_wait() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]});
    check(spec("Always"), prepared(&[("a", exited(0))]), &[start("a")]);
    check(spec("OnFailure"), prepared(&[("a", exited(1))]), &[start("a")]);
    check(spec("OnFailure"), prepared(&[("a", exited(0))]), &[Action::TearDown]);
    check(spec("Never"), prepared(&[("a", exited(1))]), &[Action::TearDown]);
    let mut again = exited(1);
    again.crashes.next(now(), now());
    let plan = plan(&pod(spec("Always")), &prepared(&[("a", again)]), now());
    assert_eq!((plan.actions.len(), plan.wake), (0, Some(now() + SignedDuration::from_secs(10))));
}

#[test]
fn deletion_stops_then_tears_down_then_finishes() {
    let mut deleted = pod(json!({"terminationGracePeriodSeconds": 7, "containers": [{"name": "a", "image": "i"}]}));
    deleted.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    let step = |state: &PodState| plan(&deleted, state, now()).actions;
    let mut state = prepared(&[("a", running())]);
    let stop = Action::Stop { container: "a".into(), grace: 7, why: Why::Deleted };
    assert_eq!(step(&state), [stop]);
    state.containers.get_mut("a").unwrap().stopping = true;
    assert_eq!(step(&state), []);
    state.containers.insert("a".into(), exited(143));
    assert_eq!(step(&state), [Action::TearDown]);
    state.torn_down = Step::Done(());
    assert_eq!(step(&state), [Action::Finish]);
    // Nothing was ever begun.
    assert_eq!(step(&PodState::default()), [Action::TearDown]);
}

#[test]
fn sidecars_end_after_the_main_containers() {
    let mut spec = with_init();
    spec["restartPolicy"] = json!("Never");
    let done =
        |side: Container| prepared(&[("one", exited(0)), ("side", side), ("two", exited(0)), ("main", exited(0))]);
    let stop = Action::Stop { container: "side".into(), grace: 30, why: Why::Completed };
    check(spec.clone(), done(running()), &[stop]);
    check(spec, done(exited(0)), &[Action::TearDown]);
}

fn seen(spec: Value, state: &PodState) -> Value {
    let around = Around { node_ips: Ips::new("172.30.0.11".parse().unwrap(), "fd00::11".parse().ok()), now: now() };
    serde_json::to_value(status::of(&pod(spec), state, around)).unwrap()
}

fn phase(spec: Value, state: &PodState) -> String {
    seen(spec, state)["phase"].as_str().unwrap().to_string()
}

fn condition(status: &Value, kind: &str) -> String {
    let all = status["conditions"].as_array().unwrap();
    let found = all.iter().find(|c| c["type"] == kind).unwrap();
    let text = |f: &str| found[f].as_str().unwrap_or_default().to_string();
    format!("{} {} {}", text("status"), text("reason"), text("message")).trim().to_string()
}

#[test]
fn phases() {
    let never =
        || json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]});
    assert_eq!(phase(two(), &PodState::default()), "Pending");
    assert_eq!(phase(two(), &prepared(&[("a", running()), ("b", waiting())])), "Pending");
    assert_eq!(phase(two(), &prepared(&[("a", running()), ("b", running())])), "Running");
    assert_eq!(phase(two(), &prepared(&[("a", exited(1)), ("b", exited(0))])), "Running");
    assert_eq!(phase(never(), &prepared(&[("a", exited(0)), ("b", exited(0))])), "Succeeded");
    assert_eq!(phase(never(), &prepared(&[("a", exited(1)), ("b", exited(0))])), "Failed");
    assert_eq!(phase(never(), &prepared(&[("a", exited(1)), ("b", running())])), "Running");
    assert_eq!(phase(with_init(), &prepared(&[("one", running())])), "Pending");
}

#[test]
fn conditions_name_what_is_open() {
    let status = seen(two(), &prepared(&[("a", running()), ("b", waiting())]));
    assert_eq!(condition(&status, "Ready"), "False ContainersNotReady containers with unready status: [b]");
    assert_eq!(condition(&status, "Initialized"), "True");
    assert_eq!(condition(&status, "PodReadyToStartContainers"), "True");
    let status = seen(two(), &prepared(&[("a", running()), ("b", running())]));
    assert_eq!(condition(&status, "Ready"), "True");
    let status = seen(with_init(), &prepared(&[("one", running())]));
    let open = "False ContainersNotInitialized containers with incomplete status: [one side two]";
    assert_eq!(condition(&status, "Initialized"), open);
    let mut gated = two();
    gated["readinessGates"] = json!([{"conditionType": "x"}]);
    let status = seen(gated, &prepared(&[("a", running()), ("b", running())]));
    assert!(condition(&status, "Ready").starts_with("False ReadinessGatesNotReady"));
    assert_eq!(condition(&status, "ContainersReady"), "True");
}

#[test]
fn container_statuses() {
    let mut crashed = exited(1);
    crashed.restarts = 2;
    crashed.crashes.next(now(), now());
    let status = seen(two(), &prepared(&[("a", crashed), ("b", running())]));
    let a = &status["containerStatuses"][0];
    assert_eq!(a["name"], "a");
    assert_eq!(a["state"]["waiting"]["reason"], "CrashLoopBackOff");
    let message = a["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.contains("restarting failed container=a pod="), "{message}");
    assert_eq!(a["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!((&a["restartCount"], &a["ready"]), (&json!(2), &json!(false)));
    let b = &status["containerStatuses"][1];
    assert_eq!((&b["ready"], &b["started"], &b["containerID"]), (&json!(true), &json!(true), &json!("skiff://id")));
    let fresh = seen(with_init(), &PodState::default());
    assert_eq!(fresh["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
}

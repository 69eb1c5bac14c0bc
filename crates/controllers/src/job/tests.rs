use serde_json::{Value, json};

use super::*;
use crate::{
    fixture::{at, now, object},
    job::pod::{FINALIZER, make},
};

fn job(spec: Value, status: &JobStatus) -> Job {
    let mut all = json!({
        "metadata": {"name": "count", "namespace": "ns", "uid": "u"},
        "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 2,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}},
        "status": status,
    });
    for (key, value) in spec.as_object().unwrap() {
        all["spec"][key] = value.clone();
    }
    object(all)
}

/// "1" runs, "2s" succeeded, "3f" failed; "-" after it: the finalizer is off.
fn pod(job: &Job, text: &str, index: Option<i32>) -> Arc<Pod> {
    let mut pod = make(job, index);
    pod.metadata.uid = Some(text[..1].into());
    let phase = if text.contains('s') {
        "Succeeded"
    } else if text.contains('f') {
        "Failed"
    } else {
        "Running"
    };
    pod.status = Some(object(json!({"phase": phase, "containerStatuses": [{"name": "c", "image": "i", "imageID": "",
        "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0, "finishedAt": at(900_000).to_string()}}}]})));
    if text.contains('-') {
        pod.metadata.finalizers = None;
    }
    Arc::new(pod)
}

fn planned(spec: Value, status: &JobStatus, pods: &str) -> Plan {
    let job = job(spec, status);
    let pods: Vec<_> = pods.split_whitespace().map(|p| pod(&job, p, None)).collect();
    plan(&job, &pods, now())
}

fn shown(plan: &Plan) -> String {
    let s = &plan.status;
    let condition =
        s.conditions.iter().flatten().filter(|c| c.status == "True").map(|c| c.type_.as_str()).collect::<Vec<_>>();
    format!(
        "+{} -{} free {} s{} f{} {}",
        plan.create.len(),
        plan.delete.len(),
        plan.release.len(),
        s.succeeded.unwrap_or(0),
        s.failed.unwrap_or(0),
        condition.join(" ")
    )
}

#[test]
fn runs_until_enough_have_succeeded() {
    let none = JobStatus::default();
    assert_eq!(shown(&planned(json!({}), &none, "")), "+1 -0 free 0 s0 f0 ");
    assert_eq!(shown(&planned(json!({"parallelism": 3, "completions": 5}), &none, "1")), "+2 -0 free 0 s0 f0 ");
    assert_eq!(shown(&planned(json!({"parallelism": 1, "completions": 5}), &none, "1 2")), "+0 -1 free 0 s0 f0 ");
    assert_eq!(
        shown(&planned(json!({}), &none, "1s")),
        "+0 -0 free 1 s0 f0 SuccessCriteriaMet Complete",
        "it is on the list; it counts when its finalizer is off"
    );
    assert_eq!(shown(&planned(json!({"completions": null, "parallelism": 2}), &none, "1s 2")), "+0 -0 free 1 s0 f0 ");
}

#[test]
fn no_end_is_lost_or_counted_twice() {
    let spec = json!({"completions": 3, "parallelism": 3});
    let mut status = JobStatus::default();
    // Each write may be the last before a crash: the plan starts again from what was written.
    for (pods, succeeded, listed) in
        [("1s 2", 0, 1), ("1s 2", 0, 1), ("1s- 2", 1, 0), ("1s- 2", 1, 0), ("2s", 1, 1), ("2s-", 2, 0)]
    {
        let plan = planned(spec.clone(), &status, pods);
        let waiting =
            plan.status.uncounted_terminated_pods.as_ref().and_then(|u| u.succeeded.as_ref()).map_or(0, Vec::len);
        assert_eq!((plan.status.succeeded.unwrap_or(0), waiting), (succeeded, listed), "{pods}");
        status = plan.status;
    }
}

#[test]
fn fails_after_too_many_failures_and_pauses_between_them() {
    let failed = |n| JobStatus { failed: Some(n), ..Default::default() };
    assert_eq!(shown(&planned(json!({}), &failed(2), "1f")), "+0 -0 free 1 s0 f2 FailureTarget Failed");
    assert_eq!(shown(&planned(json!({}), &failed(1), "1f-")), "+1 -0 free 0 s0 f1 ", "long ago");
    let mut recent = (*pod(&job(json!({}), &failed(0)), "1f-", None)).clone();
    let statuses = recent.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
    statuses[0].state = Some(object(json!({"terminated": {"exitCode": 1, "finishedAt": at(999_996).to_string()}})));
    let waits = plan(&job(json!({}), &failed(1)), &[Arc::new(recent)], now());
    assert_eq!((waits.create.len(), waits.again), (0, Some(Duration::from_secs(6))));
}

#[test]
fn deadlines_and_suspension() {
    let started = JobStatus { start_time: Some(Time(at(999_900))), ..Default::default() };
    let late = planned(json!({"activeDeadlineSeconds": 60}), &started, "1");
    assert_eq!(shown(&late), "+0 -1 free 0 s0 f0 FailureTarget Failed");
    let in_time = planned(json!({"activeDeadlineSeconds": 130}), &started, "1");
    assert_eq!(in_time.again, Some(Duration::from_secs(30)));
    let suspended = planned(json!({"suspend": true}), &started, "1");
    assert_eq!(shown(&suspended), "+0 -1 free 0 s0 f0 Suspended");
    assert_eq!(shown(&planned(json!({}), &suspended.status, "")), "+1 -0 free 0 s0 f0 ");
}

#[test]
fn indexes_are_done_once_each() {
    let spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 2});
    let job = job(spec, &JobStatus::default());
    let got = plan(&job, &[pod(&job, "1s", Some(0)), pod(&job, "2", Some(2))], now());
    assert_eq!((got.create, got.status.completed_indexes.as_deref()), (vec![Some(1)], Some("0")));
    let made = make(&job, Some(3));
    assert_eq!(made.metadata.generate_name.as_deref(), Some("count-3-"));
    assert_eq!(made.metadata.finalizers, Some(vec![FINALIZER.to_string()]));
    assert_eq!(made.spec.unwrap().containers[0].env.as_ref().unwrap()[0].name, "JOB_COMPLETION_INDEX");
}

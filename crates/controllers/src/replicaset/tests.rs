use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::fixture::{at, changed, now, pod_of, set};

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().map(|p| crate::object::name(&p.metadata)).collect()
}

fn pods(set: &ReplicaSet, names: &[&str]) -> Vec<Arc<Pod>> {
    names.iter().map(|n| Arc::new(pod_of(set, n))).collect()
}

#[test]
fn makes_what_is_missing_and_deletes_what_is_too_many() {
    let web = set("web", 3);
    assert_eq!(plan(&web, &[], now()).create, 3);
    assert_eq!(plan(&web, &pods(&web, &["a"]), now()).create, 2);
    assert_eq!(plan(&web, &pods(&web, &["a", "b", "c"]), now()).create, 0);
    assert_eq!(plan(&web, &pods(&web, &["a", "b", "c", "d"]), now()).delete.len(), 1);
    assert_eq!(plan(&set("web", 10_000), &[], now()).create, BURST);
}

#[test]
fn ended_and_ending_pods_do_not_count() {
    let web = set("web", 2);
    let ending = changed(&pod_of(&web, "a"), |p| p.metadata.deletion_timestamp = Some(Time(now())));
    let failed = changed(&pod_of(&web, "b"), |p| p.status.as_mut().unwrap().phase = Some("Failed".into()));
    assert_eq!(plan(&web, &[ending, failed], now()).create, 2);
}

#[test]
fn adopts_releases_and_leaves_strangers_alone() {
    let web = set("web", 1);
    let orphan = changed(&pod_of(&web, "orphan"), |p| p.metadata.owner_references = None);
    let relabelled = changed(&pod_of(&web, "relabelled"), |p| p.metadata.labels = None);
    let stranger = changed(&pod_of(&set("other", 1), "stranger"), |p| {
        p.metadata.labels = Some([("app".to_string(), "web".to_string())].into());
    });
    let got = plan(&web, &[orphan, relabelled, stranger], now());
    assert_eq!(names(&got.adopt), ["orphan"]);
    assert_eq!(names(&got.release), ["relabelled"]);
    assert_eq!((got.create, got.delete.len()), (0, 0));
}

#[test]
fn a_set_that_is_going_touches_nothing() {
    let web = changed(&set("web", 3), |s| s.metadata.deletion_timestamp = Some(Time(now())));
    let got = plan(&web, &pods(&set("web", 3), &["a"]), now());
    assert_eq!((got.create, got.delete.len(), got.adopt.len()), (0, 0, 0));
}

#[test]
fn pods_go_in_the_order_in_which_they_are_missed_least() {
    let web = set("web", 0);
    let base = pod_of(&web, "x");
    let made = |name: &str, change: &dyn Fn(&mut Pod)| {
        changed(&base, |p| {
            p.metadata.name = Some(name.into());
            p.metadata.uid = Some(format!("uid-{name}"));
            p.metadata.creation_timestamp = Some(Time(at(500_000)));
            change(p);
        })
    };
    let status = |p: &mut Pod| p.status.clone().unwrap();
    let all = [
        made("7-old", &|_| {}),
        made("6-recently-ready", &|p| {
            let mut s = status(p);
            s.conditions.as_mut().unwrap()[0].last_transition_time = Some(Time(at(999_990)));
            p.status = Some(s);
        }),
        made("5-crowded", &|p| p.spec.as_mut().unwrap().node_name = Some("n2".into())),
        made("4-cheap", &|p| {
            let cost = ("controller.kubernetes.io/pod-deletion-cost".to_string(), "-5".to_string());
            p.metadata.annotations = Some([cost].into());
        }),
        made("3-not-ready", &|p| p.status.as_mut().unwrap().conditions = None),
        made("2-pending", &|p| p.status.as_mut().unwrap().phase = Some("Pending".into())),
        made("1-unassigned", &|p| p.spec.as_mut().unwrap().node_name = None),
    ];
    // Four more pods of the same Deployment make n2 the fuller node.
    let crowd = (0..9).map(|i| changed(&*all[2], |p| p.metadata.uid = Some(format!("crowd-{i}"))));
    let related: Vec<_> = all.iter().cloned().chain(crowd).collect();
    let order = victims(&all, &related, 7, now());
    assert_eq!(
        names(&order),
        ["1-unassigned", "2-pending", "3-not-ready", "4-cheap", "5-crowded", "6-recently-ready", "7-old"]
    );
}

#[test]
fn status_counts_and_waits_for_min_ready_seconds() {
    let web = changed(&set("web", 3), |s| s.spec.as_mut().unwrap().min_ready_seconds = Some(60));
    let fresh = changed(&pod_of(&web, "fresh"), |p| {
        p.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].last_transition_time = Some(Time(at(999_970)));
    });
    let unready = changed(&pod_of(&web, "unready"), |p| p.status.as_mut().unwrap().conditions = None);
    let (got, wait) = status(&web, &[fresh, unready, Arc::new(pod_of(&web, "old"))], None, now());
    assert_eq!((got.replicas, got.ready_replicas, got.available_replicas), (3, Some(2), Some(1)));
    assert_eq!(got.fully_labeled_replicas, Some(3));
    assert_eq!(wait, Some(Duration::from_secs(30)));
}

#[test]
fn a_failure_is_a_condition_until_it_is_over() {
    let web = set("web", 1);
    let failure = Failure { reason: "FailedCreate", message: "quota".into() };
    let (failed, _) = status(&web, &[], Some(&failure), now());
    assert_eq!(failed.conditions.as_ref().unwrap()[0].message.as_deref(), Some("quota"));
    let web = changed(&web, |s| s.status = Some(failed.clone()));
    assert_eq!(status(&web, &[], Some(&failure), at(2_000_000)).0, failed, "said once");
    assert_eq!(status(&web, &[], None, now()).0.conditions, None);
}

/// Crash after any write, missed and repeated events: each plan starts from what there is, so the right number results.
#[test]
fn crashes_between_writes_do_no_harm() {
    for crash_after in 0..4 {
        let web = set("web", 4);
        let mut there: Vec<Arc<Pod>> = vec![];
        for round in 0..6 {
            let planned = plan(&web, &there, now());
            let writes = if round == 0 { crash_after } else { planned.create };
            (0..writes.min(planned.create)).for_each(|i| there.push(Arc::new(pod_of(&web, &format!("{round}-{i}")))));
            if round == 2 {
                there.pop();
            }
        }
        assert_eq!(there.len(), 4);
    }
}

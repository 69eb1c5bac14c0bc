use serde_json::json;

use super::*;
use crate::fixture::{changed, deployment, object, set};

/// A set of a size, with so many available pods, sized for a Deployment of (desired, max).
fn sized(name: &str, size: i32, available: i32, sized_for: (i32, i32)) -> Sized {
    let set = changed(&set(name, size), |s| {
        s.status = Some(object(json!({"replicas": size, "availableReplicas": available})));
        let notes =
            [(revision::DESIRED.to_string(), sized_for.0.to_string()), (revision::MAX.into(), sized_for.1.to_string())];
        s.metadata.annotations = Some(notes.into());
    });
    Sized::of(&set)
}

#[test]
fn limits_resolve_percentages() {
    let limits = |replicas, surge, unavailable| {
        let l = Limits::of(&deployment(replicas, surge, unavailable));
        (l.surge, l.unavailable)
    };
    assert_eq!(limits(10, json!("25%"), json!("25%")), (3, 2));
    assert_eq!(limits(2, json!("25%"), json!("25%")), (1, 0));
    assert_eq!(limits(1, json!(0), json!("10%")), (0, 1), "something must be able to move");
    assert_eq!(limits(3, json!(5), json!(9)), (5, 3));
}

fn check_roll(replicas: i32, surge: i32, unavailable: i32, new: (i32, i32), old: &[(i32, i32)], expect: (i32, &[i32])) {
    let limits = Limits { replicas, surge, unavailable };
    let mut new = sized("new", new.0, new.1, (0, 0));
    let mut olds: Vec<_> = old.iter().map(|(size, available)| sized("old", *size, *available, (0, 0))).collect();
    roll(limits, &mut new, &mut olds);
    let got: Vec<i32> = olds.iter().map(|s| s.size).collect();
    assert_eq!((new.size, got.as_slice()), expect);
}

#[test]
fn rolling_steps() {
    // Room above: the new set grows first.
    check_roll(10, 2, 2, (0, 0), &[(10, 10)], (2, &[10]));
    // No room: the old one shrinks as far as availability allows, not counting new pods that are not there yet.
    check_roll(10, 2, 2, (2, 0), &[(10, 10)], (2, &[8]));
    check_roll(10, 2, 0, (2, 0), &[(10, 10)], (2, &[10]));
    check_roll(10, 2, 0, (2, 2), &[(10, 10)], (2, &[8]));
    // Old pods that serve nobody go first.
    check_roll(10, 0, 2, (0, 0), &[(5, 1), (5, 5)], (0, &[3, 5]));
    check_roll(10, 0, 5, (0, 0), &[(4, 0), (6, 6)], (0, &[0, 5]));
    // The end.
    check_roll(3, 1, 0, (3, 3), &[(1, 1)], (3, &[0]));
    check_roll(2, 1, 0, (4, 4), &[], (2, &[]));
}

/// Whatever becomes available when, a rolling update never has fewer available or more existing pods than it may.
#[test]
fn a_rolling_update_keeps_its_limits_and_ends() {
    let mut seed = 3u32;
    let mut random = |n: i32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((seed >> 8) % n.max(1) as u32) as i32
    };
    for _ in 0..200 {
        let replicas = 1 + random(12);
        let (surge, unavailable) = (random(4), random(4).min(replicas));
        let limits = Limits { replicas, surge, unavailable: if surge + unavailable == 0 { 1 } else { unavailable } };
        let mut new = sized("new", 0, 0, (0, 0));
        let mut old = vec![sized("old", replicas, replicas, (0, 0))];
        let mut rounds = 0;
        while new.size != replicas || total(&old) > 0 || new.available() != replicas {
            rounds += 1;
            assert!(rounds < 500, "does not end: {limits:?}");
            // Some of the new pods become available, deleted ones go; the sets say so late or at once.
            let ready = (new.available() + random(3)).min(new.size);
            new = sized("new", new.size, ready, (0, 0));
            let left = old[0].size;
            old = vec![sized("old", left, left, (0, 0))];
            roll(limits, &mut new, &mut old);
            let available = new.available().min(new.size) + old[0].size;
            assert!(available >= limits.least_available(), "{limits:?}: {available} available");
            assert!(new.size + old[0].size <= limits.most(), "{limits:?}");
        }
    }
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_shared() {
    let limits = Limits { replicas: 20, surge: 4, unavailable: 4 };
    let mut new = sized("new", 4, 4, (10, 12));
    let mut old = vec![sized("old", 8, 8, (10, 12))];
    assert!(is_scaled(limits, &[new.clone(), old[0].clone()]));
    proportional(limits, true, Some(&mut new), &mut old);
    assert_eq!((new.size, old[0].size), (8, 16));
    let limits = Limits { replicas: 0, surge: 0, unavailable: 0 };
    proportional(limits, true, Some(&mut new), &mut old);
    assert_eq!((new.size, old[0].size), (0, 0));
}

#[test]
fn scaling_a_deployment_at_rest_scales_its_one_set() {
    let limits = Limits { replicas: 5, surge: 2, unavailable: 1 };
    let mut new = sized("new", 2, 2, (2, 3));
    proportional(limits, true, Some(&mut new), &mut [sized("old", 0, 0, (2, 3))]);
    assert_eq!(new.size, 5);
}

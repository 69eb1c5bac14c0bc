//! What is to be done about one object.

use std::collections::HashSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::graph::{Graph, Object};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Nothing,
    /// Owners that the graph does not know: whether they exist must be asked first.
    Ask(Vec<OwnerReference>),
    Delete(Policy),
    /// Owners that are gone, or that only wait for this object, while others stay.
    Disown(Vec<String>),
    /// The object's dependents are to lose it as an owner, then it may go.
    Orphan(Vec<String>),
    /// Dependents that must go before the object may; deleted unless they are being deleted already.
    Clear(Vec<String>),
    /// Nothing is left that the object has to wait for.
    Release,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Background,
    Foreground,
    Orphan,
}

/// `absent` are uids of which the server said that they do not exist.
pub(crate) fn plan(graph: &Graph, uid: &str, absent: &HashSet<String>) -> Action {
    match graph.get(uid) {
        None => Action::Nothing,
        Some(object) if object.deleted && object.orphan => {
            Action::Orphan(graph.dependents(uid).map(|(uid, _)| uid.clone()).collect())
        }
        Some(object) if object.waits() => clear(graph, uid),
        Some(object) if object.deleted => Action::Nothing,
        Some(object) => by_owners(graph, uid, object, absent),
    }
}

fn clear(graph: &Graph, uid: &str) -> Action {
    let blocks = |o: &Object| o.owners.iter().any(|o| o.uid == uid && o.block_owner_deletion == Some(true));
    if !graph.dependents(uid).any(|(_, o)| blocks(o)) {
        return Action::Release;
    }
    Action::Clear(graph.dependents(uid).filter(|(_, o)| !o.deleted).map(|(uid, _)| uid.clone()).collect())
}

fn by_owners(graph: &Graph, uid: &str, object: &Object, absent: &HashSet<String>) -> Action {
    let (mut solid, mut waiting, mut gone, mut unknown) = (0, vec![], vec![], vec![]);
    for owner in &object.owners {
        match graph.get(&owner.uid) {
            Some(o) if o.waits() => waiting.push(owner.uid.clone()),
            Some(_) => solid += 1,
            None if absent.contains(&owner.uid) => gone.push(owner.uid.clone()),
            None => unknown.push(owner.clone()),
        }
    }
    if !unknown.is_empty() {
        return Action::Ask(unknown);
    }
    match (solid, waiting.is_empty(), gone.is_empty()) {
        (_, true, true) => Action::Nothing,
        (0, false, _) if graph.dependents(uid).next().is_some() => Action::Delete(Policy::Foreground),
        (0, _, _) => Action::Delete(policy(object)),
        _ => Action::Disown(waiting.into_iter().chain(gone).collect()),
    }
}

/// How the object itself asks to be deleted.
fn policy(object: &Object) -> Policy {
    match (object.orphan, object.foreground) {
        (true, _) => Policy::Orphan,
        (_, true) => Policy::Foreground,
        _ => Policy::Background,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
    use skiff_client::cache::Key;

    use super::{
        super::graph::{FOREGROUND, ORPHAN},
        *,
    };
    use crate::fixture::now;

    fn object(owners: &[&str], deleted: bool, finalizers: &[&str]) -> Object {
        let owner = |uid: &&str| OwnerReference {
            uid: uid.to_string(),
            block_owner_deletion: Some(true),
            ..Default::default()
        };
        let meta = ObjectMeta {
            owner_references: Some(owners.iter().map(owner).collect()),
            deletion_timestamp: deleted.then_some(Time(now())),
            finalizers: Some(finalizers.iter().map(|f| f.to_string()).collect()),
            ..Default::default()
        };
        Object::new(0, Key::new("ns", "x"), &meta)
    }

    fn graph(objects: &[(&str, Object)]) -> Graph {
        let mut graph = Graph::default();
        for (uid, object) in objects {
            graph.put(uid, object.clone());
        }
        graph
    }

    fn absent(uids: &[&str]) -> HashSet<String> {
        uids.iter().map(|u| u.to_string()).collect()
    }

    #[test]
    fn owners_decide() {
        let owner = object(&[], false, &[]);
        let kept = graph(&[("o", owner.clone()), ("d", object(&["o"], false, &[]))]);
        assert_eq!(plan(&kept, "d", &absent(&[])), Action::Nothing);
        let lost = graph(&[("d", object(&["o"], false, &[]))]);
        assert!(matches!(plan(&lost, "d", &absent(&[])), Action::Ask(o) if o[0].uid == "o"));
        assert_eq!(plan(&lost, "d", &absent(&["o"])), Action::Delete(Policy::Background));
        let half = graph(&[("o", owner), ("d", object(&["o", "p"], false, &[]))]);
        assert_eq!(plan(&half, "d", &absent(&["p"])), Action::Disown(vec!["p".into()]));
    }

    #[test]
    fn foreground_deletion_goes_from_the_leaves_up() {
        let mut g = graph(&[
            ("top", object(&[], true, &[FOREGROUND])),
            ("mid", object(&["top"], false, &[])),
            ("leaf", object(&["mid"], false, &[])),
        ]);
        assert_eq!(plan(&g, "top", &absent(&[])), Action::Clear(vec!["mid".into()]));
        assert_eq!(plan(&g, "mid", &absent(&[])), Action::Delete(Policy::Foreground));
        let dirty = g.put("mid", object(&["top"], true, &[FOREGROUND]));
        assert!(dirty.contains("leaf"), "{dirty:?}");
        assert_eq!(plan(&g, "leaf", &absent(&[])), Action::Delete(Policy::Background));
        assert!(g.remove("leaf").contains("mid"));
        assert_eq!(plan(&g, "mid", &absent(&[])), Action::Release);
        assert!(g.remove("mid").contains("top"));
        assert_eq!(plan(&g, "top", &absent(&[])), Action::Release);
    }

    #[test]
    fn orphans_are_let_go() {
        let g = graph(&[("o", object(&[], true, &[ORPHAN])), ("d", object(&["o"], false, &[]))]);
        assert_eq!(plan(&g, "o", &absent(&[])), Action::Orphan(vec!["d".into()]));
        assert_eq!(plan(&g, "d", &absent(&[])), Action::Nothing);
    }

    #[test]
    fn missed_and_repeated_events_do_no_harm() {
        let mut g = graph(&[("o", object(&[], false, &[])), ("d", object(&["o"], false, &[]))]);
        assert!(g.put("d", object(&["o"], false, &[])).is_empty(), "the same again is nothing new");
        assert_eq!(g.missing(0, &absent(&["d"])), ["o"]);
        assert_eq!(g.remove("o"), absent(&["d"]));
        assert!(g.remove("o").contains("d"));
    }
}

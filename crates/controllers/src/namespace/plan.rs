//! What the status of an ending namespace says.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

pub(crate) const FINALIZER: &str = "kubernetes";

/// True when this controller has to empty the namespace.
pub(crate) fn is_ending(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_ref());
    namespace.metadata.deletion_timestamp.is_some() && finalizers.is_some_and(|f| f.iter().any(|f| f == FINALIZER))
}

/// What a round of deletions left.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Remains {
    /// Kinds that could not be asked for.
    pub discovery: Option<String>,
    /// Deletions that failed.
    pub failures: Vec<String>,
    /// Objects left, by resource.
    pub objects: BTreeMap<String, usize>,
    /// Objects that wait for a finalizer, by finalizer.
    pub finalizers: BTreeMap<String, usize>,
}

impl Remains {
    pub(crate) fn is_empty(&self) -> bool {
        self.discovery.is_none() && self.failures.is_empty() && self.objects.is_empty()
    }
}

pub(crate) fn conditions(before: &[NamespaceCondition], remains: &Remains, now: Timestamp) -> Vec<NamespaceCondition> {
    let discovery = match &remains.discovery {
        None => ("False", "ResourcesDiscovered", "All resources successfully discovered".into()),
        Some(error) => ("True", "DiscoveryFailed", format!("Discovery failed for some groups: {error}")),
    };
    let parsing = ("False", "ParsedGroupVersions", "All legacy kube types successfully parsed".into());
    let content = match remains.failures.is_empty() {
        true => ("False", "ContentDeleted", "All content successfully deleted, may be waiting on finalization".into()),
        false => ("True", "ContentDeletionFailed", remains.failures.join(", ")),
    };
    let list = |all: &BTreeMap<String, usize>, has: &str| {
        all.iter().map(|(what, count)| format!("{what} {has}{count} resource instances")).collect::<Vec<_>>().join(", ")
    };
    let objects = match remains.objects.is_empty() {
        true => ("False", "ContentRemoved", "All content successfully removed".into()),
        false => {
            ("True", "SomeResourcesRemain", format!("Some resources are remaining: {}", list(&remains.objects, "has ")))
        }
    };
    let finalizers = match remains.finalizers.is_empty() {
        true => ("False", "ContentHasNoFinalizers", "All content-preserving finalizers finished".into()),
        false => {
            let text = list(&remains.finalizers, "in ");
            ("True", "SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {text}"))
        }
    };
    let all = [
        ("NamespaceDeletionDiscoveryFailure", discovery),
        ("NamespaceDeletionGroupVersionParsingFailure", parsing),
        ("NamespaceDeletionContentFailure", content),
        ("NamespaceContentRemaining", objects),
        ("NamespaceFinalizersRemaining", finalizers),
    ];
    all.into_iter().map(|(kind, said)| condition(before, kind, said, now)).collect()
}

fn condition(
    before: &[NamespaceCondition],
    kind: &str,
    (status, reason, message): (&str, &str, String),
    now: Timestamp,
) -> NamespaceCondition {
    let same = before.iter().find(|c| c.type_ == kind && c.status == status);
    NamespaceCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{at, now};

    #[test]
    fn says_what_is_left_and_changes_only_when_that_does() {
        let remains = Remains {
            objects: [("pods.".to_string(), 2)].into(),
            finalizers: [("example.com/f".to_string(), 1)].into(),
            ..Default::default()
        };
        let said = conditions(&[], &remains, now());
        assert_eq!(said[3].message.as_deref(), Some("Some resources are remaining: pods. has 2 resource instances"));
        assert_eq!(
            said[4].message.as_deref(),
            Some("Some content in the namespace has finalizers remaining: example.com/f in 1 resource instances")
        );
        assert_eq!(conditions(&said, &remains, at(5_000_000)), said);
        let done = conditions(&said, &Remains::default(), at(5_000_000));
        assert!(done.iter().all(|c| c.status == "False"));
    }
}

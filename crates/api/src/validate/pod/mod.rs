//! Pods and pod templates.

mod container;
mod update;
mod volume;

use serde_json::Value;

use super::{Errors, each, meta, names, not_negative, one_of};
use crate::field::{Error, Path};
use crate::json::{get, list, text, texts, truth};

pub(super) use update::update;

const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];

/// A new pod.
pub(super) fn check(pod: &Value) -> Errors {
    match get(pod, "spec") {
        Some(spec) => spec_errors(spec, &Path::new("spec")),
        None => vec![Error::required(&Path::new("spec.containers"), "")],
    }
}

/// The template of a workload, its metadata included. `always`: its pods run for ever.
pub(super) fn template(template: &Value, path: &Path, always: bool) -> Errors {
    let mut errors = meta::labels(template, "metadata.labels", &path.child("metadata.labels"));
    let Some(spec) = get(template, "spec") else {
        errors.push(Error::required(&path.child("spec.containers"), ""));
        return errors;
    };
    errors.extend(spec_errors(spec, &path.child("spec")));
    let policy = text(spec, "restartPolicy");
    let at = path.child("spec.restartPolicy");
    if always && policy != "Always" && RESTART_POLICIES.contains(&policy) {
        errors.push(Error::not_supported(&at, policy, &["Always"]));
    }
    if !list(spec, "ephemeralContainers").is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        errors.push(Error::forbidden(&path.child("spec.ephemeralContainers"), why));
    }
    errors
}

fn spec_errors(spec: &Value, path: &Path) -> Errors {
    let volumes = volume::names_of(spec);
    let mut errors = volume::check(spec, path);
    errors.extend(container::check(spec, &volumes, path));
    errors.extend(one_of(&path.child("restartPolicy"), text(spec, "restartPolicy"), RESTART_POLICIES));
    errors.extend(dns(spec, path));
    errors.extend(plain_names(spec, path));
    errors.extend(meta::labels(spec, "nodeSelector", &path.child("nodeSelector")));
    errors.extend(tolerations(spec, &path.child("tolerations")));
    let grace = "terminationGracePeriodSeconds";
    errors.extend(not_negative(&path.child(grace), get(spec, grace)));
    if let Some(deadline) = get(spec, "activeDeadlineSeconds").and_then(Value::as_i64).filter(|d| *d < 1) {
        let why = "must be between 1 and 2147483647, inclusive";
        errors.push(Error::invalid(&path.child("activeDeadlineSeconds"), deadline, why));
    }
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let at = path.child("hostAliases").index(i);
        errors.extend(each(&at.child("ip"), text(alias, "ip"), names::ip(text(alias, "ip"))));
        for (j, name) in texts(alias, "hostnames").into_iter().enumerate() {
            errors.extend(each(&at.child("hostnames").index(j), name, names::subdomain(name)));
        }
    }
    errors
}

/// Fields that hold one name each.
fn plain_names(spec: &Value, path: &Path) -> Errors {
    let rules: [(&str, names::Rule); 6] = [
        ("hostname", names::label),
        ("subdomain", names::label),
        ("nodeName", names::subdomain),
        ("serviceAccountName", names::subdomain),
        ("priorityClassName", names::subdomain),
        ("runtimeClassName", names::subdomain),
    ];
    let mut errors = Errors::new();
    for (key, rule) in rules {
        let name = text(spec, key);
        if !name.is_empty() {
            errors.extend(each(&path.child(key), name, rule(name)));
        }
    }
    errors
}

fn dns(spec: &Value, path: &Path) -> Errors {
    let policy = text(spec, "dnsPolicy");
    let mut errors: Errors = one_of(&path.child("dnsPolicy"), policy, DNS_POLICIES).into_iter().collect();
    let config = path.child("dnsConfig");
    let servers = texts(spec, "dnsConfig.nameservers");
    if policy == "None" && servers.is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(Error::required(&config.child("nameservers"), why));
    }
    if servers.len() > 3 {
        let why = "must not have more than 3 nameservers";
        errors.push(Error::invalid(
            &config.child("nameservers"),
            get(spec, "dnsConfig.nameservers").cloned().unwrap_or_default(),
            why,
        ));
    }
    for (i, server) in servers.into_iter().enumerate() {
        errors.extend(each(&config.child("nameservers").index(i), server, names::ip(server)));
    }
    for (i, search) in texts(spec, "dnsConfig.searches").into_iter().enumerate() {
        let name = search.strip_suffix('.').unwrap_or(search);
        // Search domains may carry underscores.
        if search != "." {
            errors.extend(each(&config.child("searches").index(i), search, names::subdomain(&name.replace('_', "a"))));
        }
    }
    for (i, option) in list(spec, "dnsConfig.options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.push(Error::required(&config.child("options").index(i), "must not be empty"));
        }
    }
    errors
}

fn tolerations(spec: &Value, path: &Path) -> Errors {
    let mut errors = Errors::new();
    for (i, toleration) in list(spec, "tolerations").iter().enumerate() {
        let at = path.index(i);
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        if !key.is_empty() {
            errors.extend(each(&at.child("key"), key, names::label_key(key)));
        }
        if key.is_empty() && operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(Error::invalid(&at.child("operator"), operator, why));
        }
        match operator {
            "" | "Equal" | "Lt" | "Gt" => {}
            "Exists" if !text(toleration, "value").is_empty() => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.push(Error::invalid(
                    &at.child("operator"),
                    get(toleration, "value").cloned().unwrap_or_default(),
                    why,
                ));
            }
            "Exists" => {}
            other => errors.push(Error::not_supported(&at.child("operator"), other, &["Equal", "Exists"])),
        }
        let effect = text(toleration, "effect");
        if !effect.is_empty() {
            errors.extend(one_of(&at.child("effect"), effect, &["NoExecute", "NoSchedule", "PreferNoSchedule"]));
        }
        if get(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(Error::invalid(&at.child("effect"), effect, why));
        }
    }
    errors
}

/// Whether the pod stands in the host's network.
fn host_network(spec: &Value) -> bool {
    truth(spec, "hostNetwork")
}

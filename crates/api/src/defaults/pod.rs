//! Pods and pod templates.

use serde_json::{Map, Value};

use crate::json::{below, each_mut, fill, fill_int, fill_text, get, get_mut, int, is_zero, set, text, truth};

/// A Pod itself: what a template gets, and what only a Pod gets.
pub(super) fn pod(object: &mut Value) {
    let Some(spec) = below(object, "spec") else { return };
    for containers in ["containers", "initContainers"] {
        each_mut(spec, containers).for_each(requests_from_limits);
    }
    fill(spec, "enableServiceLinks", true);
    if truth(spec, "hostNetwork") {
        host_ports(spec);
    }
    pod_spec(spec);
}

/// The template below `key`.
pub(super) fn template(object: &mut Value, key: &str) {
    if let Some(spec) = get_mut(object, key).and_then(|t| below(t, "spec")) {
        pod_spec(spec);
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = get(container, "resources.limits").and_then(Value::as_object).cloned() else { return };
    if let Some(requests) = get_mut(container, "resources").and_then(|r| below(r, "requests")) {
        for (name, limit) in limits {
            fill(requests, &name, limit);
        }
    }
}

/// In the host's network a container's port is the host's.
fn host_ports(spec: &mut Value) {
    for containers in ["containers", "initContainers"] {
        for container in each_mut(spec, containers) {
            for port in each_mut(container, "ports") {
                let own = int(port, "containerPort");
                fill_int(port, "hostPort", own);
            }
        }
    }
}

fn pod_spec(spec: &mut Value) {
    each_mut(spec, "volumes").for_each(volume);
    each_mut(spec, "initContainers").for_each(container);
    each_mut(spec, "containers").for_each(container);
    each_mut(spec, "ephemeralContainers").for_each(container);
    fill_text(spec, "restartPolicy", "Always");
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill_text(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "securityContext", Map::new());
    fill_text(spec, "schedulerName", "default-scheduler");
    // The deprecated name follows the new one.
    match (text(spec, "serviceAccountName").to_owned(), text(spec, "serviceAccount").to_owned()) {
        (name, old) if name.is_empty() && !old.is_empty() => set(spec, "serviceAccountName", old),
        (name, old) if !name.is_empty() && old != name => set(spec, "serviceAccount", name),
        _ => {}
    }
}

fn container(container: &mut Value) {
    fill(container, "resources", Map::new());
    fill_text(container, "terminationMessagePath", "/dev/termination-log");
    fill_text(container, "terminationMessagePolicy", "File");
    let policy = pull_policy(text(container, "image"));
    fill_text(container, "imagePullPolicy", policy);
    each_mut(container, "ports").for_each(|p| fill_text(p, "protocol", "TCP"));
    for variable in each_mut(container, "env") {
        if let Some(field) = get_mut(variable, "valueFrom.fieldRef") {
            fill_text(field, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        get_mut(container, name).into_iter().for_each(probe);
    }
    for hook in ["lifecycle.postStart.httpGet", "lifecycle.preStop.httpGet"] {
        get_mut(container, hook).into_iter().for_each(http_get);
    }
}

/// `latest`, said or unsaid, is pulled always; a tag or a digest is fixed.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn probe(probe: &mut Value) {
    for (key, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        fill_int(probe, key, value);
    }
    get_mut(probe, "httpGet").into_iter().for_each(http_get);
    if let Some(grpc) = get_mut(probe, "grpc") {
        fill(grpc, "service", "");
    }
}

fn http_get(action: &mut Value) {
    fill_text(action, "path", "/");
    fill_text(action, "scheme", "HTTP");
}

fn volume(volume: &mut Value) {
    let sourceless = volume.as_object().is_some_and(|v| v.keys().all(|k| k == "name"));
    if sourceless {
        set(volume, "emptyDir", Map::new());
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = get_mut(volume, source) {
            fill(source, "defaultMode", 0o644);
        }
    }
    for items in ["downwardAPI.items", "projected.sources"] {
        each_mut(volume, items).for_each(projection);
    }
    if let Some(path) = get_mut(volume, "hostPath") {
        fill(path, "type", "");
    }
    if let Some(claim) = get_mut(volume, "ephemeral.volumeClaimTemplate.spec") {
        fill(claim, "volumeMode", "Filesystem");
    }
}

/// An item of a downward API volume, or a source of a projected one.
fn projection(item: &mut Value) {
    if let Some(field) = get_mut(item, "fieldRef") {
        fill_text(field, "apiVersion", "v1");
    }
    each_mut(item, "downwardAPI.items").for_each(projection);
    if let Some(token) = get_mut(item, "serviceAccountToken")
        && is_zero(get(token, "expirationSeconds"))
    {
        set(token, "expirationSeconds", 3600);
    }
}

#[cfg(test)]
mod tests {
    use super::pull_policy;

    #[test]
    fn pull_policy_follows_the_tag() {
        let check = |image: &str, expect: &str| assert_eq!(pull_policy(image), expect, "{image}");
        check("nginx", "Always");
        check("nginx:latest", "Always");
        check("nginx:1.27", "IfNotPresent");
        check("localhost:5000/nginx", "Always");
        check("localhost:5000/nginx:v1", "IfNotPresent");
        check("nginx@sha256:0123", "IfNotPresent");
    }
}

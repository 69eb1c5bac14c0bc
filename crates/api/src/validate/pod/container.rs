//! Containers: names, images, ports, variables, mounts, probes, resources.

use serde_json::Value;

use super::{host_network, volume};
use crate::field::{Error, Path};
use crate::json::{get, int, list, map, text};
use crate::quantity;
use crate::validate::service::target_port;
use crate::validate::{Errors, each, names, not_negative, one_of};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
/// What the downward API offers to variables, besides single labels and annotations.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// All containers of a pod.
pub(super) fn check(spec: &Value, volumes: &[&str], path: &Path) -> Errors {
    let mut errors = Errors::new();
    if list(spec, "containers").is_empty() {
        errors.push(Error::required(&path.child("containers"), ""));
    }
    let mut seen: Vec<&str> = Vec::new();
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in list(spec, key).iter().enumerate() {
            let at = path.child(key).index(i);
            let name = text(container, "name");
            errors.extend(one(container, volumes, host_network(spec), &at));
            if !name.is_empty() && seen.contains(&name) {
                errors.push(Error::duplicate(&at.child("name"), name));
            }
            seen.push(name);
            if key == "initContainers" {
                errors.extend(init(container, &at));
            }
        }
    }
    errors.extend(host_port_conflicts(spec, path));
    errors
}

fn one(container: &Value, volumes: &[&str], host_network: bool, path: &Path) -> Errors {
    let mut errors = Errors::new();
    match text(container, "name") {
        "" => errors.push(Error::required(&path.child("name"), "")),
        name => errors.extend(each(&path.child("name"), name, names::label(name))),
    }
    errors.extend(image(text(container, "image"), &path.child("image")));
    errors.extend(one_of(&path.child("imagePullPolicy"), text(container, "imagePullPolicy"), PULL_POLICIES));
    let policy = text(container, "terminationMessagePolicy");
    errors.extend(one_of(&path.child("terminationMessagePolicy"), policy, &["FallbackToLogsOnError", "File"]));
    errors.extend(ports(container, host_network, &path.child("ports")));
    errors.extend(env(container, &path.child("env")));
    errors.extend(env_from(container, &path.child("envFrom")));
    errors.extend(mounts(container, volumes, &path.child("volumeMounts")));
    errors.extend(resources(container, &path.child("resources")));
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(p) = get(container, name) {
            errors.extend(probe(p, name != "readinessProbe", &path.child(name)));
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = get(container, &format!("lifecycle.{hook}")) {
            errors.extend(handlers(handler, &path.child("lifecycle").child(hook)));
        }
    }
    errors
}

/// Init containers run to their end one by one, so most probes make no sense; with restartPolicy Always they are sidecars.
fn init(container: &Value, path: &Path) -> Errors {
    let mut errors = Errors::new();
    if text(container, "restartPolicy") == "Always" {
        return errors;
    }
    for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if get(container, key).is_some() {
            let why = "may not be set for init containers without restartPolicy=Always";
            errors.push(Error::forbidden(&path.child(key), why));
        }
    }
    errors
}

fn image(image: &str, path: &Path) -> Option<Error> {
    match image {
        "" => Some(Error::required(path, "")),
        i if i.trim() != i => Some(Error::invalid(path, i, "must not have leading or trailing whitespace")),
        _ => None,
    }
}

fn ports(container: &Value, host_network: bool, path: &Path) -> Errors {
    let all = list(container, "ports");
    let mut errors = Errors::new();
    for (i, port) in all.iter().enumerate() {
        let at = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            errors.extend(each(&at.child("name"), name, names::port_name(name)));
            if all[..i].iter().any(|p| text(p, "name") == name) {
                errors.push(Error::duplicate(&at.child("name"), name));
            }
        }
        let (number, host) = (int(port, "containerPort"), int(port, "hostPort"));
        match number {
            0 => errors.push(Error::required(&at.child("containerPort"), "")),
            n => errors.extend(number_errors(n, &at.child("containerPort"))),
        }
        if host != 0 {
            errors.extend(number_errors(host, &at.child("hostPort")));
            if host_network && host != number {
                let why = "must match `hostPort` when `hostNetwork` is true";
                errors.push(Error::invalid(&at.child("containerPort"), number, why));
            }
        }
        errors.extend(one_of(&at.child("protocol"), text(port, "protocol"), PROTOCOLS));
        let ip = text(port, "hostIP");
        if !ip.is_empty() {
            errors.extend(each(&at.child("hostIP"), ip, names::ip(ip)));
        }
    }
    errors
}

fn number_errors(number: i64, path: &Path) -> Errors {
    names::port_number(number).into_iter().map(|m| Error::invalid(path, number, m)).collect()
}

/// One host port, protocol and address can be given out once per pod.
fn host_port_conflicts(spec: &Value, path: &Path) -> Errors {
    let mut errors = Errors::new();
    let mut taken: Vec<String> = Vec::new();
    for key in ["containers"] {
        for (i, container) in list(spec, key).iter().enumerate() {
            for (j, port) in list(container, "ports").iter().enumerate().filter(|(_, p)| int(p, "hostPort") != 0) {
                let what = format!("{}/{}/{}", text(port, "protocol"), text(port, "hostIP"), int(port, "hostPort"));
                if taken.contains(&what) {
                    let at = path.child(key).index(i).child("ports").index(j).child("hostPort");
                    errors.push(Error::duplicate(&at, what.as_str()));
                }
                taken.push(what);
            }
        }
    }
    errors
}

fn env(container: &Value, path: &Path) -> Errors {
    let mut errors = Errors::new();
    for (i, variable) in list(container, "env").iter().enumerate() {
        let at = path.index(i);
        match text(variable, "name") {
            "" => errors.push(Error::required(&at.child("name"), "")),
            name => errors.extend(each(&at.child("name"), name, names::env_name(name))),
        }
        let Some(source) = get(variable, "valueFrom") else { continue };
        let at = at.child("valueFrom");
        if !text(variable, "value").is_empty() {
            errors.push(Error::invalid(&at, "", "may not be specified when `value` is not empty"));
        }
        errors.extend(env_source(source, &at));
    }
    errors
}

fn env_source(source: &Value, path: &Path) -> Errors {
    const KINDS: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let given: Vec<&str> = KINDS.into_iter().filter(|k| get(source, k).is_some()).collect();
    if given.is_empty() {
        let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        return vec![Error::invalid(path, "", why)];
    }
    if given.len() > 1 {
        return vec![Error::invalid(path, "", "may not have more than one field specified at a time")];
    }
    let mut errors = Errors::new();
    let at = path.child(given[0]);
    match given[0] {
        "fieldRef" => errors.extend(field_ref(text(source, "fieldRef.fieldPath"), &at.child("fieldPath"))),
        "configMapKeyRef" | "secretKeyRef" => {
            let reference = get(source, given[0]).unwrap_or(source);
            if text(reference, "name").is_empty() {
                errors.push(Error::required(&at.child("name"), ""));
            }
            match text(reference, "key") {
                "" => errors.push(Error::required(&at.child("key"), "")),
                key => errors.extend(each(&at.child("key"), key, names::config_key(key))),
            }
        }
        _ => {}
    }
    errors
}

fn field_ref(field: &str, path: &Path) -> Option<Error> {
    let subscript = ["metadata.labels['", "metadata.annotations['"];
    let one_of_a_map = subscript.iter().any(|s| field.starts_with(s)) && field.ends_with("']");
    match field {
        "" => Some(Error::required(path, "")),
        f if FIELDS.contains(&f) || one_of_a_map => None,
        f => Some(Error::not_supported(path, f, FIELDS)),
    }
}

fn env_from(container: &Value, path: &Path) -> Errors {
    let mut errors = Errors::new();
    for (i, source) in list(container, "envFrom").iter().enumerate() {
        let at = path.index(i);
        let given: Vec<&str> = ["configMapRef", "secretRef"].into_iter().filter(|k| get(source, k).is_some()).collect();
        match given[..] {
            [] => errors.push(Error::invalid(&at, "", "must specify one of: `configMapRef` or `secretRef`")),
            [one] if text(source, &format!("{one}.name")).is_empty() => {
                errors.push(Error::required(&at.child(one).child("name"), ""));
            }
            [_] => {}
            _ => errors.push(Error::invalid(&at, "", "may not have more than one field specified at a time")),
        }
    }
    errors
}

fn mounts(container: &Value, volumes: &[&str], path: &Path) -> Errors {
    let all = list(container, "volumeMounts");
    let mut errors = Errors::new();
    for (i, mount) in all.iter().enumerate() {
        let at = path.index(i);
        match text(mount, "name") {
            "" => errors.push(Error::required(&at.child("name"), "")),
            name if !volumes.contains(&name) => errors.push(Error::not_found(&at.child("name"), name)),
            _ => {}
        }
        let target = text(mount, "mountPath");
        if target.is_empty() {
            errors.push(Error::required(&at.child("mountPath"), ""));
        }
        if all[..i].iter().any(|m| text(m, "mountPath") == target) {
            errors.push(Error::invalid(&at.child("mountPath"), target, "must be unique"));
        }
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        errors.extend(volume::relative(sub, &at.child("subPath")));
        errors.extend(volume::relative(expression, &at.child("subPathExpr")));
        if !sub.is_empty() && !expression.is_empty() {
            errors.push(Error::invalid(
                &at.child("subPathExpr"),
                expression,
                "subPathExpr and subPath are mutually exclusive",
            ));
        }
    }
    errors
}

fn resources(container: &Value, path: &Path) -> Errors {
    let mut errors = Errors::new();
    let printed = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    for kind in ["limits", "requests"] {
        for (name, value) in map(container, &format!("resources.{kind}")).into_iter().flatten() {
            let at = path.child(kind).key(name);
            let text = printed(value);
            if quantity::millis(&text).is_some_and(|q| q < 0) {
                errors.push(Error::invalid(&at, text.as_str(), "must be greater than or equal to 0"));
            }
            if !name.contains('/') && !standard(name) {
                let why = "must be a standard resource type or fully qualified";
                errors.push(Error::invalid(&at, name.as_str(), why));
            }
        }
    }
    for (name, request) in map(container, "resources.requests").into_iter().flatten() {
        let limit = map(container, "resources.limits").and_then(|l| l.get(name));
        let Some(limit) = limit.map(printed) else { continue };
        let request = printed(request);
        if quantity::millis(&request) > quantity::millis(&limit) {
            let why = format!("must be less than or equal to {name} limit of {limit}");
            errors.push(Error::invalid(&path.child("requests"), request, why));
        }
    }
    errors
}

fn standard(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage" | "pids") || name.starts_with("hugepages-")
}

fn probe(probe: &Value, only_success_once: bool, path: &Path) -> Errors {
    let mut errors = handlers(probe, path);
    for key in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        errors.extend(not_negative(&path.child(key), get(probe, key)));
    }
    let successes = int(probe, "successThreshold");
    if only_success_once && successes != 1 {
        errors.push(Error::invalid(&path.child("successThreshold"), successes, "must be 1"));
    }
    errors
}

/// The one thing that a probe or hook does.
fn handlers(handler: &Value, path: &Path) -> Errors {
    const KINDS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let given: Vec<&str> = KINDS.into_iter().filter(|k| get(handler, k).is_some()).collect();
    let mut errors = Errors::new();
    if given.is_empty() {
        errors.push(Error::required(path, "must specify a handler type"));
    }
    for kind in given.iter().skip(1) {
        errors.push(Error::forbidden(&path.child(kind), "may not specify more than 1 handler type"));
    }
    for kind in given {
        let at = path.child(kind);
        let action = get(handler, kind).unwrap_or(handler);
        match kind {
            "exec" if list(action, "command").is_empty() => errors.push(Error::required(&at.child("command"), "")),
            "httpGet" => {
                if text(action, "path").is_empty() {
                    errors.push(Error::required(&at.child("path"), ""));
                }
                errors.extend(target_port(get(action, "port"), &at.child("port")));
                errors.extend(one_of(&at.child("scheme"), text(action, "scheme"), &["HTTP", "HTTPS"]));
            }
            "tcpSocket" => errors.extend(target_port(get(action, "port"), &at.child("port"))),
            "grpc" => errors.extend(number_errors(int(action, "port"), &at.child("port"))),
            _ => {}
        }
    }
    errors
}

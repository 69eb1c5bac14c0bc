//! Pods and their containers.

use serde_json::Value;
use skiff_api::json;

use super::{
    Writer,
    fields::{controller, go_list, or_none, scalar, sorted, time},
    volumes::volumes,
};

pub(super) fn pod(w: &mut Writer, pod: &Value) -> bool {
    let text = |path: &str| json::text(pod, path);
    w.name(pod);
    if let Some(priority) = json::get(pod, "spec.priority") {
        w.field(0, "Priority", priority);
        w.maybe(0, "Priority Class Name", text("spec.priorityClassName"));
    }
    w.maybe(0, "Runtime Class Name", text("spec.runtimeClassName"));
    w.field(0, "Service Account", text("spec.serviceAccountName"));
    match text("spec.nodeName") {
        "" => w.field(0, "Node", "<none>"),
        node => w.field(0, "Node", format!("{node}/{}", text("status.hostIP"))),
    }
    if !text("status.startTime").is_empty() {
        w.field(0, "Start Time", time(text("status.startTime")));
    }
    w.marks(pod);
    status(w, pod);
    w.maybe(0, "Reason", text("status.reason"));
    w.maybe(0, "Message", text("status.message"));
    w.field(0, "IP", text("status.podIP"));
    match json::list(pod, "status.podIPs") {
        [] => w.field(0, "IPs", "<none>"),
        ips => {
            w.line(0, "IPs:");
            ips.iter().for_each(|ip| w.field(1, "IP", json::text(ip, "ip")));
        }
    }
    w.maybe(0, "Controlled By", &controller(pod));
    let init = json::list(pod, "spec.initContainers");
    if !init.is_empty() {
        containers(w, "Init Containers", init, json::list(pod, "status.initContainerStatuses"), Some(pod), 0);
    }
    let all = json::list(pod, "spec.containers");
    containers(w, "Containers", all, json::list(pod, "status.containerStatuses"), Some(pod), 0);
    conditions(w, pod);
    volumes(w, json::list(pod, "spec.volumes"), 0);
    w.maybe(0, "QoS Class", text("status.qosClass"));
    w.labels(0, "Node-Selectors", json::map(pod, "spec.nodeSelector"));
    w.several(0, "Tolerations", &tolerations(pod));
    true
}

fn status(w: &mut Writer, pod: &Value) {
    let (deleted, phase) = (json::text(pod, "metadata.deletionTimestamp"), json::text(pod, "status.phase"));
    if deleted.is_empty() || matches!(phase, "Succeeded" | "Failed") {
        return w.field(0, "Status", phase);
    }
    w.field(0, "Status", format!("Terminating (lasts {})", super::fields::age(deleted)));
    if let Some(grace) = json::get(pod, "metadata.deletionGracePeriodSeconds") {
        w.field(0, "Termination Grace Period", format!("{grace}s"));
    }
}

fn conditions(w: &mut Writer, pod: &Value) {
    let all = json::list(pod, "status.conditions");
    if all.is_empty() {
        return;
    }
    w.line(0, "Conditions:");
    w.line(1, "Type\tStatus");
    all.iter().for_each(|c| w.line(1, format!("{} \t{} ", json::text(c, "type"), json::text(c, "status"))));
}

pub(super) fn tolerations(spec_of: &Value) -> Vec<String> {
    let all = json::list(spec_of, "spec.tolerations").iter();
    all.map(|t| {
        let (key, value, effect) = (json::text(t, "key"), json::text(t, "value"), json::text(t, "effect"));
        let mut text = key.to_owned();
        if !value.is_empty() {
            text.push_str(&format!("={value}"));
        }
        if !effect.is_empty() {
            text.push_str(&format!(":{effect}"));
        }
        if json::text(t, "operator") == "Exists" && value.is_empty() {
            text.push_str(if text.is_empty() { "op=Exists" } else { " op=Exists" });
        }
        if let Some(seconds) = t.get("tolerationSeconds") {
            text.push_str(&format!(" for {seconds}s"));
        }
        text
    })
    .collect()
}

/// `pod` is the running pod that the containers belong to; a template has none. `level` is 1 within a template.
pub(super) fn containers(
    w: &mut Writer,
    title: &str,
    all: &[Value],
    statuses: &[Value],
    pod: Option<&Value>,
    level: usize,
) {
    w.line(level, format!("{title}:"));
    for container in all {
        let name = json::text(container, "name");
        w.line(1, format!("{}{name}:", if level > 0 { " " } else { "" }));
        let status = statuses.iter().find(|s| json::text(s, "name") == name);
        basics(w, container, status);
        words(w, "Command", json::texts(container, "command"));
        words(w, "Args", json::texts(container, "args"));
        status.into_iter().for_each(|s| state_of(w, s));
        resources(w, container);
        for (title, field) in
            [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
        {
            container.get(field).into_iter().for_each(|p| w.field(2, title, probe(p)));
        }
        environment(w, container, pod);
        mounts(w, container);
    }
}

fn basics(w: &mut Writer, container: &Value, status: Option<&Value>) {
    status.into_iter().for_each(|s| w.field(2, "Container ID", json::text(s, "containerID")));
    w.field(2, "Image", json::text(container, "image"));
    status.into_iter().for_each(|s| w.field(2, "Image ID", json::text(s, "imageID")));
    for (title, field) in [("Port", "containerPort"), ("Host Port", "hostPort")] {
        let ports = json::list(container, "ports").iter();
        let all: Vec<String> = ports.map(|p| format!("{}/{}", json::int(p, field), protocol(p))).collect();
        let plural = if all.len() > 1 { "s" } else { "" };
        w.field(2, &format!("{title}{plural}"), or_none(&all.join(", ")));
    }
}

fn protocol(port: &Value) -> &str {
    match json::text(port, "protocol") {
        "" => "TCP",
        other => other,
    }
}

fn words(w: &mut Writer, title: &str, words: Vec<&str>) {
    if words.is_empty() {
        return;
    }
    w.line(2, format!("{title}:"));
    words.iter().flat_map(|word| word.split('\n')).for_each(|line| w.line(3, line));
}

fn state_of(w: &mut Writer, status: &Value) {
    state(w, "State", status.get("state"));
    let last = status.get("lastState").filter(|s| s.get("terminated").is_some());
    if last.is_some() {
        state(w, "Last State", last);
    }
    w.field(2, "Ready", if json::truth(status, "ready") { "True" } else { "False" });
    w.field(2, "Restart Count", json::int(status, "restartCount"));
}

fn state(w: &mut Writer, title: &str, state: Option<&Value>) {
    let of = |name: &str| state.and_then(|s| s.get(name)).filter(|s| s.is_object());
    if let Some(running) = of("running") {
        w.field(2, title, "Running");
        w.field(3, "Started", time(json::text(running, "startedAt")));
    } else if let Some(ended) = of("terminated") {
        w.field(2, title, "Terminated");
        w.maybe(3, "Reason", json::text(ended, "reason"));
        w.maybe(3, "Message", json::text(ended, "message"));
        w.field(3, "Exit Code", json::int(ended, "exitCode"));
        match json::int(ended, "signal") {
            0 => {}
            signal => w.field(3, "Signal", signal),
        }
        w.field(3, "Started", time(json::text(ended, "startedAt")));
        w.field(3, "Finished", time(json::text(ended, "finishedAt")));
    } else {
        w.field(2, title, "Waiting");
        of("waiting").into_iter().for_each(|s| w.maybe(3, "Reason", json::text(s, "reason")));
    }
}

fn resources(w: &mut Writer, container: &Value) {
    for (title, field) in [("Limits", "resources.limits"), ("Requests", "resources.requests")] {
        let all = sorted(json::get(container, field));
        if !all.is_empty() {
            w.line(2, format!("{title}:"));
            all.iter().for_each(|(name, amount)| w.field(3, name, amount));
        }
    }
}

fn probe(probe: &Value) -> String {
    let int = |field: &str| json::int(probe, field);
    let attributes = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        int("initialDelaySeconds"),
        int("timeoutSeconds"),
        int("periodSeconds"),
        int("successThreshold"),
        int("failureThreshold")
    );
    let text = |path: &str| json::get(probe, path).map(scalar).unwrap_or_default();
    let what = if probe.get("exec").is_some() {
        format!("exec {}", go_list(&json::texts(probe, "exec.command")))
    } else if probe.get("httpGet").is_some() {
        let scheme = text("httpGet.scheme").to_lowercase();
        let scheme = if scheme.is_empty() { "http".into() } else { scheme };
        let path = text("httpGet.path");
        let slash = if path.starts_with('/') || path.is_empty() { "" } else { "/" };
        format!("http-get {scheme}://{}:{}{slash}{path}", text("httpGet.host"), text("httpGet.port"))
    } else if probe.get("tcpSocket").is_some() {
        format!("tcp-socket {}:{}", text("tcpSocket.host"), text("tcpSocket.port"))
    } else if probe.get("grpc").is_some() {
        format!("grpc <pod>:{} {}", text("grpc.port"), text("grpc.service"))
    } else {
        "unknown".into()
    };
    format!("{what} {attributes}")
}

fn environment(w: &mut Writer, container: &Value, pod: Option<&Value>) {
    let sources = json::list(container, "envFrom");
    if !sources.is_empty() {
        w.line(2, "Environment Variables from:");
        sources.iter().for_each(|s| source(w, s));
    }
    let all = json::list(container, "env");
    w.line(2, if all.is_empty() { "Environment:\t<none>" } else { "Environment:" });
    all.iter().for_each(|v| variable(w, v, pod));
}

fn source(w: &mut Writer, source: &Value) {
    let (kind, from) = match (source.get("configMapRef"), source.get("secretRef")) {
        (Some(from), _) => ("ConfigMap", from),
        (_, Some(from)) => ("Secret", from),
        _ => return,
    };
    let prefix = match json::text(source, "prefix") {
        "" => String::new(),
        prefix => format!(" with prefix '{prefix}'"),
    };
    w.line(3, format!("{}\t{kind}{prefix}\tOptional: {}", json::text(from, "name"), json::truth(from, "optional")));
}

fn variable(w: &mut Writer, variable: &Value, pod: Option<&Value>) {
    let name = json::text(variable, "name");
    let text = |path: &str| json::text(variable, path);
    let Some(from) = variable.get("valueFrom") else {
        for (at, line) in text("value").split('\n').enumerate() {
            match at {
                0 => w.field(3, name, line),
                _ => w.line(3, format!("\t{line}")),
            }
        }
        return;
    };
    let optional = |path: &str| json::truth(from, path);
    if from.get("fieldRef").is_some() {
        let path = text("valueFrom.fieldRef.fieldPath");
        let value = pod.filter(|_| path.starts_with("metadata.")).map(|p| json::text(p, path)).unwrap_or_default();
        w.field(3, name, format!("{value} ({}:{path})", text("valueFrom.fieldRef.apiVersion")));
    } else if from.get("secretKeyRef").is_some() {
        let (key, of) = (text("valueFrom.secretKeyRef.key"), text("valueFrom.secretKeyRef.name"));
        let optional = optional("secretKeyRef.optional");
        w.field(3, name, format!("<set to the key '{key}' in secret '{of}'>\tOptional: {optional}"));
    } else if from.get("configMapKeyRef").is_some() {
        let (key, of) = (text("valueFrom.configMapKeyRef.key"), text("valueFrom.configMapKeyRef.name"));
        let optional = optional("configMapKeyRef.optional");
        w.field(3, name, format!("<set to the key '{key}' of config map '{of}'>\tOptional: {optional}"));
    } else {
        let resource = text("valueFrom.resourceFieldRef.resource");
        w.field(3, name, format!(" ({resource})"));
    }
}

fn mounts(w: &mut Writer, container: &Value) {
    let mut all: Vec<&Value> = json::list(container, "volumeMounts").iter().collect();
    all.sort_by_key(|m| json::text(m, "mountPath"));
    w.line(2, if all.is_empty() { "Mounts:\t<none>" } else { "Mounts:" });
    for mount in all {
        let mode = if json::truth(mount, "readOnly") { "ro" } else { "rw" };
        let sub = match json::text(mount, "subPath") {
            "" => String::new(),
            path => format!(",path={path:?}"),
        };
        w.line(3, format!("{} from {} ({mode}{sub})", json::text(mount, "mountPath"), json::text(mount, "name")));
    }
}

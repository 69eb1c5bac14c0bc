//! Nodes: what they are, what they have, and what of it is spoken for.

use serde_json::Value;
use skiff_api::{json, quantity};

use super::{
    Writer,
    fields::{age, sorted, time},
};

pub(super) fn node(w: &mut Writer, node: &Value, lease: &Result<Value, String>, pods: &[Value]) -> bool {
    let text = |path: &str| json::text(node, path);
    w.field(0, "Name", text("metadata.name"));
    w.field(0, "Roles", roles(node));
    w.marks(node);
    w.field(0, "CreationTimestamp", time(text("metadata.creationTimestamp")));
    w.several(0, "Taints", &taints(node));
    w.field(0, "Unschedulable", json::truth(node, "spec.unschedulable"));
    match lease {
        Err(why) => w.field(0, "Lease", format!("Failed to get lease: {why}")),
        Ok(lease) => held(w, lease),
    }
    conditions(w, node);
    w.line(0, "Addresses:");
    json::list(node, "status.addresses")
        .iter()
        .for_each(|a| w.field(1, json::text(a, "type"), json::text(a, "address")));
    for (title, field) in [("Capacity", "status.capacity"), ("Allocatable", "status.allocatable")] {
        let all = sorted(json::get(node, field));
        if !all.is_empty() {
            w.line(0, format!("{title}:"));
            all.iter().for_each(|(name, amount)| w.field(1, name, amount));
        }
    }
    system(w, node);
    w.maybe(0, "PodCIDR", text("spec.podCIDR"));
    w.maybe(0, "PodCIDRs", &json::texts(node, "spec.podCIDRs").join(","));
    w.maybe(0, "ProviderID", text("spec.providerID"));
    spoken_for(w, node, pods);
    true
}

fn roles(node: &Value) -> String {
    const PREFIX: &str = "node-role.kubernetes.io/";
    let labels = json::map(node, "metadata.labels").into_iter().flatten();
    let mut roles: Vec<&str> = labels.filter_map(|(k, _)| k.strip_prefix(PREFIX)).filter(|r| !r.is_empty()).collect();
    roles.sort_unstable();
    if roles.is_empty() { "<none>".into() } else { roles.join(",") }
}

fn taints(node: &Value) -> Vec<String> {
    let all = json::list(node, "spec.taints").iter();
    let one = |t: &Value| {
        let value = match json::text(t, "value") {
            "" => String::new(),
            value => format!("={value}"),
        };
        format!("{}{value}:{}", json::text(t, "key"), json::text(t, "effect"))
    };
    let mut taints: Vec<String> = all.map(one).collect();
    taints.sort();
    taints
}

fn held(w: &mut Writer, lease: &Value) {
    let or_unset = |text: &str| if text.is_empty() { "<unset>".to_owned() } else { text.to_owned() };
    let when = |path: &str| match json::text(lease, path) {
        "" => "<unset>".to_owned(),
        text => time(text),
    };
    w.line(0, "Lease:");
    w.field(1, "HolderIdentity", or_unset(json::text(lease, "spec.holderIdentity")));
    w.field(1, "AcquireTime", when("spec.acquireTime"));
    w.field(1, "RenewTime", when("spec.renewTime"));
}

fn conditions(w: &mut Writer, node: &Value) {
    let all = json::list(node, "status.conditions");
    if all.is_empty() {
        return;
    }
    w.line(0, "Conditions:");
    w.line(1, "Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
    w.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
    for c in all {
        let text = |field: &str| json::text(c, field);
        w.line(
            1,
            format!(
                "{} \t{} \t{} \t{} \t{} \t{}",
                text("type"),
                text("status"),
                time(text("lastHeartbeatTime")),
                time(text("lastTransitionTime")),
                text("reason"),
                text("message")
            ),
        );
    }
}

fn system(w: &mut Writer, node: &Value) {
    const FIELDS: &[(&str, &str)] = &[
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
        ("Kube-Proxy Version", "kubeProxyVersion"),
    ];
    w.line(0, "System Info:");
    for (title, field) in FIELDS {
        w.field(1, title, json::text(node, &format!("status.nodeInfo.{field}")));
    }
}

/// What containers ask for in millis: requests and limits of one resource.
type Asked = (i128, i128);

fn asked(pod: &Value, resource: &str) -> Asked {
    let sum = |list: &str, field: &str| {
        let all = json::list(pod, list).iter().filter_map(|c| json::get(c, "resources")?.get(field)?.get(resource));
        all.filter_map(|v| quantity::millis(v.as_str()?)).collect::<Vec<i128>>()
    };
    let total = |field: &str| {
        let init = sum("spec.initContainers", field).into_iter().max().unwrap_or(0);
        sum("spec.containers", field).into_iter().sum::<i128>().max(init)
    };
    (total("requests"), total("limits"))
}

fn spoken_for(w: &mut Writer, node: &Value, pods: &[Value]) {
    let live: Vec<&Value> =
        pods.iter().filter(|p| !matches!(json::text(p, "status.phase"), "Succeeded" | "Failed")).collect();
    let whole = |resource: &str| {
        let text = |field: &str| json::get(node, field).and_then(|m| m.get(resource)).and_then(Value::as_str);
        let amount = text("status.allocatable").or_else(|| text("status.capacity"));
        amount.and_then(quantity::millis).unwrap_or(0)
    };
    let (cpus, memory) = (whole("cpu"), whole("memory"));
    w.line(0, format!("Non-terminated Pods:\t({} in total)", live.len()));
    w.line(1, "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    w.line(1, "---------\t----\t\t------------\t----------\t---------------\t-------------\t---");
    let (mut cpu_sum, mut memory_sum) = ((0, 0), (0, 0));
    for pod in live {
        let (c, m) = (asked(pod, "cpu"), asked(pod, "memory"));
        cpu_sum = (cpu_sum.0 + c.0, cpu_sum.1 + c.1);
        memory_sum = (memory_sum.0 + m.0, memory_sum.1 + m.1);
        let text = |path: &str| json::text(pod, path);
        w.line(
            1,
            format!(
                "{}\t{}\t\t{}\t{}\t{}\t{}\t{}",
                text("metadata.namespace"),
                text("metadata.name"),
                share(cpu(c.0), c.0, cpus),
                share(cpu(c.1), c.1, cpus),
                share(bytes(m.0), m.0, memory),
                share(bytes(m.1), m.1, memory),
                age(text("metadata.creationTimestamp"))
            ),
        );
    }
    w.line(0, "Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)");
    w.line(1, "Resource\tRequests\tLimits");
    w.line(1, "--------\t--------\t------");
    let row = |name: &str, sum: Asked, of: i128, text: fn(i128) -> String| {
        format!("{name}\t{}\t{}", share(text(sum.0), sum.0, of), share(text(sum.1), sum.1, of))
    };
    w.line(1, row("cpu", cpu_sum, cpus, cpu));
    w.line(1, row("memory", memory_sum, memory, bytes));
    w.line(1, row("ephemeral-storage", (0, 0), 0, bytes));
    for (name, _) in sorted(json::get(node, "status.allocatable")).iter().filter(|(n, _)| n.starts_with("hugepages-")) {
        w.line(1, row(name, (0, 0), 0, bytes));
    }
}

fn share(text: String, part: i128, whole: i128) -> String {
    format!("{text} ({}%)", if whole > 0 { part * 100 / whole } else { 0 })
}

fn cpu(millis: i128) -> String {
    if millis % 1000 == 0 { (millis / 1000).to_string() } else { format!("{millis}m") }
}

fn bytes(millis: i128) -> String {
    let bytes = millis / 1000;
    for (unit, size) in [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)] {
        if bytes > 0 && bytes % size == 0 {
            return format!("{}{unit}", bytes / size);
        }
    }
    bytes.to_string()
}

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::resources::{RESOURCES, find_kind};

const NOW: &str = "2026-01-02T00:00:00Z";
const HOUR_AGO: &str = "2026-01-01T23:00:00Z";

fn resource(api_version: &str, kind: &str) -> &'static Resource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    find_kind(group, version, kind).unwrap_or_else(|| panic!("{api_version} {kind} is in the table"))
}

/// The cells of an object by column.
fn cells(api_version: &str, kind: &str, mut object: Value) -> Vec<(String, String)> {
    object["metadata"]["creationTimestamp"] = json!(HOUR_AGO);
    let table = table(resource(api_version, kind), &[&object], NOW.parse().unwrap());
    let names = table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_string());
    let text = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_string);
    names.zip(table["rows"][0]["cells"].as_array().unwrap().iter().map(text)).collect()
}

#[track_caller]
fn check(api_version: &str, kind: &str, object: Value, expected: &[(&str, &str)]) {
    let cells = cells(api_version, kind, object);
    for (name, value) in expected {
        let cell = cells.iter().find(|(column, _)| column == name);
        assert_eq!(cell.map(|(_, value)| value.as_str()), Some(*value), "{kind} {name} in {cells:?}");
    }
}

#[track_caller]
fn check_columns(api_version: &str, kind: &str, plain: &str, wide: &str) {
    let named = |is_wide: bool| {
        let columns = columns(resource(api_version, kind)).iter().filter(|c| c.wide == is_wide);
        columns.map(|c| c.name.to_uppercase()).collect::<Vec<_>>().join("  ")
    };
    assert_eq!((named(false).as_str(), named(true).as_str()), (plain, wide), "{kind}");
}

#[test]
fn the_columns_that_users_know() {
    check_columns("v1", "Pod", "NAME  READY  STATUS  RESTARTS  AGE", "IP  NODE  NOMINATED NODE  READINESS GATES");
    check_columns("v1", "Service", "NAME  TYPE  CLUSTER-IP  EXTERNAL-IP  PORT(S)  AGE", "SELECTOR");
    check_columns("v1", "Endpoints", "NAME  ENDPOINTS  AGE", "");
    check_columns("discovery.k8s.io/v1", "EndpointSlice", "NAME  ADDRESSTYPE  PORTS  ENDPOINTS  AGE", "");
    let pods = "CONTAINERS  IMAGES  SELECTOR";
    check_columns("apps/v1", "Deployment", "NAME  READY  UP-TO-DATE  AVAILABLE  AGE", pods);
    check_columns("apps/v1", "ReplicaSet", "NAME  DESIRED  CURRENT  READY  AGE", pods);
    check_columns("apps/v1", "StatefulSet", "NAME  READY  AGE", "CONTAINERS  IMAGES");
    let node_wide = "INTERNAL-IP  EXTERNAL-IP  OS-IMAGE  KERNEL-VERSION  CONTAINER-RUNTIME";
    check_columns("v1", "Node", "NAME  STATUS  ROLES  AGE  VERSION", node_wide);
    check_columns(
        "v1",
        "Event",
        "LAST SEEN  TYPE  REASON  OBJECT  MESSAGE",
        "SUBOBJECT  SOURCE  FIRST SEEN  COUNT  NAME",
    );
    check_columns("rbac.authorization.k8s.io/v1", "Role", "NAME  CREATED AT", "");
    check_columns("rbac.authorization.k8s.io/v1", "RoleBinding", "NAME  ROLE  AGE", "USERS  GROUPS  SERVICEACCOUNTS");
}

#[test]
fn every_kind_survives_every_shape() {
    let now = NOW.parse().unwrap();
    for resource in RESOURCES {
        for object in [json!({}), json!(null), json!({"metadata": [], "spec": "x", "status": 1, "subsets": {}})] {
            let table = table(resource, &[&object], now);
            let width = table["columnDefinitions"].as_array().unwrap().len();
            assert_eq!(table["rows"][0]["cells"].as_array().unwrap().len(), width, "{resource:?}");
        }
    }
}

#[test]
fn durations_as_kubectl_prints_them() {
    const DAY: i64 = 86_400;
    for (seconds, text) in [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (228, "3m48s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (5 * 3600 + 1800, "5h30m"),
        (30 * 3600, "30h"),
        (2 * DAY + 3 * 3600, "2d3h"),
        (8 * DAY + 3600, "8d"),
        (729 * DAY, "729d"),
        (730 * DAY, "2y"),
        (2 * 365 * DAY + 5 * DAY, "2y5d"),
        (9 * 365 * DAY, "9y"),
    ] {
        assert_eq!(human_duration(seconds), text, "{seconds}");
    }
}

fn container(state: Value, ready: bool) -> Value {
    json!({"name": "c", "ready": ready, "restartCount": 0, "state": state})
}

fn pod(phase: &str, statuses: Vec<Value>) -> Value {
    let containers: Vec<_> = statuses.iter().map(|s| json!({"name": s["name"]})).collect();
    json!({
        "metadata": {"name": "p"},
        "spec": {"containers": containers},
        "status": {"phase": phase, "containerStatuses": statuses},
    })
}

#[test]
fn pod_status_in_a_word() {
    let running = || container(json!({"running": {}}), true);
    let waiting = |reason: &str| container(json!({"waiting": {"reason": reason}}), false);
    let ended = |reason: &str, code: i64| container(json!({"terminated": {"reason": reason, "exitCode": code}}), false);
    for (phase, statuses, ready, status) in [
        ("Pending", vec![], "0/0", "Pending"),
        ("Running", vec![running(), running()], "2/2", "Running"),
        ("Pending", vec![waiting("ContainerCreating")], "0/1", "ContainerCreating"),
        ("Running", vec![running(), waiting("CrashLoopBackOff")], "1/2", "CrashLoopBackOff"),
        ("Pending", vec![waiting("ErrImagePull")], "0/1", "ErrImagePull"),
        ("Succeeded", vec![ended("Completed", 0)], "0/1", "Completed"),
        ("Failed", vec![ended("Error", 1)], "0/1", "Error"),
        ("Running", vec![ended("", 3)], "0/1", "ExitCode:3"),
        ("Running", vec![ended("Completed", 0), running()], "1/2", "NotReady"),
    ] {
        check("v1", "Pod", pod(phase, statuses), &[("Ready", ready), ("Status", status)]);
    }
    let mut gone = pod("Running", vec![running()]);
    gone["metadata"]["deletionTimestamp"] = json!(NOW);
    check("v1", "Pod", gone.clone(), &[("Status", "Terminating"), ("Age", "60m")]);
    gone["status"]["phase"] = json!("Succeeded");
    check("v1", "Pod", gone, &[("Status", "Succeeded")]);
    let mut evicted = pod("Failed", vec![]);
    evicted["status"]["reason"] = json!("Evicted");
    check("v1", "Pod", evicted, &[("Status", "Evicted")]);
}

#[test]
fn pods_that_initialize_and_restart() {
    let mut starting = pod("Pending", vec![container(json!({"waiting": {"reason": "PodInitializing"}}), false)]);
    starting["spec"]["initContainers"] = json!([{"name": "i"}, {"name": "j"}]);
    let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
    for (second, status) in [
        (json!({"name": "j", "state": {"running": {}}}), "Init:1/2"),
        (json!({"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}), "Init:1/2"),
        (json!({"name": "j", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}), "Init:CrashLoopBackOff"),
        (json!({"name": "j", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}), "Init:Error"),
        (json!({"name": "j", "state": {"terminated": {"exitCode": 1, "signal": 9}}}), "Init:Signal:9"),
        (json!({"name": "j", "state": {"terminated": {"exitCode": 0}}}), "PodInitializing"),
    ] {
        starting["status"]["initContainerStatuses"] = json!([done, second]);
        check("v1", "Pod", starting.clone(), &[("Status", status), ("Ready", "0/1")]);
    }
    let mut restarted = pod("Running", vec![container(json!({"running": {}}), true)]);
    restarted["status"]["containerStatuses"][0]["restartCount"] = json!(3);
    check("v1", "Pod", restarted.clone(), &[("Restarts", "3")]);
    restarted["status"]["containerStatuses"][0]["lastState"] =
        json!({"terminated": {"finishedAt": "2026-01-01T23:55:00Z"}});
    check("v1", "Pod", restarted, &[("Restarts", "3 (5m ago)"), ("IP", "<none>"), ("Node", "<none>")]);
    let mut sidecar = pod("Running", vec![container(json!({"running": {}}), true)]);
    sidecar["spec"]["initContainers"] = json!([{"name": "s", "restartPolicy": "Always"}]);
    sidecar["status"]["initContainerStatuses"] =
        json!([{"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}]);
    check("v1", "Pod", sidecar, &[("Ready", "2/2"), ("Restarts", "1"), ("Status", "Running")]);
}

#[test]
fn finished_pods_say_so_in_their_row() {
    let table = table(resource("v1", "Pod"), &[&pod("Succeeded", vec![])], NOW.parse().unwrap());
    assert_eq!(table["rows"][0]["conditions"][0]["reason"], "Succeeded");
}

#[test]
fn services() {
    let service = |spec: Value| json!({"metadata": {"name": "s"}, "spec": spec});
    let node_port = service(json!({"type": "NodePort", "clusterIP": "10.96.0.7", "ports": [
        {"port": 8089, "nodePort": 30475, "protocol": "TCP"}, {"port": 53, "nodePort": 31000, "protocol": "UDP"}]}));
    let ports = ("Port(s)", "8089:30475/TCP,53:31000/UDP");
    check(
        "v1",
        "Service",
        node_port,
        &[ports, ("External-IP", "<none>"), ("Cluster-IP", "10.96.0.7"), ("Selector", "<none>")],
    );
    let named =
        service(json!({"type": "ExternalName", "externalName": "example.com", "selector": {"b": "1", "a": "2"}}));
    check(
        "v1",
        "Service",
        named,
        &[("External-IP", "example.com"), ("Cluster-IP", "<none>"), ("Port(s)", "<none>"), ("Selector", "a=2,b=1")],
    );
    let mut balanced = service(json!({"type": "LoadBalancer", "clusterIP": "10.96.0.8"}));
    check("v1", "Service", balanced.clone(), &[("External-IP", "<pending>")]);
    balanced["status"] = json!({"loadBalancer": {"ingress": [{"ip": "172.31.255.1"}]}});
    check("v1", "Service", balanced.clone(), &[("External-IP", "172.31.255.1")]);
    balanced["spec"]["externalIPs"] = json!(["192.0.2.1"]);
    check("v1", "Service", balanced, &[("External-IP", "172.31.255.1,192.0.2.1")]);
}

#[test]
fn endpoints_and_slices() {
    let addresses: Vec<_> = (1..6).map(|i| json!({"ip": format!("10.244.0.{i}")})).collect();
    let subsets = |addresses: Value| json!({"subsets": [{"addresses": addresses, "ports": [{"port": 7777}]}]});
    check(
        "v1",
        "Endpoints",
        subsets(json!(addresses)),
        &[("Endpoints", "10.244.0.1:7777,10.244.0.2:7777,10.244.0.3:7777 + 2 more...")],
    );
    check("v1", "Endpoints", subsets(json!([{"ip": "fd00::1"}])), &[("Endpoints", "[fd00::1]:7777")]);
    check("v1", "Endpoints", json!({}), &[("Endpoints", "<none>")]);
    let slice = json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
    check(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        slice,
        &[("Ports", "80,x"), ("Endpoints", "10.0.0.1"), ("AddressType", "IPv4")],
    );
    check("discovery.k8s.io/v1", "EndpointSlice", json!({}), &[("Ports", "<unset>"), ("Endpoints", "<unset>")]);
}

#[test]
fn workloads() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:2"}]}});
    let selector = json!({"matchLabels": {"z": "1"}, "matchExpressions": [{"key": "app", "operator": "In", "values": ["d", "c"]}]});
    let spec = json!({"replicas": 2, "selector": selector, "template": template});
    let deployment = json!({"spec": spec, "status": {"readyReplicas": 1, "updatedReplicas": 2}});
    let pods = [("Containers", "a,b"), ("Images", "x:1,y:2"), ("Selector", "app in (c,d),z=1")];
    check("apps/v1", "Deployment", deployment.clone(), &[("Ready", "1/2"), ("Up-to-date", "2"), ("Available", "0")]);
    check("apps/v1", "Deployment", deployment, &pods);
    check("apps/v1", "StatefulSet", json!({"spec": spec}), &[("Ready", "0/2"), ("Age", "60m")]);
    let job = json!({"spec": {"completions": 3}, "status": {"succeeded": 1, "startTime": HOUR_AGO}});
    check("batch/v1", "Job", job, &[("Status", "Running"), ("Completions", "1/3"), ("Duration", "60m")]);
    let cron = json!({"spec": {"schedule": "* * * * *", "suspend": false}});
    check("batch/v1", "CronJob", cron, &[("Suspend", "False"), ("Last Schedule", "<none>"), ("Timezone", "<none>")]);
}

#[test]
fn the_cluster() {
    let labels = json!({"node-role.kubernetes.io/control-plane": "", "node-role.kubernetes.io/a": ""});
    let status = json!({"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "172.30.0.11"}]});
    let node = json!({"metadata": {"labels": labels}, "spec": {"unschedulable": true}, "status": status});
    check(
        "v1",
        "Node",
        node,
        &[("Status", "Ready,SchedulingDisabled"), ("Roles", "a,control-plane"), ("Internal-IP", "172.30.0.11")],
    );
    let event = json!({"involvedObject": {"kind": "Pod", "name": "p"}, "lastTimestamp": HOUR_AGO, "count": 4, "message": " hi\n"});
    check("v1", "Event", event, &[("Last Seen", "60m"), ("Object", "pod/p"), ("Count", "4"), ("Message", "hi")]);
    let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [
        {"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]});
    let expected = [("Role", "ClusterRole/view"), ("Users", "u"), ("Groups", ""), ("ServiceAccounts", "n/s")];
    check("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", binding, &expected);
    check("v1", "ConfigMap", json!({"data": {"a": ""}, "binaryData": {"b": ""}}), &[("Data", "2")]);
    let address =
        json!({"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "kubernetes"}}});
    check("networking.k8s.io/v1", "IPAddress", address, &[("ParentRef", "services/default/kubernetes")]);
}

proptest! {
    #[test]
    fn durations_survive_any_number(seconds in any::<i64>()) {
        prop_assert!(!human_duration(seconds).is_empty());
    }
}

use serde_json::json;

use super::*;
use crate::resources::{RESOURCES, find};

/// Defaulting gives `expect`, and once more the same.
fn check((group, version, plural): (&str, &str, &str), mut input: Value, expect: Value) {
    let res = find(group, version, plural).unwrap();
    apply(res, &mut input);
    assert_eq!(input, expect);
    apply(res, &mut input);
    assert_eq!(input, expect, "not idempotent");
    assert_eq!(crate::schema::check(res, &input), [], "defaults do not fit the schema");
}

#[test]
fn services() {
    let kind = ("", "v1", "services");
    check(
        kind,
        json!({"spec": {"ports": [{"port": 17, "targetPort": 7777}, {"port": 80, "protocol": "UDP"}], "clusterIP": null}}),
        json!({"spec": {"ports": [{"port": 17, "targetPort": 7777, "protocol": "TCP"},
                                  {"port": 80, "protocol": "UDP", "targetPort": 80}],
                        "sessionAffinity": "None", "type": "ClusterIP", "internalTrafficPolicy": "Cluster"}}),
    );
    check(
        kind,
        json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP"}}),
        json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP",
                        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                        "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
                        "allocateLoadBalancerNodePorts": true}}),
    );
    check(
        kind,
        json!({"spec": {"type": "ExternalName", "externalName": "a.b"}}),
        json!({"spec": {"type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None"}}),
    );
    check(
        kind,
        json!({"spec": {"externalIPs": ["1.2.3.4"]}, "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}}),
        json!({"spec": {"externalIPs": ["1.2.3.4"], "sessionAffinity": "None", "type": "ClusterIP",
                        "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster"},
               "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1", "ipMode": "VIP"}]}}}),
    );
}

#[test]
fn pods() {
    check(
        ("", "v1", "pods"),
        json!({"spec": {"containers": [{"name": "a", "image": "nginx",
            "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": 80}},
            "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}]}}),
        json!({"spec": {"containers": [{"name": "a", "image": "nginx",
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                               "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
            "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "imagePullPolicy": "Always"}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
            "enableServiceLinks": true, "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst", "securityContext": {}, "schedulerName": "default-scheduler"}}),
    );
}

#[test]
fn deployments() {
    check(
        ("apps", "v1", "deployments"),
        json!({"spec": {"strategy": {}, "template": {"metadata": {"creationTimestamp": null}, "spec": {"containers": []}}}}),
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
            "template": {"metadata": {}, "spec": {"containers": [], "restartPolicy": "Always",
                "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "securityContext": {},
                "schedulerName": "default-scheduler"}},
            "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600}}),
    );
}

#[test]
fn the_small_ones() {
    check(
        ("", "v1", "namespaces"),
        json!({"metadata": {"name": "a"}}),
        json!({"metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}}}),
    );
    check(
        ("discovery.k8s.io", "v1", "endpointslices"),
        json!({"ports": [{"port": 80}]}),
        json!({"ports": [{"port": 80, "name": "", "protocol": "TCP"}]}),
    );
    check(
        (RBAC, "v1", "rolebindings"),
        json!({"roleRef": {"kind": "Role", "name": "a"}, "subjects": [{"kind": "User", "name": "u"},
               {"kind": "ServiceAccount", "name": "s"}]}),
        json!({"roleRef": {"kind": "Role", "name": "a", "apiGroup": RBAC}, "subjects": [
               {"kind": "User", "name": "u", "apiGroup": RBAC}, {"kind": "ServiceAccount", "name": "s"}]}),
    );
}

/// Defaulting survives anything, and twice is the same as once.
#[test]
fn any_shape_is_survived() {
    let shapes = [
        json!({}),
        json!({"spec": {}}),
        json!({"spec": []}),
        json!({"spec": {"ports": {}, "template": 1}}),
        json!([]),
        json!({"metadata": 1, "spec": {"containers": [1, null, {"ports": "x"}], "volumes": [[]]}, "status": "x"}),
        json!({"subsets": [{"ports": [3]}], "ports": [null], "roleRef": [], "subjects": {}}),
    ];
    for res in RESOURCES {
        for shape in &shapes {
            let mut once = shape.clone();
            apply(res, &mut once);
            let mut twice = once.clone();
            apply(res, &mut twice);
            assert_eq!(once, twice, "{res:?}");
        }
    }
}

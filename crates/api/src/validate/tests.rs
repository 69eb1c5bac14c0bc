use serde_json::json;

use super::*;
use crate::defaults;
use crate::resources::{RESOURCES, find};
use crate::strategy;

fn res(plural: &str) -> &'static Resource {
    let groups = [
        "",
        "apps",
        "discovery.k8s.io",
        "rbac.authorization.k8s.io",
        "networking.k8s.io",
        "coordination.k8s.io",
        "batch",
    ];
    groups.iter().find_map(|g| find(g, "v1", plural)).unwrap()
}

/// As a request goes: defaults, strategy, validation.
fn created(plural: &str, mut object: Value) -> Vec<String> {
    defaults::apply(res(plural), &mut object);
    strategy::before_create(res(plural), &mut object);
    create(res(plural), &object).iter().map(ToString::to_string).collect()
}

fn check(plural: &str, object: Value, expect: &[&str]) {
    assert_eq!(created(plural, object), expect);
}

fn updated(plural: &str, mut old: Value, mut new: Value) -> Vec<String> {
    defaults::apply(res(plural), &mut old);
    strategy::before_create(res(plural), &mut old);
    defaults::apply(res(plural), &mut new);
    strategy::before_update(res(plural), &mut new, &old, None);
    update(res(plural), &new, &old).iter().map(ToString::to_string).collect()
}

fn service(spec: Value) -> Value {
    json!({"metadata": {"name": "a", "namespace": "default"}, "spec": spec})
}

fn service_check(spec: Value, expect: &[&str]) {
    check("services", service(spec), expect);
}

#[test]
fn metadata() {
    let meta = |m: Value| json!({"metadata": m});
    check("configmaps", meta(json!({"name": "a.b", "namespace": "x", "labels": {"a/b": "c"}})), &[]);
    check(
        "configmaps",
        meta(json!({"namespace": "x"})),
        &["metadata.name: Required value: name or generateName is required"],
    );
    check("configmaps", meta(json!({"name": "a"})), &["metadata.namespace: Required value"]);
    check(
        "namespaces",
        meta(json!({"name": "A"})),
        &[
            "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters \
           or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
           validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ],
    );
    check(
        "namespaces",
        meta(json!({"name": "a.b"})),
        &["metadata.name: Invalid value: \"a.b\": must not contain dots"],
    );
    check(
        "clusterroles",
        meta(json!({"name": "system:a/b"})),
        &["metadata.name: Invalid value: \"system:a/b\": may not contain '/'"],
    );
    check(
        "nodes",
        meta(json!({"name": "a", "namespace": "x"})),
        &["metadata.namespace: Forbidden: not allowed on this type"],
    );
    let big = "x".repeat(262_145);
    check(
        "nodes",
        meta(json!({"name": "a", "annotations": {"b": big}})),
        &["metadata.annotations: Too long: may not be more than 262144 bytes"],
    );
    check(
        "nodes",
        meta(json!({"name": "a", "labels": {"-": "ok"}})),
        &[
            "metadata.labels: Invalid value: \"-\": name part must consist of alphanumeric characters, '-', '_' or '.', and must \
           start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
           validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ],
    );
}

#[test]
fn service_names_are_labels_that_start_with_a_letter() {
    let object = json!({"metadata": {"name": "1a", "namespace": "default"}, "spec": {"ports": [{"port": 1}]}});
    check(
        "services",
        object,
        &[
            "metadata.name: Invalid value: \"1a\": a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
           start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex \
           used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
        ],
    );
}

#[test]
fn service_ports() {
    service_check(json!({"ports": [{"port": 17, "targetPort": "http"}]}), &[]);
    service_check(json!({}), &["spec.ports: Required value"]);
    service_check(json!({"clusterIP": "None"}), &[]);
    service_check(json!({"ports": [{"port": 1}, {"port": 2, "name": "b"}]}), &["spec.ports[0].name: Required value"]);
    service_check(
        json!({"ports": [{"port": 1, "name": "b"}, {"port": 2, "name": "b"}]}),
        &["spec.ports[1].name: Duplicate value: \"b\""],
    );
    service_check(
        json!({"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]}),
        &["spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":1,\
           \"TargetPort\":0,\"NodePort\":0}"],
    );
    service_check(json!({"ports": [{"port": 1, "name": "a"}, {"port": 1, "protocol": "UDP", "name": "b"}]}), &[]);
    service_check(
        json!({"ports": [{"port": 70000, "targetPort": 1}]}),
        &["spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive"],
    );
    service_check(
        json!({"ports": [{"port": 1, "nodePort": 31000}]}),
        &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    );
    service_check(
        json!({"ports": [{"port": 1, "protocol": "ICMP"}]}),
        &["spec.ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\""],
    );
}

#[test]
fn service_types_and_addresses() {
    service_check(
        json!({"type": "Nope", "ports": [{"port": 1}]}),
        &[
            "spec.type: Unsupported value: \"Nope\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \
           \"NodePort\"",
        ],
    );
    service_check(json!({"type": "ExternalName"}), &["spec.externalName: Required value"]);
    service_check(json!({"type": "ExternalName", "externalName": "example.com."}), &[]);
    service_check(
        json!({"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.0.0.1"}),
        &["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
    );
    service_check(
        json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 1}]}),
        &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
    );
    service_check(
        json!({"clusterIP": "nope", "ports": [{"port": 1}]}),
        &["spec.clusterIPs[0]: Invalid value: \"nope\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"],
    );
    service_check(
        json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"], "ports": [{"port": 1}]}),
        &["spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`"],
    );
    service_check(
        json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"], "ports": [{"port": 1}]}),
        &[
            "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family",
        ],
    );
    service_check(
        json!({"externalIPs": ["127.0.0.1"], "ports": [{"port": 1}]}),
        &["spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"],
    );
}

#[test]
fn service_affinity_and_policies() {
    let port = json!([{"port": 1}]);
    service_check(
        json!({"ports": port, "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
        &[
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
        ],
    );
    service_check(
        json!({"ports": port, "externalTrafficPolicy": "Local"}),
        &["spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services"],
    );
    service_check(
        json!({"ports": port, "loadBalancerClass": "x", "loadBalancerSourceRanges": ["10.0.0.0/8"],
               "allocateLoadBalancerNodePorts": true}),
        &[
            "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
            "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
            "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ],
    );
    service_check(
        json!({"ports": port, "type": "LoadBalancer", "healthCheckNodePort": 30001}),
        &["spec.healthCheckNodePort: Invalid value: 30001: may only be set when `type` is 'LoadBalancer' and \
           `externalTrafficPolicy` is 'Local'"],
    );
    service_check(
        json!({"ports": port, "trafficDistribution": "Far"}),
        &[
            "spec.trafficDistribution: Unsupported value: \"Far\": supported values: \"PreferClose\", \"PreferSameNode\", \
           \"PreferSameZone\"",
        ],
    );
}

#[test]
fn service_updates() {
    let port = json!([{"port": 1}]);
    let old = service(json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": port}));
    let to = |spec: Value| updated("services", old.clone(), service(spec));
    assert_eq!(
        to(json!({"clusterIP": "10.96.0.10", "ports": port})),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.10\"]: may not change once set"]
    );
    assert_eq!(to(json!({"ports": port})), [""; 0]);
    assert_eq!(to(json!({"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.96.0.9"})), [""; 0]);
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "a", "namespace": "default"}, "spec": spec})
}

#[test]
fn pods() {
    check("pods", pod(json!({"containers": [{"name": "a", "image": "b"}]})), &[]);
    check("pods", pod(json!({"containers": []})), &["spec.containers: Required value"]);
    check(
        "pods",
        pod(json!({"containers": [{"name": "a"}, {"name": "a", "image": "b"}]})),
        &["spec.containers[0].image: Required value", "spec.containers[1].name: Duplicate value: \"a\""],
    );
    check(
        "pods",
        pod(
            json!({"containers": [{"name": "a", "image": "b", "ports": [{"containerPort": 0}, {"containerPort": 99999}],
            "env": [{"name": "x=y"}], "volumeMounts": [{"name": "v", "mountPath": "/x"}]}]}),
        ),
        &[
            "spec.containers[0].ports[0].containerPort: Required value",
            "spec.containers[0].ports[1].containerPort: Invalid value: 99999: must be between 1 and 65535, inclusive",
            "spec.containers[0].env[0].name: Invalid value: \"x=y\": a valid environment variable name must consist only of \
           printable ASCII characters other than '='",
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ],
    );
    check(
        "pods",
        pod(json!({"restartPolicy": "Sometimes", "containers": [{"name": "a", "image": "b", "livenessProbe": {}}]})),
        &[
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ],
    );
    check(
        "pods",
        pod(json!({"containers": [{"name": "a", "image": "b",
            "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}]})),
        &["spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"],
    );
}

#[test]
fn pod_updates() {
    let old = pod(json!({"containers": [{"name": "a", "image": "b", "env": [{"name": "X"}]}]}));
    let to = |spec: Value| updated("pods", old.clone(), pod(spec));
    assert_eq!(to(json!({"containers": [{"name": "a", "image": "c", "env": [{"name": "X"}]}]})), [""; 0]);
    let refused = to(json!({"nodeName": "n", "containers": [{"name": "a", "image": "b", "env": [{"name": "X"}]}]}));
    assert!(
        refused[0]
            .starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,")
    );
    assert!(refused[0].ends_with("\nchanged: spec.nodeName"), "{}", refused[0]);
    assert_eq!(
        to(json!({"containers": [{"name": "a", "image": "b"}, {"name": "c", "image": "d"}]})),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
}

fn deployment(selector: Value, labels: Value) -> Value {
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
    json!({"metadata": {"name": "a", "namespace": "default"}, "spec": {"selector": selector, "template": template}})
}

#[test]
fn deployments() {
    let app = json!({"matchLabels": {"app": "x"}});
    check("deployments", deployment(app.clone(), json!({"app": "x"})), &[]);
    check(
        "deployments",
        deployment(app.clone(), json!({"app": "y"})),
        &["spec.template.metadata.labels: Invalid value: {\"app\":\"y\"}: `selector` does not match template `labels`"],
    );
    check(
        "deployments",
        deployment(json!({}), json!({"app": "y"})),
        &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
    );
    let mut broken = deployment(app.clone(), json!({"app": "x"}));
    broken["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}});
    broken["spec"]["replicas"] = json!(-1);
    check(
        "deployments",
        broken,
        &[
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    let other = deployment(json!({"matchLabels": {"app": "z"}}), json!({"app": "z"}));
    assert_eq!(
        updated("deployments", deployment(app, json!({"app": "x"})), other),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"z\"}}: field is immutable"]
    );
}

#[test]
fn endpoints_and_slices() {
    let meta = json!({"name": "a", "namespace": "default"});
    check(
        "endpoints",
        json!({"metadata": meta, "subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 80}]}, {}]}),
        &[
            "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
        ],
    );
    check(
        "endpointslices",
        json!({"metadata": meta, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["::1"]}],
               "ports": [{"port": 80}, {"port": 81}]}),
        &[
            "endpoints[1].addresses[0]: Invalid value: \"::1\": must be an IPv4 address",
            "ports[1].name: Duplicate value: \"\"",
        ],
    );
}

#[test]
fn data_and_roles() {
    let meta = json!({"name": "a", "namespace": "default"});
    check(
        "configmaps",
        json!({"metadata": meta, "data": {"a b": "x"}}),
        &[
            "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' \
           (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ],
    );
    check(
        "secrets",
        json!({"metadata": meta, "type": "kubernetes.io/tls"}),
        &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
    );
    assert_eq!(
        updated(
            "configmaps",
            json!({"metadata": meta, "immutable": true}),
            json!({"metadata": meta, "immutable": true, "data": {"a": "b"}})
        ),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
    check(
        "roles",
        json!({"metadata": meta, "rules": [{"verbs": [], "apiGroups": [""], "resources": ["pods"]}]}),
        &["rules[0].verbs: Required value: verbs must contain at least one value"],
    );
    let binding = |role: &str| json!({"metadata": meta, "roleRef": {"kind": "Role", "name": role}, "subjects": [{"kind": "User", "name": "u"}]});
    check("rolebindings", binding("r"), &[]);
    assert_eq!(
        updated("rolebindings", binding("r"), binding("s")),
        [
            "roleRef: Invalid value: {\"kind\":\"Role\",\"name\":\"s\",\"apiGroup\":\"rbac.authorization.k8s.io\"}: cannot change roleRef"
        ]
    );
}

/// Whatever comes, validation answers; it never panics.
#[test]
fn any_shape_is_survived() {
    let shapes = [
        json!({}),
        json!([]),
        json!({"metadata": 1, "spec": "x"}),
        json!({"metadata": {"name": "a", "ownerReferences": [1]}, "spec": {"ports": [1, {}], "containers": ["x", {}], "volumes": [2],
               "selector": {"matchLabels": 3}, "template": {"spec": {"containers": [{}]}}, "clusterIPs": [1]}, "rules": [2],
               "subsets": [1], "endpoints": ["x"], "data": [], "subjects": [0], "roleRef": 3}),
    ];
    for res in RESOURCES {
        for (a, b) in shapes.iter().flat_map(|a| shapes.iter().map(move |b| (a, b))) {
            create(res, a);
            for subresource in [None, Some("status"), Some("resize"), Some("ephemeralcontainers")] {
                update_through(res, a, b, subresource);
            }
        }
    }
}

#[test]
fn service_source_ranges_and_annotations() {
    let ports = json!([{"port": 1}]);
    let with = |annotations: Value, spec: Value| {
        let mut object = service(spec);
        object["metadata"]["annotations"] = annotations;
        object
    };
    const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    service_check(json!({"type": "LoadBalancer", "ports": ports, "loadBalancerSourceRanges": [" 10.0.0.0/8 "]}), &[]);
    service_check(
        json!({"type": "LoadBalancer", "ports": ports, "loadBalancerSourceRanges": ["10.0.0.0/8", "x"]}),
        &["spec.LoadBalancerSourceRanges[1]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or \
           2001:db8::/64)"],
    );
    let balancer = || json!({"type": "LoadBalancer", "ports": [{"port": 1}]});
    check("services", with(json!({RANGES: "10.0.0.0/8, 2001:db8::/32"}), balancer()), &[]);
    check("services", with(json!({RANGES: " "}), balancer()), &[]);
    let wrong = "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]";
    check(
        "services",
        with(json!({RANGES: "10.0.0.0/8,x"}), balancer()),
        &[&format!("{wrong}: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")],
    );
    check(
        "services",
        with(json!({RANGES: "10.0.0.0/8"}), json!({"ports": ports})),
        &[&format!("{wrong}: Forbidden: may only be used when `type` is 'LoadBalancer'")],
    );
    let modes = |hints: &str| json!({"service.kubernetes.io/topology-aware-hints": hints, "service.kubernetes.io/topology-mode": "Auto"});
    check("services", with(modes("Auto"), balancer()), &[]);
    check(
        "services",
        with(modes("Disabled"), balancer()),
        &["metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: \"Auto\": must match \
           annotations[service.kubernetes.io/topology-aware-hints] when both are specified"],
    );
}

#[test]
fn services_of_two_families() {
    let ports = json!([{"port": 1}]);
    let check = |spec: Value, expect: &[&str]| {
        let mut spec = spec;
        spec["ports"] = ports.clone();
        service_check(spec, expect);
    };
    let both = json!(["10.0.0.1", "fd00::1"]);
    check(json!({"clusterIP": "10.0.0.1", "clusterIPs": both, "ipFamilies": ["IPv4", "IPv6"]}), &[]);
    check(
        json!({"clusterIP": "10.0.0.1", "clusterIPs": both, "ipFamilies": ["IPv6", "IPv4"]}),
        &[
            "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
            "spec.clusterIPs[1]: Invalid value: \"fd00::1\": expected an IPv4 value as indicated by `ipFamilies[1]`",
        ],
    );
    check(json!({"ipFamilies": ["IPv4", "IPv4"]}), &["spec.ipFamilies[1]: Duplicate value: \"IPv4\""]);
    check(
        json!({"ipFamilies": ["IPv5"]}),
        &["spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\""],
    );
    check(
        json!({"ipFamilyPolicy": "Both"}),
        &[
            "spec.ipFamilyPolicy: Unsupported value: \"Both\": supported values: \"PreferDualStack\", \"RequireDualStack\", \
           \"SingleStack\"",
        ],
    );
    check(
        json!({"clusterIPs": ["10.0.0.1"]}),
        &["spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: must be empty when `clusterIP` is not specified"],
    );
    check(
        json!({"clusterIP": "None", "clusterIPs": ["None", "10.0.0.1"]}),
        &["spec.clusterIPs: Invalid value: [\"None\",\"10.0.0.1\"]: 'None' must be the first and only value"],
    );
    check(
        json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1", "fd00::2"]}),
        &["spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"fd00::1\",\"fd00::2\"]: may only hold up to 2 values"],
    );
}

#[test]
fn service_updates_of_families() {
    let dual = |ips: &[&str], families: &[&str], policy: &str| {
        service(
            json!({"clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": families, "ipFamilyPolicy": policy, "ports": [{"port": 1}]}),
        )
    };
    let two = || dual(&["10.0.0.1", "fd00::1"], &["IPv4", "IPv6"], "RequireDualStack");
    let one = || dual(&["10.0.0.1"], &["IPv4"], "SingleStack");
    let check = |old: Value, new: Value, expect: &[&str]| assert_eq!(updated("services", old, new), expect);
    check(one(), dual(&["10.0.0.1"], &["IPv4", "IPv6"], "PreferDualStack"), &[]);
    check(two(), one(), &[]);
    check(
        two(),
        dual(&["10.0.0.1"], &["IPv4", "IPv6"], "RequireDualStack"),
        &[
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary cluster IP",
        ],
    );
    check(
        two(),
        dual(&["10.0.0.1", "fd00::1"], &["IPv4"], "PreferDualStack"),
        &[
            "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be 'SingleStack' to release the secondary IP family",
        ],
    );
    check(
        two(),
        dual(&["10.0.0.1", "fd00::2"], &["IPv4", "IPv6"], "RequireDualStack"),
        &["spec.clusterIPs[1]: Invalid value: [\"10.0.0.1\",\"fd00::2\"]: may not change once set"],
    );
    let swapped = dual(&["10.0.0.1", "fd00::1"], &["IPv6", "IPv4"], "RequireDualStack");
    let errors = updated("services", two(), swapped);
    assert_eq!(errors[0], "spec.ipFamilies[0]: Invalid value: [\"IPv6\",\"IPv4\"]: may not change once set");
}

#[test]
fn service_load_balancer_class() {
    let spec =
        |kind: &str, class: &str| service(json!({"type": kind, "loadBalancerClass": class, "ports": [{"port": 1}]}));
    let lb = |class: &str| spec("LoadBalancer", class);
    let check = |old: Value, new: Value, expect: &[&str]| assert_eq!(updated("services", old, new), expect);
    check(lb("a.io/x"), lb("a.io/x"), &[]);
    check(lb("a.io/x"), lb("b"), &["spec.loadBalancerClass: Invalid value: \"b\": may not change once set"]);
    check(
        lb("a"),
        service(json!({"type": "LoadBalancer", "ports": [{"port": 1}]})),
        &["spec.loadBalancerClass: Invalid value: null: may not change once set"],
    );
    check(lb("a"), spec("ClusterIP", "a"), &[]);
    check(
        lb("a"),
        spec("ClusterIP", "b"),
        &["spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"],
    );
    check(spec("ClusterIP", ""), lb("a"), &[]);
}

#[test]
fn service_ranges_and_addresses() {
    let range = |cidrs: &[&str]| json!({"metadata": {"name": "r"}, "spec": {"cidrs": cidrs}});
    check("servicecidrs", range(&["10.0.0.0/16", "fd00::/108"]), &[]);
    check("servicecidrs", range(&[]), &["spec.cidrs: Required value: at least one CIDR required"]);
    check(
        "servicecidrs",
        range(&["10.0.0.1/16"]),
        &["spec.cidrs[0]: Invalid value: \"10.0.0.1/16\": must not have bits set beyond the prefix length"],
    );
    check(
        "servicecidrs",
        range(&["FD00::/108"]),
        &["spec.cidrs[0]: Invalid value: \"FD00::/108\": must be in canonical form (\"fd00::/108\")"],
    );
    let update = |old: &[&str], new: &[&str], expect: &[&str]| {
        assert_eq!(updated("servicecidrs", range(old), range(new)), expect)
    };
    update(&["10.0.0.0/16"], &["10.0.0.0/16", "fd00::/108"], &[]);
    update(&["10.0.0.0/16"], &["10.1.0.0/16"], &["spec.cidrs[0]: Invalid value: \"10.1.0.0/16\": field is immutable"]);
    update(
        &["10.0.0.0/16", "fd00::/108"],
        &["10.0.0.0/16"],
        &["spec.cidrs: Invalid value: [\"10.0.0.0/16\"]: field is immutable"],
    );
    let address = |name: &str, parent: Value| json!({"metadata": {"name": name}, "spec": {"parentRef": parent}});
    check("ipaddresses", address("10.0.0.1", json!({"resource": "gateways", "group": "g.io", "name": "g"})), &[]);
    check("ipaddresses", address("10.0.0.1", json!({"resource": "x"})), &["spec.parentRef.name: Required value"]);
    check(
        "ipaddresses",
        address("10.0.0.1", json!({"resource": "x", "name": "a/b"})),
        &["spec.parentRef.name: Invalid value: \"a/b\": may not contain '/'"],
    );
    check(
        "ipaddresses",
        address("FD00::1", json!({"resource": "x", "name": "a"})),
        &["metadata.name: Invalid value: \"FD00::1\": must be in canonical form (\"fd00::1\")"],
    );
}

#[test]
fn service_ports_of_every_kind() {
    let np = |ports: Value| json!({"type": "NodePort", "ports": ports});
    service_check(
        np(json!([{"name": "a", "port": 1, "nodePort": 30000}, {"name": "b", "port": 2, "nodePort": 30000}])),
        &["spec.ports[1].nodePort: Duplicate value: 30000"],
    );
    service_check(
        np(
            json!([{"name": "a", "port": 53, "nodePort": 30053}, {"name": "b", "port": 53, "protocol": "UDP", "nodePort": 30053}]),
        ),
        &[],
    );
    service_check(json!({"ports": [{"port": 1, "appProtocol": "kubernetes.io/h2c"}]}), &[]);
    service_check(
        json!({"ports": [{"port": 1, "appProtocol": "-"}]}),
        &[
            "spec.ports[0].appProtocol: Invalid value: \"-\": name part must consist of alphanumeric characters, '-', '_' or \
           '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex \
           used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ],
    );
    // In the reference's order: each port alone, addresses, type, ports together.
    service_check(
        json!({"ports": [{"port": 1, "nodePort": 30001}, {"port": 1, "name": "b"}], "ipFamilies": ["IPv5"], "externalIPs": ["x"]}),
        &[
            "spec.ports[0].name: Required value",
            "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\"",
            "spec.externalIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":1,\
             \"TargetPort\":0,\"NodePort\":0}",
        ],
    );
    service_check(
        json!({"type": "ExternalName", "externalName": "a.b", "internalTrafficPolicy": "Far"}),
        &["spec.internalTrafficPolicy: Unsupported value: \"Far\": supported values: \"Cluster\", \"Local\""],
    );
    service_check(
        json!({"ports": [{"port": 1, "targetPort": "a-name-that-is-too-long"}]}),
        &["spec.ports[0].targetPort: Invalid value: \"a-name-that-is-too-long\": must be no more than 15 bytes"],
    );
    service_check(
        json!({"ports": [{"port": 1, "targetPort": 70000}]}),
        &["spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
    );
    service_check(
        json!({"clusterIP": "None", "type": "LoadBalancer", "ports": [{"port": 1}]}),
        &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for LoadBalancer services"],
    );
}

#[test]
fn service_affinity_and_external_addresses() {
    let with = |mut spec: Value| {
        spec["ports"] = json!([{"port": 1}]);
        spec
    };
    let timeout = |seconds: Value| {
        with(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}))
    };
    service_check(timeout(json!(86400)), &[]);
    service_check(
        timeout(json!(0)),
        &[
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
        ],
    );
    service_check(
        with(json!({"sessionAffinity": "Cookie"})),
        &["spec.sessionAffinity: Unsupported value: \"Cookie\": supported values: \"ClientIP\", \"None\""],
    );
    for (ip, why) in [
        ("0.0.0.0", "may not be unspecified (0.0.0.0)"),
        ("::", "may not be unspecified (::)"),
        ("169.254.1.1", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        ("224.0.0.1", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
        ("x", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
    ] {
        service_check(
            with(json!({"externalIPs": [ip]})),
            &[&format!("spec.externalIPs[0]: Invalid value: {ip:?}: {why}")],
        );
    }
    // Addresses from outside make a Service reachable from outside: it gets a policy, and may choose it.
    service_check(with(json!({"externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Local"})), &[]);
    service_check(
        with(json!({"internalTrafficPolicy": "Far"})),
        &["spec.internalTrafficPolicy: Unsupported value: \"Far\": supported values: \"Cluster\", \"Local\""],
    );
    for distribution in ["PreferClose", "PreferSameZone", "PreferSameNode"] {
        service_check(with(json!({"trafficDistribution": distribution})), &[]);
    }
}

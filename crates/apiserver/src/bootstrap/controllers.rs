//! What each controller may do. Each runs as the ServiceAccount of its name in kube-system.

use super::row::{EVENTS, READ, Row};

const FOLLOW: &str = "list watch";
const UPDATE: &str = "update";
const CHANGE: &str = "patch update";
const KEEP: &str = "create delete get list patch update watch";
/// Kinds that once were in the group extensions.
const APPS: &str = "apps extensions";

pub(super) const ROLES: &[(&str, &[Row])] = &[
    (
        "certificate-controller",
        &[
            ("certificates.k8s.io", "certificatesigningrequests", "delete get list watch"),
            ("certificates.k8s.io", "certificatesigningrequests/approval certificatesigningrequests/status", UPDATE),
            (
                "certificates.k8s.io",
                "signers[kubernetes.io/kube-apiserver-client] signers[kubernetes.io/kube-apiserver-client-kubelet] \
                 signers[kubernetes.io/kubelet-serving]",
                "sign",
            ),
            ("authorization.k8s.io", "subjectaccessreviews", "create"),
            EVENTS,
        ],
    ),
    (
        "clusterrole-aggregation-controller",
        &[("rbac.authorization.k8s.io", "clusterroles", "escalate get list patch update watch")],
    ),
    (
        "cronjob-controller",
        &[
            ("batch", "cronjobs", "get list update watch"),
            ("batch", "jobs", KEEP),
            ("batch", "cronjobs/status cronjobs/finalizers", UPDATE),
            ("core", "pods", "delete list watch"),
            EVENTS,
        ],
    ),
    (
        "daemon-set-controller",
        &[
            (APPS, "daemonsets", READ),
            (APPS, "daemonsets/status daemonsets/finalizers", UPDATE),
            ("core", "nodes", FOLLOW),
            ("core", "pods", "create delete list patch watch"),
            ("core", "pods/binding", "create"),
            ("apps", "controllerrevisions", KEEP),
            EVENTS,
        ],
    ),
    (
        "deployment-controller",
        &[
            (APPS, "deployments", "get list update watch"),
            (APPS, "deployments/status deployments/finalizers", UPDATE),
            (APPS, "replicasets", KEEP),
            ("core", "pods", "get list update watch"),
            EVENTS,
        ],
    ),
    (
        "disruption-controller",
        &[
            (APPS, "deployments replicasets", READ),
            ("core", "replicationcontrollers", READ),
            ("policy", "poddisruptionbudgets", READ),
            ("apps", "statefulsets", READ),
            ("policy", "poddisruptionbudgets/status", UPDATE),
            ("core", "pods/status", CHANGE),
            ("*", "*/scale", "get"),
            EVENTS,
        ],
    ),
    (
        "endpoint-controller",
        &[
            ("core", "pods services", READ),
            ("core", "endpoints", "create delete get list update"),
            ("core", "endpoints/restricted", "create"),
            EVENTS,
        ],
    ),
    (
        "endpointslice-controller",
        &[
            ("core", "nodes pods services", READ),
            ("core", "services/finalizers", UPDATE),
            ("discovery.k8s.io", "endpointslices", "create delete get list update watch"),
            EVENTS,
        ],
    ),
    (
        "endpointslicemirroring-controller",
        &[
            ("core", "endpoints services", READ),
            ("core", "services/finalizers endpoints/finalizers", UPDATE),
            ("discovery.k8s.io", "endpointslices", "create delete get list update watch"),
            EVENTS,
        ],
    ),
    ("generic-garbage-collector", &[("*", "*", "delete get list patch update watch"), EVENTS]),
    (
        "horizontal-pod-autoscaler",
        &[
            ("autoscaling", "horizontalpodautoscalers", READ),
            ("autoscaling", "horizontalpodautoscalers/status", UPDATE),
            ("*", "*/scale", "get update"),
            ("core metrics.k8s.io", "pods", FOLLOW),
            ("custom.metrics.k8s.io external.metrics.k8s.io", "*", READ),
            EVENTS,
        ],
    ),
    (
        "job-controller",
        &[
            ("batch", "jobs", "get list patch update watch"),
            ("batch", "jobs/status jobs/finalizers", UPDATE),
            ("core", "pods", "create delete list patch watch"),
            EVENTS,
        ],
    ),
    (
        "namespace-controller",
        &[
            ("core", "namespaces", "delete get list watch"),
            ("core", "namespaces/finalize namespaces/status", UPDATE),
            ("*", "*", "delete deletecollection get list watch"),
        ],
    ),
    (
        "node-controller",
        &[
            ("core", "nodes", "delete get list patch update watch"),
            ("core", "nodes/status pods/status", CHANGE),
            ("core", "pods", "delete get list watch"),
            EVENTS,
        ],
    ),
    (
        "persistent-volume-binder",
        &[
            ("core", "persistentvolumes", "create delete get list update watch"),
            ("core", "persistentvolumes/status persistentvolumeclaims/status", UPDATE),
            ("core", "persistentvolumeclaims", "get list update watch"),
            ("core", "pods", "create delete get list watch"),
            ("core", "nodes", FOLLOW),
            ("storage.k8s.io", "storageclasses", READ),
            EVENTS,
        ],
    ),
    (
        "pod-garbage-collector",
        &[("core", "pods", "delete list watch"), ("core", "nodes", READ), ("core", "pods/status", "patch")],
    ),
    (
        "replicaset-controller",
        &[
            (APPS, "replicasets", "get list update watch"),
            (APPS, "replicasets/status replicasets/finalizers", UPDATE),
            ("core", "pods", "create delete list patch watch"),
            EVENTS,
        ],
    ),
    (
        "replication-controller",
        &[
            ("core", "replicationcontrollers", "get list update watch"),
            ("core", "replicationcontrollers/status replicationcontrollers/finalizers", UPDATE),
            ("core", "pods", "create delete list patch watch"),
            EVENTS,
        ],
    ),
    ("resourcequota-controller", &[("*", "*", FOLLOW), ("core", "resourcequotas/status", UPDATE), EVENTS]),
    ("root-ca-cert-publisher", &[("core", "configmaps", "create update"), EVENTS]),
    ("route-controller", &[("core", "nodes", FOLLOW), ("core", "nodes/status", "patch"), EVENTS]),
    ("service-account-controller", &[("core", "serviceaccounts", "create"), EVENTS]),
    (
        "service-cidrs-controller",
        &[
            ("networking.k8s.io", "servicecidrs", "get list patch update watch"),
            ("networking.k8s.io", "servicecidrs/finalizers servicecidrs/status", CHANGE),
            ("networking.k8s.io", "ipaddresses", READ),
            EVENTS,
        ],
    ),
    (
        "service-controller",
        &[("core", "services", READ), ("core", "services/status", CHANGE), ("core", "nodes", FOLLOW), EVENTS],
    ),
    (
        "statefulset-controller",
        &[
            ("core", "pods", KEEP),
            ("apps", "statefulsets", READ),
            ("apps", "statefulsets/status statefulsets/finalizers", UPDATE),
            ("apps", "controllerrevisions", KEEP),
            ("core", "persistentvolumeclaims", "create delete get list update watch"),
            ("core", "pods/finalizers", UPDATE),
            EVENTS,
        ],
    ),
    ("ttl-after-finished-controller", &[("batch", "jobs", "delete get list watch"), EVENTS]),
];

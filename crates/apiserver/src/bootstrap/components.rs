//! What nodes, the scheduler, the proxy, the DNS server and everybody may do.

use super::{
    ClusterRole, Role,
    Subject::{Account, Group, User},
    row::{EVENTS, READ, Row, URL},
};

const FOLLOW: &str = "list watch";
const REVIEW_TOKENS: Row = ("authentication.k8s.io", "tokenreviews", "create");
const REVIEW_ACCESS: Row = ("authorization.k8s.io", "subjectaccessreviews", "create");
const NEW_LEASE: Row = ("coordination.k8s.io", "leases", "create");
const MANAGER: &str = "system:kube-controller-manager";
const SCHEDULER: &str = "system:kube-scheduler";

pub(super) const CLUSTER_ROLES: &[ClusterRole] = &[
    ClusterRole {
        name: "cluster-admin",
        rules: &[("*", "*", "*"), (URL, "*", "*")],
        subjects: &[Group("system:masters")],
    },
    ClusterRole {
        name: "system:discovery",
        rules: &[(
            URL,
            "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/",
            "get",
        )],
        subjects: &[Group("system:authenticated")],
    },
    ClusterRole {
        name: "system:basic-user",
        rules: &[
            ("authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews", "create"),
            ("authentication.k8s.io", "selfsubjectreviews", "create"),
        ],
        subjects: &[Group("system:authenticated")],
    },
    ClusterRole {
        name: "system:public-info-viewer",
        rules: &[(URL, "/healthz /livez /readyz /version /version/", "get")],
        subjects: &[Group("system:authenticated"), Group("system:unauthenticated")],
    },
    ClusterRole {
        name: "system:monitoring",
        rules: &[(URL, "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*", "get")],
        subjects: &[Group("system:monitoring")],
    },
    ClusterRole {
        name: "system:service-account-issuer-discovery",
        rules: &[(URL, "/.well-known/openid-configuration /openid/v1/jwks", "get")],
        subjects: &[Group("system:serviceaccounts")],
    },
    ClusterRole { name: "system:auth-delegator", rules: &[REVIEW_TOKENS, REVIEW_ACCESS], subjects: &[] },
    ClusterRole {
        name: "system:kubelet-api-admin",
        rules: &[
            ("core", "nodes", "get list watch proxy"),
            ("core", "nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/stats", "*"),
        ],
        subjects: &[],
    },
    // Nobody is bound to it: these rules hold for nodes as far as their pods need them (`authz/node.rs`).
    ClusterRole {
        name: "system:node",
        rules: &[
            REVIEW_TOKENS,
            ("authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews", "create"),
            ("core", "services", READ),
            ("core", "nodes", "create get list patch update watch"),
            ("core", "nodes/status pods/status", "patch update"),
            ("core", "pods", "create delete get list watch"),
            ("core", "pods/eviction serviceaccounts/token", "create"),
            ("core", "configmaps secrets", READ),
            ("core", "serviceaccounts", "get"),
            ("core", "persistentvolumeclaims persistentvolumes", "get"),
            ("core", "endpoints", "get"),
            ("certificates.k8s.io", "certificatesigningrequests", "create get list watch"),
            ("coordination.k8s.io", "leases", "create delete get patch update"),
            ("node.k8s.io", "runtimeclasses", READ),
            ("storage.k8s.io", "csidrivers", READ),
            ("storage.k8s.io", "csinodes", "create delete get patch update"),
            ("storage.k8s.io", "volumeattachments", "get"),
            EVENTS,
        ],
        subjects: &[],
    },
    ClusterRole {
        name: "system:node-proxier",
        rules: &[
            ("core", "endpoints services", FOLLOW),
            ("core", "nodes", READ),
            ("discovery.k8s.io", "endpointslices", FOLLOW),
            ("networking.k8s.io", "servicecidrs", FOLLOW),
            EVENTS,
        ],
        // An agent's proxy has no identity but its node's.
        subjects: &[User("system:kube-proxy"), Group("system:nodes")],
    },
    ClusterRole {
        name: "system:kube-dns",
        rules: &[
            ("core", "endpoints namespaces pods services", FOLLOW),
            ("core", "nodes", READ),
            ("discovery.k8s.io", "endpointslices", FOLLOW),
        ],
        subjects: &[Account("kube-dns"), User("system:kube-dns")],
    },
    // An agent's DNS server has no identity but its node's either; of pods it sees its node's.
    ClusterRole {
        name: "skiff:node-dns",
        rules: &[
            ("core", "endpoints namespaces services", FOLLOW),
            ("core", "nodes", READ),
            ("discovery.k8s.io", "endpointslices", FOLLOW),
        ],
        subjects: &[Group("system:nodes")],
    },
    ClusterRole {
        name: MANAGER,
        rules: &[
            EVENTS,
            NEW_LEASE,
            ("coordination.k8s.io", "leases[kube-controller-manager]", "get update"),
            ("core", "secrets serviceaccounts", "create update"),
            ("core", "secrets", "delete"),
            ("core", "configmaps namespaces secrets serviceaccounts", "get"),
            REVIEW_TOKENS,
            REVIEW_ACCESS,
            ("*", "*", FOLLOW),
            ("core", "serviceaccounts/token", "create"),
        ],
        subjects: &[User(MANAGER)],
    },
    ClusterRole {
        name: SCHEDULER,
        rules: &[
            EVENTS,
            NEW_LEASE,
            ("coordination.k8s.io", "leases[kube-scheduler]", "get update"),
            ("core", "namespaces nodes", READ),
            ("core", "pods", "delete get list watch"),
            ("core", "bindings pods/binding", "create"),
            ("core", "pods/status", "patch update"),
            ("core", "replicationcontrollers services", READ),
            ("apps extensions", "replicasets", READ),
            ("apps", "statefulsets", READ),
            ("policy", "poddisruptionbudgets", READ),
            ("core", "persistentvolumeclaims persistentvolumes", READ),
            ("storage.k8s.io", "csidrivers csinodes csistoragecapacities", READ),
            REVIEW_TOKENS,
            REVIEW_ACCESS,
        ],
        subjects: &[User(SCHEDULER)],
    },
];

pub(super) const ROLES: &[Role] = &[
    Role {
        namespace: "kube-system",
        name: "extension-apiserver-authentication-reader",
        rules: &[("core", "configmaps[extension-apiserver-authentication]", READ)],
        subjects: &[User(MANAGER), User(SCHEDULER)],
    },
    Role {
        namespace: "kube-system",
        name: "system::leader-locking-kube-controller-manager",
        rules: &[("core", "configmaps", "watch"), ("core", "configmaps[kube-controller-manager]", "get update")],
        subjects: &[User(MANAGER)],
    },
    Role {
        namespace: "kube-system",
        name: "system::leader-locking-kube-scheduler",
        rules: &[("core", "configmaps", "watch"), ("core", "configmaps[kube-scheduler]", "get update")],
        subjects: &[User(SCHEDULER)],
    },
];

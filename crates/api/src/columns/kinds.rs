//! Which kind has which columns.

use serde_json::Value;

use super::{Column, Row, cluster, format, network, pod, storage, workload};

type Cell = fn(&Row<'_>) -> Value;

const fn text(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "string", format: "", wide: false, cell }
}

const fn number(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "integer", format: "", wide: false, cell }
}

const fn flag(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "boolean", format: "", wide: false, cell }
}

const fn wide(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "string", format: "", wide: true, cell }
}

const fn name(cell: Cell) -> Column {
    Column { name: "Name", kind: "string", format: "name", wide: false, cell }
}

const NAME: Column = name(|r| r.text("metadata.name").into());
const AGE: Column = text("Age", |r| r.since("metadata.creationTimestamp").into());
const CREATED: Column = Column {
    name: "Created At",
    kind: "date",
    format: "",
    wide: false,
    cell: |r| r.text("metadata.creationTimestamp").into(),
};
const CONTAINERS: Column = wide("Containers", |r| workload::containers(r, "spec.template.spec"));
const IMAGES: Column = wide("Images", |r| workload::images(r, "spec.template.spec"));
const SELECTOR: Column = wide("Selector", |r| format::selector(r.at("spec.selector")).into());

pub(super) fn columns(group: &str, kind: &str) -> &'static [Column] {
    let known = KINDS.iter().find(|(g, k, _)| *g == group && *k == kind);
    known.map_or(DEFAULT, |(_, _, columns)| columns)
}

const DEFAULT: &[Column] = &[NAME, AGE];
const NAME_AND_CREATION: &[Column] = &[NAME, CREATED];

type Kind = (&'static str, &'static str, &'static [Column]);

const KINDS: &[Kind] = &[
    ("", "Pod", POD),
    ("", "Service", SERVICE),
    ("", "Endpoints", &[NAME, text("Endpoints", network::endpoints), AGE]),
    ("", "Node", NODE),
    ("", "Event", EVENT),
    ("", "Namespace", &[NAME, text("Status", |r| r.text("status.phase").into()), AGE]),
    ("", "ConfigMap", &[NAME, number("Data", |r| (r.entries("data") + r.entries("binaryData")).into()), AGE]),
    ("", "Secret", &[NAME, text("Type", |r| r.text("type").into()), number("Data", |r| r.entries("data").into()), AGE]),
    ("", "ServiceAccount", &[NAME, number("Secrets", |r| r.list("secrets").len().into()), AGE]),
    ("", "PersistentVolume", PERSISTENT_VOLUME),
    ("", "PersistentVolumeClaim", PERSISTENT_VOLUME_CLAIM),
    ("", "ReplicationController", REPLICATION_CONTROLLER),
    ("", "PodTemplate", POD_TEMPLATE),
    (
        "",
        "ResourceQuota",
        &[NAME, text("Request", |r| cluster::quota(r, false)), text("Limit", |r| cluster::quota(r, true)), AGE],
    ),
    ("", "LimitRange", NAME_AND_CREATION),
    ("apps", "Deployment", DEPLOYMENT),
    ("apps", "ReplicaSet", REPLICA_SET),
    ("apps", "StatefulSet", &[NAME, text("Ready", workload::ready), AGE, CONTAINERS, IMAGES]),
    ("apps", "DaemonSet", DAEMON_SET),
    (
        "apps",
        "ControllerRevision",
        &[NAME, text("Controller", workload::controller), number("Revision", |r| r.count("revision").into()), AGE],
    ),
    ("batch", "Job", JOB),
    ("batch", "CronJob", CRON_JOB),
    (
        "discovery.k8s.io",
        "EndpointSlice",
        &[
            NAME,
            text("AddressType", |r| r.text("addressType").into()),
            text("Ports", network::slice_ports),
            text("Endpoints", network::slice_endpoints),
            AGE,
        ],
    ),
    (
        "networking.k8s.io",
        "Ingress",
        &[
            NAME,
            text("Class", |r| r.text_or("spec.ingressClassName", "<none>").into()),
            text("Hosts", network::hosts),
            text("Address", |r| network::load_balancer(r).into()),
            text("Ports", |r| if r.list("spec.tls").is_empty() { "80".into() } else { "80, 443".into() }),
            AGE,
        ],
    ),
    (
        "networking.k8s.io",
        "IngressClass",
        &[
            NAME,
            text("Controller", |r| r.text("spec.controller").into()),
            text("Parameters", network::class_parameters),
            AGE,
        ],
    ),
    (
        "networking.k8s.io",
        "NetworkPolicy",
        &[NAME, text("Pod-Selector", |r| format::selector(r.at("spec.podSelector")).into()), AGE],
    ),
    (
        "networking.k8s.io",
        "ServiceCIDR",
        &[NAME, text("CIDRs", |r| format::texts(r.at("spec.cidrs")).join(",").into()), AGE],
    ),
    ("networking.k8s.io", "IPAddress", &[NAME, text("ParentRef", network::parent), AGE]),
    ("rbac.authorization.k8s.io", "Role", NAME_AND_CREATION),
    ("rbac.authorization.k8s.io", "ClusterRole", NAME_AND_CREATION),
    ("rbac.authorization.k8s.io", "RoleBinding", BINDING),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", BINDING),
    ("events.k8s.io", "Event", EVENT),
    ("coordination.k8s.io", "Lease", &[NAME, text("Holder", |r| r.text("spec.holderIdentity").into()), AGE]),
    ("storage.k8s.io", "StorageClass", STORAGE_CLASS),
    ("autoscaling", "HorizontalPodAutoscaler", AUTOSCALER),
    ("policy", "PodDisruptionBudget", DISRUPTION_BUDGET),
    ("scheduling.k8s.io", "PriorityClass", PRIORITY_CLASS),
    ("certificates.k8s.io", "CertificateSigningRequest", SIGNING_REQUEST),
    ("node.k8s.io", "RuntimeClass", &[NAME, text("Handler", |r| r.text("handler").into()), AGE]),
];

const POD: &[Column] = &[
    NAME,
    text("Ready", pod::ready),
    text("Status", pod::status),
    text("Restarts", pod::restarts),
    AGE,
    wide("IP", pod::ip),
    wide("Node", |r| r.text_or("spec.nodeName", "<none>").into()),
    wide("Nominated Node", |r| r.text_or("status.nominatedNodeName", "<none>").into()),
    wide("Readiness Gates", pod::readiness_gates),
];
const SERVICE: &[Column] = &[
    NAME,
    text("Type", |r| r.text("spec.type").into()),
    text("Cluster-IP", |r| r.text_or("spec.clusterIP", "<none>").into()),
    text("External-IP", network::external_ip),
    text("Port(s)", network::ports),
    AGE,
    wide("Selector", |r| format::labels(r.at("spec.selector")).into()),
];
const NODE: &[Column] = &[
    NAME,
    text("Status", cluster::node_status),
    text("Roles", cluster::node_roles),
    AGE,
    text("Version", |r| r.text("status.nodeInfo.kubeletVersion").into()),
    wide("Internal-IP", |r| cluster::node_address(r, "InternalIP")),
    wide("External-IP", |r| cluster::node_address(r, "ExternalIP")),
    wide("OS-Image", |r| r.text_or("status.nodeInfo.osImage", "<unknown>").into()),
    wide("Kernel-Version", |r| r.text_or("status.nodeInfo.kernelVersion", "<unknown>").into()),
    wide("Container-Runtime", |r| r.text_or("status.nodeInfo.containerRuntimeVersion", "<unknown>").into()),
];
const EVENT: &[Column] = &[
    text("Last Seen", cluster::event_last_seen),
    text("Type", |r| r.text("type").into()),
    text("Reason", |r| r.text("reason").into()),
    text("Object", cluster::event_object),
    wide("Subobject", cluster::event_subobject),
    wide("Source", cluster::event_source),
    text("Message", cluster::event_message),
    wide("First Seen", cluster::event_first_seen),
    wide("Count", cluster::event_count),
    Column { name: "Name", kind: "string", format: "name", wide: true, cell: |r| r.text("metadata.name").into() },
];
const PERSISTENT_VOLUME: &[Column] = &[
    NAME,
    text("Capacity", |r| r.text("spec.capacity.storage").into()),
    text("Access Modes", |r| storage::access_modes(r.at("spec.accessModes"))),
    text("Reclaim Policy", |r| r.text("spec.persistentVolumeReclaimPolicy").into()),
    text("Status", storage::phase),
    text("Claim", storage::claim),
    text("StorageClass", storage::class),
    text("VolumeAttributesClass", |r| r.text_or("spec.volumeAttributesClassName", "<unset>").into()),
    text("Reason", |r| r.text("status.reason").into()),
    AGE,
    wide("VolumeMode", |r| r.text_or("spec.volumeMode", "<unset>").into()),
];
const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    NAME,
    text("Status", storage::phase),
    text("Volume", |r| r.text("spec.volumeName").into()),
    text("Capacity", |r| storage::when_bound(r, r.at("status.capacity.storage").clone())),
    text("Access Modes", |r| storage::when_bound(r, storage::access_modes(r.at("status.accessModes")))),
    text("StorageClass", storage::class),
    text("VolumeAttributesClass", |r| r.text_or("spec.volumeAttributesClassName", "<unset>").into()),
    AGE,
    wide("VolumeMode", |r| r.text_or("spec.volumeMode", "<unset>").into()),
];
const STORAGE_CLASS: &[Column] = &[
    name(storage::class_name),
    text("Provisioner", |r| r.text("provisioner").into()),
    text("ReclaimPolicy", |r| r.text_or("reclaimPolicy", "Delete").into()),
    text("VolumeBindingMode", |r| r.text_or("volumeBindingMode", "Immediate").into()),
    flag("AllowVolumeExpansion", |r| r.at("allowVolumeExpansion").as_bool().unwrap_or_default().into()),
    AGE,
];
const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready", workload::ready),
    number("Up-to-date", |r| r.count("status.updatedReplicas").into()),
    number("Available", |r| r.count("status.availableReplicas").into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const REPLICA_SET: &[Column] = &[
    NAME,
    number("Desired", |r| r.count("spec.replicas").into()),
    number("Current", |r| r.count("status.replicas").into()),
    number("Ready", |r| r.count("status.readyReplicas").into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const REPLICATION_CONTROLLER: &[Column] = &[
    NAME,
    number("Desired", |r| r.count("spec.replicas").into()),
    number("Current", |r| r.count("status.replicas").into()),
    number("Ready", |r| r.count("status.readyReplicas").into()),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", |r| format::labels(r.at("spec.selector")).into()),
];
const POD_TEMPLATE: &[Column] = &[
    NAME,
    text("Containers", |r| workload::containers(r, "template.spec")),
    text("Images", |r| workload::images(r, "template.spec")),
    text("Pod Labels", |r| format::labels(r.at("template.metadata.labels")).into()),
];
const DAEMON_SET: &[Column] = &[
    NAME,
    number("Desired", |r| r.count("status.desiredNumberScheduled").into()),
    number("Current", |r| r.count("status.currentNumberScheduled").into()),
    number("Ready", |r| r.count("status.numberReady").into()),
    number("Up-to-date", |r| r.count("status.updatedNumberScheduled").into()),
    number("Available", |r| r.count("status.numberAvailable").into()),
    text("Node Selector", |r| format::labels(r.at("spec.template.spec.nodeSelector")).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const JOB: &[Column] = &[
    NAME,
    text("Status", workload::job_status),
    text("Completions", workload::job_completions),
    text("Duration", workload::job_duration),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const CRON_JOB: &[Column] = &[
    NAME,
    text("Schedule", |r| r.text("spec.schedule").into()),
    text("Timezone", |r| r.text_or("spec.timeZone", "<none>").into()),
    text("Suspend", workload::suspended),
    number("Active", |r| r.list("status.active").len().into()),
    text("Last Schedule", workload::last_schedule),
    AGE,
    wide("Containers", |r| workload::containers(r, "spec.jobTemplate.spec.template.spec")),
    wide("Images", |r| workload::images(r, "spec.jobTemplate.spec.template.spec")),
    wide("Selector", |r| format::selector(r.at("spec.jobTemplate.spec.selector")).into()),
];
const AUTOSCALER: &[Column] = &[
    NAME,
    text("Reference", |r| {
        format!("{}/{}", r.text("spec.scaleTargetRef.kind"), r.text("spec.scaleTargetRef.name")).into()
    }),
    text("Targets", workload::autoscaler_targets),
    text("MinPods", |r| cluster::number_or(r.at("spec.minReplicas"), "<unset>")),
    number("MaxPods", |r| r.count("spec.maxReplicas").into()),
    number("Replicas", |r| r.count("status.currentReplicas").into()),
    AGE,
];
const DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    text("Min Available", |r| cluster::number_or(r.at("spec.minAvailable"), "N/A")),
    text("Max Unavailable", |r| cluster::number_or(r.at("spec.maxUnavailable"), "N/A")),
    number("Allowed Disruptions", |r| r.count("status.disruptionsAllowed").into()),
    AGE,
];
const PRIORITY_CLASS: &[Column] = &[
    NAME,
    number("Value", |r| r.count("value").into()),
    flag("Global-Default", |r| r.at("globalDefault").as_bool().unwrap_or_default().into()),
    AGE,
    text("PreemptionPolicy", |r| r.text_or("preemptionPolicy", "PreemptLowerPriority").into()),
];
const SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    text("SignerName", |r| r.text_or("spec.signerName", "<none>").into()),
    text("Requestor", |r| r.text("spec.username").into()),
    text("RequestedDuration", cluster::signing_duration),
    text("Condition", cluster::signing_condition),
];
const BINDING: &[Column] = &[
    NAME,
    text("Role", |r| format!("{}/{}", r.text("roleRef.kind"), r.text("roleRef.name")).into()),
    AGE,
    wide("Users", |r| cluster::subjects(r, "User")),
    wide("Groups", |r| cluster::subjects(r, "Group")),
    wide("ServiceAccounts", |r| cluster::subjects(r, "ServiceAccount")),
];

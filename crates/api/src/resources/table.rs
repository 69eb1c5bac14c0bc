//! The rows. Order is the order of discovery.

use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::authentication::v1 as authentication;
use k8s_openapi::api::authorization::v1 as authorization;
use k8s_openapi::api::autoscaling::{v1 as autoscaling_v1, v2 as autoscaling};
use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::api::certificates::v1 as certificates;
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::events::v1 as events;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::api::node::v1 as node;
use k8s_openapi::api::policy::v1 as policy;
use k8s_openapi::api::rbac::v1 as rbac;
use k8s_openapi::api::scheduling::v1 as scheduling;
use k8s_openapi::api::storage::v1 as storage;

use super::{Described, HasScope, Resource, Subresource, Type};

const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];
const EDIT: &[&str] = &["get", "patch", "update"];
const CONNECT: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
const ALL: &[&str] = &["all"];

const STATUS: Subresource = parents("status", EDIT);
const SCALE: Subresource = typed::<autoscaling_v1::Scale>("scale", EDIT);

pub static RESOURCES: &[Resource] = &[
    row::<core::ConfigMap>("configmap", &["cm"]),
    row::<core::Endpoints>("endpoints", &["ep"]),
    row::<core::Event>("event", &["ev"]),
    row::<core::LimitRange>("limitrange", &["limits"]),
    row::<core::Namespace>("namespace", &["ns"]).verbs(NO_COLLECTION).sub(&[parents("finalize", &["update"]), STATUS]),
    row::<core::Node>("node", &["no"]).sub(&[connect("proxy", "NodeProxyOptions", PROXY), STATUS]),
    row::<core::PersistentVolumeClaim>("persistentvolumeclaim", &["pvc"]).sub(&[STATUS]),
    row::<core::PersistentVolume>("persistentvolume", &["pv"]).sub(&[STATUS]),
    row::<core::Pod>("pod", &["po"]).categories(ALL).sub(&[
        connect("attach", "PodAttachOptions", CONNECT),
        typed::<core::Binding>("binding", CREATE),
        parents("ephemeralcontainers", EDIT),
        typed::<policy::Eviction>("eviction", CREATE),
        connect("exec", "PodExecOptions", CONNECT),
        parents("log", &["get"]),
        connect("portforward", "PodPortForwardOptions", CONNECT),
        connect("proxy", "PodProxyOptions", PROXY),
        parents("resize", EDIT),
        STATUS,
    ]),
    row::<core::PodTemplate>("podtemplate", &[]),
    row::<core::ReplicationController>("replicationcontroller", &["rc"]).categories(ALL).sub(&[SCALE, STATUS]),
    row::<core::ResourceQuota>("resourcequota", &["quota"]).sub(&[STATUS]),
    row::<core::Secret>("secret", &[]),
    row::<core::ServiceAccount>("serviceaccount", &["sa"])
        .sub(&[typed::<authentication::TokenRequest>("token", CREATE)]),
    row::<core::Service>("service", &["svc"])
        .categories(ALL)
        .sub(&[connect("proxy", "ServiceProxyOptions", PROXY), STATUS]),
    row::<events::Event>("event", &["ev"]).view_of("", "v1"),
    row::<authentication::SelfSubjectReview>("selfsubjectreview", &[]).review(),
    row::<authentication::TokenReview>("tokenreview", &[]).review(),
    row::<authorization::LocalSubjectAccessReview>("localsubjectaccessreview", &[]).review(),
    row::<authorization::SelfSubjectAccessReview>("selfsubjectaccessreview", &[]).review(),
    row::<authorization::SelfSubjectRulesReview>("selfsubjectrulesreview", &[]).review(),
    row::<authorization::SubjectAccessReview>("subjectaccessreview", &[]).review(),
    row::<autoscaling::HorizontalPodAutoscaler>("horizontalpodautoscaler", &["hpa"]).categories(ALL).sub(&[STATUS]),
    row::<autoscaling_v1::HorizontalPodAutoscaler>("horizontalpodautoscaler", &["hpa"])
        .categories(ALL)
        .sub(&[STATUS])
        .view_of("autoscaling", "v2"),
    row::<batch::CronJob>("cronjob", &["cj"]).categories(ALL).sub(&[STATUS]),
    row::<batch::Job>("job", &[]).categories(ALL).sub(&[STATUS]),
    row::<certificates::CertificateSigningRequest>("certificatesigningrequest", &["csr"])
        .sub(&[parents("approval", EDIT), STATUS]),
    row::<networking::IngressClass>("ingressclass", &[]),
    row::<networking::Ingress>("ingress", &["ing"]).sub(&[STATUS]),
    row::<networking::IPAddress>("ipaddress", &["ip"]),
    row::<networking::NetworkPolicy>("networkpolicy", &["netpol"]),
    row::<networking::ServiceCIDR>("servicecidr", &[]).sub(&[STATUS]),
    row::<policy::PodDisruptionBudget>("poddisruptionbudget", &["pdb"]).sub(&[STATUS]),
    row::<rbac::ClusterRoleBinding>("clusterrolebinding", &[]),
    row::<rbac::ClusterRole>("clusterrole", &[]),
    row::<rbac::RoleBinding>("rolebinding", &[]),
    row::<rbac::Role>("role", &[]),
    row::<storage::StorageClass>("storageclass", &["sc"]),
    row::<apps::ControllerRevision>("controllerrevision", &[]),
    row::<apps::DaemonSet>("daemonset", &["ds"]).categories(ALL).sub(&[STATUS]),
    row::<apps::Deployment>("deployment", &["deploy"]).categories(ALL).sub(&[SCALE, STATUS]),
    row::<apps::ReplicaSet>("replicaset", &["rs"]).categories(ALL).sub(&[SCALE, STATUS]),
    row::<apps::StatefulSet>("statefulset", &["sts"]).categories(ALL).sub(&[SCALE, STATUS]),
    row::<scheduling::PriorityClass>("priorityclass", &["pc"]),
    row::<coordination::Lease>("lease", &[]),
    row::<node::RuntimeClass>("runtimeclass", &[]),
    row::<discovery::EndpointSlice>("endpointslice", &[]),
];

const fn row<T>(singular: &'static str, short: &'static [&'static str]) -> Resource
where
    T: k8s_openapi::Resource + Described,
    T::Scope: HasScope,
{
    Resource {
        group: T::GROUP,
        version: T::VERSION,
        plural: T::URL_PATH_SEGMENT,
        singular,
        kind: T::KIND,
        short,
        categories: &[],
        scope: <T::Scope as HasScope>::SCOPE,
        verbs: ALL_VERBS,
        subresources: &[],
        stored: true,
        stored_as: None,
        schema: Type::of::<T>(),
    }
}

impl Resource {
    const fn categories(self, categories: &'static [&'static str]) -> Self {
        Resource { categories, ..self }
    }

    const fn verbs(self, verbs: &'static [&'static str]) -> Self {
        Resource { verbs, ..self }
    }

    const fn sub(self, subresources: &'static [Subresource]) -> Self {
        Resource { subresources, ..self }
    }

    const fn view_of(self, group: &'static str, version: &'static str) -> Self {
        Resource { stored_as: Some((group, version)), ..self }
    }

    const fn review(self) -> Self {
        Resource { verbs: CREATE, stored: false, ..self }
    }
}

/// A subresource whose body is the parent object.
const fn parents(name: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, group_version: None, kind: None, verbs, schema: None }
}

/// A subresource that is a connection; the kind names its query options.
const fn connect(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, group_version: Some(("", "v1")), kind: Some(kind), verbs, schema: None }
}

const fn typed<T: k8s_openapi::Resource + Described>(
    name: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    let group_version = Some((T::GROUP, T::VERSION));
    Subresource { name, group_version, kind: Some(T::KIND), verbs, schema: Some(Type::of::<T>()) }
}

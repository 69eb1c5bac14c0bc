//! Services and pods for tests.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{ContainerPort, Pod, PodCondition, PodIP, Service, ServicePort},
    apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString},
    jiff::Timestamp,
};

/// Ports as (name, target); a target that is a number is the port itself.
pub(crate) fn service(name: &str, ports: &[(&str, &str)]) -> Service {
    let mut service = Service::default();
    service.metadata.name = Some(name.into());
    service.metadata.namespace = Some("ns".into());
    service.metadata.uid = Some(format!("uid-{name}"));
    let spec = service.spec.get_or_insert_default();
    spec.cluster_ip = Some("10.96.0.9".into());
    spec.ip_families = Some(vec!["IPv4".into()]);
    spec.selector = Some([("app".to_string(), name.to_string())].into());
    let port = |(i, (name, target)): (usize, &(&str, &str))| ServicePort {
        name: (!name.is_empty()).then(|| name.to_string()),
        port: 1000 + i as i32,
        target_port: Some(target.parse().map_or_else(|_| IntOrString::String(target.to_string()), IntOrString::Int)),
        ..Default::default()
    };
    spec.ports = Some(ports.iter().enumerate().map(port).collect());
    service
}

pub(crate) struct TestPod(Pod);

/// A pod with the address 10.244.X.Y on the node "n".
pub(crate) fn pod(number: u32) -> TestPod {
    let mut pod = Pod::default();
    pod.metadata.name = Some(format!("p{number}"));
    pod.metadata.namespace = Some("ns".into());
    pod.metadata.uid = Some(format!("u{number:05}"));
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some("n".into());
    spec.containers = vec![Default::default()];
    let status = pod.status.get_or_insert_default();
    status.phase = Some("Running".into());
    status.pod_ips = Some(vec![PodIP { ip: format!("10.244.{}.{}", number / 250, number % 250) }]);
    TestPod(pod)
}

impl TestPod {
    pub(crate) fn ready(mut self) -> Self {
        let ready = PodCondition { type_: "Ready".into(), status: "True".into(), ..Default::default() };
        self.0.status.get_or_insert_default().conditions = Some(vec![ready]);
        self
    }

    pub(crate) fn terminating(mut self) -> Self {
        self.0.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        self
    }

    pub(crate) fn phase(mut self, phase: &str) -> Self {
        self.0.status.get_or_insert_default().phase = Some(phase.into());
        self
    }

    pub(crate) fn no_ip(mut self) -> Self {
        self.0.status.get_or_insert_default().pod_ips = None;
        self
    }

    pub(crate) fn node(mut self, node: &str) -> Self {
        self.0.spec.get_or_insert_default().node_name = Some(node.into());
        self
    }

    pub(crate) fn port(mut self, name: &str, number: i32) -> Self {
        let port = ContainerPort { name: Some(name.into()), container_port: number, ..Default::default() };
        self.0.spec.get_or_insert_default().containers[0].ports.get_or_insert_default().push(port);
        self
    }

    pub(crate) fn hostname(mut self, hostname: &str, subdomain: &str) -> Self {
        let spec = self.0.spec.get_or_insert_default();
        spec.hostname = Some(hostname.into());
        spec.subdomain = Some(subdomain.into());
        self
    }
}

impl From<TestPod> for Pod {
    fn from(pod: TestPod) -> Pod {
        pod.0
    }
}

impl From<TestPod> for Arc<Pod> {
    fn from(pod: TestPod) -> Arc<Pod> {
        Arc::new(pod.0)
    }
}

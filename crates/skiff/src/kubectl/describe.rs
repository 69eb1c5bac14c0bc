//! `describe`: an object told for people, field by field as kubectl tells it.

mod access;
mod events;
mod fields;
mod generic;
mod network;
mod node;
mod pod;
mod volumes;
mod workload;
mod writer;

use serde_json::Value;
use skiff_api::json;

use super::{
    error::{Error, Result},
    flags::{Args, Flag, switch},
    kinds::{Kind, known},
    session::Session,
    text::{emit, note},
};
use writer::Writer;

pub(super) use workload::pod_template;

pub(super) const FLAGS: &[Flag] = &[
    switch("show-events", "the events that concern the object (the default)"),
    super::flags::value("chunk-size", "accepted; has no effect"),
];

pub(super) async fn run(session: &Session, args: &Args) -> Result<()> {
    let targets = session.targets(&args.words, args).await?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for target in &targets {
        let (mut objects, failed) = session.fetch(std::slice::from_ref(target), args).await;
        if failed.iter().any(Error::not_found) && !target.name.is_empty() {
            objects = by_prefix(session, target).await?;
        }
        if objects.is_empty() {
            errors.extend(failed);
        }
        found.append(&mut objects);
    }
    if found.is_empty() && errors.is_empty() {
        let place =
            if !args.on("all-namespaces") { format!(" in {} namespace.", session.namespace) } else { String::new() };
        note(&format!("No resources found{place}\n"));
    }
    for (at, (kind, object)) in found.iter().enumerate() {
        let text = one(session, args, kind, object).await?;
        emit(&format!("{}{text}", if at > 0 { "\n\n" } else { "" }))?;
    }
    Error::gather(errors)
}

/// A name that is nobody's may be how several names begin.
async fn by_prefix(session: &Session, target: &super::targets::Target) -> Result<Vec<(Kind, Value)>> {
    let all = session.list(&target.kind, &target.namespace, None).await?;
    let named = all.into_iter().filter(|o| json::text(o, "metadata.name").starts_with(&target.name));
    Ok(named.map(|o| (target.kind.clone(), o)).collect())
}

async fn one(session: &Session, args: &Args, kind: &Kind, object: &Value) -> Result<String> {
    let mut w = Writer::default();
    let namespace = json::text(object, "metadata.namespace");
    let name = json::text(object, "metadata.name");
    let with_events = match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Service") => {
            let label = format!("kubernetes.io/service-name={name}");
            let slices = session.list(&known("discovery.k8s.io", "endpointslices")?, namespace, Some(&label)).await;
            network::service(&mut w, object, &slices.unwrap_or_default());
            true
        }
        ("", "Endpoints") => network::endpoints(&mut w, object),
        ("discovery.k8s.io", "EndpointSlice") => network::slice(&mut w, object),
        ("", "Pod") => pod::pod(&mut w, object),
        ("", "Node") => {
            let lease = session.object(&known("coordination.k8s.io", "leases")?, "kube-node-lease", name).await;
            let field = format!("spec.nodeName={name}");
            let call = super::session::Call::get("/api/v1/pods").query("fieldSelector", field);
            let pods = session.json(&call).await.unwrap_or_default();
            node::node(&mut w, object, &lease.map_err(|e| e.to_string()), json::list(&pods, "items"))
        }
        ("", "Namespace") => access::namespace(&mut w, object),
        ("", "ConfigMap") => access::config_map(&mut w, object),
        ("", "Secret") => access::secret(&mut w, object),
        ("", "ServiceAccount") => access::service_account(&mut w, object),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => access::role(&mut w, object),
        ("rbac.authorization.k8s.io", _) => access::binding(&mut w, object),
        ("apps", "Deployment") => {
            let sets = session.list(&known("apps", "replicasets")?, namespace, None).await.unwrap_or_default();
            workload::deployment(&mut w, object, &sets)
        }
        ("apps", "ReplicaSet" | "StatefulSet" | "DaemonSet") => {
            let pods = session.list(&known("", "pods")?, namespace, None).await.unwrap_or_default();
            workload::set(&mut w, object, &pods)
        }
        _ => generic::object(&mut w, object),
    };
    if with_events && !args.off("show-events") {
        events::write(&mut w, &events::of(session, object).await);
    }
    Ok(w.finish())
}

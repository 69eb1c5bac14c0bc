//! `expose`: a Service in front of what a Deployment, ReplicaSet, Service or Pod selects.

use serde_json::{Map, Value, json};
use skiff_api::json;

use super::{
    create,
    error::{Error, Result, plain},
    flags::{Args, Flag, switch, value},
    kinds::known,
    session::Session,
};

pub(super) const FLAGS: &[Flag] = &[
    value("port", "the Service's port; may be a list: 80,443"),
    value("target-port", "the port or port name on the pods"),
    value("protocol", "TCP, UDP or SCTP"),
    value("type", "ClusterIP, NodePort, LoadBalancer or ExternalName"),
    value("name", "the Service's name; the object's own without this"),
    value("labels", "the Service's labels: a=b,c=d").short('l'),
    value("selector", "which pods: a=b,c=d; those of the object without this"),
    value("external-ip", "one more address that leads to the Service"),
    value("load-balancer-ip", "a wished-for address of the load balancer"),
    value("session-affinity", "None or ClientIP"),
    value("cluster-ip", "a wished-for ClusterIP, or None"),
    value("external-name", "the name that stands behind an ExternalName Service"),
    value("field-manager", "the name under which fields are owned"),
    switch("save-config", "keep the configuration in an annotation, so that apply can go on from it"),
];

pub(super) async fn run(session: &Session, args: &Args) -> Result<()> {
    if args.words.len() == 1 && !args.words[0].contains('/') {
        return plain("resource(s) were provided, but no name was specified");
    }
    let targets = session.targets(&args.words, args).await?;
    let (found, errors) = session.fetch(&targets, args).await;
    Error::gather(errors)?;
    for (_, object) in found {
        let mut service = service(&object, args)?;
        if args.on("save-config") {
            super::apply::annotate(&mut service);
        }
        if session.namespace_given {
            let namespace = session.namespace.clone();
            json::below(&mut service, "metadata")
                .into_iter()
                .for_each(|m| json::set(m, "namespace", namespace.clone()));
        }
        let made = create::send(session, args, &known("", "services")?, &service, "kubectl-expose").await?;
        create::report(args, &made, "exposed")?;
    }
    Ok(())
}

/// The Service, field by field as kubectl makes it.
fn service(object: &Value, args: &Args) -> Result<Value> {
    let own = json::text(object, "metadata.name");
    let name: String = args.get("name").unwrap_or(own).chars().take(63).collect();
    let mut metadata = Map::new();
    metadata.insert("creationTimestamp".into(), Value::Null);
    match args.get("labels") {
        Some(text) => {
            metadata.insert("labels".into(), pairs(text)?);
        }
        None => {
            let own = json::map(object, "metadata.labels").filter(|l| !l.is_empty());
            own.into_iter().for_each(|labels| drop(metadata.insert("labels".into(), json!(labels))));
        }
    }
    metadata.insert("name".into(), json!(name));
    let mut spec = Map::new();
    let headless = args.get("cluster-ip") == Some("None");
    let ports = ports(object, args)?;
    if ports.is_empty() && !headless {
        return plain("couldn't find port via --port flag or introspection");
    }
    if !ports.is_empty() {
        spec.insert("ports".into(), json!(ports));
    }
    spec.insert("selector".into(), selector(object, args)?);
    for (flag, field) in [
        ("type", "type"),
        ("cluster-ip", "clusterIP"),
        ("session-affinity", "sessionAffinity"),
        ("load-balancer-ip", "loadBalancerIP"),
        ("external-name", "externalName"),
    ] {
        if let Some(text) = args.get(flag).filter(|t| !t.is_empty()) {
            spec.insert(field.into(), json!(text));
        }
    }
    if let Some(ip) = args.get("external-ip") {
        spec.insert("externalIPs".into(), json!([ip]));
    }
    Ok(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec, "status": {"loadBalancer": {}}}),
    )
}

fn pairs(text: &str) -> Result<Value> {
    let mut map = Map::new();
    for pair in text.split(',') {
        let Some((key, value)) = pair.split_once('=') else {
            return plain(format!("unexpected label spec: {pair}"));
        };
        map.insert(key.to_owned(), json!(value));
    }
    Ok(json!(map))
}

fn selector(object: &Value, args: &Args) -> Result<Value> {
    if let Some(text) = args.get("selector") {
        return pairs(text);
    }
    let kind = json::text(object, "kind");
    let from = match kind {
        "Pod" => json::map(object, "metadata.labels"),
        "Service" | "ReplicationController" => json::map(object, "spec.selector"),
        "Deployment" | "ReplicaSet" => {
            if !json::list(object, "spec.selector.matchExpressions").is_empty() {
                return plain("couldn't convert expressions - \"matchExpressions\" to map-based selector format");
            }
            json::map(object, "spec.selector.matchLabels")
        }
        _ => return plain(format!("cannot expose a {kind}")),
    };
    match from.filter(|m| !m.is_empty()) {
        Some(map) => Ok(json!(map)),
        None if kind == "Pod" => plain(
            "couldn't retrieve selectors via --selector flag or introspection: the pod has no labels and cannot be exposed",
        ),
        None => plain("couldn't retrieve selectors via --selector flag or introspection: the object selects nothing"),
    }
}

/// A port by its number, and the protocol that the object says it speaks.
fn ports(object: &Value, args: &Args) -> Result<Vec<Value>> {
    let declared = declared(object);
    let asked: Vec<String> = match args.get("port") {
        Some(text) => text.split(',').map(str::to_owned).collect(),
        None => {
            let mut numbers: Vec<String> = Vec::new();
            declared.iter().map(|(p, _)| p.to_string()).for_each(|p| {
                if !numbers.contains(&p) {
                    numbers.push(p)
                }
            });
            numbers
        }
    };
    let several = asked.len() > 1;
    let mut ports = Vec::new();
    for text in &asked {
        let Some(port) = text.trim().parse::<u16>().ok().filter(|p| *p > 0) else {
            return plain(format!("strconv.Atoi: parsing {text:?}: invalid syntax"));
        };
        let own: Vec<&str> = declared.iter().filter(|(p, _)| *p == i64::from(port)).map(|(_, p)| p.as_str()).collect();
        let protocols = match args.get("protocol") {
            Some(protocol) => vec![protocol],
            None if own.is_empty() => vec!["TCP"],
            None => own,
        };
        for protocol in protocols {
            ports.push((port, protocol.to_owned()));
        }
    }
    let named = several || ports.len() > 1;
    Ok(ports.iter().enumerate().map(|(at, (port, protocol))| one(at, *port, protocol, named, args)).collect())
}

fn one(at: usize, port: u16, protocol: &str, named: bool, args: &Args) -> Value {
    let target = match args.get("target-port") {
        Some(text) => text.parse::<u16>().map_or_else(|_| json!(text), |n| json!(n)),
        None => json!(port),
    };
    let mut made = json!({"port": port, "protocol": protocol, "targetPort": target});
    if named {
        made["name"] = json!(format!("port-{}", at + 1));
    }
    made
}

/// The ports that the object's containers (or the Service) declare.
fn declared(object: &Value) -> Vec<(i64, String)> {
    let protocol = |p: &Value| match json::text(p, "protocol") {
        "" => "TCP".to_owned(),
        other => other.to_owned(),
    };
    if json::text(object, "kind") == "Service" {
        return json::list(object, "spec.ports").iter().map(|p| (json::int(p, "port"), protocol(p))).collect();
    }
    let containers = match json::text(object, "kind") {
        "Pod" => json::list(object, "spec.containers"),
        _ => json::list(object, "spec.template.spec.containers"),
    };
    let ports = containers.iter().flat_map(|c| json::list(c, "ports"));
    ports.map(|p| (json::int(p, "containerPort"), protocol(p))).collect()
}

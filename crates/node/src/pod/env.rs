//! A container's environment. Pure: the objects that it draws on are given.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, ResourceFieldSelector, Secret, Service};

use super::quantity;
use crate::network::Ips;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("{kind} \"{name}\" not found")]
    Missing { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key { kind: &'static str, key: String, namespace: String, name: String },
    #[error("environment variable {variable}: unsupported field path {path:?}")]
    Field { variable: String, path: String },
    #[error("environment variable {variable}: unsupported resource {resource:?}")]
    Resource { variable: String, resource: String },
}

/// ConfigMaps and Secrets by name; what does not exist is not in it.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
}

/// Everything around the container.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    pub pod: &'a Pod,
    pub pod_ips: Option<Ips>,
    pub node_ips: Ips,
    pub objects: &'a Objects,
    /// What resourceFieldRef falls back to without a limit.
    pub node_cpu_milli: i128,
    pub node_memory: i128,
}

/// Names of the ConfigMaps and Secrets that a container's environment mentions.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let mut maps = vec![];
    let mut secrets = vec![];
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for from in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(from.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// Name and value in the order of their making; `services` come last and never override.
pub fn environment(
    container: &Container,
    services: &BTreeMap<String, String>,
    around: Around<'_>,
) -> Result<Vec<(String, String)>, Error> {
    let mut list: Vec<(String, String)> = vec![];
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in from_objects(container, around)? {
        set(&mut list, &mut known, name, value);
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(text), _) if !text.is_empty() => {
                Some(expand(text, |name| known.get(name).or_else(|| services.get(name)).cloned()))
            }
            (_, Some(source)) => from_source(&variable.name, container, source, around)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            set(&mut list, &mut known, variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        if !known.contains_key(name) {
            list.push((name.clone(), value.clone()));
        }
    }
    Ok(list)
}

fn set(list: &mut Vec<(String, String)>, known: &mut BTreeMap<String, String>, name: String, value: String) {
    list.retain(|(n, _)| *n != name);
    known.insert(name.clone(), value.clone());
    list.push((name, value));
}

/// `$(NAME)` becomes its value when there is one, `$$` a dollar sign; everything else stays.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|t| t.split_once(')')) {
            out.push_str(&value(name).unwrap_or_else(|| format!("$({name})")));
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

fn from_objects(container: &Container, around: Around<'_>) -> Result<Vec<(String, String)>, Error> {
    let mut found = vec![];
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let data = if let Some(r) = &from.config_map_ref {
            let map = around.objects.config_maps.get(&r.name);
            required(map, "configmap", &r.name, r.optional)?.and_then(|m| m.data.clone()).unwrap_or_default()
        } else if let Some(r) = &from.secret_ref {
            let secret = around.objects.secrets.get(&r.name);
            required(secret, "secret", &r.name, r.optional)?.map(secret_texts).unwrap_or_default()
        } else {
            continue;
        };
        found.extend(data.into_iter().map(|(k, v)| (format!("{prefix}{k}"), v)));
    }
    Ok(found)
}

fn secret_texts(secret: &Secret) -> BTreeMap<String, String> {
    let data = secret.data.iter().flatten();
    data.map(|(k, v)| (k.clone(), String::from_utf8_lossy(&v.0).into_owned())).collect()
}

fn required<'a, T>(
    object: Option<&'a T>,
    kind: &'static str,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<&'a T>, Error> {
    match object {
        None if optional != Some(true) => Err(Error::Missing { kind, name: name.into() }),
        other => Ok(other),
    }
}

fn from_source(
    variable: &str,
    container: &Container,
    source: &EnvVarSource,
    around: Around<'_>,
) -> Result<Option<String>, Error> {
    let namespace = || around.pod.metadata.namespace.clone().unwrap_or_default();
    let missing =
        |kind, key: &str, name: &str| Error::Key { kind, key: key.into(), namespace: namespace(), name: name.into() };
    if let Some(field) = &source.field_ref {
        let unsupported = || Error::Field { variable: variable.into(), path: field.field_path.clone() };
        return pod_field(&field.field_path, around).map(Some).ok_or_else(unsupported);
    }
    if let Some(r) = &source.config_map_key_ref {
        let map = required(around.objects.config_maps.get(&r.name), "configmap", &r.name, r.optional)?;
        let value = map.and_then(|m| m.data.as_ref()).and_then(|d| d.get(&r.key)).cloned();
        return if value.is_none() && r.optional != Some(true) {
            Err(missing("ConfigMap", &r.key, &r.name))
        } else {
            Ok(value)
        };
    }
    if let Some(r) = &source.secret_key_ref {
        let secret = required(around.objects.secrets.get(&r.name), "secret", &r.name, r.optional)?;
        let value = secret.and_then(|s| secret_texts(s).remove(&r.key));
        return if value.is_none() && r.optional != Some(true) {
            Err(missing("Secret", &r.key, &r.name))
        } else {
            Ok(value)
        };
    }
    let Some(field) = &source.resource_field_ref else { return Ok(Some(String::new())) };
    let unsupported = || Error::Resource { variable: variable.into(), resource: field.resource.clone() };
    resource_field(container, field, around).map(Some).ok_or_else(unsupported)
}

/// A field of the pod by its path, as the downward API offers them.
pub fn pod_field(path: &str, around: Around<'_>) -> Option<String> {
    let meta = &around.pod.metadata;
    let spec = around.pod.spec.as_ref();
    Some(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => quoted(meta.labels.as_ref()),
        "metadata.annotations" => quoted(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => around.node_ips.first.to_string(),
        "status.hostIPs" => around.node_ips.to_string(),
        "status.podIP" => around.pod_ips.map(|i| i.first.to_string()).unwrap_or_default(),
        "status.podIPs" => around.pod_ips.map(|i| i.to_string()).unwrap_or_default(),
        _ => {
            let key = |kind: &str| path.strip_prefix(kind)?.strip_suffix("']");
            match (key("metadata.labels['"), key("metadata.annotations['")) {
                (Some(k), _) => meta.labels.as_ref().and_then(|l| l.get(k)).cloned().unwrap_or_default(),
                (_, Some(k)) => meta.annotations.as_ref().and_then(|a| a.get(k)).cloned().unwrap_or_default(),
                _ => return None,
            }
        }
    })
}

fn quoted(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<_> = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

/// A request or limit in units of the divisor, rounded up.
pub fn resource_field(container: &Container, field: &ResourceFieldSelector, around: Around<'_>) -> Option<String> {
    let (which, resource) = field.resource.split_once('.')?;
    let resources = container.resources.clone().unwrap_or_default();
    let quantity = match which {
        "limits" => resources.limits.and_then(|l| l.get(resource).cloned()),
        "requests" => resources.requests.and_then(|r| r.get(resource).cloned()),
        _ => return None,
    };
    let value = match (quantity, which, resource) {
        (Some(q), ..) => quantity::milli(&q.0)?,
        (None, "limits", "cpu") => around.node_cpu_milli,
        (None, "limits", "memory") => around.node_memory * 1000,
        (None, _, "cpu" | "memory" | "ephemeral-storage") => 0,
        _ => return None,
    };
    let divisor = field.divisor.as_ref().and_then(|d| quantity::milli(&d.0)).filter(|d| *d > 0).unwrap_or(1000);
    Some((value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)).to_string())
}

/// The variables of the Services a pod may see at its start: those of its namespace unless it declines them, and always
/// the API server's.
pub fn service_variables<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let mut own = vec![];
    for service in services {
        let meta = &service.metadata;
        let here = meta.namespace.as_deref() == Some(namespace) && links;
        let master = meta.namespace.as_deref() == Some("default") && meta.name.as_deref() == Some("kubernetes");
        if here {
            own.push(service);
        } else if master {
            one_service(service, &mut variables);
        }
    }
    // A Service of the namespace wins over the API server's of the same name.
    own.into_iter().for_each(|s| one_service(s, &mut variables));
    variables
}

fn one_service(service: &Service, variables: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ip.is_empty() || ip == "None" || ports.is_empty() || spec.type_.as_deref() == Some("ExternalName") {
        return;
    }
    let prefix = upper(service.metadata.name.as_deref().unwrap_or_default());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
    let mut put = |name: String, value: String| variables.insert(name, value);
    put(format!("{prefix}_SERVICE_HOST"), ip.into());
    put(format!("{prefix}_SERVICE_PORT"), ports[0].port.to_string());
    for (index, port) in ports.iter().enumerate() {
        let number = port.port;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{number}", protocol.to_lowercase());
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            put(format!("{prefix}_SERVICE_PORT_{}", upper(name)), number.to_string());
        }
        if index == 0 {
            put(format!("{prefix}_PORT"), url.clone());
        }
        let long = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        put(long.clone(), url);
        put(format!("{long}_PROTO"), protocol.to_lowercase());
        put(format!("{long}_PORT"), number.to_string());
        put(format!("{long}_ADDR"), ip.into());
    }
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn expansion() {
        let value = |n: &str| (n == "A").then(|| "1".to_string());
        let table = [
            ("$(A)", "1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(B)", "$(B)"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("x$", "x$"),
            ("$(A)$(A)", "11"),
        ];
        table.iter().for_each(|(text, want)| assert_eq!(expand(text, value), *want, "{text}"));
    }

    fn service(name: &str, ip: &str, ports: Value) -> Service {
        from_value(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"clusterIP": ip, "ports": ports}}))
            .unwrap()
    }

    #[test]
    fn services_are_seen_as_links() {
        let all = [
            service(
                "my-svc",
                "10.96.0.7",
                json!([{"port": 17, "protocol": "TCP"}, {"name": "a-b", "port": 53, "protocol": "UDP"}]),
            ),
            service("headless", "None", json!([{"port": 1}])),
        ];
        let got: Vec<_> = service_variables(&all, "shop", true).into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        let want = [
            "MY_SVC_PORT=tcp://10.96.0.7:17",
            "MY_SVC_PORT_17_TCP=tcp://10.96.0.7:17",
            "MY_SVC_PORT_17_TCP_ADDR=10.96.0.7",
            "MY_SVC_PORT_17_TCP_PORT=17",
            "MY_SVC_PORT_17_TCP_PROTO=tcp",
            "MY_SVC_PORT_53_UDP=udp://10.96.0.7:53",
            "MY_SVC_PORT_53_UDP_ADDR=10.96.0.7",
            "MY_SVC_PORT_53_UDP_PORT=53",
            "MY_SVC_PORT_53_UDP_PROTO=udp",
            "MY_SVC_SERVICE_HOST=10.96.0.7",
            "MY_SVC_SERVICE_PORT=17",
            "MY_SVC_SERVICE_PORT_A_B=53",
        ];
        assert_eq!(got, want);
        assert!(service_variables(&all, "other", true).is_empty());
        assert!(service_variables(&all, "shop", false).is_empty());
    }

    fn around<'a>(pod: &'a Pod, objects: &'a Objects) -> Around<'a> {
        Around {
            pod,
            pod_ips: Some(Ips::new("10.244.0.9".parse().unwrap(), "fd00::9".parse().ok())),
            node_ips: Ips::from("172.30.0.11".parse::<std::net::IpAddr>().unwrap()),
            objects,
            node_cpu_milli: 2000,
            node_memory: 1 << 30,
        }
    }

    #[test]
    fn all_sources() {
        let pod: Pod = from_value(json!({"metadata": {"name": "p", "namespace": "shop", "labels": {"a": "1"}},
            "spec": {"containers": [], "nodeName": "node-1"}}))
        .unwrap();
        let mut objects = Objects::default();
        objects.config_maps.insert("m".into(), from_value(json!({"data": {"k": "v"}})).unwrap());
        objects.secrets.insert("s".into(), from_value(json!({"data": {"p": "cHc="}})).unwrap());
        let container: Container = from_value(json!({"name": "c", "resources": {"limits": {"cpu": "1500m"}},
            "envFrom": [{"prefix": "X_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "none", "optional": true}}],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(SVC)-$(X_k)"}, {"name": "SVC", "value": "mine"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
                {"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}}]}))
        .unwrap();
        let services = BTreeMap::from([("SVC".to_string(), "svc".to_string()), ("OTHER".to_string(), "o".to_string())]);
        let got = environment(&container, &services, around(&pod, &objects)).unwrap();
        let got: Vec<_> = got.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let want = [
            "X_k=v",
            "A=1",
            "B=1-svc-v",
            "SVC=mine",
            "IP=10.244.0.9",
            "L=1",
            "CPU=2",
            "MEM=1024",
            "K=v",
            "P=pw",
            "OTHER=o",
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn what_is_missing_is_named() {
        let pod: Pod = from_value(json!({"metadata": {"name": "p", "namespace": "shop"}})).unwrap();
        let objects = Objects::default();
        let container: Container = from_value(json!({"name": "c", "env": [
            {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]}))
        .unwrap();
        let error = environment(&container, &BTreeMap::new(), around(&pod, &objects)).unwrap_err();
        assert_eq!(error.to_string(), "configmap \"m\" not found");
    }
}

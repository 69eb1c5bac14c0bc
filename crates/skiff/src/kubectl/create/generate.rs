//! The objects that `create` makes from words and flags, field by field as kubectl makes them.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::super::{
    error::{Error, Result, plain},
    flags::Args,
};

pub(super) fn object(what: &str, args: &Args) -> Result<Value> {
    let (words, command) = args.split();
    let required = match what {
        "deployment" => Some("image"),
        "service externalname" => Some("external-name"),
        _ => None,
    };
    if let Some(flag) = required.filter(|f| !args.has(f)) {
        return plain(format!("required flag(s) \"{flag}\" not set"));
    }
    let [name] = words else {
        return plain(format!("exactly one NAME is required, got {}", words.len()));
    };
    match what {
        "deployment" => deployment(name, args, command),
        "namespace" => {
            Ok(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": meta(name), "spec": {}, "status": {}}))
        }
        "serviceaccount" => Ok(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(name)})),
        "configmap" => config_map(name, args),
        "secret generic" => secret(name, args),
        what => service(name, args, what.trim_start_matches("service ")),
    }
}

fn meta(name: &str) -> Value {
    json!({"creationTimestamp": null, "name": name})
}

fn labelled(name: &str) -> Value {
    json!({"creationTimestamp": null, "labels": {"app": name}, "name": name})
}

fn deployment(name: &str, args: &Args, command: &[String]) -> Result<Value> {
    let images = args.list("image");
    if images.len() > 1 && !command.is_empty() {
        return plain("cannot specify multiple --image options and command");
    }
    let replicas = args.number("replicas")?.unwrap_or(1);
    if replicas < 0 {
        return plain("--replicas must not be negative");
    }
    let mut containers: Vec<Value> = Vec::new();
    for image in images {
        containers.push(json!({"image": image, "name": container_name(image), "resources": {}}));
    }
    let Some(first) = containers.first_mut() else {
        return plain("required flag(s) \"image\" not set");
    };
    if !command.is_empty() {
        first["command"] = json!(command);
    }
    if let Some(port) = args.number("port")?.filter(|p| *p > 0) {
        first["ports"] = json!([{"containerPort": port}]);
    }
    Ok(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": labelled(name),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "strategy": {},
            "template": {
                "metadata": {"creationTimestamp": null, "labels": {"app": name}},
                "spec": {"containers": containers},
            },
        },
        "status": {},
    }))
}

/// The repository's last part without tag and digest, as a container's name.
fn container_name(image: &str) -> String {
    let last = split_image(image);
    last.replace('_', "-").to_lowercase()
}

fn split_image(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let last = last.split('@').next().unwrap_or(last);
    last.split(':').next().unwrap_or(last)
}

fn service(name: &str, args: &Args, kind: &str) -> Result<Value> {
    let type_ = match kind {
        "clusterip" => "ClusterIP",
        "nodeport" => "NodePort",
        "loadbalancer" => "LoadBalancer",
        _ => "ExternalName",
    };
    let headless = args.get("clusterip") == Some("None");
    let tcp = args.list("tcp");
    if tcp.is_empty() && !headless && type_ != "ExternalName" {
        return plain("at least one tcp port specifier must be provided");
    }
    if headless && !tcp.is_empty() && type_ != "ClusterIP" {
        return plain("can not map ports with clusterip=None");
    }
    let mut ports = Vec::new();
    for spec in tcp {
        ports.push(port(spec, args.number("node-port")?.filter(|p| *p > 0 && type_ == "NodePort"))?);
    }
    let mut spec = Map::new();
    if let Some(ip) = args.get("clusterip").filter(|ip| !ip.is_empty()) {
        spec.insert("clusterIP".into(), json!(ip));
    }
    if let Some(external) = args.get("external-name") {
        spec.insert("externalName".into(), json!(external));
    }
    if !ports.is_empty() {
        spec.insert("ports".into(), json!(ports));
    }
    spec.insert("selector".into(), json!({"app": name}));
    spec.insert("type".into(), json!(type_));
    Ok(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": labelled(name), "spec": spec, "status": {"loadBalancer": {}},
    }))
}

fn port(spec: &str, node_port: Option<i64>) -> Result<Value> {
    let (port, target) = spec.split_once(':').unwrap_or((spec, spec));
    let number = |text: &str| text.parse::<u16>().ok().filter(|p| *p > 0);
    let Some(port) = number(port) else {
        return plain(format!("{spec:?} is not a port: use PORT or PORT:TARGETPORT with numbers from 1 to 65535"));
    };
    let target = number(target).map_or_else(|| json!(target), |n| json!(n));
    let mut made = json!({"name": spec.replace(':', "-"), "port": port, "protocol": "TCP", "targetPort": target});
    if let Some(node_port) = node_port {
        made["nodePort"] = json!(node_port);
    }
    Ok(made)
}

fn config_map(name: &str, args: &Args) -> Result<Value> {
    let (mut data, mut binary) = (Map::new(), Map::new());
    for (key, bytes) in contents(args)? {
        match String::from_utf8(bytes) {
            Ok(text) => data.insert(key, json!(text)),
            Err(e) => binary.insert(key, json!(STANDARD.encode(e.into_bytes()))),
        };
    }
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(name)});
    if !data.is_empty() {
        object["data"] = json!(data);
    }
    if !binary.is_empty() {
        object["binaryData"] = json!(binary);
    }
    Ok(object)
}

fn secret(name: &str, args: &Args) -> Result<Value> {
    let mut object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta(name)});
    let data: Map<String, Value> = contents(args)?.into_iter().map(|(k, v)| (k, json!(STANDARD.encode(v)))).collect();
    if !data.is_empty() {
        object["data"] = json!(data);
    }
    if let Some(type_) = args.get("type") {
        object["type"] = json!(type_);
    }
    Ok(object)
}

type Contents = Vec<(String, Vec<u8>)>;

fn contents(args: &Args) -> Result<Contents> {
    let mut all: Contents = Vec::new();
    if args.has("from-env-file") && (args.has("from-file") || args.has("from-literal")) {
        return plain("from-env-file cannot be combined with from-file or from-literal");
    }
    for literal in args.all("from-literal") {
        let Some((key, value)) = literal.split_once('=').filter(|(k, _)| !k.is_empty()) else {
            return plain(format!("invalid literal source {literal}, expected key=value"));
        };
        let unquoted = value.strip_prefix(['"', '\'']).and_then(|v| v.strip_suffix(['"', '\''])).unwrap_or(value);
        all.push((key.to_owned(), unquoted.as_bytes().to_vec()));
    }
    for source in args.all("from-file") {
        from_file(source, &mut all)?;
    }
    for file in args.all("from-env-file") {
        for line in String::from_utf8_lossy(&read(Path::new(file))?).lines().map(str::trim_start) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = match line.split_once('=') {
                Some((key, value)) => (key, value.to_owned()),
                None => (line, std::env::var(line).unwrap_or_default()),
            };
            all.push((key.to_owned(), value.into_bytes()));
        }
    }
    let mut keys: Vec<&str> = all.iter().map(|(k, _)| k.as_str()).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|w| w[0] == w[1]) {
        Some(twice) => plain(format!("cannot add key {}, another key by that name already exists", twice[0])),
        None => Ok(all),
    }
}

fn from_file(source: &str, into: &mut Contents) -> Result<()> {
    let (key, path) = match source.split_once('=') {
        Some((key, path)) => (Some(key), Path::new(path)),
        None => (None, Path::new(source)),
    };
    if path.is_dir() {
        let bad = |e: std::io::Error| Error::Plain(format!("{}: {e}", path.display()));
        let mut files: Vec<_> = std::fs::read_dir(path).map_err(bad)?.flatten().map(|e| e.path()).collect();
        files.retain(|f| f.is_file());
        files.sort();
        return files.iter().try_for_each(|f| from_file(&f.display().to_string(), into));
    }
    let own = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    into.push((key.map_or(own, str::to_owned), read(path)?));
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::Plain(format!("error reading {}: {e}", path.display())))
}

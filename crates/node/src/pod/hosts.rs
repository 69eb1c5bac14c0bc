//! A pod's /etc/hosts, /etc/hostname and its names. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

const LOCAL: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
";

/// The longest name that the kernel takes for a machine.
const LONGEST: usize = 64;

/// spec.hostnameOverride or spec.hostname, or the pod's name cut to what a label may have.
pub fn hostname(pod: &Pod) -> String {
    if let Some(name) = overridden(pod) {
        return name.to_owned();
    }
    let wished = pod.spec.as_ref().and_then(|s| s.hostname.clone()).filter(|h| !h.is_empty());
    wished.unwrap_or_else(|| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_string()
    })
}

/// It takes precedence over hostname and subdomain.
fn overridden(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.hostname_override.as_deref().filter(|name| !name.is_empty())
}

/// The full name, when the pod asks for a subdomain.
pub fn fqdn(pod: &Pod, domain: &str) -> Option<String> {
    if overridden(pod).is_some() {
        return None;
    }
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|s| !s.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    Some(format!("{}.{subdomain}.{namespace}.svc.{domain}", hostname(pod)))
}

/// What `hostname` prints in the pod: with setHostnameAsFQDN the full name, where there is one. The error says why it cannot
/// be had.
pub fn kernel_name(pod: &Pod, domain: &str) -> Result<String, String> {
    let whole = pod.spec.as_ref().and_then(|s| s.set_hostname_as_fqdn) == Some(true);
    let Some(name) = fqdn(pod, domain).filter(|_| whole) else { return Ok(hostname(pod)) };
    let length = name.len();
    if length > LONGEST {
        return Err(format!(
            "setHostnameAsFQDN: FQDN {name} is too long ({LONGEST} characters is the max, {length} characters requested): \
             shorten hostname or subdomain"
        ));
    }
    Ok(name)
}

/// `node` is the node's own file, for pods of the host's network.
pub fn render(pod: &Pod, ips: &[IpAddr], domain: &str, node: Option<&str>) -> String {
    let mut text = match node {
        Some(own) => format!("# Kubernetes-managed hosts file (host network).\n{own}"),
        None => format!("# Kubernetes-managed hosts file.\n{LOCAL}"),
    };
    if node.is_none() {
        let host = hostname(pod);
        let names = fqdn(pod, domain).map_or(host.clone(), |f| format!("{f}\t{host}"));
        ips.iter().for_each(|ip| text.push_str(&format!("{ip}\t{names}\n")));
    }
    let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        from_value(json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec})).unwrap()
    }

    #[test]
    fn names_follow_the_specification() {
        let ips = ["10.244.0.7".parse().unwrap()];
        let plain = render(&pod(json!({"containers": []})), &ips, "cluster.local", None);
        assert!(plain.ends_with("\n10.244.0.7\tweb-0\n"), "{plain}");
        assert!(plain.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        let spec = json!({"containers": [], "hostname": "h", "subdomain": "sub",
            "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["a", "b"]}]});
        let full = render(&pod(spec), &ips, "cluster.local", None);
        let tail = "10.244.0.7\th.sub.shop.svc.cluster.local\th\n\n# Entries added by HostAliases.\n192.0.2.1\ta\tb\n";
        assert!(full.ends_with(tail), "{full}");
    }

    #[test]
    fn host_network_pods_have_the_nodes_file() {
        let text = render(&pod(json!({"containers": []})), &[], "cluster.local", Some("127.0.0.1 me\n"));
        assert_eq!(text, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 me\n");
    }

    #[test]
    fn names_of_the_machine() {
        let named = |spec: Value| {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let file = render(&pod(spec.clone()), &["10.244.0.7".parse().unwrap()], "cluster.local", None);
            let names = file.lines().last().and_then(|line| line.split_once('\t')).map(|(_, names)| names.to_owned());
            (kernel_name(&pod(spec), "cluster.local"), names.unwrap())
        };
        let full = "web-0.sub.shop.svc.cluster.local";
        let both = format!("{full}\tweb-0");
        assert_eq!(named(json!({"subdomain": "sub"})), (Ok("web-0".into()), both.clone()));
        assert_eq!(named(json!({"subdomain": "sub", "setHostnameAsFQDN": true})), (Ok(full.into()), both));
        assert_eq!(named(json!({"setHostnameAsFQDN": true})), (Ok("web-0".into()), "web-0".into()));
        let over = json!({"hostname": "h", "subdomain": "sub", "hostnameOverride": "a.b.example"});
        assert_eq!(named(over), (Ok("a.b.example".into()), "a.b.example".into()));
        let long = |n| json!({"hostname": "h".repeat(n), "subdomain": "sub", "setHostnameAsFQDN": true});
        assert!(named(long(37)).0.is_ok_and(|name| name.len() == 64));
        assert!(named(long(38)).0.unwrap_err().contains("64 characters is the max, 65 characters requested"));
    }

    #[test]
    fn long_names_are_cut_to_a_label() {
        let mut long = pod(json!({"containers": []}));
        long.metadata.name = Some(format!("{}-{}", "a".repeat(62), "b"));
        assert_eq!(hostname(&long), "a".repeat(62));
    }
}

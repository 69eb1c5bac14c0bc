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

/// spec.hostname, or the pod's name cut to what a label may have.
pub fn hostname(pod: &Pod) -> String {
    let wished = pod.spec.as_ref().and_then(|s| s.hostname.clone()).filter(|h| !h.is_empty());
    wished.unwrap_or_else(|| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_string()
    })
}

/// The full name, when the pod asks for a subdomain.
pub fn fqdn(pod: &Pod, domain: &str) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|s| !s.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    Some(format!("{}.{subdomain}.{namespace}.svc.{domain}", hostname(pod)))
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
    fn long_names_are_cut_to_a_label() {
        let mut long = pod(json!({"containers": []}));
        long.metadata.name = Some(format!("{}-{}", "a".repeat(62), "b"));
        assert_eq!(hostname(&long), "a".repeat(62));
    }
}

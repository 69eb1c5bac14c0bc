//! A pod's /etc/resolv.conf by its dnsPolicy and dnsConfig. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
/// A longer one is no DNS name, and older C libraries abort on it.
const MAX_SEARCH: usize = 253;
const MAX_SEARCH_CHARS: usize = 2048;

/// What a resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolv {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl Resolv {
    pub fn parse(text: &str) -> Self {
        let mut found = Resolv::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => found.nameservers.extend(words.next().map(String::from)),
                Some("search" | "domain") => found.searches = words.map(without_final_dot).collect(),
                Some("options") => found.options.extend(words.map(String::from)),
                _ => {}
            }
        }
        found
    }

    pub fn render(&self) -> String {
        let mut text = String::new();
        self.nameservers.iter().for_each(|n| text.push_str(&format!("nameserver {n}\n")));
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// Search domains are complete as they are; the root stays what it is.
fn without_final_dot(domain: &str) -> String {
    domain.strip_suffix('.').filter(|rest| !rest.is_empty()).unwrap_or(domain).to_owned()
}

/// The cluster's DNS.
#[derive(Clone, Copy, Debug)]
pub struct Cluster<'a> {
    pub ip: Option<IpAddr>,
    pub domain: &'a str,
}

/// The file, and what had to be left out of it (an event each).
pub fn of(pod: &Pod, cluster: Cluster<'_>, host: &Resolv) -> (Resolv, Vec<String>) {
    let spec = pod.spec.clone().unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    let base = match (spec.dns_policy.as_deref(), cluster.ip) {
        (Some("None"), _) => Resolv::default(),
        (Some("Default"), _) | (_, None) => host.clone(),
        (Some("ClusterFirstWithHostNet"), Some(ip)) => cluster_first(pod, ip, cluster.domain, host),
        (_, Some(_)) if host_network => host.clone(),
        (_, Some(ip)) => cluster_first(pod, ip, cluster.domain, host),
    };
    limited(merged(base, &spec.dns_config.unwrap_or_default()))
}

fn cluster_first(pod: &Pod, ip: IpAddr, domain: &str, host: &Resolv) -> Resolv {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_string()];
    Resolv {
        nameservers: vec![ip.to_string()],
        searches: unique(own.into_iter().chain(host.searches.iter().cloned())),
        options: vec!["ndots:5".into()],
    }
}

fn merged(base: Resolv, config: &k8s_openapi::api::core::v1::PodDNSConfig) -> Resolv {
    let mut options = base.options;
    for option in config.options.iter().flatten() {
        let name = option.name.as_deref().unwrap_or_default();
        options.retain(|o| o.split(':').next() != Some(name));
        options.push(match &option.value {
            Some(value) if !value.is_empty() => format!("{name}:{value}"),
            _ => name.to_string(),
        });
    }
    Resolv {
        nameservers: unique(base.nameservers.into_iter().chain(config.nameservers.iter().flatten().cloned())),
        searches: unique(base.searches.into_iter().chain(config.searches.iter().flatten().cloned())),
        options,
    }
}

fn unique(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = vec![];
    names.for_each(|n| {
        if !seen.contains(&n) {
            seen.push(n);
        }
    });
    seen
}

fn limited(mut resolv: Resolv) -> (Resolv, Vec<String>) {
    let mut excess = vec![];
    if resolv.nameservers.len() > MAX_NAMESERVERS {
        resolv.nameservers.truncate(MAX_NAMESERVERS);
        let kept = resolv.nameservers.join(" ");
        excess.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {kept}"
        ));
    }
    let before = resolv.searches.len();
    resolv.searches.truncate(MAX_SEARCHES);
    resolv.searches.retain(|domain| domain.len() <= MAX_SEARCH);
    while resolv.searches.join(" ").len() > MAX_SEARCH_CHARS {
        resolv.searches.pop();
    }
    if resolv.searches.len() < before {
        let kept = resolv.searches.join(" ");
        excess.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {kept}"
        ));
    }
    (resolv, excess)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn check(spec: Value, want: &str) {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let pod: Pod = from_value(json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec})).unwrap();
        let host = Resolv::parse("# made by hand\nnameserver 192.0.2.53\nsearch example.org\noptions edns0\n");
        let cluster = Cluster { ip: Some("10.96.0.10".parse().unwrap()), domain: "cluster.local" };
        assert_eq!(of(&pod, cluster, &host).0.render(), want);
    }

    const CLUSTER: &str = "nameserver 10.96.0.10
search shop.svc.cluster.local svc.cluster.local cluster.local example.org
options ndots:5
";
    const HOST: &str = "nameserver 192.0.2.53\nsearch example.org\noptions edns0\n";

    #[test]
    fn every_policy() {
        check(json!({}), CLUSTER);
        check(json!({"dnsPolicy": "ClusterFirst"}), CLUSTER);
        check(json!({"dnsPolicy": "Default"}), HOST);
        check(json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), HOST);
        check(json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), CLUSTER);
        let config = json!({"nameservers": ["1.1.1.1"], "searches": ["a.b"], "options": [{"name": "x"}]});
        check(json!({"dnsPolicy": "None", "dnsConfig": config}), "nameserver 1.1.1.1\nsearch a.b\noptions x\n");
    }

    #[test]
    fn options_override_by_name() {
        let config = json!({"options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
        check(json!({"dnsConfig": config}), &CLUSTER.replace("ndots:5", "ndots:2 edns0"));
    }

    #[test]
    fn a_host_file_in_its_odd_forms() {
        let read = Resolv::parse("search a.b. .\noptions edns0\noptions trust-ad\n nameserver fd00::1\ndomain\n");
        assert_eq!((read.nameservers.join(" "), read.options.join(" ")), ("fd00::1".into(), "edns0 trust-ad".into()));
        let read = Resolv::parse("domain x.y\nsearch a.b. .\n");
        assert_eq!(read.searches, ["a.b", "."]);
    }

    #[test]
    fn dns_config_adds_to_every_policy() {
        let config = json!({"nameservers": ["1.1.1.1"], "searches": ["a.b", "svc.cluster.local"]});
        let want = "nameserver 10.96.0.10\nnameserver 1.1.1.1\nsearch shop.svc.cluster.local svc.cluster.local \
                    cluster.local example.org a.b\noptions ndots:5\n";
        check(json!({"dnsConfig": config}), want);
        let want =
            "nameserver 192.0.2.53\nnameserver 1.1.1.1\nsearch example.org a.b svc.cluster.local\noptions edns0\n";
        check(json!({"dnsPolicy": "Default", "dnsConfig": config}), want);
    }

    #[test]
    fn long_search_paths_are_cut_and_said() {
        let said = |searches: Vec<String>| {
            let spec = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": searches}});
            let pod: Pod = from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
            let (resolv, said) = of(&pod, Cluster { ip: None, domain: "d" }, &Resolv::default());
            (resolv.searches.len(), said.iter().any(|s| s.starts_with("Search Line limits were exceeded")))
        };
        let named = |n: usize, length: usize| (0..n).map(|i| format!("{i:0length$}")).collect();
        assert_eq!(said(named(32, 10)), (32, false));
        assert_eq!(said(named(33, 10)), (32, true));
        assert_eq!(said(named(21, 99)), (20, true), "2048 characters with the spaces between");
        assert_eq!(said(vec!["a".repeat(254), "b".repeat(253)]), (1, true));
    }

    #[test]
    fn excess_is_cut_and_said() {
        let spec = json!({"containers": [], "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"], "searches": vec!["a".repeat(254)]}});
        let pod: Pod = from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        let (resolv, said) = of(&pod, Cluster { ip: None, domain: "d" }, &Resolv::default());
        assert_eq!(resolv.nameservers.len(), 3);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].ends_with("1.1.1.1 2.2.2.2 3.3.3.3"));
    }
}

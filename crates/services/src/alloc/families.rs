//! `ipFamilies` and `ipFamilyPolicy`: what the client left open follows from its addresses and from the cluster.

use ipnet::IpNet;
use serde_json::{Value, json};
use skiff_api::field::{Error, Path};
use skiff_api::json::{get, get_mut, is_zero, same, set, text, texts};
use skiff_api::strategy::needs_cluster_ip;

use super::Pools;

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// The ranges of one family.
pub(super) fn ranges<'a>(pools: &'a Pools, family: &'a str) -> impl Iterator<Item = IpNet> + 'a {
    pools.service_cidrs.iter().copied().filter(move |r| of_range(r) == family)
}

fn of_range(range: &IpNet) -> &'static str {
    if matches!(range, IpNet::V4(_)) { "IPv4" } else { "IPv6" }
}

fn of_ip(ip: &str) -> Option<&'static str> {
    ip.parse::<std::net::IpAddr>().ok().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" })
}

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

/// The cluster's families, its own first.
fn configured(pools: &Pools) -> Vec<&'static str> {
    let mut families: Vec<&str> = Vec::new();
    for family in pools.service_cidrs.iter().map(of_range) {
        if !families.contains(&family) {
            families.push(family);
        }
    }
    families
}

pub(super) fn fill(service: &mut Value, old: Option<&Value>, pools: &Pools) -> Result<(), Vec<Error>> {
    if !needs_cluster_ip(service) {
        return Ok(());
    }
    if let Some(old) = old.filter(|o| needs_cluster_ip(o)) {
        keep_on_update(service, old);
        if prefers_as_before(service, old) {
            return Ok(());
        }
        downgrade(service, old);
    }
    let headless = text(service, "spec.clusterIP") == "None";
    let selectorless = headless && is_zero(get(service, "spec.selector"));
    let policy = policy(service, selectorless);
    let mut families: Vec<String> = texts(service, "spec.ipFamilies").into_iter().map(str::to_owned).collect();
    let mut errors = too_many(service, &policy);
    errors.extend(infer(service, &mut families, pools));
    if errors.is_empty() && !selectorless {
        errors.extend(check(&families, &policy, pools));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    complete(&mut families, &policy, pools, selectorless);
    if let Some(spec) = get_mut(service, "spec") {
        if headless {
            set(spec, "clusterIPs", json!(["None"]));
        }
        set(spec, "ipFamilies", json!(families));
        set(spec, "ipFamilyPolicy", policy);
    }
    Ok(())
}

/// The families of addresses that the client gave without saying them.
fn infer(service: &Value, families: &mut Vec<String>, pools: &Pools) -> Vec<Error> {
    let (mut errors, configured) = (Vec::new(), configured(pools));
    let ips = texts(service, "spec.clusterIPs");
    for (i, ip) in ips.iter().enumerate().skip(families.len()) {
        match of_ip(ip) {
            Some(family) if configured.contains(&family) => families.push(family.to_owned()),
            Some(family) => {
                let why = format!("{family} is not configured on this cluster");
                errors.push(Error::invalid(&Path::new("spec.clusterIPs").index(i), json!(ips), why));
            }
            None => {}
        }
    }
    errors
}

/// An update that leaves a PreferDualStack Service alone never gives it a second family silently.
fn prefers_as_before(new: &Value, old: &Value) -> bool {
    let unchanged = |key: &&str| same(get(new, &format!("spec.{key}")), get(old, &format!("spec.{key}")));
    text(new, "spec.ipFamilyPolicy") == PREFER && ["ipFamilyPolicy", "ipFamilies", "clusterIPs"].iter().all(unchanged)
}

/// A client that says nothing of families and policy leaves them as they are.
fn keep_on_update(new: &mut Value, old: &Value) {
    for key in ["ipFamilyPolicy", "ipFamilies"] {
        let field = format!("spec.{key}");
        if let (true, Some(was), Some(spec)) = (is_zero(get(new, &field)), get(old, &field), get_mut(new, "spec")) {
            set(spec, key, was.clone());
        }
    }
}

/// SingleStack releases the second family and address, if the client did not change the lists itself.
fn downgrade(new: &mut Value, old: &Value) {
    let to_single = text(new, "spec.ipFamilyPolicy") == SINGLE && text(old, "spec.ipFamilyPolicy") != SINGLE;
    if !to_single {
        return;
    }
    for key in ["clusterIPs", "ipFamilies"] {
        let field = format!("spec.{key}");
        if same(get(new, &field), get(old, &field))
            && let Some(list) = get_mut(new, &field).and_then(Value::as_array_mut)
        {
            list.truncate(1);
        }
    }
}

/// Two families are never a silent choice; only what has no addresses of the cluster's gets both by itself.
fn policy(service: &Value, selectorless: bool) -> String {
    match text(service, "spec.ipFamilyPolicy") {
        "" if selectorless => REQUIRE.to_owned(),
        "" => SINGLE.to_owned(),
        policy => policy.to_owned(),
    }
}

fn too_many(service: &Value, policy: &str) -> Vec<Error> {
    let lists = [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")];
    let two = lists.into_iter().filter(|(key, _)| texts(service, &format!("spec.{key}")).len() == 2);
    let error = |(_, what)| {
        let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
        Error::invalid(&Path::new("spec.ipFamilyPolicy"), SINGLE, why)
    };
    two.filter(|_| policy == SINGLE).map(error).collect()
}

/// Dual stack where the cluster is not, and families that it has not.
fn check(families: &[String], policy: &str, pools: &Pools) -> Vec<Error> {
    let configured = configured(pools);
    let mut errors = Vec::new();
    if policy == REQUIRE && configured.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(Error::invalid(&Path::new("spec.ipFamilyPolicy"), policy, why));
    }
    let foreign = families.iter().enumerate().filter(|(_, f)| !configured.contains(&f.as_str()));
    let path = Path::new("spec.ipFamilies");
    errors.extend(foreign.map(|(i, f)| Error::invalid(&path.index(i), f.as_str(), "not configured on this cluster")));
    errors
}

fn complete(families: &mut Vec<String>, policy: &str, pools: &Pools, selectorless: bool) {
    let configured = configured(pools);
    if families.is_empty() {
        families.extend(configured.first().map(|f| (*f).to_owned()));
    }
    let second = families.first().map(|first| other(first));
    if let (Some(second), 1, true) = (second, families.len(), policy != SINGLE) {
        // A headless Service without a selector has no addresses of the cluster's: its families need no ranges.
        if configured.contains(&second) || selectorless {
            families.push(second.to_owned());
        }
    }
}

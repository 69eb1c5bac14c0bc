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
    let old = old.filter(|o| needs_cluster_ip(o));
    if let Some(old) = old {
        if prefers_as_before(service, old) {
            return Ok(());
        }
        keep_on_update(service, old);
        downgrade(service, old);
    }
    let mut families: Vec<String> = texts(service, "spec.ipFamilies").into_iter().map(str::to_owned).collect();
    let headless = text(service, "spec.clusterIP") == "None";
    for ip in texts(service, "spec.clusterIPs").into_iter().skip(families.len()) {
        families.extend(of_ip(ip).map(str::to_owned));
    }
    let selectorless = headless && is_zero(get(service, "spec.selector"));
    let policy = policy(service, families.len(), selectorless)?;
    if !selectorless {
        check(&families, &policy, pools)?;
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

/// An update that leaves a PreferDualStack Service alone never gives it a second family silently.
fn prefers_as_before(new: &Value, old: &Value) -> bool {
    let unchanged = ["ipFamilyPolicy", "ipFamilies", "clusterIPs"]
        .iter()
        .all(|key| same(get(new, &format!("spec.{key}")), get(old, &format!("spec.{key}"))));
    text(new, "spec.ipFamilyPolicy") == PREFER && unchanged
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

fn policy(service: &Value, families: usize, selectorless: bool) -> Result<String, Vec<Error>> {
    let two = families > 1 || texts(service, "spec.clusterIPs").len() > 1;
    match text(service, "spec.ipFamilyPolicy") {
        "" if two || selectorless => Ok(REQUIRE.to_owned()),
        "" => Ok(SINGLE.to_owned()),
        SINGLE if two => {
            let why = "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified";
            Err(vec![Error::invalid(&Path::new("spec.ipFamilyPolicy"), SINGLE, why)])
        }
        policy => Ok(policy.to_owned()),
    }
}

fn check(families: &[String], policy: &str, pools: &Pools) -> Result<(), Vec<Error>> {
    let configured = configured(pools);
    let foreign = families.iter().enumerate().filter(|(_, f)| !configured.contains(&f.as_str()));
    let path = Path::new("spec.ipFamilies");
    let mut errors: Vec<Error> =
        foreign.map(|(i, f)| Error::invalid(&path.index(i), f.as_str(), "not configured on this cluster")).collect();
    if policy == REQUIRE && configured.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(Error::invalid(&Path::new("spec.ipFamilyPolicy"), policy, why));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn complete(families: &mut Vec<String>, policy: &str, pools: &Pools, selectorless: bool) {
    let configured = configured(pools);
    if families.is_empty() {
        families.extend(configured.first().map(|f| (*f).to_owned()));
    }
    let second = families.first().map(|first| other(first));
    if let (Some(second), 1, true) = (second, families.len(), policy != SINGLE) {
        // A headless Service without a selector has no addresses of the cluster's: its families need no ranges.
        if configured.contains(&second) || (selectorless && policy == REQUIRE) {
            families.push(second.to_owned());
        }
    }
}

//! Makes or renews the Node object, and waits for the range of addresses that the cluster gives the node.

use std::{fmt, time::Duration};

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use skiff_client::life::Stop;
use tracing::warn;

use super::{
    Error,
    object::{self, Facts},
};
use crate::network::{Ips, routes::pod_ranges};

/// Where the node's pods get their addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ranges {
    pub(super) first: IpNet,
    pub(super) second: Option<IpNet>,
}

impl Ranges {
    /// Those of the families that the node has addresses of: pods with others could not be reached. None while the range
    /// of the first family is missing.
    fn of(given: &[IpNet], ips: Ips) -> Option<Self> {
        let like = |ip: std::net::IpAddr| given.iter().copied().find(|r| r.addr().is_ipv4() == ip.is_ipv4());
        Some(Ranges { first: like(ips.first)?, second: ips.second.and_then(like) })
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.second.map_or(Ok(()), |range| write!(f, " and {range}"))
    }
}

/// The node's pod ranges; `None` when told to stop first.
pub(super) async fn register(client: &kube::Client, facts: &Facts, stop: &Stop) -> Result<Option<Ranges>, Error> {
    let api: Api<Node> = Api::all(client.clone());
    let mut wait = Duration::from_millis(50);
    loop {
        let failed = match announce(&api, facts).await {
            Ok(()) => break,
            Err(e) => e,
        };
        if let kube::Error::Api(status) = &failed
            && matches!(status.code, 400..=403 | 422)
        {
            return Err(Error::Register { name: facts.name.clone(), cause: failed });
        }
        warn!("the node could not be registered yet, trying again: {failed}");
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_secs(5)),
        }
    }
    tokio::select! {
        () = stop.cancelled() => Ok(None),
        ranges = ranges(&api, facts) => Ok(ranges),
    }
}

async fn announce(api: &Api<Node>, facts: &Facts) -> kube::Result<()> {
    match api.create(&PostParams::default(), &object::node(facts)).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let labels = json!({"metadata": {"labels": object::labels(facts)}});
            api.patch(&facts.name, &PatchParams::default(), &Patch::Merge(labels)).await?;
        }
        Err(e) => return Err(e),
    }
    report(api, facts).await
}

/// Writes the node's status.
pub(super) async fn report(api: &Api<Node>, facts: &Facts) -> kube::Result<()> {
    let before = api.get(&facts.name).await?.status.unwrap_or_default();
    let status = object::status(facts, before.conditions.as_deref().unwrap_or_default(), Timestamp::now());
    api.patch_status(&facts.name, &PatchParams::default(), &Patch::Strategic(status_patch(&status))).await.map(drop)
}

/// The addresses replace what is there: lists of them merge by type, and a node of two families has two of one type
/// (kubelet does the same, kubernetes/kubernetes#69252).
fn status_patch(status: &NodeStatus) -> Value {
    let mut patch = json!({"status": status});
    if let Some(addresses) = patch["status"]["addresses"].as_array_mut() {
        addresses.push(json!({"$patch": "replace"}));
    }
    patch
}

async fn ranges(api: &Api<Node>, facts: &Facts) -> Option<Ranges> {
    let config = watcher::Config::default().fields(&format!("metadata.name={}", facts.name));
    let nodes = watcher(api.clone(), config).default_backoff().applied_objects();
    let given = nodes.inspect_err(|e| warn!("the watch of the node failed, trying again: {e}"));
    let mut given = given.filter_map(|n| async move { Ranges::of(&pod_ranges(&n.ok()?), facts.ips) }).boxed();
    given.next().await
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeAddress;
    use skiff_api::{merge_keys::root, patch::strategic_as};

    use super::*;

    #[test]
    fn both_families_addresses_survive_the_next_report() {
        let address = |ip: &str| NodeAddress { address: ip.into(), type_: "InternalIP".into() };
        let report = |node: &Value, ips: &[&str]| {
            let addresses = Some(ips.iter().map(|ip| address(ip)).collect());
            let patch = status_patch(&NodeStatus { addresses, ..NodeStatus::default() });
            strategic_as(root("", "Node"), node, &patch).unwrap()
        };
        let first = report(&json!({}), &["10.0.0.1", "fd01::1"]);
        let addresses = json!([address("10.0.0.1"), address("fd01::1")]);
        assert_eq!(first["status"]["addresses"], addresses);
        assert_eq!(report(&first, &["10.0.0.1", "fd01::1"])["status"]["addresses"], addresses);
        assert_eq!(report(&first, &["10.0.0.2"])["status"]["addresses"], json!([address("10.0.0.2")]));
    }

    #[test]
    fn ranges_of_the_nodes_families() {
        let given: Vec<IpNet> = ["fd00::/64", "10.244.0.0/24"].map(|r| r.parse().unwrap()).into();
        let of = |first: &str, second: Option<&str>, given: &[IpNet]| {
            let ips = Ips::new(first.parse().unwrap(), second.map(|s| s.parse().unwrap()));
            Ranges::of(given, ips).map(|r| r.to_string())
        };
        assert_eq!(of("10.0.0.1", Some("fd01::1"), &given).unwrap(), "10.244.0.0/24 and fd00::/64");
        assert_eq!(of("10.0.0.1", None, &given).unwrap(), "10.244.0.0/24");
        assert_eq!(of("fd01::1", None, &given).unwrap(), "fd00::/64");
        assert_eq!(of("10.0.0.1", Some("fd01::1"), &given[..1]), None);
    }
}

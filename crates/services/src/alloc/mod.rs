//! Which addresses and node ports a Service gets. Pure: what is taken and the random numbers come in as arguments.
//!
//! Each range has a static band at its start, where clients may choose, and a dynamic one behind it, from which the server
//! chooses; so the two seldom collide. When the dynamic band is full the server takes from the static one too.

mod addresses;
mod families;
mod ports;
mod range;
mod ranges;
pub mod repair;

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};
use skiff_api::field::{self, Path};
use skiff_api::json::{get_mut, set, text, texts};
use skiff_api::strategy::needs_cluster_ip;

pub use addresses::{ip_address, is_managed, service_of};
pub use range::{choose_ip, choose_port, first_ip, size, static_ips, static_ports};
pub use ranges::{DEFAULT_RANGE, RANGE_FINALIZER, Ranges};

/// What a cluster has to give.
#[derive(Clone, Debug)]
pub struct Pools {
    /// Ranges of ClusterIPs; the first one's family is the cluster's own. Several of one family are used in turn.
    pub service_cidrs: Vec<IpNet>,
    pub node_ports: std::ops::RangeInclusive<u16>,
}

/// What others hold. The Service at hand does not count as a holder.
pub trait Taken {
    fn ip(&self, ip: IpAddr) -> bool;
    fn port(&self, port: u16) -> bool;
}

/// Why one number of a range cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {ranges}")]
    IpNotInRange { ip: IpAddr, ranges: String },
    #[error("provided IP is already allocated")]
    IpTaken,
    #[error("provided port is not in the valid range. The range of valid ports is {first}-{last}")]
    PortNotInRange { first: u16, last: u16 },
    #[error("provided port is already allocated")]
    PortTaken,
    /// Nothing is left to give.
    #[error("range is full")]
    Full,
}

/// Why a Service cannot have what it needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// The client asked for what it cannot have: answered as Invalid.
    Invalid(field::Error),
    /// The cluster has nothing left: answered as an internal error.
    Exhausted(String),
}

/// What a Service holds besides its object; the caller records it when the object is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    pub ips: Vec<IpAddr>,
    pub ports: Vec<u16>,
}

/// All addresses and ports that a Service holds.
pub fn claims(service: &Value) -> Claims {
    let ips = texts(service, "spec.clusterIPs").into_iter().filter_map(|ip| ip.parse().ok());
    let ips: Vec<IpAddr> = match needs_cluster_ip(service) {
        true => ips.chain(text(service, "spec.clusterIP").parse().ok()).collect(),
        false => Vec::new(),
    };
    let mut claims = Claims { ips, ports: ports::held(service) };
    claims.ips.sort_unstable();
    claims.ips.dedup();
    claims
}

/// Fills in families, addresses and ports of `service`, which is defaulted and validated. `old` is what is stored, None on
/// create. A dry run is the same without recording the result.
pub fn fill(
    service: &mut Value,
    old: Option<&Value>,
    pools: &Pools,
    taken: &dyn Taken,
    random: &mut dyn FnMut() -> u64,
) -> Result<(), Vec<Error>> {
    let invalid = |errors: Vec<field::Error>| errors.into_iter().map(Error::Invalid).collect::<Vec<_>>();
    families::fill(service, old, pools).map_err(invalid)?;
    let mine = old.map(claims).unwrap_or_default();
    // Addresses and ports are both tried, so that one answer names everything that is wrong.
    let mut errors = Vec::new();
    if needs_cluster_ip(service) && text(service, "spec.clusterIP") != "None" {
        errors.extend(addresses(service, &mine, pools, taken, random).err());
    }
    errors.extend(ports::fill(service, old, &mine, pools, taken, random).err().unwrap_or_default());
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// One address for each family: kept, as wished, or chosen.
fn addresses(
    service: &mut Value,
    mine: &Claims,
    pools: &Pools,
    taken: &dyn Taken,
    random: &mut dyn FnMut() -> u64,
) -> Result<(), Error> {
    let wishes: Vec<String> = texts(service, "spec.clusterIPs").into_iter().map(str::to_owned).collect();
    let mut ips: Vec<String> = Vec::new();
    for (i, family) in texts(service, "spec.ipFamilies").into_iter().enumerate() {
        let wish = wishes.get(i).and_then(|w| w.parse::<IpAddr>().ok());
        let ip = match wish {
            Some(ip) if mine.ips.contains(&ip) => ip,
            wish => {
                let ranges: Vec<IpNet> = families::ranges(pools, family).collect();
                choose_ip(&ranges, wish, &|ip| taken.ip(ip), random()).map_err(|e| refused(&wishes, wish, &e))?
            }
        };
        // A wish keeps its spelling.
        let spelled = wishes.get(i).filter(|_| wish.is_some()).cloned();
        ips.push(spelled.unwrap_or_else(|| ip.to_string()));
    }
    if let (Some(spec), Some(first)) = (get_mut(service, "spec"), ips.first()) {
        set(spec, "clusterIP", first.as_str());
        set(spec, "clusterIPs", json!(ips));
    }
    Ok(())
}

fn refused(wishes: &[String], wish: Option<IpAddr>, error: &RangeError) -> Error {
    match wish {
        Some(ip) => {
            let why = format!("failed to allocate IP {ip}: {error}");
            Error::Invalid(field::Error::invalid(&Path::new("spec.clusterIPs"), json!(wishes), why))
        }
        None => Error::Exhausted(format!("failed to allocate a serviceIP: {error}")),
    }
}

#[cfg(test)]
mod tests;

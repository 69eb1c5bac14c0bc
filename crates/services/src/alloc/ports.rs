//! Node ports and the health check port of one Service.

use std::collections::BTreeMap;

use serde_json::Value;
use skiff_api::field::{self, Path};
use skiff_api::json::{each_mut, get_mut, int, list, set};
use skiff_api::strategy::{needs_health_check_port, needs_node_port};

use super::{Claims, Error, Pools, RangeError, Taken, choose_port};

/// All ports that a Service holds.
pub(super) fn held(service: &Value) -> Vec<u16> {
    let numbers = list(service, "spec.ports").iter().map(|p| int(p, "nodePort"));
    let health = int(service, "spec.healthCheckNodePort");
    let mut ports: Vec<u16> =
        numbers.chain([health]).filter_map(|n| u16::try_from(n).ok()).filter(|n| *n != 0).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The Service's own ports while they are filled in.
struct Filling<'a> {
    pools: &'a Pools,
    taken: &'a dyn Taken,
    /// Held before this request, or given out in it.
    mine: Vec<u16>,
}

impl Filling<'_> {
    /// What the client asks for, which need not even be a port.
    fn wish(&mut self, asked: i64) -> Result<u16, RangeError> {
        let (first, last) = (*self.pools.node_ports.start(), *self.pools.node_ports.end());
        let port = u16::try_from(asked).map_err(|_| RangeError::PortNotInRange { first, last })?;
        self.choose(Some(port), 0)
    }

    /// The wish, which may be held already, or any free port.
    fn choose(&mut self, wish: Option<u16>, random: u64) -> Result<u16, RangeError> {
        if let Some(port) = wish.filter(|p| self.mine.contains(p)) {
            return Ok(port);
        }
        let (mine, taken) = (&self.mine, self.taken);
        let port = choose_port(&self.pools.node_ports, wish, &|p| mine.contains(&p) || taken.port(p), random)?;
        self.mine.push(port);
        Ok(port)
    }
}

pub(super) fn fill(
    service: &mut Value,
    old: Option<&Value>,
    mine: &Claims,
    pools: &Pools,
    taken: &dyn Taken,
    random: &mut dyn FnMut() -> u64,
) -> Result<(), Vec<Error>> {
    let mut filling = Filling { pools, taken, mine: mine.ports.clone() };
    let mut errors = Vec::new();
    let (wanted, health) = (needs_node_port(service), needs_health_check_port(service));
    // Explicit wishes first, so that no automatic choice takes one away.
    for (i, port) in list(service, "spec.ports").iter().enumerate().filter(|(_, p)| int(p, "nodePort") != 0) {
        let asked = filling.wish(int(port, "nodePort"));
        errors.extend(asked.err().map(|e| refused(i, port, &e)));
    }
    if wanted && errors.is_empty() {
        errors.extend(automatic(service, old.is_none(), &mut filling, random));
    }
    if health && errors.is_empty() {
        errors.extend(moved_health_check(service, old).or_else(|| health_check(service, &mut filling, random)));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn refused(i: usize, port: &Value, error: &RangeError) -> Error {
    let path = Path::new("spec.ports").index(i).child("nodePort");
    Error::Invalid(field::Error::invalid(&path, int(port, "nodePort"), error.to_string()))
}

/// In a new Service ports with the same number and different protocols share one node port. On an update, as in the
/// reference, each that comes without one gets its own.
fn automatic(
    service: &mut Value,
    share: bool,
    filling: &mut Filling<'_>,
    random: &mut dyn FnMut() -> u64,
) -> Option<Error> {
    let given = list(service, "spec.ports").iter().filter(|p| share && int(p, "nodePort") != 0);
    let mut by_port: BTreeMap<i64, i64> = given.map(|p| (int(p, "port"), int(p, "nodePort"))).collect();
    for port in each_mut(service, "spec.ports").filter(|p| int(p, "nodePort") == 0) {
        let number = int(port, "port");
        let chosen = match by_port.get(&number) {
            Some(shared) => *shared,
            None => match filling.choose(None, random()) {
                Ok(chosen) => i64::from(chosen),
                Err(e) => return Some(Error::Exhausted(format!("failed to allocate a nodePort: {e}"))),
            },
        };
        if share {
            by_port.insert(number, chosen);
        }
        set(port, "nodePort", chosen);
    }
    None
}

/// The load balancer was told of the port: it stays while it is needed.
fn moved_health_check(service: &Value, old: Option<&Value>) -> Option<Error> {
    let before = old.filter(|old| needs_health_check_port(old)).map_or(0, |old| int(old, "spec.healthCheckNodePort"));
    let asked = int(service, "spec.healthCheckNodePort");
    let why = "cannot change healthCheckNodePort on loadBalancer service with externalTraffic=Local during update";
    let path = Path::new("spec.healthCheckNodePort");
    (before != 0 && asked != before).then(|| Error::Invalid(field::Error::invalid(&path, asked, why)))
}

fn health_check(service: &mut Value, filling: &mut Filling<'_>, random: &mut dyn FnMut() -> u64) -> Option<Error> {
    let asked = int(service, "spec.healthCheckNodePort");
    let wish = u16::try_from(asked).ok().filter(|p| *p != 0);
    // One port of a node is either a frontend or the health check.
    let own = list(service, "spec.ports").iter().any(|p| asked != 0 && int(p, "nodePort") == asked);
    let chosen = if own { Err(RangeError::PortTaken) } else { filling.choose(wish, random()) };
    match chosen {
        Ok(port) => {
            if let Some(spec) = get_mut(service, "spec") {
                set(spec, "healthCheckNodePort", port);
            }
            None
        }
        Err(e) if wish.is_some() => {
            Some(Error::Exhausted(format!("failed to allocate requested HealthCheck NodePort {asked}: {e}")))
        }
        Err(e) => Some(Error::Exhausted(format!("failed to allocate a HealthCheck NodePort 0: {e}"))),
    }
}

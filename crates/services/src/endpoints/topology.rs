//! Which zone's clients each endpoint is for, when a Service asks for it with the annotation
//! `service.kubernetes.io/topology-mode: Auto` (KEP-2433): every zone gets its share of the endpoints by its share of the
//! cluster's processors, its own ones first. Where that would overload somebody, there are no hints at all.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;

const MODE: &str = "service.kubernetes.io/topology-mode";
/// The annotation's former name, which goes first where both are.
const FORMER: &str = "service.kubernetes.io/topology-aware-hints";

/// A zone may have fewer endpoints than its share as long as each carries at most a fifth more than it should.
const OVERLOAD: (u64, u64) = (12, 10);

pub fn is_auto(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let mode = annotations.and_then(|a| a.get(FORMER).or_else(|| a.get(MODE)));
    mode.is_some_and(|m| m == "Auto" || m == "auto")
}

/// Why there can be no hints, in the reference's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unable {
    #[error("Insufficient Node information: allocatable CPU or zone not specified on one or more nodes")]
    Nodes,
    #[error("Nodes only ready in one zone")]
    OneZone,
    #[error("Insufficient number of endpoints ({endpoints} endpoints, {zones} zones)")]
    TooFew { endpoints: usize, zones: usize },
    #[error(
        "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold ({endpoints} \
         endpoints, {zones} zones)"
    )]
    Overload { endpoints: usize, zones: usize },
    #[error("One or more endpoints do not have a zone specified")]
    NoZone,
}

/// The processors of the ready nodes of each zone, in thousandths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity(Result<BTreeMap<String, u64>, Unable>);

impl Default for Capacity {
    fn default() -> Self {
        Capacity(Err(Unable::Nodes))
    }
}

impl Capacity {
    /// Of ready nodes that are not the control plane's: zone and allocatable processors, in thousandths.
    pub fn of<'a>(nodes: impl IntoIterator<Item = (Option<&'a str>, u64)>) -> Self {
        let mut zones: BTreeMap<String, u64> = BTreeMap::new();
        for (zone, cpu) in nodes {
            let Some(zone) = zone.filter(|z| !z.is_empty() && cpu > 0) else { return Capacity(Err(Unable::Nodes)) };
            *zones.entry(zone.into()).or_default() += cpu;
        }
        Capacity(match zones.len() {
            0 => Err(Unable::Nodes),
            1 => Err(Unable::OneZone),
            _ => Ok(zones),
        })
    }
}

/// How many endpoints a zone must and may have, and should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    least: usize,
    most: usize,
    /// In shares of the whole cluster's processors.
    desired: u64,
}

type Shares<'a> = BTreeMap<&'a str, Share>;

fn shares(capacity: &Capacity, endpoints: usize) -> Result<Shares<'_>, Unable> {
    let zones = capacity.0.as_ref().map_err(|why| *why)?;
    if zones.len() > endpoints {
        return Err(Unable::TooFew { endpoints, zones: zones.len() });
    }
    let total: u64 = zones.values().sum();
    let share = |cpu: u64| {
        let desired = cpu.saturating_mul(endpoints as u64);
        let least = desired.saturating_mul(OVERLOAD.1).div_ceil(total.saturating_mul(OVERLOAD.0)) as usize;
        Share { least, most: 0, desired }
    };
    let mut shares: Shares<'_> = zones.iter().map(|(zone, cpu)| (zone.as_str(), share(*cpu))).collect();
    let least: usize = shares.values().map(|s| s.least).sum();
    let spare = endpoints.checked_sub(least).ok_or(Unable::Overload { endpoints, zones: zones.len() })?;
    shares.values_mut().for_each(|s| s.most = s.least + spare);
    Ok(shares)
}

/// A ready endpoint: where it is, and whose clients it is for so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot<'a> {
    pub zone: Option<&'a str>,
    pub hint: Option<&'a str>,
}

/// The zone that each endpoint is for, in the order given. What stands is kept for as long as no zone is overloaded by it,
/// so that a pod's coming and going does not turn the others round.
pub fn assign(spots: &[Spot<'_>], capacity: &Capacity) -> Result<Vec<String>, Unable> {
    let shares = shares(capacity, spots.len())?;
    if spots.iter().any(|s| s.zone.is_none_or(str::is_empty)) {
        return Err(Unable::NoZone);
    }
    let standing: Vec<&str> = spots.iter().filter_map(|s| s.hint.or(s.zone)).collect();
    if holds(&standing, &shares) {
        return Ok(standing.into_iter().map(String::from).collect());
    }
    let mut room = targets(&shares, spots.len(), capacity);
    let mut given: Vec<Option<&str>> = vec![None; spots.len()];
    // Its own zone first, then the one that it was for, then whoever lacks most.
    for wish in [|s: &Spot<'_>| s.hint == s.zone, |_: &Spot<'_>| true] {
        give(spots, &mut given, &mut room, |s| s.zone.filter(|_| wish(s)));
    }
    give(spots, &mut given, &mut room, |s| s.hint);
    for slot in given.iter_mut().filter(|g| g.is_none()) {
        let neediest = room.iter_mut().max_by_key(|(_, left)| **left);
        if let Some((zone, left)) = neediest {
            *left = left.saturating_sub(1);
            *slot = Some(zone);
        }
    }
    Ok(given.into_iter().flatten().map(String::from).collect())
}

fn holds(standing: &[&str], shares: &Shares<'_>) -> bool {
    let mut counts: BTreeMap<&str, usize> = shares.keys().map(|zone| (*zone, 0)).collect();
    for zone in standing {
        match counts.get_mut(zone) {
            Some(count) => *count += 1,
            None => return false,
        }
    }
    counts.iter().all(|(zone, count)| (shares[zone].least..=shares[zone].most).contains(count))
}

/// As near to what is desired as whole endpoints go: the least for everybody, then one by one to whom most is missing.
fn targets<'a>(shares: &Shares<'a>, endpoints: usize, capacity: &Capacity) -> BTreeMap<&'a str, usize> {
    let total: u64 = capacity.0.iter().flat_map(BTreeMap::values).sum();
    let mut targets: BTreeMap<&str, usize> = shares.iter().map(|(zone, share)| (*zone, share.least)).collect();
    for _ in targets.values().sum()..endpoints {
        let missing = |zone: &str, has: usize| i128::from(shares[zone].desired) - has as i128 * i128::from(total);
        if let Some((_, has)) = targets.iter_mut().max_by_key(|(zone, has)| missing(zone, **has)) {
            *has += 1;
        }
    }
    targets
}

fn give<'a>(
    spots: &[Spot<'a>],
    given: &mut [Option<&'a str>],
    room: &mut BTreeMap<&str, usize>,
    wish: impl Fn(&Spot<'a>) -> Option<&'a str>,
) {
    for (spot, slot) in spots.iter().zip(given).filter(|(_, slot)| slot.is_none()) {
        if let Some(zone) = wish(spot)
            && let Some(left) = room.get_mut(zone).filter(|left| **left > 0)
        {
            *left -= 1;
            *slot = Some(zone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "a=4 b=2": whole processors of zones.
    fn capacity(text: &str) -> Capacity {
        let zone =
            |part: &'static str| part.split_once('=').map(|(zone, cpu)| (Some(zone), cpu.parse::<u64>().unwrap()));
        Capacity::of(text.to_owned().leak().split_whitespace().filter_map(zone))
    }

    /// "a a b>a": zones, and for whom so far. The answer in the same order, or why not.
    fn assigned(spots: &str, zones: &str) -> String {
        let spot = |text: &'static str| match text.split_once('>') {
            Some((zone, hint)) => Spot { zone: Some(zone), hint: Some(hint) },
            None => Spot { zone: (text != "-").then_some(text), hint: None },
        };
        let spots: Vec<Spot<'_>> = spots.to_owned().leak().split_whitespace().map(spot).collect();
        match assign(&spots, &capacity(zones)) {
            Ok(given) => given.join(" "),
            Err(why) => why.to_string().split(" (").next().unwrap_or_default().to_owned(),
        }
    }

    #[test]
    fn shares_by_processors() {
        let overload =
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";
        for (spots, zones, expect) in [
            // Balanced: everybody stays at home.
            ("a b c", "a=2 b=2 c=2", "a b c"),
            ("a a b b", "a=4 b=4", "a a b b"),
            // One zone has too many: it gives as many as the others lack.
            ("a a a a a b", "a=4 b=4", "a a a b b b"),
            ("a a a b b b", "a=2 b=4", "a a b b b b"),
            // A zone without endpoints of its own gets some.
            ("a a a b b b", "a=2 b=2 c=2", "a a c b b c"),
            // A zone without ready nodes needs none.
            ("a b c", "a=2 b=2", "Unable"),
            ("a b c c", "a=2 b=2", "a b b a"),
            // Too few, or not divisible without overload.
            ("a b", "a=2 b=2 c=2", "Insufficient number of endpoints"),
            ("a b b", "a=2 b=2", overload),
            ("a a a a b b b", "a=4 b=4", "a a a a b b b"),
            ("a - b", "a=2 b=4", "One or more endpoints do not have a zone specified"),
            ("a b", "a=2", "Nodes only ready in one zone"),
            ("a b", "", "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"),
            (
                "a b",
                "a=2 b=0",
                "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes",
            ),
        ] {
            let said = assigned(spots, zones);
            assert!(said == expect || expect == "Unable" && said == overload, "{spots} over {zones}: {said}");
        }
    }

    #[test]
    fn what_stands_is_kept_until_somebody_is_overloaded() {
        // 12 endpoints, 6 desired each, 5 to 7 allowed.
        let twelve = "a>a a>a a>a a>a a>a b>b b>b b>b b>b b>b b>b b>b";
        assert_eq!(assigned(twelve, "a=1 b=1"), "a a a a a b b b b b b b");
        let borrowed = "a>b a>a a>a a>a a>a a>a b>b b>b b>b b>b b>b b>a";
        assert_eq!(assigned(borrowed, "a=1 b=1"), "b a a a a a b b b b b a");
        // One more in a: 4 and 8 are too far apart.
        let apart = "a>a a>a a>a a>a b>b b>b b>b b>b b>b b>b b>b b>b";
        assert_eq!(assigned(apart, "a=1 b=1"), "a a a a b b b b b b a a");
    }

    /// Whatever the zones and endpoints: nobody over a fifth too much, everybody given once.
    #[test]
    fn nobody_is_overloaded() {
        let mut seed = 11u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        let mut possible = 0;
        for _ in 0..2000 {
            let zones: Vec<(String, u64)> = (0..2 + random(4)).map(|z| (format!("z{z}"), 1 + random(64))).collect();
            let capacity = Capacity::of(zones.iter().map(|(zone, cpu)| (Some(zone.as_str()), *cpu)));
            let homes: Vec<String> = (0..random(60)).map(|_| format!("z{}", random(6))).collect();
            let spots: Vec<Spot<'_>> = homes.iter().map(|z| Spot { zone: Some(z), hint: None }).collect();
            let Ok(given) = assign(&spots, &capacity) else { continue };
            possible += 1;
            assert_eq!(given.len(), spots.len());
            let total: u64 = zones.iter().map(|(_, cpu)| cpu).sum();
            for (zone, cpu) in &zones {
                let has = given.iter().filter(|g| *g == zone).count() as u64;
                assert!(has * total * 12 >= cpu * spots.len() as u64 * 10, "{zone} of {zones:?}: {given:?}");
            }
            let again: Vec<Spot<'_>> =
                homes.iter().zip(&given).map(|(z, g)| Spot { zone: Some(z), hint: Some(g) }).collect();
            assert_eq!(assign(&again, &capacity), Ok(given.clone()), "a second time nothing moves");
        }
        assert!(possible > 500, "{possible}");
    }
}

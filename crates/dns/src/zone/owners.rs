//! Who has an address: Services by ClusterIP and by endpoint. Small lists, since nearly every address has one owner and
//! there are as many addresses as endpoints; sorted, so that order never depends on history.

use std::{collections::HashMap, net::IpAddr};

use skiff_services::model::ServiceKey;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Owners {
    by_ip: HashMap<IpAddr, Vec<ServiceKey>>,
    /// Which addresses each Service has.
    of: HashMap<ServiceKey, Box<[IpAddr]>>,
}

impl Owners {
    pub(super) fn at(&self, ip: IpAddr) -> Option<&[ServiceKey]> {
        self.by_ip.get(&ip).map(Vec::as_slice)
    }

    /// The Service has these addresses and no others.
    pub(super) fn set(&mut self, key: &ServiceKey, mut ips: Vec<IpAddr>) {
        ips.sort_unstable();
        ips.dedup();
        let old = self.of.remove(key).unwrap_or_default();
        old.iter().filter(|ip| ips.binary_search(ip).is_err()).for_each(|ip| self.forget(*ip, key));
        for ip in ips.iter().filter(|ip| old.binary_search(ip).is_err()) {
            let owners = self.by_ip.entry(*ip).or_insert_with(|| Vec::with_capacity(1));
            if let Err(at) = owners.binary_search(key) {
                owners.insert(at, key.clone());
            }
        }
        if !ips.is_empty() {
            self.of.insert(key.clone(), ips.into());
        }
    }

    fn forget(&mut self, ip: IpAddr, key: &ServiceKey) {
        let Some(owners) = self.by_ip.get_mut(&ip) else { return };
        owners.retain(|owner| owner != key);
        if owners.is_empty() {
            self.by_ip.remove(&ip);
        }
    }
}

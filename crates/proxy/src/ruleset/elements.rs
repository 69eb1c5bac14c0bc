//! A Service's plan as elements of the table's maps. Pure.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use skiff_nft::{Data, Element, Family, Layout, Packed};

use super::{
    class::{Class, View},
    plan::{Frontend, FrontendPlan, Masquerade, PortPlan, Route},
    skeleton,
};

/// The sets that Services fill, in the order in which a new table is filled: nothing points at what is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    Endpoints(View),
    StickyEndpoints(View),
    StickyLive(View),
    Hairpin,
    Masquerade,
    MasqueradeOutside,
    Admitted,
    Guarded,
    Addresses,
    Services,
}

impl Place {
    pub(super) fn set(self) -> &'static str {
        match self {
            Place::Endpoints(view) => view.endpoints(),
            Place::StickyEndpoints(view) => view.sticky_endpoints(),
            Place::StickyLive(view) => view.sticky_live(),
            Place::Hairpin => skeleton::HAIRPIN,
            Place::Masquerade => skeleton::MASQUERADE,
            Place::MasqueradeOutside => skeleton::MASQUERADE_OUTSIDE,
            Place::Admitted => skeleton::ADMITTED,
            Place::Guarded => skeleton::GUARDED,
            Place::Addresses => skeleton::ADDRESSES,
            Place::Services => skeleton::SERVICES,
        }
    }

    pub(super) fn layout(self) -> Layout {
        if self == Place::Admitted { Layout::Ranges } else { Layout::Exact }
    }

    /// Several Services may need the same element: it stands as long as one of them does.
    pub(super) fn is_shared(self) -> bool {
        matches!(self, Place::Hairpin | Place::Addresses)
    }
}

pub(super) type Placed = (Family, Place, Element);

/// What a frontend brings: elements, and the classes whose chains it needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rendered {
    pub(super) elements: Vec<Placed>,
    pub(super) classes: Vec<(Family, Class)>,
}

impl Frontend {
    fn key(&self) -> Packed {
        Packed::new().addr(self.addr).proto(self.protocol.number()).port(self.port)
    }
}

fn target(endpoint: &SocketAddr) -> Packed {
    Packed::new().addr(endpoint.ip()).port(endpoint.port())
}

/// The endpoints' own elements, independent of frontends.
pub(super) fn port_elements(port: &PortPlan, out: &mut Rendered) {
    let family = if port.ipv6 { Family::Ip6 } else { Family::Ip };
    let pair = |ip: &IpAddr| Element::new(Packed::new().addr(*ip).addr(*ip), Data::None, None);
    out.elements.extend(port.near.iter().map(|ip| (family, Place::Hairpin, pair(ip))));
}

pub(super) fn frontend_elements(port: &PortPlan, plan: &FrontendPlan, out: &mut Rendered) {
    let mut writer = Writer { port, plan, family: Family::of(plan.frontend.addr), key: plan.frontend.key(), out };
    let inside = writer.view(View::Near, plan.inside);
    let outside = if same_endpoints(port, plan) { inside } else { writer.view(View::Far, plan.outside) };
    let data = Packed::new().number(0).number(inside.0).number(outside.0);
    writer.add(Place::Services, writer.key, Data::Packed(data));
    match plan.masquerade {
        Masquerade::NodeOnly => {}
        Masquerade::Outside => writer.add(Place::MasqueradeOutside, writer.key, Data::None),
        Masquerade::Everybody => writer.add(Place::Masquerade, writer.key, Data::None),
    }
    if plan.is_cluster_ip {
        let address = Element::new(Packed::new().addr(plan.frontend.addr), Data::None, None);
        writer.out.elements.push((writer.family, Place::Addresses, address));
    }
    writer.admitted();
}

/// On a node that has all the endpoints both kinds of clients share one view.
fn same_endpoints(port: &PortPlan, plan: &FrontendPlan) -> bool {
    let (inside, outside) = (port.list(plan.inside), port.list(plan.outside));
    let same = || outside.iter().collect::<HashSet<_>>() == inside.iter().collect();
    plan.inside == plan.outside || !inside.is_empty() && inside.len() == outside.len() && same()
}

struct Writer<'a> {
    port: &'a PortPlan,
    plan: &'a FrontendPlan,
    family: Family,
    key: Packed,
    out: &'a mut Rendered,
}

impl Writer<'_> {
    fn add(&mut self, place: Place, key: Packed, data: Data) {
        let element = Element::new(key, data, Some(self.port.label.clone()));
        self.out.elements.push((self.family, place, element));
    }

    fn view(&mut self, view: View, route: Route) -> Class {
        let endpoints = self.port.list(route);
        match route {
            Route::Reject => return Class::REJECT,
            Route::Drop => return Class::DROP,
            Route::Cluster | Route::Local => {}
        }
        let class = Class::new(view, self.port.sticky, endpoints.len());
        self.out.classes.push((self.family, class));
        // The fallback of every chain but the first.
        if class.endpoints() > 1 && class.sticky_seconds().is_none() {
            self.out.classes.push((self.family, Class::new(view, None, 1)));
        }
        for (slot, endpoint) in endpoints.iter().enumerate() {
            let key = self.key.number(slot as u32);
            if self.port.sticky.is_none() {
                self.add(Place::Endpoints(view), key, Data::Packed(target(endpoint)));
                continue;
            }
            let padded = Packed::new().number(0).join(target(endpoint));
            self.add(Place::StickyEndpoints(view), key, Data::Packed(padded));
            self.add(Place::StickyLive(view), target(endpoint).join(self.key), Data::None);
        }
        class
    }

    fn admitted(&mut self) {
        if self.plan.admitted.is_empty() {
            return;
        }
        self.add(Place::Guarded, self.key, Data::None);
        for net in &self.plan.admitted {
            let label = Some(self.port.label.clone());
            let (first, last) = (self.key.addr(net.network()), self.key.addr(net.broadcast()));
            self.out.elements.push((self.family, Place::Admitted, Element::range(first, last, label)));
        }
    }
}

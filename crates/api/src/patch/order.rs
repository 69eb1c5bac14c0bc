//! The order of a merged list: what the patch names stands in the patch's order, what only the server has keeps its
//! place among what the server had.

use serde_json::Value;

/// How elements of a list are recognised: by a key, or as plain values.
#[derive(Clone, Copy)]
pub(super) struct Identity(pub(super) Option<&'static str>);

impl Identity {
    pub(super) fn same(self, a: &Value, b: &Value) -> bool {
        match self.0 {
            Some(key) => a.get(key).is_some_and(|value| b.get(key) == Some(value)),
            None => a == b,
        }
    }

    pub(super) fn position(self, list: &[Value], wanted: &Value) -> Option<usize> {
        list.iter().position(|item| self.same(item, wanted))
    }
}

/// Orders `merged` by the patch's order, weaving in the elements that only the server had.
pub(super) fn weave(merged: Vec<Value>, patch: &[Value], server: &[Value], id: Identity) -> Vec<Value> {
    let ranked = merged.into_iter().map(|item| (id.position(patch, &item), id.position(server, &item), item));
    let (mut named, mut others): (Vec<_>, Vec<_>) = ranked.partition(|(in_patch, ..)| in_patch.is_some());
    named.sort_by_key(|(in_patch, ..)| *in_patch);
    others.sort_by_key(|(_, in_server, _)| *in_server);
    let mut woven = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some((_, left, _)), Some((_, right, _))) = (others.peek(), named.peek()) {
        let server_first = left.zip(*right).is_some_and(|(left, right)| left < right);
        woven.extend(if server_first { others.next() } else { named.next() });
    }
    woven.into_iter().chain(others).chain(named).map(|(.., item)| item).collect()
}

//! What must hold of every parser that takes bytes from outside, for any bytes at all: it returns, and what it understood
//! it can say again. `run` searches for bytes of which it does not hold; `cargo test` replays those that were found.

mod api;
mod dns;
mod server;
mod store;

/// Panics when something does not hold.
pub type Target = fn(&[u8]);

pub const TARGETS: &[(&str, Target)] = &[
    ("dns-message", dns::message),
    ("dns-question", dns::question),
    ("api-selector", api::selector),
    ("api-object", api::object),
    ("api-patch", api::patch),
    ("api-protobuf", api::protobuf),
    ("api-request", server::request),
    ("api-continue", server::continued),
    ("identity", server::identity),
    ("image-reference", store::image_reference),
    ("store-backup", store::backup),
];

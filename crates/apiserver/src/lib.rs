//! HTTP to store: one implementation of each verb for every resource.
//!
//! A request goes through small steps: route, authenticate, authorize, decode, validate fields, default, admit, apply the
//! kind's strategy, validate, write to the store, encode. Objects are JSON values, so fields that this server does not
//! know survive. In the store an object is its JSON without resourceVersion; that is the revision of its key.

pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod pki;

mod access;
mod admission;
mod after;
mod aggregation;
pub mod audit;
mod call;
mod config;
mod decode;
mod encode;
mod fairness;
mod follow;
mod health;
mod kubernetes;
mod metrics;
mod nonresource;
mod object;
mod pipeline;
mod query;
mod quotas;
mod reviews;
mod route;
mod selection;
mod serve;
mod servers;
mod services;
mod storage;
mod subresources;
mod validation;
mod verbs;
mod watch;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use skiff_api::status::Status;

pub use config::{Config, Dial, NodeTls};
pub use pipeline::Server;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bodies of requests and replies; watches and proxied answers stream.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// What goes wrong with a request goes to the client as a Status.
pub(crate) type Result<T, E = Status> = std::result::Result<T, E>;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the store: {0}")]
    Store(#[from] skiff_store::Error),
    #[error("writing {what}: {status}")]
    Bootstrap { what: String, status: Status },
    #[error("the stored Services cannot be read: {0}")]
    Services(Status),
    #[error(transparent)]
    Key(#[from] authn::token::Error),
    #[error("no service range given: --service-cidr needs at least one")]
    NoServiceRange,
}

//! A real connection, from where the client is. It is closed at once and says nothing.

use std::{
    io,
    time::{Duration, Instant},
};

use skiff_services::model::Protocol;
use tokio::{net::TcpStream, time::timeout};

use super::place::Local;
use crate::explain::evidence::{Cluster, Connected, Seen, Way};

const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn attempt(way: &Way, cluster: &Cluster, local: &Local) -> Seen<Connected> {
    if way.protocol != Protocol::Tcp {
        return Err(format!("{} gives no sign of a connection", way.protocol));
    }
    let to = way.to;
    local.as_client(&way.from, cluster, move || async move {
        let begun = Instant::now();
        Ok(match timeout(PATIENCE, TcpStream::connect(to)).await {
            Err(_) => Connected::TimedOut,
            Ok(Ok(_)) => Connected::After(begun.elapsed()),
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => Connected::Refused,
            Ok(Err(e)) => Connected::Failed(e.to_string()),
        })
    })
}

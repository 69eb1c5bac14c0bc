//! A container without a readiness probe counts as ready as soon as it runs. Between its start and its first `listen` a
//! Service would send it connections that are refused, so a container that declares TCP ports is given a short while to
//! open one of them; then it is ready whatever it does. Nothing connects to it: the kernel's table is read.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use super::Target;
use crate::runtime::Phase;

/// The longest that readiness is held back.
const LIMIT: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// TCP_LISTEN in /proc/net/tcp (proc(5)).
const LISTEN: &str = "0A";

/// The TCP ports that the container declares.
pub(super) fn ports(container: &Container) -> impl Iterator<Item = u16> {
    let declared = container.ports.iter().flatten();
    let tcp = declared.filter(|p| p.protocol.as_deref().is_none_or(|p| p == "TCP"));
    tcp.filter_map(|p| u16::try_from(p.container_port).ok())
}

/// Returns when one of the declared ports is listened on, or the while is over.
pub(super) async fn wait(target: &Target) {
    let wanted: Vec<u16> = ports(&target.container).collect();
    let until = tokio::time::Instant::now() + LIMIT;
    while tokio::time::Instant::now() < until {
        let Some(Phase::Running { pid, .. }) = target.ctx.runtime.container(&target.id).map(|c| c.phase) else {
            return;
        };
        let tables =
            ["tcp", "tcp6"].map(|t| std::fs::read_to_string(format!("/proc/{pid}/net/{t}")).unwrap_or_default());
        if tables.iter().flat_map(|t| listening(t)).any(|port| wanted.contains(&port)) {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The ports of a table of /proc/net that something listens on.
fn listening(table: &str) -> impl Iterator<Item = u16> {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next()?, fields.nth(1)?);
        let port = local.rsplit_once(':')?.1;
        (state == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_the_kernel_table() {
        let table = "  sl  local_address rem_address   st tx_queue\n   0: 00000000:1E61 00000000:0000 0A 00000000:00000000\n\
                     \x20  1: 0100007F:0277 0100007F:9999 01 00000000:00000000\n";
        assert_eq!(super::listening(table).collect::<Vec<_>>(), [7777]);
    }
}

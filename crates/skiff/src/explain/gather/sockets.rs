//! What is listened on in a pod's network namespace, as the kernel's tables say (proc(5)).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use k8s_openapi::api::core::v1::Pod;
use skiff_services::model::Protocol;

use super::place::Local;
use crate::explain::evidence::{Seen, Socket};

/// Which table, and the state of a socket in it that waits for clients: TCP_LISTEN, and for UDP what is not connected.
const TABLES: [(&str, Protocol, &str); 4] = [
    ("tcp", Protocol::Tcp, "0A"),
    ("tcp6", Protocol::Tcp, "0A"),
    ("udp", Protocol::Udp, "07"),
    ("udp6", Protocol::Udp, "07"),
];

pub(super) fn of_pod(pod: &Pod, local: &Local) -> Seen<Vec<Socket>> {
    local.in_pod(pod, || async {
        let mut all = vec![];
        for (table, protocol, state) in TABLES {
            // The thread's own namespace, not that of the process.
            match std::fs::read_to_string(format!("/proc/thread-self/net/{table}")) {
                Ok(text) => all.extend(waiting(&text, protocol, state)),
                // A kernel without IPv6.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        all.sort();
        all.dedup();
        Ok(all)
    })
}

fn waiting<'a>(table: &'a str, protocol: Protocol, state: &'a str) -> impl Iterator<Item = Socket> + 'a {
    table.lines().skip(1).filter_map(move |line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, found) = (fields.next()?, fields.nth(1)?);
        (found == state).then(|| Some(Socket { protocol, at: address(local)? }))?
    })
}

/// `0100007F:1F90`: the address in words of the machine's byte order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn reads_the_kernel_tables() {
        let table = "  sl  local_address rem_address   st tx_queue\n   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
                     \x20  1: 0100007F:0277 0100007F:9999 01 00000000:00000000\n\
                     \x20  2: 00000000000000000000000000000000:1E61 00000000000000000000000000000000:0000 0A 0\n\
                     \x20  3: B80D0120000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0\n   4: broken\n";
        let found: Vec<String> = waiting(table, Protocol::Tcp, "0A").map(|s| s.at.to_string()).collect();
        assert_eq!(found, ["127.0.0.1:8080", "[::]:7777", "[2001:db8::1]:80"]);
    }
}

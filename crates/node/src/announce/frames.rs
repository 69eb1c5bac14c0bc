//! Ethernet frames: ARP (RFC 826, 5227), neighbour discovery (RFC 4861) and the nodes' signs of life. Pure; whatever
//! cannot be read is nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) type Mac = [u8; 6];

pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV6: u16 = 0x86dd;
/// IEEE 802's first EtherType for local experiments.
pub(super) const PEERS: u16 = 0x88b5;

const EVERYBODY: Mac = [0xff; 6];
const ETHERNET: usize = 14;
const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes()].concat()
}

fn payload(frame: &[u8], kind: u16) -> Option<&[u8]> {
    (frame.get(12..ETHERNET)? == kind.to_be_bytes()).then(|| &frame[ETHERNET..])
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ArpQuestion {
    pub sender_mac: Mac,
    sender: Ipv4Addr,
    pub target: Ipv4Addr,
}

pub(super) fn arp_request(frame: &[u8]) -> Option<ArpQuestion> {
    let arp = payload(frame, ARP)?;
    if part(arp, 0)? != ARP_ETHERNET_IPV4 || part(arp, 6)? != [0, REQUEST] {
        return None;
    }
    let ip = |at| part::<4>(arp, at).map(Ipv4Addr::from);
    Some(ArpQuestion { sender_mac: part(arp, 8)?, sender: ip(14)?, target: ip(24)? })
}

struct Arp {
    operation: u8,
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
}

fn arp(to: Mac, from: Mac, arp: &Arp) -> Vec<u8> {
    let mut frame = ethernet(to, from, ARP);
    frame.extend(ARP_ETHERNET_IPV4);
    frame.extend([0, arp.operation]);
    for (mac, ip) in [arp.sender, arp.target] {
        frame.extend(mac);
        frame.extend(ip.octets());
    }
    frame
}

pub(super) fn arp_reply(question: &ArpQuestion, mac: Mac) -> Vec<u8> {
    let target = (question.sender_mac, question.sender);
    arp(question.sender_mac, mac, &Arp { operation: REPLY, sender: (mac, question.target), target })
}

/// As a request and as a reply: there are hosts that heed only the one or the other.
pub(super) fn gratuitous_arp(ip: Ipv4Addr, mac: Mac) -> [Vec<u8>; 2] {
    [(REQUEST, [0; 6]), (REPLY, EVERYBODY)]
        .map(|(operation, target)| arp(EVERYBODY, mac, &Arp { operation, sender: (mac, ip), target: (target, ip) }))
}

const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const IPV6_HEADER: usize = 40;
/// What has crossed a router has a lower limit and is not from this link.
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Solicitation {
    sender_mac: Mac,
    sender: Ipv6Addr,
    pub target: Ipv6Addr,
}

pub(super) fn solicitation(frame: &[u8]) -> Option<Solicitation> {
    let ip = payload(frame, IPV6)?;
    let icmp = ip.get(IPV6_HEADER..)?;
    if ip[6] != ICMPV6 || ip[7] != HOP_LIMIT || icmp.get(..2)? != [SOLICITATION, 0] {
        return None;
    }
    Some(Solicitation {
        sender_mac: part(frame, 6)?,
        sender: part::<16>(ip, 8)?.into(),
        target: part::<16>(icmp, 8)?.into(),
    })
}

pub(super) fn advertisement(question: &Solicitation, mac: Mac) -> Vec<u8> {
    // Who asks without an address looks whether the target is free: everybody is told that it is not.
    match question.sender.is_unspecified() {
        true => unsolicited_advertisement(question.target, mac),
        false => advertise(question.target, mac, (question.sender_mac, question.sender), SOLICITED | OVERRIDE),
    }
}

pub(super) fn unsolicited_advertisement(ip: Ipv6Addr, mac: Mac) -> Vec<u8> {
    advertise(ip, mac, (multicast(ALL_NODES), ALL_NODES), OVERRIDE)
}

fn advertise(ip: Ipv6Addr, mac: Mac, (to_mac, to): (Mac, Ipv6Addr), flags: u8) -> Vec<u8> {
    let mut icmp = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    icmp.extend(ip.octets());
    // Target link-layer address, in units of eight octets.
    icmp.extend([2, 1]);
    icmp.extend(mac);
    let sum = checksum(ip, to, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(to_mac, mac, IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((icmp.len() as u16).to_be_bytes());
    frame.extend([ICMPV6, HOP_LIMIT]);
    frame.extend(ip.octets());
    frame.extend(to.octets());
    frame.extend(icmp);
    frame
}

/// Over the pseudo-header and the message (RFC 8200, 8.1).
fn checksum(from: Ipv6Addr, to: Ipv6Addr, icmp: &[u8]) -> u16 {
    let length = (icmp.len() as u32).to_be_bytes();
    let all = [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, ICMPV6], icmp].concat();
    let words = all.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

fn multicast(group: Ipv6Addr) -> Mac {
    let o = group.octets();
    [0x33, 0x33, o[12], o[13], o[14], o[15]]
}

/// The Ethernet group that is asked for an IPv6 address.
pub(super) fn solicited_group(ip: IpAddr) -> Option<Mac> {
    let IpAddr::V6(ip) = ip else { return None };
    let o = ip.octets();
    Some([0x33, 0x33, 0xff, o[13], o[14], o[15]])
}

/// A node's sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello<'a> {
    pub cluster: [u8; 8],
    pub node: &'a str,
    /// False: it leaves.
    pub stays: bool,
}

const MAGIC: [u8; 6] = *b"skiff1";

pub(super) fn hello_frame(hello: &Hello<'_>, mac: Mac) -> Vec<u8> {
    let mut frame = ethernet(EVERYBODY, mac, PEERS);
    frame.extend(MAGIC);
    frame.extend(hello.cluster);
    frame.push(u8::from(hello.stays));
    // Names of nodes are DNS names: at most 253 octets.
    frame.push(hello.node.len() as u8);
    frame.extend(hello.node.as_bytes());
    frame
}

pub(super) fn hello(frame: &[u8]) -> Option<Hello<'_>> {
    let said = payload(frame, PEERS)?;
    if part(said, 0)? != MAGIC {
        return None;
    }
    let length = usize::from(*said.get(15)?);
    let node = std::str::from_utf8(said.get(16..16 + length)?).ok()?;
    Some(Hello { cluster: part(said, 6)?, stays: said[14] == 1, node })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Mac = [2, 0, 0, 0, 0, 1];
    const HOST: Mac = [2, 0, 0, 0, 0, 9];

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    #[test]
    fn arp_is_asked_and_answered() {
        let arp_of = |operation, sender, target| Arp { operation, sender, target };
        let asked = arp(EVERYBODY, HOST, &arp_of(REQUEST, (HOST, ip(9)), ([0; 6], ip(1))));
        let question = arp_request(&asked).unwrap();
        assert_eq!(question, ArpQuestion { sender_mac: HOST, sender: ip(9), target: ip(1) });
        let answer = arp_reply(&question, ME);
        assert_eq!(answer, arp(HOST, ME, &arp_of(REPLY, (ME, ip(1)), (HOST, ip(9)))));
        assert_eq!(arp_request(&answer), None);
        let [request, _] = gratuitous_arp(ip(1), ME);
        let said = arp_request(&request).unwrap();
        assert_eq!((said.sender, said.target), (ip(1), ip(1)));
    }

    #[test]
    fn neighbours_are_asked_for_and_answered() {
        let (target, asker): (Ipv6Addr, Ipv6Addr) = ("fd00::1:2:3".parse().unwrap(), "fe80::9".parse().unwrap());
        // As a host makes it: the answer's layout with the question's type.
        let mut asked = advertise(target, HOST, (multicast(ALL_NODES), ALL_NODES), 0);
        asked[ETHERNET + IPV6_HEADER] = SOLICITATION;
        asked[ETHERNET + 8..ETHERNET + 24].copy_from_slice(&asker.octets());
        let question = solicitation(&asked).unwrap();
        assert_eq!(question, Solicitation { sender_mac: HOST, sender: asker, target });
        let answer = advertisement(&question, ME);
        assert_eq!((&answer[..6], &answer[ETHERNET + 24..ETHERNET + 40]), (&HOST[..], &asker.octets()[..]));
        assert_eq!(answer[ETHERNET + IPV6_HEADER + 4], SOLICITED | OVERRIDE);
        assert_eq!(checksum(target, asker, &answer[ETHERNET + IPV6_HEADER..]), 0, "a sum over its own sum is zero");
        asked[ETHERNET + 8..ETHERNET + 24].fill(0);
        assert_eq!(advertisement(&solicitation(&asked).unwrap(), ME)[..6], multicast(ALL_NODES));
        asked[ETHERNET + 7] = 64;
        assert_eq!(solicitation(&asked), None, "from beyond a router");
        assert_eq!(solicited_group(target.into()), Some([0x33, 0x33, 0xff, 2, 0, 3]));
    }

    #[test]
    fn hellos_are_read_back_and_cut_frames_are_nothing() {
        let said = Hello { cluster: [7; 8], node: "node-1", stays: true };
        let frame = hello_frame(&said, ME);
        assert_eq!(hello(&frame), Some(said));
        let [request, _] = gratuitous_arp(ip(1), ME);
        for cut in 0..frame.len() {
            assert_eq!(hello(&frame[..cut]), None);
            assert_eq!(arp_request(&request[..cut.min(request.len() - 1)]), None);
            assert_eq!(solicitation(&frame[..cut]), None);
        }
    }
}

//! Which addresses a name may lead to: those of our own fetches, and those of upstreams.
//!
//! A name in a URL that we fetch (key sets, discovery documents), or of a target, may resolve, by mistake or by malice, to
//! an address inside: a metadata service, a database, ourselves. The guard judges the *address that will be connected to*,
//! after resolution. It is closed by default: an address is public or it is refused, unless the operator listed its network,
//! or wrote that very address into the configuration.
//!
//! A name that no public resolver can know ([`is_private_name`]) is the site's own, and so are the private addresses that
//! its resolver gives to it: upstreams are mostly such. Link-local addresses and metadata services are nobody's upstream.
//!
//! Called by `control::fetch`, and for upstreams by [`crate::upstream::members`] and the check of targets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What an address is for (IANA special-purpose registries, RFC 6890 and its successors).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    /// Globally reachable.
    Public,
    /// This host: 127.0.0.0/8, ::1.
    Loopback,
    /// A site's own network: RFC 1918, RFC 4193, and the carrier's 100.64.0.0/10 (RFC 6598).
    Private,
    /// A cloud's instance metadata or credential service, whatever range it lives in.
    Metadata,
    /// 169.254.0.0/16, fe80::/10 and the old fec0::/10.
    LinkLocal,
    /// 0.0.0.0/8 and `::`: on Linux a connect to them reaches this host.
    Unspecified,
    /// Multicast and broadcast.
    Multicast,
    /// An IPv6 form that carries an IPv4 address that is not public (NAT64, 6to4, Teredo, v4-compatible).
    Translated,
    /// Documentation, benchmarking, reserved, or not allocated.
    Reserved,
}

impl fmt::Display for AddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AddressKind::Public => "public",
            AddressKind::Loopback => "loopback",
            AddressKind::Private => "private",
            AddressKind::Metadata => "metadata service",
            AddressKind::LinkLocal => "link-local",
            AddressKind::Unspecified => "unspecified",
            AddressKind::Multicast => "multicast",
            AddressKind::Translated => "translated",
            AddressKind::Reserved => "reserved",
        })
    }
}

/// How the address came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The operator wrote this address (or `localhost`) into the configuration, or a file of this machine, or gave it to
    /// a name of the site's own: that lists it, if it is loopback or private. Metadata services and the rest stay refused.
    Written,
    /// It came out of a resolver or out of a document that somebody else wrote.
    Found,
}

/// The guard with the networks that the operator listed.
#[derive(Clone, Debug, Default)]
pub struct AddressGuard {
    listed: Vec<IpNet>,
}

impl AddressGuard {
    /// A guard that admits public addresses and `listed` networks.
    pub fn new(listed: Vec<IpNet>) -> AddressGuard {
        AddressGuard { listed }
    }

    /// Whether a fetch may connect to `address`.
    ///
    /// # Errors
    /// The kind of the refused address.
    pub fn admit(&self, address: IpAddr, origin: Origin) -> Result<(), AddressKind> {
        let canonical = address.to_canonical();
        if self.listed.iter().any(|network| network.contains(&canonical) || network.contains(&address)) {
            return Ok(());
        }
        match (kind(address), origin) {
            (AddressKind::Public, _) => Ok(()),
            (AddressKind::Loopback | AddressKind::Private, Origin::Written) => Ok(()),
            (refused, _) => Err(refused),
        }
    }
}

/// Whether a name can only be the site's own: it has one label, or its last is one that the public DNS does not have and
/// never will.
pub fn is_private_name(name: &str) -> bool {
    // RFC 6761 (localhost, test), RFC 6762 with its appendix G (local; intranet, private, corp, home, lan), ICANN's
    // resolution 2024.07.29.06 (internal), RFC 8375 (home.arpa).
    const LAST: [&str; 9] =
        ["corp", "home", "internal", "intranet", "lan", "local", "localhost", "private", "test"];
    let name = name.trim_end_matches('.');
    let within = |zone: &str| {
        let start = name.len().checked_sub(zone.len() + 1);
        start.is_some_and(|at| name.as_bytes()[at] == b'.' && name[at + 1..].eq_ignore_ascii_case(zone))
    };
    !name.contains('.') || LAST.iter().any(|zone| within(zone)) || within("home.arpa")
}

/// What `address` is for.
pub fn kind(address: IpAddr) -> AddressKind {
    match address {
        IpAddr::V4(v4) => kind_v4(v4),
        IpAddr::V6(v6) => kind_v6(v6),
    }
}

fn kind_v4(address: Ipv4Addr) -> AddressKind {
    // Metadata services outside link-local: Azure's wire server (in public space), Alibaba, Oracle.
    const METADATA: [Ipv4Addr; 5] = [
        Ipv4Addr::new(169, 254, 169, 254),
        Ipv4Addr::new(169, 254, 170, 2),
        Ipv4Addr::new(168, 63, 129, 16),
        Ipv4Addr::new(100, 100, 100, 200),
        Ipv4Addr::new(192, 0, 0, 192),
    ];
    if METADATA.contains(&address) {
        return AddressKind::Metadata;
    }
    match address.octets() {
        [0, ..] => AddressKind::Unspecified,
        [127, ..] => AddressKind::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => AddressKind::Private,
        [169, 254, ..] => AddressKind::LinkLocal,
        [224..=239, ..] | [255, 255, 255, 255] => AddressKind::Multicast,
        [240..=255, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18..=19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => AddressKind::Reserved,
        _ => AddressKind::Public,
    }
}

fn kind_v6(address: Ipv6Addr) -> AddressKind {
    // ::ffff:0:0/96 is IPv4 by another spelling: the kernel connects to the IPv4 address.
    if let Some(mapped) = address.to_ipv4_mapped() {
        return kind_v4(mapped);
    }
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        match kind_v4(Ipv4Addr::new(a, b, c, d)) {
            AddressKind::Public => AddressKind::Public,
            _ => AddressKind::Translated,
        }
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => AddressKind::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => AddressKind::Loopback,
        // RFC 6052 §2.1: the well-known NAT64 prefix reaches whatever IPv4 address it carries.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        // RFC 8215: local-use NAT64; 6to4 (RFC 7526) and Teredo (RFC 4380) are retired tunnels; ::/96.
        [0x64, 0xff9b, 1, ..] | [0x2002, ..] | [0x2001, 0, ..] | [0, 0, 0, 0, 0, 0, ..] => {
            AddressKind::Translated
        }
        // AWS (fd00:ec2::/32), GCP and Oracle serve credentials inside unique-local space.
        [0xfd00, 0xec2, ..] | [0xfd20, 0xce, ..] | [0xfd00, 0xc1, ..] => AddressKind::Metadata,
        [0xfc00..=0xfdff, ..] => AddressKind::Private,
        [0xfe80..=0xfeff, ..] => AddressKind::LinkLocal,
        [0xff00..=0xffff, ..] => AddressKind::Multicast,
        // Inside 2000::/3: RFC 2928 protocol assignments, and the two documentation prefixes.
        [0x2001, 0x1..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0x0fff, ..] => AddressKind::Reserved,
        [0x2000..=0x3fff, ..] => AddressKind::Public,
        _ => AddressKind::Reserved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Address, kind: the corpus of tricks, each of which must be refused when a name resolves to it.
    const REFUSED: [(&str, AddressKind); 62] = [
        ("169.254.169.254", AddressKind::Metadata),
        ("169.254.170.2", AddressKind::Metadata),
        ("168.63.129.16", AddressKind::Metadata),
        ("100.100.100.200", AddressKind::Metadata),
        ("192.0.0.192", AddressKind::Metadata),
        ("fd00:ec2::254", AddressKind::Metadata),
        ("fd00:ec2::23", AddressKind::Metadata),
        ("fd20:ce::254", AddressKind::Metadata),
        ("fd00:c1::a9fe:a9fe", AddressKind::Metadata),
        ("::ffff:169.254.169.254", AddressKind::Metadata),
        ("0.0.0.0", AddressKind::Unspecified),
        ("0.0.0.1", AddressKind::Unspecified),
        ("0.255.255.255", AddressKind::Unspecified),
        ("::", AddressKind::Unspecified),
        ("127.0.0.1", AddressKind::Loopback),
        ("127.1.2.3", AddressKind::Loopback),
        ("127.255.255.255", AddressKind::Loopback),
        ("::1", AddressKind::Loopback),
        ("::ffff:127.0.0.1", AddressKind::Loopback),
        ("10.0.0.0", AddressKind::Private),
        ("10.255.255.255", AddressKind::Private),
        ("172.16.0.1", AddressKind::Private),
        ("172.31.255.255", AddressKind::Private),
        ("192.168.0.1", AddressKind::Private),
        ("100.64.0.1", AddressKind::Private),
        ("100.127.255.255", AddressKind::Private),
        ("::ffff:10.0.0.1", AddressKind::Private),
        ("fc00::1", AddressKind::Private),
        ("fd12:3456::1", AddressKind::Private),
        ("169.254.0.1", AddressKind::LinkLocal),
        ("169.254.255.255", AddressKind::LinkLocal),
        ("fe80::1", AddressKind::LinkLocal),
        ("febf::1", AddressKind::LinkLocal),
        ("fec0::1", AddressKind::LinkLocal),
        ("224.0.0.1", AddressKind::Multicast),
        ("239.255.255.250", AddressKind::Multicast),
        ("255.255.255.255", AddressKind::Multicast),
        ("ff02::1", AddressKind::Multicast),
        ("64:ff9b::7f00:1", AddressKind::Translated),
        ("64:ff9b::a9fe:a9fe", AddressKind::Translated),
        ("64:ff9b::a00:1", AddressKind::Translated),
        ("64:ff9b:1::7f00:1", AddressKind::Translated),
        ("64:ff9b:1:ffff::808:808", AddressKind::Translated),
        ("2002:7f00:1::1", AddressKind::Translated),
        ("2002:a9fe:a9fe::", AddressKind::Translated),
        ("2002:808:808::1", AddressKind::Translated),
        ("2001:0:5ef5:79fd::1", AddressKind::Translated),
        ("::7f00:1", AddressKind::Translated),
        ("::10.0.0.1", AddressKind::Translated),
        ("192.0.0.1", AddressKind::Reserved),
        ("192.0.2.1", AddressKind::Reserved),
        ("192.88.99.1", AddressKind::Reserved),
        ("198.18.0.1", AddressKind::Reserved),
        ("198.19.255.255", AddressKind::Reserved),
        ("198.51.100.7", AddressKind::Reserved),
        ("203.0.113.9", AddressKind::Reserved),
        ("240.0.0.1", AddressKind::Reserved),
        ("255.255.255.254", AddressKind::Reserved),
        ("2001:db8::1", AddressKind::Reserved),
        ("3fff::1", AddressKind::Reserved),
        ("100::1", AddressKind::Reserved),
        ("4000::1", AddressKind::Reserved),
    ];

    const PUBLIC: [&str; 14] = [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "192.169.0.0",
        "223.255.255.255",
        "2606:4700::1111",
        "2001:4860:4860::8888",
        "64:ff9b::808:808",
    ];

    #[test]
    fn what_is_not_public_is_refused_when_found() {
        let guard = AddressGuard::default();
        for (text, expected) in REFUSED {
            assert_eq!(kind(ip(text)), expected, "{text}");
            assert_eq!(guard.admit(ip(text), Origin::Found), Err(expected), "{text}");
        }
    }

    #[test]
    fn public_neighbours_of_each_range_are_admitted() {
        for text in PUBLIC {
            assert_eq!(AddressGuard::default().admit(ip(text), Origin::Found), Ok(()), "{text}");
        }
    }

    #[test]
    fn writing_an_address_lists_it_only_if_it_is_loopback_or_private() {
        let guard = AddressGuard::default();
        for (text, kind) in REFUSED {
            let admitted = matches!(kind, AddressKind::Loopback | AddressKind::Private);
            assert_eq!(guard.admit(ip(text), Origin::Written).is_ok(), admitted, "{text}");
        }
    }

    #[test]
    fn a_private_name_is_one_that_the_public_dns_cannot_have() {
        for private in [
            "orders",
            "LOCALHOST",
            "a.localhost",
            "orders.internal",
            "Orders.Internal.",
            "orders.shop.svc.cluster.local",
            "nas.lan",
            "a.corp",
            "a.home.arpa",
            "a.test",
        ] {
            assert!(is_private_name(private), "{private}");
        }
        for public in [
            "orders.example.com",
            "internal.example.com",
            "orders.internal.com",
            "notinternal.example",
            "a.xinternal",
            "arpa.home.com",
            "10.in-addr.arpa",
            "xhome.arpa",
            "test.localhost.example.com",
        ] {
            assert!(!is_private_name(public), "{public}");
        }
    }

    #[test]
    fn a_listed_network_is_admitted_in_both_spellings() {
        let guard = AddressGuard::new(vec!["10.1.0.0/16".parse().expect("a network")]);
        assert_eq!(guard.admit(ip("10.1.2.3"), Origin::Found), Ok(()));
        assert_eq!(guard.admit(ip("::ffff:10.1.2.3"), Origin::Found), Ok(()));
        assert_eq!(guard.admit(ip("10.2.0.1"), Origin::Found), Err(AddressKind::Private));
    }
}

//! Which addresses may be spoken to. Pure: an address and a policy in, a verdict with its reason out.
//!
//! Users give us URLs, and a URL must not reach what only this machine can: its own ports, the
//! private network around it, the cloud's metadata service. IPv4 is judged by a list of what is not
//! public. IPv6 is judged by a list of what is, so that every odd corner of it is closed at once.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What the operator said, and what the process knows of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// Allowed although they are not public, for labs and internal receivers.
    pub allow_nets: Vec<Net>,
    /// Names whose addresses are allowed wherever they are; in lower case, without a final dot.
    pub allow_hosts: Vec<String>,
    /// Denied although they are public. Wins over both of the above.
    pub deny_nets: Vec<Net>,
    /// Where this process listens. Denied whatever else is allowed.
    pub own: Vec<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressVerdict {
    /// A public address.
    Public,
    /// The operator allows it.
    Granted,
    Denied(Reason),
}

/// Why an address or a name is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A port on which this process itself listens.
    OwnListener,
    /// One of the operator's `deny_nets`.
    DeniedNet,
    /// `localhost`, `*.localhost`, `*.internal`.
    InternalName,
    /// `0.0.0.0/8` and `::`, which reach the own machine.
    Unspecified,
    Loopback,
    /// RFC 1918, and `fc00::/7`.
    Private,
    /// `100.64.0.0/10`, shared behind carriers' NAT and used for clouds' own services.
    CarrierNat,
    /// `169.254.0.0/16` with the clouds' metadata services, and `fe80::/10`.
    LinkLocal,
    /// Public in form, but a cloud's own service to its machines.
    CloudService,
    Multicast,
    Documentation,
    Benchmark,
    /// An IPv6 address that carries an IPv4 one to a translator: NAT64, 6to4, Teredo and the like.
    Embedded,
    Reserved,
}

impl Reason {
    /// Whether it holds even for a name that the operator allows.
    pub fn is_final(self) -> bool {
        matches!(self, Self::OwnListener | Self::DeniedNet)
    }

    /// For the operator, without the address.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OwnListener => "it is this gateway's own",
            Self::DeniedNet => "the operator denies it",
            Self::InternalName => "the name is internal",
            Self::Unspecified => "it is unspecified",
            Self::Loopback => "it is this machine's own",
            Self::Private => "it is in a private network",
            Self::CarrierNat => "it is in a carrier's network",
            Self::LinkLocal => "it is link-local",
            Self::CloudService => "it is a cloud's own service",
            Self::Multicast => "it is multicast",
            Self::Documentation => "it is for documentation only",
            Self::Benchmark => "it is for benchmarks only",
            Self::Embedded => "it leads through an address translator",
            Self::Reserved => "it is reserved",
        }
    }
}

/// Judges the address that is about to be dialled.
pub fn judge(address: SocketAddr, policy: &Policy) -> AddressVerdict {
    // `::ffff:127.0.0.1` is dialled as 127.0.0.1, so it is judged as that.
    let ip = address.ip().to_canonical();
    let is_own = |own: &SocketAddr| {
        let listens_there = own.ip().to_canonical() == ip
            || own.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified());
        own.port() == address.port() && listens_there
    };
    if policy.own.iter().any(is_own) {
        return AddressVerdict::Denied(Reason::OwnListener);
    }
    if policy.deny_nets.iter().any(|it| it.contains(ip)) {
        return AddressVerdict::Denied(Reason::DeniedNet);
    }
    if policy.allow_nets.iter().any(|it| it.contains(ip)) {
        return AddressVerdict::Granted;
    }
    let reason = match ip {
        IpAddr::V4(ip) => why_not_public_v4(ip),
        IpAddr::V6(ip) => why_not_public_v6(ip),
    };
    reason.map_or(AddressVerdict::Public, AddressVerdict::Denied)
}

/// Judges a name before it is looked up. `Public` means: judge its addresses; `Granted`: they are
/// allowed, unless the reason against one is final.
pub fn judge_name(name: &str, policy: &Policy) -> AddressVerdict {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if policy.allow_hosts.contains(&name) {
        return AddressVerdict::Granted;
    }
    let ends_with = |label: &str| {
        name.strip_suffix(label).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    // Whoever allows the loopback network also means its name.
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    if ends_with("localhost") && !policy.allow_nets.iter().any(|it| it.contains(loopback)) {
        return AddressVerdict::Denied(Reason::InternalName);
    }
    // `metadata.google.internal` is one of these.
    if ends_with("internal") {
        return AddressVerdict::Denied(Reason::InternalName);
    }
    AddressVerdict::Public
}

fn why_not_public_v4(ip: Ipv4Addr) -> Option<Reason> {
    let [a, b, c, d] = ip.octets();
    let reason = match (a, b, c, d) {
        (0, ..) => Reason::Unspecified,
        (10, ..) | (172, 16..=31, ..) | (192, 168, ..) => Reason::Private,
        (100, 64..=127, ..) => Reason::CarrierNat,
        (127, ..) => Reason::Loopback,
        (169, 254, ..) => Reason::LinkLocal,
        // Azure's WireServer, the same in every network of that cloud.
        (168, 63, 129, 16) => Reason::CloudService,
        (192, 0, 2, _) | (198, 51, 100, _) | (203, 0, 113, _) => Reason::Documentation,
        (198, 18..=19, ..) => Reason::Benchmark,
        (192, 0, 0, _) | (192, 88, 99, _) => Reason::Reserved,
        (224..=239, ..) => Reason::Multicast,
        (240..=255, ..) => Reason::Reserved,
        _ => return None,
    };
    Some(reason)
}

fn why_not_public_v6(ip: Ipv6Addr) -> Option<Reason> {
    let [a, b, c, d, e, f, ..] = ip.segments();
    let is_public = a & 0xe000 == 0x2000;
    let reason = match (a, b) {
        // Teredo, inside 2001::/23; and 6to4.
        (0x2001, 0) | (0x2002, _) => Reason::Embedded,
        (0x2001, 0xdb8) => Reason::Documentation,
        (0x2001, 0..=0x1ff) => Reason::Reserved,
        (0x3fff, 0..=0xfff) => Reason::Documentation,
        _ if is_public => return None,
        // Outside of 2000::/3 nothing is allowed; what follows only names the reason.
        _ if ip.is_unspecified() => Reason::Unspecified,
        _ if ip.is_loopback() => Reason::Loopback,
        // NAT64, with its local form; ::127.0.0.1; ::ffff:0:127.0.0.1.
        (0x64, 0xff9b) => Reason::Embedded,
        (0, 0) if c == 0 && d == 0 && (e == 0 || e == 0xffff) && (f == 0 || f == 0xffff) => {
            Reason::Embedded
        }
        (0xfc00..=0xfdff, _) => Reason::Private,
        (0xfe80..=0xfebf, _) => Reason::LinkLocal,
        (0xff00..=0xffff, _) => Reason::Multicast,
        _ => Reason::Reserved,
    };
    Some(reason)
}

/// A network such as `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Net {
    /// The bits behind the prefix are zero.
    start: IpAddr,
    prefix: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseNetError {
    #[error("a network is an address and a prefix such as `10.0.0.0/8`, or one address")]
    Form,
    #[error("the network's address has bits behind its prefix")]
    HostBits,
}

impl Net {
    pub fn contains(&self, ip: IpAddr) -> bool {
        masked(ip, self.prefix) == Some(self.start) && ip.is_ipv4() == self.start.is_ipv4()
    }
}

/// The address with the bits behind the prefix cleared; `None` when it has fewer bits than that.
fn masked(ip: IpAddr, prefix: u8) -> Option<IpAddr> {
    let prefix = u32::from(prefix);
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32_u32.checked_sub(prefix)?).unwrap_or(0);
            Some(Ipv4Addr::from_bits(ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128_u32.checked_sub(prefix)?).unwrap_or(0);
            Some(Ipv6Addr::from_bits(ip.to_bits() & mask).into())
        }
    }
}

impl FromStr for Net {
    type Err = ParseNetError;

    fn from_str(text: &str) -> Result<Self, ParseNetError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let start: IpAddr = address.parse().map_err(|_| ParseNetError::Form)?;
        let prefix = match prefix {
            Some(text) if text.bytes().all(|it| it.is_ascii_digit()) => {
                text.parse().map_err(|_| ParseNetError::Form)?
            }
            Some(_) => return Err(ParseNetError::Form),
            None if start.is_ipv4() => 32,
            None => 128,
        };
        match masked(start, prefix) {
            Some(masked) if masked == start => Ok(Self { start, prefix }),
            Some(_) => Err(ParseNetError::HostBits),
            None => Err(ParseNetError::Form),
        }
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.start, self.prefix)
    }
}

impl Serialize for Net {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Net {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<Net> {
        texts.iter().map(|it| it.parse().unwrap()).collect()
    }

    fn judged(ip: &str, policy: &Policy) -> AddressVerdict {
        judge(SocketAddr::new(ip.parse().unwrap(), 443), policy)
    }

    #[test]
    fn only_public_addresses_pass_without_a_grant() {
        use Reason::*;
        for (ip, reason) in [
            ("127.0.0.1", Loopback),
            ("127.255.255.255", Loopback),
            ("10.0.0.1", Private),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("192.168.1.1", Private),
            ("169.254.169.254", LinkLocal),
            ("100.64.0.0", CarrierNat),
            ("100.100.100.200", CarrierNat),
            ("100.127.255.255", CarrierNat),
            ("168.63.129.16", CloudService),
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("192.0.0.192", Reserved),
            ("192.0.2.1", Documentation),
            ("198.51.100.1", Documentation),
            ("203.0.113.1", Documentation),
            ("198.18.0.1", Benchmark),
            ("198.19.255.255", Benchmark),
            ("192.88.99.1", Reserved),
            ("224.0.0.1", Multicast),
            ("240.0.0.1", Reserved),
            ("255.255.255.255", Reserved),
            ("::", Unspecified),
            ("::1", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:169.254.169.254", LinkLocal),
            ("::127.0.0.1", Embedded),
            ("::ffff:0:7f00:1", Embedded),
            ("64:ff9b::a9fe:a9fe", Embedded),
            ("64:ff9b:1::1", Embedded),
            ("2002:7f00:1::", Embedded),
            ("2001::1", Embedded),
            ("2001:10::1", Reserved),
            ("2001:1ff::1", Reserved),
            ("2001:db8::1", Documentation),
            ("3fff::1", Documentation),
            ("3fff:fff:ffff::1", Documentation),
            ("100::1", Reserved),
            ("5f00::1", Reserved),
            ("4000::1", Reserved),
            ("fc00::1", Private),
            ("fd00:ec2::254", Private),
            ("fe80::1", LinkLocal),
            ("fec0::1", Reserved),
            ("ff02::1", Multicast),
        ] {
            assert_eq!(judged(ip, &Policy::default()), AddressVerdict::Denied(reason), "{ip}");
        }
    }

    #[test]
    fn addresses_beside_the_denied_ranges_pass() {
        for ip in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "203.0.114.0",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "2000::1",
            "2001:200::1",
            "2001:db7::1",
            "2001:db9::1",
            "2003::1",
            "2606:4700::1111",
            "3ffe:ffff::1",
            "3fff:1000::1",
        ] {
            assert_eq!(judged(ip, &Policy::default()), AddressVerdict::Public, "{ip}");
        }
    }

    /// The same rule once more, as lists of networks, over a million addresses.
    #[test]
    fn the_judgement_is_the_published_list_of_networks() {
        let denied = nets(&[
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "168.63.129.16/32",
        ]);
        let edges = denied.iter().flat_map(|net| {
            let IpAddr::V4(start) = net.start else { panic!() };
            let end = start.to_bits() | u32::MAX.checked_shr(u32::from(net.prefix)).unwrap_or(0);
            [start.to_bits(), start.to_bits().wrapping_sub(1), end, end.wrapping_add(1)]
        });
        for bits in (0..=u32::MAX).step_by(4093).chain(edges) {
            let ip = Ipv4Addr::from_bits(bits);
            let expected = denied.iter().any(|it| it.contains(ip.into()));
            assert_eq!(why_not_public_v4(ip).is_some(), expected, "{ip}");
        }

        let allowed = nets(&["2000::/3"]);
        let denied = nets(&["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"]);
        for high in 0..=u16::MAX {
            for next in [0, 1, 0x1ff, 0x200, 0xdb7, 0xdb8, 0xdb9, 0xfff, 0x1000, 0xffff] {
                let ip = Ipv6Addr::new(high, next, 0, 0, 0, 0, 0, 7);
                let is_in = |nets: &[Net]| nets.iter().any(|it| it.contains(ip.into()));
                let expected = !is_in(&allowed) || is_in(&denied);
                assert_eq!(why_not_public_v6(ip).is_some(), expected, "{ip}");
            }
        }
    }

    #[test]
    fn grants_open_and_denials_and_own_listeners_win() {
        let policy = Policy {
            allow_nets: nets(&["127.0.0.0/8", "10.1.0.0/16", "::1"]),
            deny_nets: nets(&["10.1.2.0/24", "8.8.8.8"]),
            own: vec!["0.0.0.0:8080".parse().unwrap(), "10.1.9.9:9000".parse().unwrap()],
            ..Policy::default()
        };
        for (address, expected) in [
            ("127.0.0.1:443", AddressVerdict::Granted),
            ("[::ffff:127.0.0.1]:443", AddressVerdict::Granted),
            ("[::1]:443", AddressVerdict::Granted),
            ("10.1.1.1:443", AddressVerdict::Granted),
            ("10.2.1.1:443", AddressVerdict::Denied(Reason::Private)),
            ("10.1.2.3:443", AddressVerdict::Denied(Reason::DeniedNet)),
            ("8.8.8.8:443", AddressVerdict::Denied(Reason::DeniedNet)),
            ("[::ffff:8.8.8.8]:443", AddressVerdict::Denied(Reason::DeniedNet)),
            ("8.8.4.4:443", AddressVerdict::Public),
            ("127.0.0.1:8080", AddressVerdict::Denied(Reason::OwnListener)),
            ("[::1]:8080", AddressVerdict::Denied(Reason::OwnListener)),
            ("0.0.0.0:8080", AddressVerdict::Denied(Reason::OwnListener)),
            ("10.1.9.9:9000", AddressVerdict::Denied(Reason::OwnListener)),
            ("10.1.9.8:9000", AddressVerdict::Granted),
        ] {
            assert_eq!(judge(address.parse().unwrap(), &policy), expected, "{address}");
        }
    }

    #[test]
    fn names_that_mean_the_inside_are_denied_unless_they_are_granted() {
        let closed = Policy::default();
        let lab = Policy {
            allow_nets: nets(&["127.0.0.0/8"]),
            allow_hosts: vec!["crm.internal".to_owned()],
            ..Policy::default()
        };
        let denied = AddressVerdict::Denied(Reason::InternalName);
        for (name, in_the_open, in_a_lab) in [
            ("localhost", denied, AddressVerdict::Public),
            ("LOCALHOST.", denied, AddressVerdict::Public),
            ("a.localhost", denied, AddressVerdict::Public),
            ("metadata.google.internal", denied, denied),
            ("internal", denied, denied),
            ("crm.internal.", denied, AddressVerdict::Granted),
            ("notlocalhost", AddressVerdict::Public, AddressVerdict::Public),
            ("internal.example.com", AddressVerdict::Public, AddressVerdict::Public),
        ] {
            assert_eq!(judge_name(name, &closed), in_the_open, "{name}");
            assert_eq!(judge_name(name, &lab), in_a_lab, "{name} in a lab");
        }
    }

    #[test]
    fn a_network_is_read_and_written_exactly() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "1.2.3.4/32", "fd00::/8", "::/0", "::1/128"] {
            assert_eq!(text.parse::<Net>().unwrap().to_string(), text);
        }
        assert!(nets(&["0.0.0.0/0"])[0].contains("255.1.2.3".parse().unwrap()));
        assert!(!nets(&["0.0.0.0/0"])[0].contains("::1".parse().unwrap()));
        assert!(!nets(&["::/0"])[0].contains("1.2.3.4".parse().unwrap()));
        for (text, error) in [
            ("10.0.0.1/8", ParseNetError::HostBits),
            ("10.0.0.0/33", ParseNetError::Form),
            ("10.0.0.0/+8", ParseNetError::Form),
            ("10.0.0.0/", ParseNetError::Form),
            ("10.0.0/8", ParseNetError::Form),
            ("localhost", ParseNetError::Form),
        ] {
            assert_eq!(text.parse::<Net>(), Err(error), "{text}");
        }
    }
}

//! Who stands at the door: the address that limits are counted for, and whether a visitor sits at this
//! very machine. Asked by every door. Headers are believed only where the configuration says so.

use std::net::IpAddr;

use actix_web::http::header::HeaderMap;

use crate::server_settings::{DemoAccess, DemoSettings};

/// Headers that a proxy adds. Where one is there, the peer is not the visitor.
const PROXY_HEADERS: [&str; 8] = [
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "via",
    "x-forwarded-host",
    "x-forwarded-proto",
    "cf-connecting-ip",
    "true-client-ip",
];

/// The proxies of `server.trusted_proxies`.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Vec<Network>);

/// Addresses that share their first bits.
#[derive(Debug, Clone, Copy)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Proxies {
    /// Reads addresses (`10.0.0.1`) and networks (`10.0.0.0/8`, `fd00::/8`).
    pub fn new(list: &[String]) -> Result<Proxies, String> {
        let networks = list.iter().map(|text| {
            Network::parse(text).ok_or_else(|| {
                format!("server.trusted_proxies: {text:?} is no address; write for example \"10.0.0.1\" or \"10.0.0.0/8\"")
            })
        });
        networks.collect::<Result<_, _>>().map(Proxies)
    }

    fn include(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.includes(address))
    }
}

impl Network {
    fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(whole);
        (bits <= whole).then_some(Network { address, bits })
    }

    fn includes(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differing = u32::from(own) ^ u32::from(other);
                differing.leading_zeros() >= self.bits
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differing = u128::from(own) ^ u128::from(other);
                differing.leading_zeros() >= self.bits
            }
            _ => false,
        }
    }
}

/// The address that a visitor is counted under: the peer's own, or, when the peer is a trusted proxy, the
/// rightmost address of `X-Forwarded-For` or `Forwarded` (RFC 7239) that is no trusted proxy. What stands
/// further left was written by strangers. Where both headers are there and disagree, one of them came
/// through the proxy unread, so neither is believed.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, proxies: &Proxies) -> IpAddr {
    let peer = peer.to_canonical();
    if !proxies.include(peer) {
        return peer;
    }
    let by_x_forwarded_for = rightmost_stranger(peer, &values(headers, "x-forwarded-for"), proxies);
    let by_forwarded = rightmost_stranger(peer, &forwarded_for(headers), proxies);
    match (by_x_forwarded_for, by_forwarded) {
        (Some(one), Some(other)) if one != other => peer,
        (Some(address), _) | (None, Some(address)) => address,
        (None, None) => peer,
    }
}

/// The address under which connections are counted for `limits.connections_per_address`: an IPv6 customer
/// gets a /64 at least, so the lower half tells nobody apart.
pub fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

/// Whether the visitor sits at this machine: the peer is a loopback address, nothing shows that a proxy
/// stands between, and the page was asked for under a loopback name. The last rule stops a foreign page
/// whose own name was pointed at 127.0.0.1 (DNS rebinding).
pub fn is_local(peer: IpAddr, headers: &HeaderMap, host: Option<&str>) -> bool {
    peer.to_canonical().is_loopback()
        && !PROXY_HEADERS.iter().any(|name| headers.contains_key(*name))
        && host.is_some_and(is_loopback_host)
}

/// Whether the demo, with its nameless guests, is open to a visitor.
pub fn demo_open(demo: &DemoSettings, is_local: bool) -> bool {
    match demo.enabled {
        DemoAccess::On => true,
        DemoAccess::Loopback => is_local,
        DemoAccess::Off => false,
    }
}

/// The `Host` of a request when there is exactly one and it is text.
pub fn host(headers: &HeaderMap) -> Option<&str> {
    single(headers, "host")
}

/// The value of a header that is there exactly once and is visible ASCII.
pub(crate) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut all = headers.get_all(name);
    let value = all.next()?.to_str().ok()?;
    all.next().is_none().then_some(value)
}

fn is_loopback_host(host: &str) -> bool {
    let name = without_port(host);
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Cuts `:port` off; a bare IPv6 address has more than one colon and no port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            let bracketed = name.starts_with('[') && name.ends_with(']');
            if bracketed || !name.contains(':') { name } else { host }
        }
        _ => host,
    }
}

/// The elements of a list header, in order, over all its lines.
fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    let lines = headers.get_all(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let elements = lines.flat_map(|line| line.split(',').map(|e| e.trim().to_owned()).collect::<Vec<_>>());
    elements.collect()
}

/// The `for=` of each element of `Forwarded`; an element without one counts as an unknown address.
fn forwarded_for(headers: &HeaderMap) -> Vec<String> {
    let node_of = |element: &String| {
        let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
        let node = pairs.find(|(key, _)| key.trim().eq_ignore_ascii_case("for"));
        node.map_or_else(String::new, |(_, value)| value.trim().trim_matches('"').to_owned())
    };
    values(headers, "forwarded").iter().map(node_of).collect()
}

/// Walks from the right over trusted proxies. An element that is no address ends the walk: then the last
/// proxy that vouched for something is the best that is known. `None` when there are no elements.
fn rightmost_stranger(peer: IpAddr, elements: &[String], proxies: &Proxies) -> Option<IpAddr> {
    if elements.is_empty() {
        return None;
    }
    let mut nearest = peer;
    for element in elements.iter().rev() {
        let Some(address) = parse_node(element) else { break };
        nearest = address;
        if !proxies.include(address) {
            break;
        }
    }
    Some(nearest)
}

fn parse_node(text: &str) -> Option<IpAddr> {
    let name = without_port(text);
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::try_from(*name).unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn proxies() -> Proxies {
        Proxies::new(&["10.0.0.0/8".into(), "::1".into(), "127.0.0.1".into()]).unwrap()
    }

    #[track_caller]
    fn check(peer: &str, pairs: &[(&str, &str)], expected: &str) {
        assert_eq!(client_address(ip(peer), &headers(pairs), &proxies()), ip(expected));
    }

    #[test]
    fn a_stranger_cannot_choose_his_address() {
        check("203.0.113.9", &[("x-forwarded-for", "1.2.3.4")], "203.0.113.9");
        check("203.0.113.9", &[("forwarded", "for=1.2.3.4")], "203.0.113.9");
        check("10.0.0.1", &[("x-forwarded-for", "1.2.3.4, 203.0.113.9")], "203.0.113.9");
        check(
            "10.0.0.1",
            &[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "203.0.113.9")],
            "203.0.113.9",
        );
        check("10.0.0.1", &[("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=1.2.3.4")], "10.0.0.1");
    }

    #[test]
    fn proxies_behind_proxies_are_walked_over() {
        check("10.0.0.1", &[("x-forwarded-for", "203.0.113.9, 10.1.1.1, 10.2.2.2")], "203.0.113.9");
        check("10.0.0.1", &[("x-forwarded-for", "10.1.1.1")], "10.1.1.1");
        check("10.0.0.1", &[], "10.0.0.1");
    }

    #[test]
    fn all_written_forms_are_read() {
        check("10.0.0.1", &[("forwarded", "for=203.0.113.9;proto=https;by=10.0.0.1")], "203.0.113.9");
        check("10.0.0.1", &[("forwarded", r#"for=1.1.1.1, For="[2001:db8::7]:4711""#)], "2001:db8::7");
        check("10.0.0.1", &[("forwarded", r#"for="203.0.113.9:80""#)], "203.0.113.9");
        check("::1", &[("x-forwarded-for", "2001:db8::7")], "2001:db8::7");
        check("10.0.0.1", &[("x-forwarded-for", "203.0.113.9:1234")], "203.0.113.9");
        check("::ffff:10.0.0.1", &[("x-forwarded-for", "::ffff:203.0.113.9")], "203.0.113.9");
    }

    #[test]
    fn what_is_no_address_ends_the_walk() {
        check("10.0.0.1", &[("x-forwarded-for", "203.0.113.9, unknown")], "10.0.0.1");
        check("10.0.0.1", &[("forwarded", "for=203.0.113.9, for=_hidden, for=10.3.3.3")], "10.3.3.3");
        check("10.0.0.1", &[("forwarded", "proto=https")], "10.0.0.1");
    }

    #[test]
    fn networks_are_cut_at_the_right_bit() {
        let list = Proxies::new(&["192.168.4.0/22".into(), "fd00::/8".into(), "0.0.0.0/0".into()]).unwrap();
        let (narrow, v6) = (Proxies(vec![list.0[0]]), Proxies(vec![list.0[1]]));
        assert!(narrow.include(ip("192.168.7.255")) && !narrow.include(ip("192.168.8.0")));
        assert!(v6.include(ip("fdff::1")) && !v6.include(ip("fe00::1")) && !v6.include(ip("192.168.4.1")));
        assert!(list.include(ip("8.8.8.8")) && !list.include(ip("fe00::1")));
        for wrong in ["10.0.0.0/33", "10.0.0/8", "proxy", "10.0.0.1/", "::/129", "10.0.0.1/-1"] {
            assert!(Proxies::new(&[wrong.into()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn local_means_this_machine_and_nothing_between() {
        let none = headers(&[]);
        for host in ["localhost", "LocalHost:8080", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080", "[::1]"] {
            assert!(is_local(ip("127.0.0.1"), &none, Some(host)), "{host}");
        }
        assert!(is_local(ip("::1"), &none, Some("localhost")));
        assert!(is_local(ip("::ffff:127.0.0.1"), &none, Some("localhost")));
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "192.168.0.1",
            "local host",
            "0.0.0.0",
        ] {
            assert!(!is_local(ip("127.0.0.1"), &none, Some(host)), "{host}");
        }
        assert!(!is_local(ip("127.0.0.1"), &none, None));
        assert!(!is_local(ip("192.168.0.7"), &none, Some("localhost")));
        for name in PROXY_HEADERS {
            assert!(!is_local(ip("127.0.0.1"), &headers(&[(name, "x")]), Some("localhost")), "{name}");
        }
    }

    #[test]
    fn the_demo_is_open_to_whom_the_configuration_says() {
        let open = |enabled, local| demo_open(&DemoSettings { enabled }, local);
        assert!(open(DemoAccess::On, false) && open(DemoAccess::Loopback, true));
        assert!(!open(DemoAccess::Loopback, false) && !open(DemoAccess::Off, true));
    }

    #[test]
    fn ipv6_neighbours_are_counted_together() {
        assert_eq!(counted_address(ip("2001:db8:1:2:3:4:5:6")), ip("2001:db8:1:2::"));
        assert_eq!(counted_address(ip("::ffff:203.0.113.9")), ip("203.0.113.9"));
    }
}

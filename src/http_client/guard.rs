//! Keeps requests away from this machine and its network: every address of a host is looked at before a connection is
//! made to it, and the connection goes to an address that was looked at. So a name that stands for another address a
//! moment later leads nowhere else. Used by the client for addresses that an operator has typed in for others.
//!
//! Which blocks are not public: IANA's registries of special-purpose addresses (RFC 6890 and what came later),
//! <https://www.iana.org/assignments/iana-ipv4-special-registry> and `iana-ipv6-special-registry`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use actix_rt::net::TcpStream;
use actix_service::Service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use awc::http::Uri;
use futures_util::future::LocalBoxFuture;

use crate::http_client::Reach;

/// IPv4 blocks that are no public hosts: address and length of the prefix.
const NOT_PUBLIC_V4: [(Ipv4Addr, u32); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // shared by carriers (RFC 6598)
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // link-local; 169.254.169.254 gives out keys in clouds
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // documentation
    (Ipv4Addr::new(192, 31, 196, 0), 24), // AS112
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // relays of 6to4
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),     // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),     // reserved, broadcast
];

/// IPv6 blocks within the global ones (2000::/3) that are no public hosts, or that hide an IPv4 address.
const NOT_PUBLIC_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments, Teredo among them
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

/// Whether an address is that of a host on the public internet: none of this machine, none of a private network, none
/// of a group.
///
/// ```
/// use roomcast::http_client::guard::is_public;
/// assert!(is_public("93.184.216.34".parse().unwrap()));
/// assert!(!is_public("169.254.169.254".parse().unwrap()));
/// assert!(!is_public("::ffff:10.0.0.1".parse().unwrap()), "an IPv4 address in an IPv6 one");
/// ```
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|(block, length)| {
            let mask = u32::MAX << (32 - length);
            address.to_bits() & mask == block.to_bits()
        }),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(within) => is_public(IpAddr::V4(within)),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let is_global = address.segments()[0] & 0xe000 == 0x2000;
    is_global
        && !NOT_PUBLIC_V6.iter().any(|(block, length)| {
            let mask = u128::MAX << (128 - length);
            address.to_bits() & mask == block.to_bits()
        })
}

/// A host all of whose addresses are ones that requests must not go to.
#[derive(Debug)]
pub struct NotPublic(String);

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is an address of this machine or of a private network, and requests must not go there",
            self.0.escape_debug()
        )
    }
}

impl std::error::Error for NotPublic {}

/// Finds the addresses of a host by itself, and connects to public ones only; or lets everything through.
#[derive(Debug, Clone)]
pub(super) struct Guard<S> {
    inner: S,
    reach: Reach,
}

impl<S> Guard<S> {
    /// Before a service that connects to addresses that are known.
    pub(super) fn before(inner: S, reach: Reach) -> Guard<S> {
        Guard { inner, reach }
    }
}

impl<S> Service<ConnectInfo<Uri>> for Guard<S>
where
    S: Service<ConnectInfo<Uri>, Response = Connection<Uri, TcpStream>, Error = ConnectError>
        + Clone
        + 'static,
{
    type Response = Connection<Uri, TcpStream>;
    type Error = ConnectError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, ConnectError>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&self, info: ConnectInfo<Uri>) -> Self::Future {
        let inner = self.inner.clone();
        if self.reach == Reach::Anywhere {
            return Box::pin(inner.call(info));
        }
        Box::pin(async move {
            let host = info.hostname().trim_matches(['[', ']']).to_owned();
            let found = tokio::net::lookup_host((host.as_str(), info.port())).await;
            let found: Vec<SocketAddr> = found.map_err(ConnectError::Io)?.collect();
            let public: Vec<SocketAddr> =
                found.iter().filter(|address| is_public(address.ip())).copied().collect();
            if public.is_empty() && !found.is_empty() {
                return Err(ConnectError::Resolver(Box::new(NotPublic(host))));
            }
            // A request with addresses is not looked up again.
            inner.call(info.set_addrs(public)).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(text: &str) -> bool {
        is_public(text.parse().unwrap_or_else(|_| panic!("{text} is no address")))
    }

    #[test]
    fn only_hosts_of_the_internet_are_public() {
        for address in ["1.1.1.1", "93.184.216.34", "172.15.0.1", "172.32.0.1", "100.63.9.9", "100.128.0.1"] {
            assert!(public(address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.1.1.1",
            "255.255.255.255",
            "240.0.0.1",
            "192.88.99.1",
        ] {
            assert!(!public(address), "{address}");
        }
        for address in ["2606:4700::1111", "2a00:1450:4001::1", "::ffff:1.1.1.1"] {
            assert!(public(address), "{address}");
        }
        for address in [
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "100::1",
            "::127.0.0.1",
            "fec0::1",
        ] {
            assert!(!public(address), "{address}");
        }
    }
}

//! The `[server]` and `[demo]` tables of the configuration: where the server listens and whom it trusts.
//! Read by the doors and by what opens them.

use std::net::{SocketAddr, ToSocketAddrs};

use serde::{Deserialize, Serialize};

use crate::units::Span;

/// The `[server]` table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSettings {
    /// Address of plain HTTP and WebSocket. Default `127.0.0.1:8080`.
    pub listen: String,
    /// This node's name in logs and metrics. Default (empty): `<host name>:<port>`.
    pub node: String,
    /// Worker threads; 0 = one per core. Default 0.
    pub workers: usize,
    /// Pages that may open a WebSocket or use the server API: `same`, exact origins,
    /// `https://*.example.com`, or `*`. Default `["same"]`.
    pub origins: Vec<String>,
    /// Addresses and networks (`10.0.0.0/8`) whose `X-Forwarded-For` and `Forwarded` are believed.
    /// Default none.
    pub trusted_proxies: Vec<String>,
    /// How long a stop may take to close all sessions politely. Default 20 s.
    pub drain: Span,
    /// Certificate file for TLS. Default (empty): no TLS.
    pub tls_cert: String,
    /// Key file for TLS. Default (empty): no TLS.
    pub tls_key: String,
}

impl Default for ServerSettings {
    fn default() -> ServerSettings {
        ServerSettings {
            listen: "127.0.0.1:8080".into(),
            node: String::new(),
            workers: 0,
            origins: vec!["same".into()],
            trusted_proxies: Vec::new(),
            drain: Span::seconds(20),
            tls_cert: String::new(),
            tls_key: String::new(),
        }
    }
}

/// More worker threads than any machine has cores help nobody.
const WORKERS_MAX: usize = 1024;
/// Longest drain, in milliseconds.
const DRAIN_MS_MAX: u64 = 3_600_000;

impl ServerSettings {
    /// The addresses that `listen` stands for; a host name may stand for several.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let found = self.listen.to_socket_addrs().map_err(|error| {
            format!(
                "server.listen: {:?} is no address ({error}); write for example \"0.0.0.0:8080\"",
                self.listen
            )
        })?;
        Ok(found.collect())
    }

    /// The number of worker threads, with 0 replaced by the number of cores.
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
    }

    /// This node's name; `port` is the one really bound.
    pub fn node_name(&self, port: u16) -> String {
        if !self.node.is_empty() {
            return self.node.clone();
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        match host.trim() {
            "" => format!("localhost:{port}"),
            host => format!("{host}:{port}"),
        }
    }

    /// What cannot work, with the key and what to write instead. Origins and proxies are checked where
    /// they are read.
    pub fn check(&self) -> Result<(), String> {
        self.addresses()?;
        if self.workers > WORKERS_MAX {
            return Err(format!("server.workers: at most {WORKERS_MAX}; 0 means one per core"));
        }
        if self.drain.millis() > DRAIN_MS_MAX {
            return Err("server.drain: at most \"1h\"; what starts this program will not wait longer".into());
        }
        if self.node.len() > 128 || self.node.chars().any(char::is_control) {
            return Err("server.node: at most 128 bytes and no control characters".into());
        }
        if !self.tls_cert.is_empty() || !self.tls_key.is_empty() {
            return Err(
                "server.tls_cert, server.tls_key: this version speaks plain HTTP only; leave them empty \
                        and put a proxy that speaks TLS in front"
                    .into(),
            );
        }
        Ok(())
    }
}

/// The `[demo]` table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DemoSettings {
    /// Who gets the demo page and may come as a nameless guest. Default `loopback`.
    pub enabled: DemoAccess,
}

/// Who may use the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DemoAccess {
    /// Visitors on the same machine.
    #[default]
    Loopback,
    /// Everybody.
    On,
    /// Nobody.
    Off,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_port() {
        let listening = |listen: &str| ServerSettings { listen: listen.into(), ..ServerSettings::default() };
        assert_eq!(listening("[::1]:0").addresses().unwrap(), ["[::1]:0".parse().unwrap()]);
        let error = listening("127.0.0.1").check().unwrap_err();
        assert!(error.starts_with("server.listen: \"127.0.0.1\""), "{error}");
    }

    #[test]
    fn a_node_has_a_name_even_if_nobody_gave_it_one() {
        assert!(ServerSettings::default().node_name(8080).ends_with(":8080"));
        let named = ServerSettings { node: "chat-1".into(), ..ServerSettings::default() };
        assert_eq!(named.node_name(8080), "chat-1");
    }

    #[test]
    fn a_stop_ends_some_day() {
        let drain = |drain| ServerSettings { drain, ..ServerSettings::default() }.check();
        assert!(drain(Span::FOREVER).unwrap_err().starts_with("server.drain"));
        assert_eq!(drain(Span::seconds(0)), Ok(()), "closing at once is a choice");
    }

    #[test]
    fn tls_is_refused_rather_than_ignored() {
        let with_tls = ServerSettings { tls_cert: "cert.pem".into(), ..ServerSettings::default() };
        assert!(with_tls.check().unwrap_err().contains("proxy"));
    }
}

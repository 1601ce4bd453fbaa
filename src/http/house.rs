//! What the routes share: settings, counters, and the way to the chat server. Filled by the wiring.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use actix_web::HttpRequest;

use crate::actors::letters::{Erase, LookAt, Order, PublishBatch, Rule, RulesOf, TraceEntry};
use crate::auth::origin::Origins;
use crate::auth::settings::AuthSettings;
use crate::auth::visitor;
use crate::http::readiness::Readiness;
use crate::metrics::Metrics;
use crate::server_settings::{DemoAccess, DemoSettings};
use crate::traces::Tracer;

/// What the routes share.
#[derive(Debug)]
pub struct House {
    /// Who may see the demo.
    pub demo: DemoSettings,
    /// Whose pages may use the server API.
    pub origins: Origins,
    /// The API keys.
    pub auth: AuthSettings,
    /// Longest body of the server API, in bytes (`limits.message_bytes`).
    pub message_bytes: usize,
    /// How long a body may take (`limits.handshake`).
    pub handshake: Duration,
    /// Where errors are counted and figures come from.
    pub metrics: Arc<Metrics>,
    /// Whether new visitors are wanted.
    pub ready: Arc<Readiness>,
    /// Begins the spans of requests that say something.
    pub tracer: Tracer,
    /// The chat server.
    pub publish: Recipient<PublishBatch>,
    /// The same, for what operators have all nodes do.
    pub orders: Recipient<Order>,
    /// The same, for entries that are to be blanked.
    pub erase: Recipient<Erase>,
    /// The same, for how rooms stand.
    pub looks: Recipient<LookAt>,
    /// The same, for what became of an entry.
    pub traces: Recipient<TraceEntry>,
    /// The same, for orders about rooms.
    pub rule: Recipient<Rule>,
    /// The same, for the rules of rooms.
    pub rules: Recipient<RulesOf>,
}

impl House {
    /// Whether the demo is open to who asks.
    pub fn demo_is_open(&self, request: &HttpRequest) -> bool {
        visitor::demo_open(&self.demo, is_local(request))
    }

    /// Whether who asks sits at this machine and the demo is enabled at all.
    pub fn demo_is_enabled_for_local(&self, request: &HttpRequest) -> bool {
        self.demo.enabled != DemoAccess::Off && is_local(request)
    }
}

fn is_local(request: &HttpRequest) -> bool {
    // A socket that does not know its peer is nobody's neighbour.
    let peer = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
    visitor::is_local(peer, request.headers(), visitor::host(request.headers()))
}

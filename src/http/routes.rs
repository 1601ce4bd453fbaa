//! The one table of routes, and what they share. Wiring puts the table into every worker's application.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use actix_web::http::header::{CONNECTION, HeaderValue, UPGRADE};
use actix_web::{HttpRequest, HttpResponse, Resource, Route, web};

use crate::actors::letters::PublishBatch;
use crate::auth::origin::Origins;
use crate::auth::settings::AuthSettings;
use crate::auth::visitor;
use crate::http::answer::refuse;
use crate::http::health::Readiness;
use crate::http::{demo, health, metrics, publish};
use crate::metrics::Metrics;
use crate::protocols::codes::Problem;
use crate::server_settings::{DemoAccess, DemoSettings};

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
    /// The chat server.
    pub publish: Recipient<PublishBatch>,
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

/// All routes; whatever is not among them gets a 404, another method a 405.
pub fn configure(table: &mut web::ServiceConfig) {
    table
        .service(page("/").route(web::get().to(demo::page)).route(web::head().to(demo::page)))
        .service(page("/style.css").route(web::get().to(demo::style)).route(web::head().to(demo::style)))
        .service(page("/chat.js").route(web::get().to(demo::chat)).route(web::head().to(demo::chat)))
        .service(
            page("/roomcast.js").route(web::get().to(demo::library)).route(web::head().to(demo::library)),
        )
        .service(page("/healthz").route(web::get().to(health::alive)).route(web::head().to(health::alive)))
        .service(page("/readyz").route(web::get().to(health::ready)).route(web::head().to(health::ready)))
        .service(page("/metrics").route(web::get().to(metrics::show)).route(web::head().to(metrics::show)))
        .service(only_posts("/api/publish").route(web::post().to(publish::publish)))
        .service(page("/v1/ws").route(web::get().to(upgrade_wanted)).route(web::head().to(upgrade_wanted)))
        .default_service(web::to(not_found));
}

fn page(path: &str) -> Resource {
    web::resource(path).default_service(wrong_method("GET, HEAD"))
}

fn only_posts(path: &str) -> Resource {
    web::resource(path).default_service(wrong_method("POST"))
}

fn wrong_method(allowed: &'static str) -> Route {
    web::to(move |house: web::Data<House>| async move {
        let problem = Problem::new(405, "method", format!("only {allowed} works here"));
        house.metrics.errors.count(problem.why);
        let mut answer = refuse(&problem);
        answer.headers_mut().insert(actix_web::http::header::ALLOW, HeaderValue::from_static(allowed));
        answer
    })
}

async fn not_found(house: web::Data<House>) -> HttpResponse {
    let problem =
        Problem::new(404, "not-found", "nothing is at this path; see docs/protocol.md for those that are");
    house.metrics.errors.count(problem.why);
    refuse(&problem)
}

/// A request for the WebSocket path that does not ask for one.
async fn upgrade_wanted() -> HttpResponse {
    let problem = Problem::new(426, "handshake", "this is a WebSocket path; connect with ws:// or wss://");
    let mut answer = refuse(&problem);
    let headers = answer.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    answer
}

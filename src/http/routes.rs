//! The one table of routes. Wiring puts it into every worker's application.

use actix_web::http::Method;
use actix_web::http::header::{CONNECTION, HeaderValue, UPGRADE};
use actix_web::{HttpResponse, Resource, Route, web};

use crate::http::answer::refuse;
use crate::http::api::{throw_away, with_end};
use crate::http::house::House;
use crate::http::{
    batch, demo, health, log, metrics, moderation, openapi, orders, publish, rooms, trace, v1,
};
use crate::protocols::codes::Problem;

/// All routes; whatever is not among them gets a 404, another method a 405.
pub fn configure(table: &mut web::ServiceConfig) {
    for path in demo::paths() {
        table.service(page(path).route(web::get().to(demo::part)).route(web::head().to(demo::part)));
    }
    for path in demo::library_paths() {
        table.service(page(path).route(web::get().to(demo::library)).route(web::head().to(demo::library)));
    }
    // In this order they are tried, and one with a name in it is an expression: the busy ones first.
    table
        .service(read_by_pages("/v1/stream").route(web::get().to(v1::stream)))
        .service(read_by_pages("/v1/poll").route(web::get().to(v1::poll)))
        .service(
            only_posts("/v1/send")
                .route(web::post().to(v1::send))
                .route(web::method(Method::OPTIONS).to(v1::preflight)),
        )
        .service(page("/healthz").route(web::get().to(health::alive)).route(web::head().to(health::alive)))
        .service(page("/readyz").route(web::get().to(health::ready)).route(web::head().to(health::ready)))
        .service(page("/metrics").route(web::get().to(metrics::show)).route(web::head().to(metrics::show)))
        .service(
            page("/api/openapi.json")
                .route(web::get().to(openapi::show))
                .route(web::head().to(openapi::show)),
        )
        .service(only_posts("/api/publish").route(web::post().to(publish::publish)))
        .service(only_posts("/api/batch").route(web::post().to(batch::batch)))
        .service(only_posts("/api/broadcast").route(web::post().to(batch::broadcast)))
        .service(only_posts("/api/disconnect").route(web::post().to(orders::disconnect)))
        .service(only_posts("/api/join").route(web::post().to(orders::join)))
        .service(only_posts("/api/leave").route(web::post().to(orders::leave)))
        .service(page("/api/rooms").route(web::get().to(rooms::list)).route(web::head().to(rooms::list)))
        .service(
            page("/api/rooms/{room}").route(web::get().to(rooms::state)).route(web::head().to(rooms::state)),
        )
        .service(
            page("/api/rooms/{room}/who").route(web::get().to(rooms::who)).route(web::head().to(rooms::who)),
        )
        .service(
            page("/api/rooms/{room}/rules")
                .route(web::get().to(moderation::rules))
                .route(web::head().to(moderation::rules)),
        )
        .service(only_posts("/api/rooms/{room}/mute").route(web::post().to(moderation::mute)))
        .service(only_posts("/api/rooms/{room}/ban").route(web::post().to(moderation::ban)))
        .service(only_posts("/api/rooms/{room}/freeze").route(web::post().to(moderation::freeze)))
        .service(only_posts("/api/rooms/{room}/slow").route(web::post().to(moderation::slow)))
        .service(only_posts("/api/rooms/{room}/role").route(web::post().to(moderation::role)))
        .service(read_by_pages("/v1/rooms/{room}/log").route(web::get().to(v1::log)))
        .service(
            page("/api/rooms/{room}/log").route(web::get().to(log::read)).route(web::head().to(log::read)),
        )
        .service(
            web::resource("/api/rooms/{room}/log/{s}")
                .default_service(wrong_method("DELETE"))
                .route(web::delete().to(log::erase)),
        )
        .service(
            page("/api/trace/{room}/{s}")
                .route(web::get().to(trace::entry))
                .route(web::head().to(trace::entry)),
        )
        .service(page("/v1/ws").route(web::get().to(upgrade_wanted)).route(web::head().to(upgrade_wanted)))
        .default_service(web::to(not_found));
}

fn page(path: &str) -> Resource {
    web::resource(path).default_service(wrong_method("GET, HEAD"))
}

/// For pages of other origins too, whose browsers ask first.
fn read_by_pages(path: &str) -> Resource {
    let resource = web::resource(path).default_service(wrong_method("GET"));
    resource.route(web::method(Method::OPTIONS).to(v1::preflight))
}

fn only_posts(path: &str) -> Resource {
    web::resource(path).default_service(wrong_method("POST"))
}

fn wrong_method(allowed: &'static str) -> Route {
    web::to(move |payload: web::Payload, house: web::Data<House>| async move {
        let keep = throw_away(payload, house.handshake).await;
        let problem = Problem::new(405, "method", format!("only {allowed} works here"));
        house.metrics.errors.count(problem.why);
        let mut answer = refuse(&problem);
        answer.headers_mut().insert(actix_web::http::header::ALLOW, HeaderValue::from_static(allowed));
        with_end(answer, keep)
    })
}

async fn not_found(payload: web::Payload, house: web::Data<House>) -> HttpResponse {
    // An answer before the end of a body would cost the connection.
    let keep = throw_away(payload, house.handshake).await;
    let problem = Problem::new(
        404,
        "not-found",
        "nothing is at this path; see docs/protocol.md and docs/api.md for those that are",
    );
    house.metrics.errors.count(problem.why);
    with_end(refuse(&problem), keep)
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

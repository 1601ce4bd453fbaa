//! Whether the process lives and whether it should get new visitors. Asked by load balancers and by
//! start scripts.

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpResponse, web};
use serde::Serialize;

use crate::http::house::House;

#[derive(Serialize)]
struct Report {
    ready: bool,
    reasons: Vec<String>,
}

/// `GET /healthz`: 200 as long as the process lives.
pub async fn alive() -> HttpResponse {
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).content_type("text/plain").body("ok\n")
}

/// `GET /readyz`: 200, or 503 with the reasons.
pub async fn ready(house: web::Data<House>) -> HttpResponse {
    let reasons = house.ready.reasons();
    let mut answer = match reasons.is_empty() {
        true => HttpResponse::Ok(),
        false => HttpResponse::ServiceUnavailable(),
    };
    answer.insert_header((CACHE_CONTROL, "no-store"));
    answer.json(Report { ready: reasons.is_empty(), reasons })
}

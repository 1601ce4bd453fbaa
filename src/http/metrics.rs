//! `GET /metrics`: the figures for Prometheus. Knows the table, not what is in it.

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpResponse, web};

use crate::http::house::House;
use crate::metrics::CONTENT_TYPE;

/// `GET /metrics`.
pub async fn show(house: web::Data<House>) -> HttpResponse {
    let mut answer = HttpResponse::Ok();
    answer.insert_header((CACHE_CONTROL, "no-store")).content_type(CONTENT_TYPE).body(house.metrics.encode())
}

//! `GET /api/openapi.json`: the description of the server API, as it stands in `static/openapi.json`. For everybody:
//! it says nothing that the documentation does not.

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};

/// The description, OpenAPI 3.1.
pub const DESCRIPTION: &str = include_str!("../../static/openapi.json");

/// `GET /api/openapi.json`.
pub async fn show() -> HttpResponse {
    let mut answer = HttpResponse::Ok();
    answer.insert_header((CACHE_CONTROL, "no-cache")).insert_header((CONTENT_TYPE, "application/json"));
    answer.body(DESCRIPTION)
}

//! A line in the log for each HTTP request, if they are wanted (`log.access`). Never with what is behind the `?`: tokens
//! stand there.

use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::USER_AGENT;
use actix_web::middleware::Next;
use actix_web::{Error, web};

use crate::auth::visitor::{self, Proxies};
use crate::http::traceparent;
use crate::log::{ACCESS, is_access_logged};
use crate::traces::TraceId;

/// Longest name of a browser that is written, in bytes.
const AGENT_BYTES_MAX: usize = 200;

/// Writes the line when the answer is known; a stream's when it begins.
pub async fn note<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    if !is_access_logged() {
        return next.call(request).await;
    }
    let begun = Instant::now();
    let (method, path) = (request.method().clone(), request.path().to_owned());
    let named = traceparent::trace_of(request.request());
    let agent = request.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let agent: String = agent.chars().take(AGENT_BYTES_MAX).collect();
    let proxies = request.app_data::<web::Data<Proxies>>();
    let address = request.peer_addr().zip(proxies).map_or_else(String::new, |(peer, proxies)| {
        visitor::client_address(peer.ip(), request.headers(), proxies).to_string()
    });
    let answer = next.call(request).await;
    let trace = answer.as_ref().map_or(named, |answer| traceparent::trace_of(answer.request()));
    let status = match &answer {
        Ok(answer) => answer.status(),
        Err(error) => error.as_response_error().status_code(),
    };
    let (method, status, ms) = (method.as_str(), status.as_u16(), begun.elapsed().as_secs_f64() * 1e3);
    log::info!(
        target: ACCESS,
        method, path = path.as_str(), status, ms, address = address.as_str(), agent = agent.as_str(),
        trace = trace.as_ref().map_or("", TraceId::as_str);
        "{method} {path} {status}"
    );
    answer
}

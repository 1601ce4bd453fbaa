//! A line in the log for each HTTP request, if they are wanted (`log.access`). Never with what is behind the `?`: tokens
//! stand there.

use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, USER_AGENT};
use actix_web::middleware::Next;
use actix_web::{Error, web};

use crate::auth::visitor::{self, Proxies};
use crate::log::{ACCESS, is_access_logged};

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
    let trace = trace_of(request.headers()).map(str::to_owned);
    let agent = request.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let agent: String = agent.chars().take(AGENT_BYTES_MAX).collect();
    let proxies = request.app_data::<web::Data<Proxies>>();
    let address = request.peer_addr().zip(proxies).map_or_else(String::new, |(peer, proxies)| {
        visitor::client_address(peer.ip(), request.headers(), proxies).to_string()
    });
    let answer = next.call(request).await;
    let status = match &answer {
        Ok(answer) => answer.status(),
        Err(error) => error.as_response_error().status_code(),
    };
    let (method, status, ms) = (method.as_str(), status.as_u16(), begun.elapsed().as_secs_f64() * 1e3);
    log::info!(
        target: ACCESS,
        method, path = path.as_str(), status, ms, address = address.as_str(), agent = agent.as_str(),
        trace = trace.as_deref().unwrap_or_default();
        "{method} {path} {status}"
    );
    answer
}

/// The trace that a request belongs to: W3C Trace Context, `traceparent: 00-<trace>-<span>-<flags>`.
fn trace_of(headers: &HeaderMap) -> Option<&str> {
    let mut parts = headers.get("traceparent")?.to_str().ok()?.split('-');
    let (_version, trace) = (parts.next()?, parts.next()?);
    let is_trace = trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_trace.then_some(trace)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn only_a_proper_trace_is_written() {
        let with = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static("traceparent"), HeaderValue::from_static(text));
            headers
        };
        let headers = with("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(trace_of(&headers), Some("0af7651916cd43dd8448eb211c80319c"));
        for wrong in ["", "00", "00-short-b7ad6b7169203331-01", "00-zzf7651916cd43dd8448eb211c80319c-1-01"] {
            assert_eq!(trace_of(&with(wrong)), None, "{wrong}");
        }
    }
}

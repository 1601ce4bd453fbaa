//! One signed request to a backend, with a bound on its time and on its answer. Used by the poster of events and for
//! questions. Knows neither what is in the body nor what follows from the answer.

use std::error::Error;
use std::time::Duration;

use awc::Client;
use awc::http::header::{CONTENT_LENGTH, HeaderMap, RETRY_AFTER, TRANSFER_ENCODING};
use bytes::Bytes;
use tokio::time::timeout;

use crate::clock;
use crate::hooks::settings::shown;
use crate::hooks::signature::Keys;
use crate::http_client::{self, Reach};
use crate::traces::Span;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Longest wait that a backend can ask for.
const WAIT_MAX: Duration = Duration::from_secs(3_600);

/// Makes requests. Belongs to the thread it was made on.
pub struct Post {
    client: Client,
    keys: Keys,
    patience: Duration,
}

/// What a backend has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// When to come again, if it says.
    pub retry_after: Option<Duration>,
    /// What it says; or why that is not known.
    pub body: Result<Bytes, &'static str>,
}

impl Post {
    /// Requests that are signed with these keys and take at most `patience`, the answer included.
    pub fn new(keys: Keys, patience: Duration, reach: Reach) -> Post {
        Post { client: http_client::client_for(patience, reach), keys, patience }
    }

    /// Posts a body of JSON under an id, as a step of a trace. The error is for people and names the address without its
    /// query.
    pub async fn send(&self, url: &str, id: &str, body: Bytes, span: &Span) -> Result<Answer, String> {
        match timeout(self.patience, self.exchange(url, id, body, span)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("{} gave no answer within {:?}", shown(url), self.patience)),
        }
    }

    async fn exchange(&self, url: &str, id: &str, body: Bytes, span: &Span) -> Result<Answer, String> {
        // Of the attempt, not of the event: a receiver refuses what is older than some minutes.
        let timestamp = clock::wall_ms() / 1_000;
        let signature = self.keys.sign(id, timestamp, &body);
        let mut request = self
            .client
            .post(url)
            .insert_header(("content-type", "application/json"))
            .insert_header(("webhook-id", id))
            .insert_header(("webhook-timestamp", timestamp.to_string()))
            .insert_header(("webhook-signature", signature));
        if span.is_on() {
            span.text("http.request.method", "POST");
            span.text("url.full", shown(url));
            for (name, value) in [("traceparent", span.traceparent()), ("tracestate", span.tracestate())] {
                if let Some(value) = value {
                    request = request.insert_header((name, value));
                }
            }
        }
        let sent = request.send_body(body).await;
        let mut answer =
            sent.map_err(|error| format!("{} cannot be reached: {}", shown(url), causes(&error)))?;
        let (status, retry_after) = (answer.status().as_u16(), retry_after(answer.headers()));
        span.number("http.response.status_code", status.into());
        let body = match says_its_length(status, answer.headers()) {
            true => answer
                .body()
                .limit(ANSWER_BYTES_MAX)
                .await
                .map_err(|_| "a body that is too large or breaks off"),
            false => Err("a body without a Content-Length; let your server send one"),
        };
        Ok(Answer { status, retry_after, body })
    }
}

/// Whether the end of an answer's body is told. One that ends with the connection is taken as empty by our client, and a
/// refusal in it would be lost.
fn says_its_length(status: u16, headers: &HeaderMap) -> bool {
    status == 204 || headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING)
}

/// An error with what has caused it: the outer one alone often says little.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(cause) = inner {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        inner = cause.source();
    }
    text
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3); at most an hour.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_millisecond();
            let now = i64::try_from(clock::wall_ms()).unwrap_or(i64::MAX);
            Duration::from_millis(u64::try_from(until.saturating_sub(now)).unwrap_or(0))
        }
    };
    Some(wait.min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use awc::http::header::HeaderValue;

    fn after(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
        retry_after(&headers)
    }

    #[test]
    fn a_backend_says_when_to_come_again_in_seconds_or_by_a_date() {
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("999999"), Some(WAIT_MAX));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(after("soon"), None);
        let in_a_minute = jiff::Timestamp::now().saturating_add(jiff::SignedDuration::from_secs(60)).unwrap();
        let text = in_a_minute.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        assert!(
            after(&text)
                .is_some_and(|wait| wait > Duration::from_secs(50) && wait <= Duration::from_secs(60))
        );
    }
}

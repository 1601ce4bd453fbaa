//! Traces: which way a message takes through the server and how long each step takes, as spans of OpenTelemetry. Called
//! by whoever lets something in, passes it on or sends it out; knows neither rooms nor doors, and nothing of where spans
//! go. Without the feature `otel` the same names stand for nothing, take no room and do nothing.
//!
//! What is not sampled costs a look at a number: it has no span, and nothing is allocated for it.

#[cfg(not(feature = "otel"))]
mod nothing;
#[cfg(feature = "otel")]
mod recent;
#[cfg(feature = "otel")]
mod recording;

use std::cell::Cell;
use std::fmt;

#[cfg(not(feature = "otel"))]
pub use nothing::{Parent, Span, SpanRef, Tracer};
#[cfg(feature = "otel")]
pub use recording::{Figures, Parent, Recorded, Recording, Span, SpanRef, Tracer};

/// Which side of a conversation a span stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Somebody has asked this server.
    Server,
    /// It asks another one.
    Client,
    /// It has taken something from a queue.
    Consumer,
    /// It gives something to many.
    Producer,
    /// It works.
    Internal,
}

/// The name of a trace: 32 hexadecimal digits (W3C Trace Context, `trace-id`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 32]);

impl TraceId {
    /// Reads the name; none when this is no name of a trace. Big letters become small ones.
    ///
    /// ```
    /// use roomcast::traces::TraceId;
    /// assert!(TraceId::read("0af7651916cd43dd8448eb211c80319c").is_some());
    /// assert!(TraceId::read("0af765").is_none());
    /// ```
    pub fn read(text: &str) -> Option<TraceId> {
        let digits: [u8; 32] = text.as_bytes().try_into().ok()?;
        let is_zero = digits.iter().all(|digit| *digit == b'0');
        let is_name = digits.iter().all(u8::is_ascii_hexdigit) && !is_zero;
        is_name.then(|| TraceId(digits.map(|digit| digit.to_ascii_lowercase())))
    }

    /// That of a `traceparent` (W3C Trace Context): `00-<trace>-<span>-<flags>`.
    pub fn of_traceparent(text: &str) -> Option<TraceId> {
        let mut parts = text.split('-');
        let (_version, trace) = (parts.next()?, parts.next()?);
        TraceId::read(trace)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("digits are ASCII")
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

thread_local! {
    static CURRENT: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// The sampled trace within which this thread works just now; lines of the log carry it.
pub fn current() -> Option<TraceId> {
    CURRENT.get()
}

/// Notes a trace as the one that this thread works within; until it is dropped.
#[cfg(feature = "otel")]
struct Working(Option<TraceId>);

#[cfg(feature = "otel")]
impl Working {
    fn within(trace: TraceId) -> Working {
        Working(CURRENT.replace(Some(trace)))
    }
}

#[cfg(feature = "otel")]
impl Drop for Working {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_has_a_name_of_32_digits() {
        let name = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(TraceId::read(name).map(|id| id.to_string()).as_deref(), Some(name));
        assert_eq!(TraceId::read(&name.to_uppercase()), TraceId::read(name));
        for wrong in ["", "0af7", "zzf7651916cd43dd8448eb211c80319c", &"0".repeat(32), &"a".repeat(33)] {
            assert_eq!(TraceId::read(wrong), None, "{wrong}");
        }
        let parent = format!("00-{name}-b7ad6b7169203331-01");
        assert_eq!(TraceId::of_traceparent(&parent), TraceId::read(name));
        for wrong in ["", "00", "00-short-b7ad6b7169203331-01", "00-zzf7651916cd43dd8448eb211c80319c-1-01"] {
            assert_eq!(TraceId::of_traceparent(wrong), None, "{wrong}");
        }
    }
}

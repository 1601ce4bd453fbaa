//! The `[limits]` table of the configuration: how much one client, one address and one node may take.
//! Read by whoever guards a door. Knows nothing of the doors.

use serde::{Deserialize, Serialize};

use crate::units::Span;

/// The `[limits]` table. For `connections`, `connections_per_address` and `messages_per_second`, 0 means
/// that there is no limit; the others must be above 0.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest message of a client and longest body of the server API, in bytes. Default 65,536.
    pub message_bytes: usize,
    /// Open connections of this process; 0 = no limit. Default 100,000.
    pub connections: usize,
    /// Open connections from one address; 0 = no limit. Default 1,000.
    pub connections_per_address: usize,
    /// Rooms that one session may be in. Default 200.
    pub rooms_per_session: usize,
    /// Messages that one session may publish per second, with a burst of the same size; 0 = no limit.
    /// Default 20.
    pub messages_per_second: u32,
    /// Rooms open in this process. Default 1,000,000.
    pub rooms: usize,
    /// Bytes that may wait for one reader whose link is slow. Default 1,048,576.
    pub outbox_bytes: usize,
    /// How long bytes may wait for one slow reader. Default 30 s.
    pub outbox_age: Span,
    /// How long a client may take to send its request and to say who it is. Default 10 s.
    pub handshake: Span,
    /// How often the server pings; silence of two pings closes the session. Default 25 s.
    pub ping: Span,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_bytes: 65_536,
            connections: 100_000,
            connections_per_address: 1_000,
            rooms_per_session: 200,
            messages_per_second: 20,
            rooms: 1_000_000,
            outbox_bytes: 1_048_576,
            outbox_age: Span::seconds(30),
            handshake: Span::seconds(10),
            ping: Span::seconds(25),
        }
    }
}

/// Largest `message_bytes`: a message is copied into every room's history, and browsers get slow past it.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// What a frame adds to a message at most: names, id, times, keys.
const FRAME_BYTES: usize = 1024;
/// Shortest span: below it the way to the next continent looks like a dead link.
const SPAN_MS_MIN: u64 = 100;
/// Longest span: dead links and stuck readers must be noticed while somebody still cares.
const SPAN_MS_MAX: u64 = 3_600_000;

impl Limits {
    /// What cannot work, with the key and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        let above_zero = [
            ("message_bytes", self.message_bytes),
            ("rooms_per_session", self.rooms_per_session),
            ("rooms", self.rooms),
            ("outbox_bytes", self.outbox_bytes),
        ];
        if let Some((key, _)) = above_zero.iter().find(|(_, value)| *value == 0) {
            return Err(format!("limits.{key}: 0 would let nothing through; write a number above 0"));
        }
        if self.message_bytes > MESSAGE_BYTES_MAX {
            return Err(format!(
                "limits.message_bytes: at most {MESSAGE_BYTES_MAX}; send large things as links"
            ));
        }
        if self.outbox_bytes < self.message_bytes + FRAME_BYTES {
            return Err(format!(
                "limits.outbox_bytes: at least limits.message_bytes and {FRAME_BYTES} more for what stands around \
                 a message, or one message would close its reader"
            ));
        }
        let spans = [("outbox_age", self.outbox_age), ("handshake", self.handshake), ("ping", self.ping)];
        for (key, span) in spans {
            if !(SPAN_MS_MIN..=SPAN_MS_MAX).contains(&span.millis()) {
                return Err(format!("limits.{key}: between \"100ms\" and \"1h\""));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_can_work() {
        assert_eq!(Limits::default().check(), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_named() {
        let refused = |change: fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            limits.check().unwrap_err()
        };
        assert!(refused(|limits| limits.message_bytes = 0).starts_with("limits.message_bytes"));
        assert!(refused(|limits| limits.message_bytes = 1 << 30).starts_with("limits.message_bytes"));
        assert!(refused(|limits| limits.outbox_bytes = 100).starts_with("limits.outbox_bytes"));
        assert!(refused(|limits| limits.ping = Span::seconds(0)).starts_with("limits.ping"));
        assert!(refused(|limits| limits.ping = Span::FOREVER).starts_with("limits.ping"));
        assert!(refused(|limits| limits.handshake = Span::days(1)).starts_with("limits.handshake"));
    }

    #[test]
    fn zero_lifts_the_limits_that_may_be_lifted() {
        let limits = Limits {
            connections: 0,
            connections_per_address: 0,
            messages_per_second: 0,
            ..Limits::default()
        };
        assert_eq!(limits.check(), Ok(()));
    }
}

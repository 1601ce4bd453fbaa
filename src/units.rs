//! Units that settings are written in: time spans such as `"20s"` or `"30d"`.
//! Called by whoever owns a setting. Knows no setting itself.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};

/// A time span as written in the configuration: `"250ms"`, `"20s"`, `"1h 30m"`, `"30d"`, or `"forever"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

impl Span {
    /// Longer than any server runs.
    pub const FOREVER: Span = Span(Duration::MAX);

    /// So many seconds.
    pub const fn seconds(n: u64) -> Span {
        Span(Duration::from_secs(n))
    }

    /// So many days of 24 hours.
    pub const fn days(n: u64) -> Span {
        Span(Duration::from_secs(n * 86_400))
    }

    /// As a duration of the standard library.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// In whole milliseconds; `u64::MAX` for ever.
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// Reads the written form.
    ///
    /// ```
    /// use roomcast::units::Span;
    /// assert_eq!(Span::parse("20s"), Ok(Span::seconds(20)));
    /// assert!(Span::parse("20").is_err(), "a bare number has no unit");
    /// ```
    pub fn parse(text: &str) -> Result<Span, String> {
        if text == "forever" {
            return Ok(Span::FOREVER);
        }
        humantime::parse_duration(text).map(Span).map_err(|e| {
            format!("{text:?} is no time span ({e}); write for example \"20s\", \"10m\", \"24h\" or \"30d\"")
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Span::FOREVER => f.write_str("forever"),
            Span(duration) => humantime::format_duration(duration).fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        Span::parse(&text).map_err(Error::custom)
    }
}

impl serde::Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

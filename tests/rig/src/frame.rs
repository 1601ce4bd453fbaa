//! A frame of the native protocol as far as clients and the judge look into it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// The keys that matter here; all others are passed over. What is passed on byte for byte stays raw.
#[derive(Debug, Deserialize)]
pub struct Frame<'a> {
    /// Type.
    pub t: String,
    /// Room.
    pub r: Option<String>,
    /// Offset.
    pub s: Option<u64>,
    /// Epoch.
    pub e: Option<String>,
    /// Message id.
    pub id: Option<String>,
    /// User.
    pub u: Option<String>,
    /// Server time.
    pub ts: Option<u64>,
    /// Data.
    #[serde(borrow, default, deserialize_with = "even_null")]
    pub d: Option<&'a RawValue>,
    /// A count.
    pub n: Option<u64>,
    /// The entry that this one is about.
    pub of: Option<u64>,
    /// `[first,last]` or `"all"`.
    #[serde(borrow)]
    pub missing: Option<&'a RawValue>,
    /// Where a reader stands.
    pub since: Option<u64>,
    /// The session that comes back, or that was given.
    pub session: Option<String>,
    /// The rooms of a `hello`.
    #[serde(default, deserialize_with = "map_only")]
    pub rooms: Option<BTreeMap<String, Asked>>,
    /// The entries of a `page`.
    #[serde(borrow)]
    pub list: Option<&'a RawValue>,
    /// Whether a message is kept.
    pub keep: Option<bool>,
    /// The offset of the edit that the words of a message come from.
    pub edited: Option<u64>,
    /// Whether a message was deleted.
    pub gone: Option<bool>,
    /// Code of an error or a close.
    pub code: Option<u16>,
    /// Its short reason.
    pub why: Option<String>,
    /// Milliseconds to wait.
    pub wait: Option<u64>,
}

/// What a reader asks for in one room.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Asked {
    /// All after this offset.
    pub since: Option<u64>,
}

fn even_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// `rooms` is an object in a `hello`; where it is anything else nobody here looks at it.
fn map_only<'de, D>(deserializer: D) -> Result<Option<BTreeMap<String, Asked>>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let raw = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(raw.get()).ok())
}

impl<'a> Frame<'a> {
    /// Reads a frame; says what is wrong with it.
    pub fn read(json: &'a str) -> Result<Frame<'a>, String> {
        serde_json::from_str(json).map_err(|error| format!("no frame ({error}): {json}"))
    }

    /// Whether it stands at a place of a room's log.
    pub fn is_entry(&self) -> bool {
        self.s.is_some() && matches!(&*self.t, "msg" | "edit" | "del" | "react")
    }

    /// The offsets of `missing`, both included; none for `"all"` and where nothing is missing.
    pub fn missing_range(&self) -> Option<(u64, u64)> {
        serde_json::from_str(self.missing?.get()).ok()
    }

    /// Whether all of a log is missing.
    pub fn misses_all(&self) -> bool {
        self.missing.is_some_and(|missing| missing.get() == r#""all""#)
    }

    /// The places of a `skip`, both included: `n` of them from `s` on.
    pub fn skipped_range(&self) -> Option<(u64, u64)> {
        let (first, count) = (self.s?, self.n.unwrap_or(1));
        Some((first, first + count.max(1) - 1))
    }
}

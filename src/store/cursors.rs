//! The rooms of a session as archives keep them: JSON with the keys of the wire. The same for every archive.

use serde::{Deserialize, Serialize};

use crate::chat::message::Epoch;
use crate::chat::names::RoomName;
use crate::store::record::Cursor;

/// A cursor in its written form.
#[derive(Serialize, Deserialize)]
struct StoredCursor<'a> {
    #[serde(borrow)]
    r: std::borrow::Cow<'a, str>,
    e: String,
    s: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    quiet: bool,
}

/// The written form.
pub fn to_json(cursors: &[Cursor]) -> String {
    let list: Vec<StoredCursor<'_>> = cursors
        .iter()
        .map(|cursor| StoredCursor {
            r: cursor.room.as_str().into(),
            e: cursor.epoch.to_text(),
            s: cursor.offset,
            quiet: cursor.quiet,
        })
        .collect();
    serde_json::to_string(&list).expect("texts and numbers always have a JSON form")
}

/// What somebody has changed by hand and is no cursor any more is left out.
pub fn from_json(text: &str) -> Vec<Cursor> {
    let list: Vec<StoredCursor<'_>> = serde_json::from_str(text).unwrap_or_default();
    list.into_iter()
        .filter_map(|cursor| {
            let epoch = Epoch(u64::from_str_radix(&cursor.e, 36).ok()?);
            let room = RoomName::new(&cursor.r).ok()?;
            Some(Cursor { room, epoch, offset: cursor.s, quiet: cursor.quiet })
        })
        .collect()
}

//! Ids of messages as numbers: the index over them holds 8 bytes an id instead of up to 200. The text is
//! always compared as well, so that two ids with one number do no harm. Used by every archive.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::chat::names::{MessageId, UserName};

/// The store's own random key: a sender who could choose ids with the same number could make every look-up
/// slow.
#[derive(Debug, Clone, Copy)]
pub struct IdKey(u64, u64);

impl IdKey {
    /// The key with these two halves, as a store keeps them.
    pub fn new(first: i64, second: i64) -> IdKey {
        IdKey(first as u64, second as u64)
    }

    /// The number of an id. The room is part of it: a broadcast says one id in very many rooms.
    pub fn number(&self, room: i64, user: Option<&UserName>, id: &MessageId) -> i64 {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        hasher.write(&room.to_le_bytes());
        // No name holds a control character, so this separates.
        hasher.write(user.map_or("", UserName::as_str).as_bytes());
        hasher.write(b"\0");
        hasher.write(id.as_str().as_bytes());
        hasher.finish() as i64
    }
}

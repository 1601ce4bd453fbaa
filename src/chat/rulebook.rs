//! The rules of all rooms that have any, and who has written when in rooms that are slow. Owned by the chat server.
//! Knows no clock and no store. Most rooms have no rules: asking for them costs one look into a map, or none at all.

use std::collections::HashMap;

use ahash::RandomState;

use crate::chat::message::Draft;
use crate::chat::moderation::{Barred, Full, ROOMS_MAX, Rules};
use crate::chat::names::{MessageId, RoomName, UserName};

/// Users of a slow room whose last message is remembered. Of more the earliest half are forgotten.
const WRITERS_MAX: usize = 100_000;

/// See above.
#[derive(Debug, Default)]
pub struct Rulebook {
    rooms: HashMap<RoomName, Ruled, RandomState>,
}

/// A room with rules.
#[derive(Debug, Default)]
struct Ruled {
    rules: Rules,
    /// While it is slow: who has written when, on a clock that is never set.
    written: HashMap<UserName, Written, RandomState>,
}

/// Somebody's last message in a slow room.
#[derive(Debug)]
struct Written {
    at_ms: u64,
    /// Its own id: the same message again is no other one.
    id: Option<MessageId>,
}

impl Rulebook {
    /// The rules of a room; none: it has none.
    pub fn of(&self, room: &RoomName) -> Option<&Rules> {
        if self.rooms.is_empty() {
            return None;
        }
        self.rooms.get(room).map(|ruled| &ruled.rules)
    }

    /// Whether another room may have rules.
    pub fn has_place_for(&self, room: &RoomName) -> Result<(), Full> {
        match self.rooms.len() < ROOMS_MAX || self.rooms.contains_key(room) {
            true => Ok(()),
            false => Err(Full::Rooms),
        }
    }

    /// A room has these rules now. Returns those that it had.
    pub fn set(&mut self, room: &RoomName, rules: Rules) -> Rules {
        if rules.is_empty() {
            return self.rooms.remove(room).map(|ruled| ruled.rules).unwrap_or_default();
        }
        let ruled = self.rooms.entry(room.clone()).or_default();
        if rules.slow() == 0 {
            ruled.written = HashMap::default();
        }
        std::mem::replace(&mut ruled.rules, rules)
    }

    /// All rooms with rules.
    pub fn rooms(&self) -> impl Iterator<Item = (&RoomName, &Rules)> {
        self.rooms.iter().map(|(room, ruled)| (room, &ruled.rules))
    }

    /// Whether somebody may say this now, as far as slow mode goes. `now_ms` is of a clock that is never set.
    pub fn may_say_now(&self, draft: &Draft, now_ms: u64) -> Result<(), Barred> {
        let (Some(ruled), Some(user)) = (self.rooms.get(&draft.room), &draft.user) else { return Ok(()) };
        let pause = ruled.rules.pause_ms(user.as_str());
        let Some(last) = ruled.written.get(user).filter(|_| pause > 0) else { return Ok(()) };
        if draft.id.is_some() && draft.id == last.id {
            return Ok(());
        }
        match (last.at_ms + pause).checked_sub(now_ms) {
            None | Some(0) => Ok(()),
            Some(wait) => Err(Barred::Slow(wait)),
        }
    }

    /// Somebody has said something, with this id.
    pub fn has_said(&mut self, room: &RoomName, user: &UserName, id: Option<MessageId>, now_ms: u64) {
        let Some(ruled) = self.rooms.get_mut(room) else { return };
        let pause = ruled.rules.pause_ms(user.as_str());
        let is_repeat = || {
            let last = ruled.written.get(user);
            id.is_some() && last.is_some_and(|last| last.id == id && last.at_ms + pause > now_ms)
        };
        if pause == 0 || is_repeat() {
            return;
        }
        if ruled.written.len() >= WRITERS_MAX {
            forget_early(&mut ruled.written, now_ms.saturating_sub(pause));
        }
        ruled.written.insert(user.clone(), Written { at_ms: now_ms, id });
    }
}

/// Forgets who wrote before a time; if all wrote later, the earliest half.
fn forget_early(written: &mut HashMap<UserName, Written, RandomState>, before_ms: u64) {
    written.retain(|_, last| last.at_ms > before_ms);
    if written.len() < WRITERS_MAX / 2 {
        return;
    }
    let mut times: Vec<u64> = written.values().map(|last| last.at_ms).collect();
    let middle = times.len() / 2;
    let (_, middle, _) = times.select_nth_unstable(middle);
    let middle = *middle;
    written.retain(|_, last| last.at_ms > middle);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::data::Data;
    use crate::chat::message::Via;
    use crate::chat::moderation::{Change, Term};

    fn room(text: &str) -> RoomName {
        RoomName::new(text).unwrap()
    }

    fn draft(user: &str, id: Option<&str>) -> Draft {
        let raw: Box<serde_json::value::RawValue> = serde_json::from_str("1").unwrap();
        Draft {
            room: room("lobby"),
            user: Some(UserName::new(user).unwrap()),
            id: id.map(|id| MessageId::new(id).unwrap()),
            data: Data::new(&raw).unwrap(),
            kind: None,
            reply_to: None,
            keep: true,
            via: Via::Session,
            span: Default::default(),
        }
    }

    fn say(book: &mut Rulebook, draft: &Draft, now_ms: u64) -> Result<(), Barred> {
        book.may_say_now(draft, now_ms)?;
        book.has_said(&draft.room, draft.user.as_ref().unwrap(), draft.id.clone(), now_ms);
        Ok(())
    }

    fn slow(seconds: u32) -> Rulebook {
        let mut book = Rulebook::default();
        book.set(&room("lobby"), Rules::default().with(&Change::Slow(seconds), 1).unwrap());
        book
    }

    #[test]
    fn a_slow_room_hears_each_user_once_in_a_while() {
        let mut book = slow(10);
        assert_eq!(say(&mut book, &draft("ann", None), 1_000), Ok(()));
        assert_eq!(say(&mut book, &draft("ann", None), 4_000), Err(Barred::Slow(7_000)));
        assert_eq!(say(&mut book, &draft("bob", None), 4_000), Ok(()));
        assert_eq!(say(&mut book, &draft("ann", None), 11_000), Ok(()));
        assert_eq!(say(&mut book, &draft("ann", None), 20_999), Err(Barred::Slow(1)));
    }

    #[test]
    fn the_same_message_again_is_not_too_fast_and_does_not_begin_a_new_pause() {
        let mut book = slow(10);
        assert_eq!(say(&mut book, &draft("ann", Some("k-1")), 1_000), Ok(()));
        assert_eq!(say(&mut book, &draft("ann", Some("k-1")), 9_000), Ok(()));
        assert_eq!(say(&mut book, &draft("ann", Some("k-2")), 9_000), Err(Barred::Slow(2_000)));
        assert_eq!(say(&mut book, &draft("ann", Some("k-2")), 11_000), Ok(()));
    }

    #[test]
    fn a_room_that_is_slow_no_more_forgets_who_wrote() {
        let mut book = slow(10);
        say(&mut book, &draft("ann", None), 1_000).unwrap();
        let before = book.set(&room("lobby"), Rules::default());
        assert_eq!((before.slow(), book.of(&room("lobby"))), (10, None));
        assert_eq!(say(&mut book, &draft("ann", None), 1_001), Ok(()));
        book.set(&room("lobby"), before);
        assert_eq!(say(&mut book, &draft("ann", None), 1_002), Ok(()));
    }

    #[test]
    fn other_rooms_have_no_rules() {
        let mut book = slow(10);
        let mute = Change::Mute(UserName::new("bob").unwrap(), Term::ForGood);
        book.set(&room("ops"), Rules::default().with(&mute, 1).unwrap());
        assert!(book.of(&room("ops")).is_some() && book.of(&room("tea")).is_none());
        assert_eq!(book.rooms().count(), 2);
    }

    #[test]
    fn of_too_many_writers_the_earliest_are_forgotten() {
        let mut book = slow(3_600);
        for n in 0..WRITERS_MAX as u64 {
            let user = UserName::new(&format!("u{n}")).unwrap();
            book.has_said(&room("lobby"), &user, None, 1_000 + n);
        }
        assert_eq!(say(&mut book, &draft("ann", None), 200_000), Ok(()));
        let left = book.rooms[&room("lobby")].written.len();
        assert!((WRITERS_MAX / 2 - 2..=WRITERS_MAX / 2 + 2).contains(&left), "{left}");
        assert!(say(&mut book, &draft("u99999", None), 200_000).is_err());
        assert!(say(&mut book, &draft("u7", None), 200_000).is_ok());
    }
}

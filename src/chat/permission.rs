//! Who may enter a room and speak there. Called by the session before a letter is written.
//! Knows what a token said, not how it was checked.

use std::sync::Arc;

use crate::chat::data::Data;
use crate::chat::names::{Pattern, RoomName, UserName};
use crate::chat::settings::{RoomSettings, Who};

/// What somebody has shown to be: a user with a token, or a guest of the demo.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Who it is.
    pub user: UserName,
    /// What the others are shown about the user.
    pub info: Option<Arc<Data>>,
    /// The rooms that the token lists; `None` when it lists none, and for guests.
    pub rooms: Option<Vec<Pattern>>,
    /// Rooms granted one by one, beside the token.
    pub granted: Vec<Pattern>,
    /// `false`: may read only.
    pub publish: bool,
    /// When the token runs out, Unix seconds; `None` for guests and for tokens without an end.
    pub expires_at: Option<u64>,
}

/// Why somebody may not; the text is shown to the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The rule or the token does not cover the room.
    NotAllowed(&'static str),
    /// A publish from outside.
    NotJoined,
}

impl Identity {
    /// A guest of the demo.
    pub fn guest(user: UserName) -> Identity {
        Identity { user, info: None, rooms: None, granted: Vec::new(), publish: true, expires_at: None }
    }

    /// Whether the token, or a grant beside it, lists the room.
    pub fn lists(&self, room: &RoomName) -> bool {
        let by_token = self.rooms.iter().flatten();
        by_token.chain(&self.granted).any(|pattern| pattern.matches(room.as_str()))
    }

    /// The same user with the rooms of another token of his added; what that token says else is left aside.
    pub fn with_grant(&self, grant: Identity) -> Identity {
        let mut identity = self.clone();
        identity.granted.extend(grant.rooms.into_iter().flatten());
        identity
    }

    /// Whether this user may enter and read.
    pub fn may_join(&self, room: &RoomName, settings: &RoomSettings) -> Result<(), Denied> {
        if let Some(owners) = room.owners() {
            return match owners.include(&self.user) {
                true => Ok(()),
                false => Err(Denied::NotAllowed("this room belongs to other users; ask one of them")),
            };
        }
        match (&self.rooms, settings.join) {
            (None, Who::Anyone) => Ok(()),
            (None, Who::Token) => Err(Denied::NotAllowed("this room asks for a token that lists it")),
            (Some(_), _) if self.lists(room) => Ok(()),
            (Some(_), _) => {
                Err(Denied::NotAllowed("your token does not list this room; ask for one that does"))
            }
        }
    }

    /// Whether this user may speak, provided that he has joined or the token lists the room.
    pub fn may_publish(&self, room: &RoomName, settings: &RoomSettings) -> Result<(), Denied> {
        if !self.publish {
            return Err(Denied::NotAllowed("your token is for reading only"));
        }
        self.may_join(room, settings)?;
        if settings.publish == Who::Token && !self.lists(room) && room.owners().is_none() {
            return Err(Denied::NotAllowed("speaking here asks for a token that lists this room"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::settings::RoomsSettings;

    fn room(name: &str) -> RoomName {
        RoomName::new(name).unwrap()
    }

    fn ann(rooms: Option<&[&str]>) -> Identity {
        let mut identity = Identity::guest(UserName::new("ann").unwrap());
        identity.rooms = rooms.map(|list| list.iter().map(|text| Pattern::new(text)).collect());
        identity
    }

    fn settings(join: Who, publish: Who) -> RoomSettings {
        RoomSettings { join, publish, ..RoomsSettings::default().of(&room("any")) }
    }

    #[test]
    fn a_token_that_lists_rooms_covers_only_those() {
        let open = settings(Who::Anyone, Who::Anyone);
        assert!(ann(None).may_join(&room("lobby"), &open).is_ok());
        assert!(ann(Some(&["team-*"])).may_join(&room("team-red"), &open).is_ok());
        assert!(ann(Some(&["team-*"])).may_join(&room("lobby"), &open).is_err());
        assert!(ann(Some(&[])).may_join(&room("lobby"), &open).is_err(), "an empty list is no list of all");
    }

    #[test]
    fn a_rule_may_ask_for_a_token() {
        let closed = settings(Who::Token, Who::Anyone);
        assert!(ann(None).may_join(&room("staff"), &closed).is_err());
        assert!(ann(Some(&["staff"])).may_join(&room("staff"), &closed).is_ok());
        let stage = settings(Who::Anyone, Who::Token);
        assert!(ann(None).may_join(&room("stage"), &stage).is_ok());
        assert!(ann(None).may_publish(&room("stage"), &stage).is_err());
        assert!(ann(Some(&["*"])).may_publish(&room("stage"), &stage).is_ok());
    }

    #[test]
    fn a_direct_room_is_for_its_two_users_whatever_the_token_lists() {
        let open = settings(Who::Anyone, Who::Anyone);
        assert!(ann(None).may_publish(&room("@ann+bob"), &open).is_ok());
        assert!(ann(Some(&["*", "@*"])).may_join(&room("@bob+cid"), &open).is_err());
    }

    #[test]
    fn a_reading_token_does_not_speak() {
        let mut reader = ann(None);
        reader.publish = false;
        let open = settings(Who::Anyone, Who::Anyone);
        assert!(reader.may_join(&room("lobby"), &open).is_ok());
        assert!(reader.may_publish(&room("lobby"), &open).is_err());
    }
}

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
    pub granted: Vec<Grant>,
    /// `false`: may read only.
    pub publish: bool,
    /// When the token runs out, Unix seconds; `None` for guests and for tokens without an end.
    pub expires_at: Option<u64>,
}

/// A room, or several, granted by a token of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Which rooms.
    pub rooms: Pattern,
    /// `false`: to read only.
    pub publish: bool,
    /// When it runs out, Unix seconds.
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

    /// Whether the token, or a grant beside it, lists the room. Rooms that belong to users are listed for those
    /// users only, whatever a pattern says.
    pub fn lists(&self, room: &RoomName) -> bool {
        if room.owners().is_some_and(|owners| !owners.include(&self.user)) {
            return false;
        }
        self.token_lists(room) || self.granted.iter().any(|grant| grant.rooms.matches(room.as_str()))
    }

    fn token_lists(&self, room: &RoomName) -> bool {
        self.rooms.iter().flatten().any(|pattern| pattern.matches(room.as_str()))
    }

    /// The same user with the rooms of another token of his added; what that token says else is left aside.
    pub fn with_grant(&self, grant: Identity) -> Identity {
        let mut identity = self.clone();
        let Identity { rooms, publish, expires_at, .. } = grant;
        for rooms in rooms.into_iter().flatten() {
            identity.granted.retain(|known| known.rooms != rooms);
            identity.granted.push(Grant { rooms, publish, expires_at });
        }
        identity
    }

    /// The same without grants that have run out; none when all are good.
    pub fn without_expired_grants(&self, now_unix: u64) -> Option<Identity> {
        let is_over = |grant: &Grant| grant.expires_at.is_some_and(|end| end <= now_unix);
        self.granted.iter().any(is_over).then(|| {
            let mut identity = self.clone();
            identity.granted.retain(|grant| !is_over(grant));
            identity
        })
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
            _ if self.lists(room) => Ok(()),
            (None, Who::Anyone) => Ok(()),
            (None, Who::Token) => Err(Denied::NotAllowed("this room asks for a token that lists it")),
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
        let grants: Vec<_> = self.granted.iter().filter(|grant| grant.rooms.matches(room.as_str())).collect();
        if !grants.is_empty() && !self.token_lists(room) && !grants.iter().any(|grant| grant.publish) {
            return Err(Denied::NotAllowed("the grant of this room is for reading only"));
        }
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
    fn a_grant_covers_its_room_until_it_runs_out_and_no_more_than_it_says() {
        let closed = settings(Who::Token, Who::Anyone);
        let grant = |publish| Identity { publish, expires_at: Some(100), ..ann(Some(&["staff"])) };
        let reader = ann(None).with_grant(grant(false)).with_grant(grant(false));
        assert_eq!(reader.granted.len(), 1, "the same grant twice is one");
        assert!(reader.may_join(&room("staff"), &closed).is_ok());
        assert!(reader.may_publish(&room("staff"), &closed).is_err());
        let speaker = reader.with_grant(grant(true));
        assert!(speaker.may_publish(&room("staff"), &closed).is_ok());
        assert!(speaker.without_expired_grants(99).is_none());
        let later = speaker.without_expired_grants(100).unwrap();
        assert!(later.may_join(&room("staff"), &closed).is_err());
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

//! Who is typing in one room. The state of a user, not of a session, and it ends by itself.
//! Called by the room.

use crate::chat::names::UserName;

/// How long a user counts as typing after saying so, in milliseconds (docs/protocol.md, "State").
pub const TYPING_MS: u64 = 6_000;

/// The users who are typing, each with the time when it ends by itself (Unix milliseconds).
#[derive(Debug, Default)]
pub struct Typing(Vec<(UserName, u64)>);

impl Typing {
    /// The user types. Returns whether that is news; a repeat only moves the end.
    pub fn begin(&mut self, user: &UserName, now: u64) -> bool {
        let until = now + TYPING_MS;
        match self.0.iter_mut().find(|(name, _)| name == user) {
            Some((_, end)) => {
                *end = until;
                false
            }
            None => {
                self.0.push((user.clone(), until));
                true
            }
        }
    }

    /// The user has stopped, left or sent the message. Returns whether that is news.
    pub fn end(&mut self, user: &UserName) -> bool {
        let before = self.0.len();
        self.0.retain(|(name, _)| name != user);
        self.0.len() < before
    }

    /// Takes the users whose time is over.
    pub fn take_ended(&mut self, now: u64) -> Vec<UserName> {
        let mut ended = Vec::new();
        self.0.retain(|(name, end)| {
            // Times are cut to milliseconds, so the millisecond of the end itself may come a little early.
            let is_over = *end < now;
            if is_over {
                ended.push(name.clone());
            }
            !is_over
        });
        ended
    }

    /// Who is typing now.
    pub fn users(&self) -> impl Iterator<Item = &UserName> {
        self.0.iter().map(|(name, _)| name)
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_ends_six_seconds_after_the_last_key() {
        let (mut typing, zoe) = (Typing::default(), UserName::new("zoe").unwrap());
        assert!(typing.begin(&zoe, 1_000));
        assert!(!typing.begin(&zoe, 3_000), "said again, it is no news");
        assert!(typing.take_ended(9_000).is_empty(), "six whole seconds");
        assert_eq!(typing.take_ended(9_001), std::slice::from_ref(&zoe));
        assert!(!typing.end(&zoe));
    }
}

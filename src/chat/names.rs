//! Names of rooms, users and messages, and the patterns that match room names.
//! A value of one of these types is valid by construction, so nobody above has to check again.
//! The rules are those of the wire contract (docs/protocol.md, "Names").

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Longest room or user name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest message id, in bytes of UTF-8.
pub const ID_BYTES_MAX: usize = 64;
/// Longest mark of a reaction, in bytes of UTF-8. An emoji of a family of four has 25.
pub const MARK_BYTES_MAX: usize = 64;

/// Why a name was refused. The text ends with what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadName(pub &'static str);

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BadName {}

/// A room's name: 1-128 bytes of UTF-8 in NFC, no control characters, no `*`.
///
/// A name that starts with `@` belongs to users: `@ann` is ann's inbox, `@ann+bob` the direct room of
/// two (in sorted order). Cloning is cheap: the text is shared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomName(Arc<str>);

impl RoomName {
    /// Checks the rules above.
    ///
    /// ```
    /// use roomcast::chat::names::RoomName;
    /// assert!(RoomName::new("lobby").is_ok());
    /// assert!(RoomName::new("@ann+bob").is_ok());
    /// assert!(RoomName::new("@bob+ann").is_err(), "the two are sorted, so that there is one room");
    /// assert!(RoomName::new("team-*").is_err(), "that is a pattern");
    /// ```
    pub fn new(text: &str) -> Result<RoomName, BadName> {
        check_text(text)?;
        if text.contains('*') {
            return Err(BadName("a room name has no *, that is for patterns; leave it out"));
        }
        if let Some(rest) = text.strip_prefix('@') {
            check_owned(rest)?;
        }
        Ok(RoomName(text.into()))
    }

    /// The same rules for a name as a person or a backend writes it: of a direct room the two users may stand
    /// in any order, because who begins does not know better. The name that comes out is the sorted one.
    ///
    /// ```
    /// use roomcast::chat::names::RoomName;
    /// assert_eq!(RoomName::named_by_client("@bob+ann"), RoomName::new("@ann+bob"));
    /// assert_eq!(RoomName::named_by_client("b+a"), RoomName::new("b+a"));
    /// ```
    pub fn named_by_client(text: &str) -> Result<RoomName, BadName> {
        match text.strip_prefix('@').and_then(|two| two.split_once('+')) {
            Some((first, second)) if first > second => RoomName::new(&format!("@{second}+{first}")),
            _ => RoomName::new(text),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Who owns a room whose name starts with `@`; `None` for every other room.
    pub fn owners(&self) -> Option<Owners<'_>> {
        let rest = self.0.strip_prefix('@')?;
        Some(match rest.split_once('+') {
            Some((first, second)) => Owners::Two(first, second),
            None => Owners::One(rest),
        })
    }
}

impl Borrow<str> for RoomName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The users that alone may enter a room named `@…`.
#[derive(Debug, PartialEq, Eq)]
pub enum Owners<'a> {
    /// An inbox.
    One(&'a str),
    /// A direct room.
    Two(&'a str, &'a str),
}

impl Owners<'_> {
    /// Whether this user is one of them.
    pub fn include(&self, user: &UserName) -> bool {
        match self {
            Owners::One(name) => *name == user.as_str(),
            Owners::Two(first, second) => *first == user.as_str() || *second == user.as_str(),
        }
    }
}

fn check_owned(rest: &str) -> Result<(), BadName> {
    if rest.is_empty() {
        return Err(BadName("@ alone names nobody; write @user or @user+user"));
    }
    let Some((first, second)) = rest.split_once('+') else {
        return Ok(());
    };
    if first.is_empty() || second.is_empty() || second.contains('+') {
        return Err(BadName("a direct room is @user+user with exactly two users"));
    }
    if first > second {
        return Err(BadName("the two users of a direct room stand in sorted order; swap them"));
    }
    Ok(())
}

/// Who the token (or the demo) says somebody is: 1-128 bytes, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserName(Arc<str>);

impl UserName {
    /// Checks the rules above.
    pub fn new(text: &str) -> Result<UserName, BadName> {
        check_text(text)?;
        Ok(UserName(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for UserName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A message id chosen by its sender: 1-64 bytes, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MessageId(Box<str>);

impl MessageId {
    /// Checks the rules above.
    pub fn new(text: &str) -> Result<MessageId, BadName> {
        if text.is_empty() || text.len() > ID_BYTES_MAX {
            return Err(BadName("an id has 1 to 64 bytes; a hash of a longer one will do"));
        }
        if text.chars().any(char::is_control) {
            return Err(BadName("an id has no control characters; take them out"));
        }
        Ok(MessageId(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What somebody reacts with, for example `+1`: 1-64 bytes, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mark(Box<str>);

impl Mark {
    /// Checks the rules above.
    pub fn new(text: &str) -> Result<Mark, BadName> {
        if text.is_empty() || text.len() > MARK_BYTES_MAX {
            return Err(BadName("what one reacts with has 1 to 64 bytes; choose something shorter"));
        }
        if text.chars().any(char::is_control) {
            return Err(BadName("what one reacts with has no control characters; take them out"));
        }
        Ok(Mark(text.into()))
    }

    /// The mark as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_text(text: &str) -> Result<(), BadName> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(BadName("a name has 1 to 128 bytes; choose one of that length"));
    }
    if text.chars().any(char::is_control) {
        return Err(BadName("a name has no control characters; take them out"));
    }
    if text.is_ascii() {
        return Ok(());
    }
    // The quick check may answer "maybe"; then the composed form decides.
    let composed = match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => true,
        IsNormalized::No => false,
        IsNormalized::Maybe => text.chars().eq(text.nfc()),
    };
    if composed { Ok(()) } else { Err(BadName("a name is in Unicode form NFC; normalise it")) }
}

/// A pattern for room names: literal text in which each `*` stands for any run of characters.
///
/// ```
/// use roomcast::chat::names::Pattern;
/// assert!(Pattern::new("team-*").matches("team-red"));
/// assert!(!Pattern::new("team-*").matches("a-team-red"));
/// assert!(Pattern::new("*").matches("anything"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Any text is a pattern.
    pub fn new(text: &str) -> Pattern {
        Pattern(text.into())
    }

    /// Whether the pattern covers the whole of `name`. Rooms that belong to users (`@…`) are covered
    /// only by patterns that start with `@` themselves, so that `*` never opens somebody's inbox.
    pub fn matches(&self, name: &str) -> bool {
        if name.starts_with('@') != self.0.starts_with('@') {
            return false;
        }
        glob(self.0.as_bytes(), name.as_bytes())
    }
}

/// Linear in practice: on a mismatch only the last star gives way.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_follow_the_rules_of_the_wire() {
        for good in ["lobby", "a", "Grüße", "日本", "order:17", "@ann", "@ann+bob", "a b", "x@y"] {
            assert!(RoomName::new(good).is_ok(), "{good}");
        }
        let long = "x".repeat(129);
        for bad in ["", &long, "a\nb", "a\u{7f}", "a*", "@", "@a+", "@+a", "@b+a", "@a+b+c", "e\u{301}"] {
            assert!(RoomName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn who_begins_a_direct_room_need_not_sort() {
        let named = |text: &str| RoomName::named_by_client(text).map(|room| room.as_str().to_owned());
        for (text, name) in [
            ("@bob+ann", "@ann+bob"),
            ("@ann+bob", "@ann+bob"),
            ("@é+z", "@z+é"),
            ("@bob", "@bob"),
            ("b+a", "b+a"),
        ] {
            assert_eq!(named(text).as_deref(), Ok(name));
        }
        for bad in ["@b+", "@+b", "@b+a+", "@b+a+c", "@c+b+a", "@b+a*", "@b+a\n", "@"] {
            assert!(named(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn marks_are_short_and_printable() {
        for good in ["+1", "👍", "👨‍👩‍👧‍👦", "\"", &"x".repeat(64)] {
            assert_eq!(Mark::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a\nb", "\u{85}", &"x".repeat(65)] {
            assert!(Mark::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_the_named_users_own_a_room_with_an_at_sign() {
        let (ann, eve) = (UserName::new("ann").unwrap(), UserName::new("eve").unwrap());
        let direct = RoomName::new("@ann+bob").unwrap();
        assert!(direct.owners().unwrap().include(&ann));
        assert!(!direct.owners().unwrap().include(&eve));
        assert_eq!(RoomName::new("lobby").unwrap().owners(), None);
    }

    #[test]
    fn patterns_cover_whole_names() {
        for (pattern, name, covers) in [
            ("lobby", "lobby", true),
            ("lobby", "lobby2", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("*", "", true),
            ("**x", "aax", true),
            ("*", "@ann", false),
            ("@*", "@ann", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(name), covers, "{pattern} {name}");
        }
    }
}

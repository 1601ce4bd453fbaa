//! Why an item can never be said: a word for counters and a text for people.
//! Made by the reader of payloads and by who asks the rooms; told in dead letters and errors.

use std::fmt;

/// What is wrong with an item, in a word: a label for counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Longer than `limits.message_bytes`.
    TooBig,
    /// Not UTF-8.
    NotUtf8,
    /// Not JSON.
    NotJson,
    /// Nested too deep.
    TooDeep,
    /// The room's name breaks a rule.
    BadRoom,
    /// The user's name breaks a rule.
    BadUser,
    /// The id breaks a rule.
    BadId,
    /// The type is no short text.
    BadType,
    /// The rooms refused it: the application's handler, or no room can be added.
    Refused,
}

impl Reason {
    /// All of them, in the order of their counters.
    pub const ALL: [Reason; 9] = [
        Reason::TooBig,
        Reason::NotUtf8,
        Reason::NotJson,
        Reason::TooDeep,
        Reason::BadRoom,
        Reason::BadUser,
        Reason::BadId,
        Reason::BadType,
        Reason::Refused,
    ];

    /// As it stands in dead letters and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::TooBig => "too-big",
            Reason::NotUtf8 => "not-utf8",
            Reason::NotJson => "not-json",
            Reason::TooDeep => "too-deep",
            Reason::BadRoom => "bad-room",
            Reason::BadUser => "bad-user",
            Reason::BadId => "bad-id",
            Reason::BadType => "bad-type",
            Reason::Refused => "refused",
        }
    }
}

/// An item that can never be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// The kind of trouble.
    pub reason: Reason,
    /// What exactly is wrong and what to do.
    pub text: String,
}

impl Poison {
    /// Puts the two together.
    pub fn new(reason: Reason, text: impl Into<String>) -> Poison {
        Poison { reason, text: text.into() }
    }
}

impl fmt::Display for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.text)
    }
}

//! The rules that operators set for one room: who may not write, who may not come, whether it is frozen, how slow it
//! is, who moderates. Called by the rulebook and by whatever keeps rules. Knows no clock, no store and no wire: time
//! comes in as a value, and what somebody is to be told goes out as one.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::chat::names::UserName;

/// Most users that the rules of one room name.
pub const USERS_MAX: usize = 10_000;
/// Most rooms that have rules.
pub const ROOMS_MAX: usize = 100_000;
/// Longest time that a rule may be set for, in seconds: ten years.
pub const SECONDS_MAX: u64 = 10 * 365 * 24 * 3_600;
/// Longest pause between two messages of a user that a room may ask for, in seconds: an hour.
pub const SLOW_MAX: u32 = 3_600;

/// How long something holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// It ends now.
    Over,
    /// Until a server time, Unix milliseconds.
    Until(u64),
    /// Until somebody ends it.
    ForGood,
}

impl Term {
    /// So many seconds from now; 0: over. None: for good.
    pub fn of(seconds: Option<u64>, now: u64) -> Term {
        match seconds {
            None => Term::ForGood,
            Some(0) => Term::Over,
            Some(seconds) => Term::Until(now.saturating_add(seconds.saturating_mul(1_000))),
        }
    }
}

/// One order of an operator about a room. The same one twice is as good as once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A user may not write.
    Mute(UserName, Term),
    /// A user may neither come nor read.
    Ban(UserName, Term),
    /// Nobody but moderators and backends may write, until this server time in Unix milliseconds; 0: everybody may.
    Freeze(u64),
    /// So many seconds between two messages of one user; 0: none.
    Slow(u32),
    /// A user is a moderator, or is one no more.
    Moderator(UserName, bool),
    /// What is over is forgotten.
    Sweep,
}

/// The rules of a room. As JSON they are what is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// Who may not write, and until when (Unix milliseconds); none: for good.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    muted: BTreeMap<Box<str>, Option<u64>>,
    /// Who may not come, in the same way.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    banned: BTreeMap<Box<str>, Option<u64>>,
    /// Until when it is frozen, Unix milliseconds; 0: it is not.
    #[serde(skip_serializing_if = "is_zero")]
    frozen: u64,
    /// Seconds between two messages of a user; 0: none.
    #[serde(skip_serializing_if = "is_zero_u32")]
    slow: u32,
    /// Who moderates.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    roles: BTreeMap<Box<str>, Role>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}

/// What a user is in a room, if not just a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Free of freezes and slow mode; may delete what others have said.
    Moderator,
}

/// What keeps somebody from doing something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barred {
    /// He may not write; how long still, in milliseconds, if it ends.
    Muted(Option<u64>),
    /// He may not come or read; how long still, in milliseconds, if it ends.
    Banned(Option<u64>),
    /// Nobody may write for so many milliseconds.
    Frozen(u64),
    /// He has written just now; when he may again, in milliseconds.
    Slow(u64),
}

/// Why a room cannot have another rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Its rules name as many users as they may.
    Users,
    /// As many rooms have rules as may.
    Rooms,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Full::Users => {
                write!(
                    f,
                    "the rules of this room name {USERS_MAX} users already; end those of some users first"
                )
            }
            Full::Rooms => {
                write!(f, "{ROOMS_MAX} rooms have rules already; end those of rooms that nobody needs")
            }
        }
    }
}

impl Rules {
    /// Reads rules as they are kept.
    pub fn from_json(text: &[u8]) -> Result<Rules, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// Rules as they are kept; nothing for none.
    pub fn to_json(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        serde_json::to_string(self).expect("names and numbers can always be written")
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        *self == Rules::default()
    }

    /// Whether all rules are over.
    pub fn are_over(&self, now: u64) -> bool {
        self.slow == 0
            && self.roles.is_empty()
            && self.frozen <= now
            && self
                .muted
                .values()
                .chain(self.banned.values())
                .all(|until| until.is_some_and(|end| end <= now))
    }

    /// The rules after an order; what is over is gone.
    pub fn with(&self, change: &Change, now: u64) -> Result<Rules, Full> {
        let mut rules = self.clone();
        match change {
            Change::Mute(user, term) => set(&mut rules.muted, user, *term),
            Change::Ban(user, term) => set(&mut rules.banned, user, *term),
            Change::Freeze(until) => rules.frozen = *until,
            Change::Slow(seconds) => rules.slow = *seconds,
            Change::Moderator(user, true) => {
                rules.roles.insert(user.as_str().into(), Role::Moderator);
            }
            Change::Moderator(user, false) => {
                rules.roles.remove(user.as_str());
            }
            Change::Sweep => {}
        }
        rules.forget_over(now);
        match rules.users() > USERS_MAX && rules.users() > self.users() {
            true => Err(Full::Users),
            false => Ok(rules),
        }
    }

    fn forget_over(&mut self, now: u64) {
        for list in [&mut self.muted, &mut self.banned] {
            list.retain(|_, until| until.is_none_or(|end| end > now));
        }
        if self.frozen <= now {
            self.frozen = 0;
        }
    }

    fn users(&self) -> usize {
        self.muted.len() + self.banned.len() + self.roles.len()
    }

    /// Whether a user may come and read.
    pub fn may_enter(&self, user: &str, now: u64) -> Result<(), Barred> {
        match left_of(&self.banned, user, now) {
            Some(left) => Err(Barred::Banned(left)),
            None => Ok(()),
        }
    }

    /// Whether a user may write, edit, react and be seen typing.
    pub fn may_write(&self, user: &str, now: u64) -> Result<(), Barred> {
        self.may_enter(user, now)?;
        if let Some(left) = left_of(&self.muted, user, now) {
            return Err(Barred::Muted(left));
        }
        match self.frozen > now && !self.is_moderator(user) {
            true => Err(Barred::Frozen(self.frozen - now)),
            false => Ok(()),
        }
    }

    /// Milliseconds between two messages of a user; 0: none.
    pub fn pause_ms(&self, user: &str) -> u64 {
        if self.is_moderator(user) { 0 } else { u64::from(self.slow) * 1_000 }
    }

    /// Whether a user may delete what others have said.
    pub fn is_moderator(&self, user: &str) -> bool {
        self.roles.get(user) == Some(&Role::Moderator)
    }

    /// Who may not write now, and until when.
    pub fn muted(&self, now: u64) -> impl Iterator<Item = (&str, Option<u64>)> {
        in_force(&self.muted, now)
    }

    /// Who may not come now, and until when.
    pub fn banned(&self, now: u64) -> impl Iterator<Item = (&str, Option<u64>)> {
        in_force(&self.banned, now)
    }

    /// Until when it is frozen; none: it is not.
    pub fn frozen(&self, now: u64) -> Option<u64> {
        (self.frozen > now).then_some(self.frozen)
    }

    /// Seconds between two messages of a user; 0: none.
    pub fn slow(&self) -> u32 {
        self.slow
    }

    /// Who is what.
    pub fn roles(&self) -> &BTreeMap<Box<str>, Role> {
        &self.roles
    }
}

fn set(list: &mut BTreeMap<Box<str>, Option<u64>>, user: &UserName, term: Term) {
    match term {
        Term::Over => drop(list.remove(user.as_str())),
        Term::Until(end) => drop(list.insert(user.as_str().into(), Some(end))),
        Term::ForGood => drop(list.insert(user.as_str().into(), None)),
    }
}

/// How long somebody stays on a list; none: he is not on it (any more).
fn left_of(list: &BTreeMap<Box<str>, Option<u64>>, user: &str, now: u64) -> Option<Option<u64>> {
    match list.get(user)? {
        None => Some(None),
        Some(end) => (*end > now).then(|| Some(end - now)),
    }
}

fn in_force(list: &BTreeMap<Box<str>, Option<u64>>, now: u64) -> impl Iterator<Item = (&str, Option<u64>)> {
    let holding = list.iter().filter(move |(_, until)| until.is_none_or(|end| end > now));
    holding.map(|(user, until)| (&**user, *until))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> UserName {
        UserName::new(text).unwrap()
    }

    fn after(changes: &[Change]) -> Rules {
        changes.iter().fold(Rules::default(), |rules, change| rules.with(change, 1_000).unwrap())
    }

    #[test]
    fn who_is_muted_reads_and_does_not_write_until_it_is_over() {
        let rules = after(&[
            Change::Mute(name("bob"), Term::of(Some(40), 1_000)),
            Change::Mute(name("eve"), Term::of(None, 1_000)),
        ]);
        assert_eq!(rules.may_write("bob", 1_000), Err(Barred::Muted(Some(40_000))));
        assert_eq!(rules.may_write("bob", 40_999), Err(Barred::Muted(Some(1))));
        assert_eq!(rules.may_write("bob", 41_000), Ok(()));
        assert_eq!(rules.may_write("eve", u64::MAX), Err(Barred::Muted(None)));
        assert_eq!(rules.may_write("ann", 1_000), Ok(()));
        assert_eq!(rules.may_enter("bob", 1_000), Ok(()));
        let rules = rules.with(&Change::Mute(name("eve"), Term::of(Some(0), 2_000)), 2_000).unwrap();
        assert_eq!(rules.may_write("eve", 2_000), Ok(()));
    }

    #[test]
    fn who_is_banned_neither_comes_nor_writes_though_he_moderates() {
        let rules = after(&[
            Change::Moderator(name("bob"), true),
            Change::Ban(name("bob"), Term::Until(5_000)),
            Change::Mute(name("bob"), Term::ForGood),
        ]);
        assert_eq!(rules.may_enter("bob", 2_000), Err(Barred::Banned(Some(3_000))));
        assert_eq!(rules.may_write("bob", 2_000), Err(Barred::Banned(Some(3_000))));
        assert_eq!(rules.may_enter("bob", 5_000), Ok(()));
        assert_eq!(
            rules.may_write("bob", 5_000),
            Err(Barred::Muted(None)),
            "a mute holds for moderators too"
        );
    }

    #[test]
    fn a_freeze_and_a_pause_are_not_for_moderators() {
        let rules = after(&[Change::Freeze(9_000), Change::Slow(10), Change::Moderator(name("mod"), true)]);
        assert_eq!(rules.may_write("ann", 1_000), Err(Barred::Frozen(8_000)));
        assert_eq!(rules.may_write("mod", 1_000), Ok(()));
        assert_eq!(rules.may_write("ann", 9_000), Ok(()));
        assert_eq!((rules.pause_ms("ann"), rules.pause_ms("mod")), (10_000, 0));
        let rules = rules.with(&Change::Moderator(name("mod"), false), 1_000).unwrap();
        assert_eq!((rules.pause_ms("mod"), rules.may_write("mod", 1_000).is_err()), (10_000, true));
    }

    #[test]
    fn rules_survive_being_kept_and_none_are_nothing() {
        let rules = after(&[
            Change::Mute(name("a\"}:b"), Term::Until(5_000)),
            Change::Ban(name("größe"), Term::ForGood),
            Change::Freeze(9_000),
            Change::Slow(3),
            Change::Moderator(name("mod"), true),
        ]);
        assert_eq!(Rules::from_json(rules.to_json().as_bytes()).unwrap(), rules);
        assert_eq!(
            after(&[Change::Ban(name("bob"), Term::ForGood), Change::Slow(3)]).to_json(),
            r#"{"banned":{"bob":null},"slow":3}"#
        );
        let ended = rules.with(&Change::Slow(0), 10_000).unwrap();
        assert!(!ended.are_over(10_000), "a ban for good and a moderator stay");
        assert_eq!((ended.muted(10_000).count(), ended.frozen(10_000)), (0, None));
        assert_eq!(Rules::default().to_json(), "");
        assert!(Rules::from_json(b"{").is_err());
    }

    #[test]
    fn what_is_over_is_forgotten_with_the_next_order() {
        let rules = after(&[Change::Mute(name("bob"), Term::Until(5_000)), Change::Freeze(5_000)]);
        assert!(!rules.are_over(4_999) && rules.are_over(5_000) && !rules.is_empty());
        assert!(rules.with(&Change::Sweep, 5_000).unwrap().is_empty());
    }

    #[test]
    fn a_room_names_so_many_users_and_no_more() {
        let mut rules = Rules::default();
        for n in 0..USERS_MAX {
            rules.muted.insert(format!("user-{n}").into(), None);
        }
        let ban = Change::Ban(name("bob"), Term::ForGood);
        assert_eq!(rules.with(&ban, 1), Err(Full::Users));
        let again = Change::Mute(name("user-7"), Term::Until(5_000));
        assert!(rules.with(&again, 1).is_ok(), "who is named already may be named anew");
        let ended = rules.with(&Change::Mute(name("user-7"), Term::Over), 1).unwrap();
        assert!(ended.with(&ban, 1).is_ok());
    }
}

//! What is known of entries that somebody wants to change or react to: who said them, whether they still
//! stand, who has reacted with what. Owned by the room; filled from its history or from the store when an
//! entry is first touched, so that a room of a million entries costs only what people touch.

use std::collections::{HashMap, HashSet};

use ahash::RandomState;

use crate::chat::entry::Kind;
use crate::chat::message::Offset;
use crate::chat::names::UserName;

/// Entries remembered per room; those that the store has up to date are forgotten beyond.
const ENTRIES_MAX: usize = 1_024;

/// One entry.
#[derive(Debug, Clone)]
pub struct State {
    /// What it is.
    pub kind: Kind,
    /// Who said it.
    pub user: Option<UserName>,
    /// Whether it was deleted.
    pub deleted: bool,
    /// Offset of the newest edit; 0 for none.
    pub edited: Offset,
    /// Number of the newest record that changes it.
    pub lsn: u64,
    /// Who has reacted with what: whether it is on, and the place of the newest change.
    reactions: HashMap<(UserName, Box<str>), (bool, Offset), RandomState>,
    /// Users whose reactions are all known; none of them is, if it is not in memory at all.
    asked: HashSet<UserName, RandomState>,
    /// Whether the reactions of all users are known.
    all_asked: bool,
}

impl State {
    /// An entry that nobody has touched since it was said, or whose reactions are not known: `all_asked`
    /// says which.
    pub fn new(kind: Kind, user: Option<UserName>, all_asked: bool) -> State {
        State {
            kind,
            user,
            deleted: false,
            edited: 0,
            lsn: 0,
            reactions: HashMap::default(),
            asked: HashSet::default(),
            all_asked,
        }
    }

    /// Whether all reactions of a user are known.
    pub fn knows(&self, user: &UserName) -> bool {
        self.all_asked || self.asked.contains(user)
    }

    /// What a store knows of a user's reactions. What is in memory is newer.
    pub fn learn(&mut self, user: &UserName, known: Vec<(Box<str>, bool, Offset)>) {
        if !self.asked.insert(user.clone()) {
            return;
        }
        for (mark, on, offset) in known {
            self.reactions.entry((user.clone(), mark)).or_insert((on, offset));
        }
    }

    /// A user's reaction: whether it is on, and the place of the newest change.
    pub fn reaction(&self, user: &UserName, mark: &str) -> Option<(bool, Offset)> {
        self.reactions.get(&(user.clone(), mark.into())).copied()
    }

    /// A user reacts, or takes it back, at a place.
    pub fn react(&mut self, user: &UserName, mark: &str, on: bool, offset: Offset) {
        self.reactions.insert((user.clone(), mark.into()), (on, offset));
    }
}

/// The touched entries of one room.
#[derive(Debug, Default)]
pub struct Changes(Option<Known>);

/// Most rooms have none, so it costs a pointer there.
type Known = Box<HashMap<Offset, State, RandomState>>;

impl Changes {
    /// What is known of an entry.
    pub fn get(&self, offset: Offset) -> Option<&State> {
        self.0.as_ref()?.get(&offset)
    }

    /// What is known of an entry, to change it.
    pub fn get_mut(&mut self, offset: Offset) -> Option<&mut State> {
        self.0.as_mut()?.get_mut(&offset)
    }

    /// Remembers an entry, unless it is known already: what is in memory is newer than what was read.
    pub fn learn(&mut self, offset: Offset, state: State) {
        self.0.get_or_insert_default().entry(offset).or_insert(state);
    }

    /// Forgets everything, because changes were taken back that could not be kept.
    pub fn forget_all(&mut self) {
        self.0 = None;
    }

    /// Forgets entries when there are many, as far as the store has all records up to `archived`.
    pub fn forget_surplus(&mut self, archived: u64) {
        let Some(known) = &mut self.0 else { return };
        if known.len() > ENTRIES_MAX {
            known.retain(|_, state| state.lsn > archived);
        }
        if known.is_empty() {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserName {
        UserName::new(name).unwrap()
    }

    #[test]
    fn memory_is_newer_than_what_was_read() {
        let mut changes = Changes::default();
        changes.learn(5, State::new(Kind::Message, Some(user("ann")), false));
        let state = changes.get_mut(5).unwrap();
        assert!(!state.knows(&user("bob")));
        state.react(&user("bob"), "+1", false, 9);
        state.learn(&user("bob"), vec![("+1".into(), true, 7), ("ok".into(), true, 8)]);
        assert_eq!(state.reaction(&user("bob"), "+1"), Some((false, 9)));
        assert_eq!(state.reaction(&user("bob"), "ok"), Some((true, 8)));
        assert!(state.knows(&user("bob")) && !state.knows(&user("ann")));
        state.deleted = true;
        changes.learn(5, State::new(Kind::Message, Some(user("ann")), false));
        assert!(changes.get(5).unwrap().deleted);
    }

    #[test]
    fn only_what_the_store_has_is_forgotten() {
        let mut changes = Changes::default();
        for offset in 1..=ENTRIES_MAX as u64 + 1 {
            changes.learn(offset, State { lsn: offset, ..State::new(Kind::Message, None, true) });
        }
        changes.forget_surplus(1_000);
        assert!(changes.get(1_000).is_none() && changes.get(1_001).is_some());
    }
}

//! Who is here: the users of one room, each once however many sessions they have and on however many nodes,
//! and the differences that the room has not been told yet.
//! Called by the room. Knows no frames; the protocols write the differences down.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ahash::RandomState;

use crate::chat::data::Data;
use crate::chat::names::UserName;

/// Above so many users a room hears only their number; the list is read page by page.
pub const NAMED_USERS_MAX: usize = 1_000;
/// Longest pause between two tellings of who came and went, in milliseconds.
const PAUSE_MS_MAX: u64 = 1_000;

/// A user who is in the room.
#[derive(Debug, Clone)]
pub struct Present {
    /// With how many sessions; of each other node one is known.
    pub sessions: u32,
    /// How many of them are on this node.
    pub here: u32,
    /// What the token says about the user (`info`), shown to the others.
    pub info: Option<Arc<Data>>,
}

/// The users of one room.
#[derive(Debug, Default)]
pub struct Roster {
    users: BTreeMap<UserName, Present>,
    /// Users whose presence may have changed, with whether they were there when the room was last told.
    untold: BTreeMap<UserName, bool>,
    told_at: u64,
    /// Who is on other nodes, by node.
    elsewhere: HashMap<u32, BTreeSet<UserName>, RandomState>,
    /// How many are on other nodes that tell their number only, by node.
    crowds: HashMap<u32, u32, RandomState>,
    /// Whether such a number is another one than the room was told.
    crowd_news: bool,
}

/// What the room has to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Who came.
    pub came: Vec<UserName>,
    /// Who went.
    pub went: Vec<UserName>,
    /// Whether the number of those without a name is another one.
    pub crowd: bool,
}

impl Difference {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.came.is_empty() && self.went.is_empty() && !self.crowd
    }
}

impl Roster {
    /// A session of `user` comes in. Returns whether it is the user's first on this node.
    pub fn enter(&mut self, user: &UserName, info: Option<&Arc<Data>>) -> bool {
        let present = self.add(user, info);
        present.here += 1;
        present.here == 1
    }

    /// A session of `user` goes out. Returns whether it was the user's last on this node.
    pub fn leave(&mut self, user: &UserName) -> bool {
        let Some(present) = self.users.get_mut(user.as_str()).filter(|present| present.here > 0) else {
            debug_assert!(false, "who leaves has entered");
            return false;
        };
        present.here -= 1;
        let was_last = present.here == 0;
        self.take(user);
        was_last
    }

    /// A user comes in on another node. Returns whether that is new.
    pub fn enter_elsewhere(&mut self, node: u32, user: &UserName, info: Option<&Arc<Data>>) -> bool {
        self.set_crowd(node, 0);
        let is_new = self.elsewhere.entry(node).or_default().insert(user.clone());
        if is_new {
            self.add(user, info);
        }
        is_new
    }

    /// A user has gone on another node. Returns whether she was there.
    pub fn leave_elsewhere(&mut self, node: u32, user: &UserName) -> bool {
        let Some(users) = self.elsewhere.get_mut(&node) else { return false };
        let was_there = users.remove(user.as_str());
        if users.is_empty() {
            self.elsewhere.remove(&node);
        }
        if was_there {
            self.take(user);
        }
        was_there
    }

    /// Another node is gone. Returns whether somebody was there.
    pub fn lose_node(&mut self, node: u32) -> bool {
        let had_crowd = self.set_crowd(node, 0);
        let Some(users) = self.elsewhere.remove(&node) else { return had_crowd };
        users.iter().for_each(|user| self.take(user));
        true
    }

    /// So many users are on other nodes, by node, which do not tell their names any more. `all`: nobody is on nodes
    /// that are not among them.
    pub fn count_elsewhere(&mut self, nodes: &[(u32, u32)], all: bool) {
        let known: Vec<u32> = self.elsewhere.keys().chain(self.crowds.keys()).copied().collect();
        for node in known {
            let is_counted = nodes.iter().any(|(counted, _)| *counted == node);
            if all && !is_counted {
                self.lose_node(node);
            }
        }
        for (node, users) in nodes {
            for user in self.elsewhere.remove(node).unwrap_or_default() {
                self.take(&user);
            }
            self.set_crowd(*node, *users);
        }
    }

    fn set_crowd(&mut self, node: u32, users: u32) -> bool {
        let before = match users {
            0 => self.crowds.remove(&node),
            _ => self.crowds.insert(node, users),
        };
        let is_news = before.unwrap_or(0) != users;
        self.crowd_news |= is_news;
        is_news
    }

    /// Everybody who is on other nodes, known anew. Who is there as before makes no noise.
    pub fn set_elsewhere<'a>(
        &mut self,
        now: impl Iterator<Item = (u32, &'a UserName, Option<&'a Arc<Data>>)>,
    ) {
        self.crowd_news |= !self.crowds.is_empty();
        self.crowds.clear();
        let before = std::mem::take(&mut self.elsewhere);
        for (node, user, info) in now {
            self.enter_elsewhere(node, user, info);
        }
        for user in before.values().flatten() {
            self.take(user);
        }
    }

    fn add(&mut self, user: &UserName, info: Option<&Arc<Data>>) -> &mut Present {
        if !self.users.contains_key(user.as_str()) {
            self.untold.entry(user.clone()).or_insert(false);
        }
        let present =
            self.users.entry(user.clone()).or_insert(Present { sessions: 0, here: 0, info: info.cloned() });
        present.sessions += 1;
        present
    }

    fn take(&mut self, user: &UserName) {
        let Some(present) = self.users.get_mut(user.as_str()) else { return };
        present.sessions -= 1;
        if present.sessions == 0 {
            self.users.remove(user.as_str());
            self.untold.entry(user.clone()).or_insert(true);
        }
    }

    /// How many users are here. One who is on several nodes that tell numbers only is counted there each time.
    pub fn len(&self) -> usize {
        self.users.len() + self.crowds.values().map(|users| *users as usize).sum::<usize>()
    }

    /// Whether nobody is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The user's entry, if here.
    pub fn get(&self, user: &UserName) -> Option<&Present> {
        self.users.get(user.as_str())
    }

    /// The users in order of their names, those after `after` only.
    pub fn after<'a>(&'a self, after: Option<&str>) -> impl Iterator<Item = (&'a UserName, &'a Present)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.users.range::<str, _>((from, Unbounded))
    }

    /// Whether the room has something to hear.
    pub fn has_news(&self) -> bool {
        !self.untold.is_empty() || self.crowd_news
    }

    /// When the room may next be told, Unix milliseconds. The pause grows by a millisecond for each user,
    /// so that comings and goings cost a room about a thousand deliveries a second at the most.
    pub fn due_at(&self) -> u64 {
        match self.len() as u64 {
            0..=50 => 0,
            users => self.told_at + users.min(PAUSE_MS_MAX),
        }
    }

    /// Takes what the room has to be told. Who came and went again since the last time is not in it.
    pub fn take_news(&mut self, now: u64) -> Difference {
        self.told_at = now;
        let crowd = std::mem::take(&mut self.crowd_news);
        let mut difference = Difference { crowd, ..Difference::default() };
        for (user, was_here) in std::mem::take(&mut self.untold) {
            match (was_here, self.users.contains_key(user.as_str())) {
                (false, true) => difference.came.push(user),
                (true, false) => difference.went.push(user),
                _ => {}
            }
        }
        difference
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserName {
        UserName::new(name).unwrap()
    }

    #[test]
    fn a_user_with_two_tabs_is_here_once() {
        let (mut roster, ann) = (Roster::default(), user("ann"));
        roster.enter(&ann, None);
        roster.enter(&ann, None);
        assert_eq!(roster.take_news(0).came, std::slice::from_ref(&ann));
        assert!(!roster.leave(&ann));
        assert!(!roster.has_news(), "one tab is still open");
        assert!(roster.leave(&ann));
        assert_eq!(roster.take_news(0).went, [ann]);
    }

    #[test]
    fn a_user_on_two_nodes_is_here_once() {
        let (mut roster, ann, bob) = (Roster::default(), user("ann"), user("bob"));
        assert!(roster.enter(&ann, None));
        assert!(roster.enter_elsewhere(7, &ann, None) && roster.enter_elsewhere(7, &bob, None));
        assert!(!roster.enter_elsewhere(7, &bob, None), "said twice");
        assert_eq!(roster.take_news(0).came, [ann.clone(), bob.clone()]);
        assert!(roster.leave(&ann), "her last session here");
        assert!(!roster.has_news(), "she is on the other node");
        roster.set_elsewhere([(7, &ann, None), (8, &bob, None)].into_iter());
        assert_eq!(roster.take_news(0), Difference::default(), "bob has moved");
        assert!(roster.lose_node(7) && !roster.lose_node(7));
        assert_eq!(roster.take_news(0).went, [ann]);
        assert!(roster.leave_elsewhere(8, &bob) && !roster.leave_elsewhere(8, &bob));
        assert_eq!(roster.take_news(0).went, [bob]);
        assert!(roster.is_empty());
    }

    #[test]
    fn a_large_room_on_other_nodes_is_a_number() {
        let (mut roster, ann, bob) = (Roster::default(), user("ann"), user("bob"));
        roster.enter(&ann, None);
        roster.enter_elsewhere(7, &bob, None);
        roster.take_news(0);
        roster.count_elsewhere(&[(7, 1_200)], true);
        assert_eq!((roster.len(), roster.get(&bob).is_none()), (1_201, true));
        assert!(roster.take_news(0).crowd);
        roster.count_elsewhere(&[(8, 10)], false);
        assert_eq!(roster.len(), 1_211);
        roster.count_elsewhere(&[(8, 10)], true);
        assert_eq!(roster.len(), 11, "nobody is on the other node any more");
        assert!(roster.lose_node(8) && roster.take_news(0).crowd);
        roster.enter_elsewhere(8, &bob, None);
        assert_eq!(roster.len(), 2, "names again");
    }

    #[test]
    fn who_came_and_went_between_two_tellings_makes_no_noise() {
        let (mut roster, ann, bob) = (Roster::default(), user("ann"), user("bob"));
        roster.enter(&bob, None);
        roster.take_news(0);
        roster.enter(&ann, None);
        roster.leave(&ann);
        roster.leave(&bob);
        roster.enter(&bob, None);
        assert_eq!(roster.take_news(0), Difference::default());
    }

    #[test]
    fn a_large_room_is_told_less_often() {
        let mut roster = Roster::default();
        for n in 0..2_000 {
            roster.enter(&user(&format!("u{n}")), None);
        }
        roster.take_news(5_000);
        assert_eq!(roster.due_at(), 6_000);
    }

    #[test]
    fn the_list_is_read_page_by_page() {
        let mut roster = Roster::default();
        for name in ["cid", "ann", "bob"] {
            roster.enter(&user(name), None);
        }
        let names = |after| roster.after(after).map(|(name, _)| name.as_str()).collect::<Vec<_>>();
        assert_eq!(names(None), ["ann", "bob", "cid"]);
        assert_eq!(names(Some("ann")), ["bob", "cid"]);
        assert_eq!(names(Some("b")), ["bob", "cid"]);
    }
}

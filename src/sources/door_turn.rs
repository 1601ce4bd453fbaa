//! What one turn of a door connection asks of the rooms, and the replies in the order of the commands.
//! Filled by the door, settled by its actor, which sends the drafts. Knows no socket and no command.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::chat::message::{Accepted, Draft, Refused};
use crate::chat::names::RoomName;
use crate::sources::payload::{PayloadLimits, decode};
use crate::sources::poison::{Poison, Reason};
use crate::sources::replies::Replies;

/// A turn with so many items, or so many bytes of replies, takes no further command.
const ITEMS_MAX: usize = 256;
const REPLY_BYTES_MAX: usize = 256 << 10;

/// One item on its way from a backend to a room.
#[derive(Debug)]
pub struct Push {
    /// As the backend wrote it.
    pub item: Bytes,
    /// Where it goes if it names no room itself.
    pub room: RoomName,
    /// The list or channel that it was pushed to; shared by the items of a command.
    pub source: Arc<str>,
    /// What became of it.
    pub outcome: Option<Outcome>,
}

/// What became of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A room has it.
    Accepted(Accepted),
    /// It can never be said and is kept under this id.
    Dead(Poison, String),
    /// The rooms would not take it in time.
    Refused(Refused),
}

/// How a command that pushes is answered when all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushReply {
    /// With the number of items, as `LPUSH` with the length of the list.
    Count,
    /// With an id, as `XADD`: time and offset of the message.
    EntryId,
    /// With nothing, as a script without a result.
    Null,
}

#[derive(Debug)]
enum Answer {
    Ready(Vec<u8>),
    Pushes(PushReply, Range<usize>),
}

/// The items and answers of the commands that came together.
#[derive(Debug, Default)]
pub struct Turn {
    pushes: Vec<Push>,
    answers: Vec<Answer>,
    reply_bytes: usize,
    /// Pushes before this one have an outcome.
    settled: usize,
}

impl Turn {
    /// Whether no further command should be added.
    pub fn is_full(&self) -> bool {
        self.pushes.len() >= ITEMS_MAX || self.reply_bytes >= REPLY_BYTES_MAX
    }

    /// Adds a reply that is known already, if it is not empty.
    pub fn ready(&mut self, reply: Vec<u8>) {
        if !reply.is_empty() {
            self.reply_bytes += reply.len();
            self.answers.push(Answer::Ready(reply));
        }
    }

    /// Adds a command's items, to be answered together.
    pub fn pushes(&mut self, reply: PushReply, pushes: impl IntoIterator<Item = Push>) {
        let from = self.pushes.len();
        self.pushes.extend(pushes);
        self.answers.push(Answer::Pushes(reply, from..self.pushes.len()));
    }

    /// The drafts of the first open items, at most 256, and where they stand. Items that can never be said
    /// get their outcome here, with an id from `dead`, which also has to keep them.
    pub fn open(
        &mut self,
        limits: PayloadLimits,
        mut dead: impl FnMut(&Push, &Poison) -> String,
    ) -> (Vec<usize>, Vec<Draft>) {
        let (mut places, mut drafts) = (Vec::new(), Vec::new());
        for (place, push) in self.pushes.iter_mut().enumerate().skip(self.settled) {
            if push.outcome.is_some() {
                continue;
            }
            match decode(&push.item, &push.room, limits) {
                Ok(draft) => {
                    places.push(place);
                    drafts.push(draft);
                }
                Err(poison) => {
                    let id = dead(push, &poison);
                    push.outcome = Some(Outcome::Dead(poison, id));
                }
            }
            if drafts.len() == ITEMS_MAX {
                break;
            }
        }
        (places, drafts)
    }

    /// Notes what the rooms said; tells the first reason why some stay open.
    pub fn note(
        &mut self,
        places: &[usize],
        answers: Vec<Result<Accepted, Refused>>,
        mut dead: impl FnMut(&Push, &Poison) -> String,
    ) -> Option<Refused> {
        let mut open = None;
        for (place, answer) in places.iter().zip(answers) {
            let push = &mut self.pushes[*place];
            push.outcome = match answer {
                Ok(accepted) => Some(Outcome::Accepted(accepted)),
                Err(refused) if refused.is_for_now() => {
                    open.get_or_insert(refused);
                    None
                }
                Err(refused) => {
                    let poison = Poison::new(Reason::Refused, refused.to_string());
                    let id = dead(push, &poison);
                    Some(Outcome::Dead(poison, id))
                }
            };
        }
        let settled = self.pushes[self.settled..].iter().take_while(|push| push.outcome.is_some());
        self.settled += settled.count();
        open
    }

    /// Gives up on what is still open.
    pub fn give_up(&mut self, refused: &Refused) {
        for push in self.pushes.iter_mut().filter(|push| push.outcome.is_none()) {
            push.outcome = Some(Outcome::Refused(refused.clone()));
        }
    }

    /// All replies, in the order of the commands.
    pub fn into_replies(self, resp3: bool) -> Vec<u8> {
        let mut replies = Replies { bytes: Vec::new(), resp3 };
        for answer in self.answers {
            match answer {
                Answer::Ready(bytes) if replies.bytes.is_empty() => replies.bytes = bytes,
                Answer::Ready(bytes) => replies.bytes.extend_from_slice(&bytes),
                Answer::Pushes(reply, range) => write_answer(&mut replies, reply, &self.pushes[range]),
            }
        }
        replies.bytes
    }
}

fn write_answer(replies: &mut Replies, reply: PushReply, pushes: &[Push]) {
    let accepted = pushes.iter().filter(|push| matches!(push.outcome, Some(Outcome::Accepted(_)))).count();
    let failed = pushes.iter().enumerate().find_map(|(place, push)| match &push.outcome {
        Some(Outcome::Accepted(_)) => None,
        other => Some((place + 1, other)),
    });
    if let Some((place, outcome)) = failed {
        return replies.error(&failure(place, outcome.as_ref(), accepted, pushes.len()));
    }
    match (reply, pushes.last().map(|push| &push.outcome)) {
        (PushReply::Count, _) => replies.integer(accepted as i64),
        (PushReply::EntryId, Some(Some(Outcome::Accepted(last)))) => {
            replies.bulk(format!("{}-{}", last.ts, last.offset).as_bytes());
        }
        _ => replies.null(),
    }
}

/// The error of a command: about its first item that failed, and how many are accepted nevertheless.
fn failure(place: usize, outcome: Option<&Outcome>, accepted: usize, all: usize) -> String {
    let (code, why) = match outcome {
        Some(Outcome::Dead(poison, id)) => ("ERR", format!("{poison} (kept in the dead letters as {id})")),
        Some(Outcome::Refused(refused)) => ("TRYAGAIN", refused.to_string()),
        _ => ("TRYAGAIN", "the server is stopping, send it again with the same id".to_owned()),
    };
    // Items are quoted nowhere, but an error's text may come from the application.
    let why = why.escape_debug();
    if all == 1 {
        format!("{code} {why}")
    } else {
        format!("{code} value {place} of {all}: {why}; {accepted} values are accepted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::message::Epoch;

    fn push(item: &str) -> Push {
        let room = RoomName::new("lobby").unwrap();
        Push { item: Bytes::copy_from_slice(item.as_bytes()), room, source: "q".into(), outcome: None }
    }

    fn accepted(offset: u64) -> Result<Accepted, Refused> {
        Ok(Accepted { offset, epoch: Epoch(1), ts: 7, duplicate: false })
    }

    fn kept(_: &Push, _: &Poison) -> String {
        "d1".into()
    }

    fn replies(turn: Turn) -> String {
        String::from_utf8(turn.into_replies(false)).unwrap()
    }

    #[test]
    fn replies_stand_in_the_order_of_the_commands() {
        let mut turn = Turn::default();
        turn.ready(b"+PONG\r\n".to_vec());
        turn.pushes(PushReply::Count, [push("1"), push("2")]);
        turn.ready(b"+OK\r\n".to_vec());
        turn.pushes(PushReply::EntryId, [push("3")]);
        turn.pushes(PushReply::Null, [push("4")]);
        let (places, drafts) = turn.open(PayloadLimits::default(), kept);
        assert_eq!((places.as_slice(), drafts.len()), (&[0, 1, 2, 3][..], 4));
        assert_eq!(turn.note(&places, (1..=4).map(accepted).collect(), kept), None);
        assert_eq!(replies(turn), "+PONG\r\n:2\r\n+OK\r\n$3\r\n7-3\r\n$-1\r\n");
    }

    #[test]
    fn a_bad_item_is_told_and_the_others_are_said() {
        let mut turn = Turn::default();
        turn.pushes(PushReply::Count, [push("1"), push("oops"), push("3")]);
        let (places, _) = turn.open(PayloadLimits::default(), kept);
        assert_eq!(places, [0, 2]);
        turn.note(&places, vec![accepted(1), accepted(2)], kept);
        let text = replies(turn);
        assert!(text.starts_with("-ERR value 2 of 3: not-json: "), "{text}");
        assert!(text.ends_with("(kept in the dead letters as d1); 2 values are accepted\r\n"), "{text}");
    }

    #[test]
    fn what_the_rooms_refuse_for_now_stays_open() {
        let mut turn = Turn::default();
        turn.pushes(PushReply::Count, [push("1")]);
        turn.pushes(PushReply::Count, [push("2")]);
        turn.pushes(PushReply::Count, [push("3")]);
        let (places, _) = turn.open(PayloadLimits::default(), kept);
        let busy = Refused::Busy { wait_ms: 5 };
        let refused = Err(Refused::ByHandler("no\nthanks".into()));
        assert_eq!(turn.note(&places, vec![accepted(1), Err(busy.clone()), refused], kept), Some(busy));
        assert_eq!(turn.open(PayloadLimits::default(), kept).0, [1]);
        turn.give_up(&Refused::Draining);
        let text = replies(turn);
        assert!(text.starts_with(":1\r\n-TRYAGAIN the server is stopping"), "{text}");
        assert!(text.contains("-ERR refused: refused by the application: no\\nthanks"), "{text}");
    }
}

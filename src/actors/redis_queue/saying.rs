//! How entries get said: read, offered to the rooms until each is accepted or buried.
//! Part of the queue actor; what it settles, the taking forgets.

use crate::actors::letters::PublishBatch;
use crate::actors::redis_queue::taking::{Queue, Session, Trouble};
use crate::actors::waits::Patience;
use crate::chat::message::{Accepted, Draft, Refused};
use crate::chat::names::MessageId;
use crate::sources::dead_letters::{DeadLetter, preview};
use crate::sources::payload::decode;
use crate::sources::poison::{Poison, Reason};
use crate::sources::redis_list::Entry;
use crate::traces::Kind;
use tokio::time::sleep;

/// Dead letters written in one step hold at most so many bytes, one more letter not counted.
const BURY_BYTES_MAX: usize = 4 << 20;

/// What came of asking the rooms once.
#[derive(Default)]
struct Round {
    /// Refused for now, in order.
    again: Vec<Entry>,
    /// Refused for ever.
    dead: Vec<(Entry, Poison)>,
    /// The first reason of those refused for now.
    refused: Option<Refused>,
}

impl Queue {
    /// Says entries in order until each is either accepted or buried.
    pub(super) async fn settle(&self, session: &Session, entries: Vec<Entry>) -> Result<(), Trouble> {
        let last = entries.iter().filter_map(|entry| self.list.ids().number_of(&entry.id)).max();
        let mut open = entries;
        let mut patience = Patience::default();
        while !open.is_empty() {
            self.check_lease(session)?;
            let Round { again, dead, refused } = self.say(open).await?;
            self.bury(session, &dead).await?;
            open = again;
            if let Some(refused) = refused {
                self.wait_for_rooms(&refused, &mut patience).await?;
            }
        }
        self.settled_up_to.set(self.settled_up_to.get().max(last));
        Ok(())
    }

    /// Asks the rooms once.
    async fn say(&self, entries: Vec<Entry>) -> Result<Round, Trouble> {
        let mut round = Round::default();
        let (mut asked, mut drafts) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
        for entry in entries {
            match self.draft(&entry) {
                Ok(draft) => {
                    drafts.push(draft);
                    asked.push(entry);
                }
                Err(poison) => round.dead.push((entry, poison)),
            }
        }
        if asked.is_empty() {
            return Ok(round);
        }
        let answers = self
            .parts
            .chat
            .send(PublishBatch(drafts, self.door.clone()))
            .await
            .map_err(|_| Trouble::ChatGone)?;
        debug_assert_eq!(answers.len(), asked.len(), "the answer has one entry for each draft");
        for (entry, answer) in asked.into_iter().zip(answers) {
            match answer {
                Ok(accepted) => self.note_accepted(entry.id, accepted),
                Err(refused) if refused.is_for_now() => {
                    round.refused.get_or_insert(refused);
                    round.again.push(entry);
                }
                Err(refused) => round.dead.push((entry, Poison::new(Reason::Refused, refused.to_string()))),
            }
        }
        Ok(round)
    }

    fn draft(&self, entry: &Entry) -> Result<Draft, Poison> {
        let mut draft = decode(&entry.item, &self.parts.room, self.parts.limits)?;
        if draft.id.is_none() {
            // Should it come again after a crash, the room knows it by this.
            draft.id = MessageId::new(&entry.id).ok();
        }
        draft.span = self.parts.tracer.begin("take from a queue", Kind::Consumer);
        if draft.span.is_on() {
            draft.span.text("roomcast.queue", self.list.keys().list());
        }
        Ok(draft)
    }

    fn note_accepted(&self, id: String, accepted: Accepted) {
        self.settled.borrow_mut().push(id);
        self.parts.counters.count_accepted(1);
        self.parts.counters.count_repeated(accepted.duplicate.into());
    }

    /// Waits before the rooms are asked again; the items stay in Redis under this node's name.
    async fn wait_for_rooms(&self, refused: &Refused, patience: &mut Patience) -> Result<(), Trouble> {
        let stopping = self.is_stopping();
        if stopping && (*refused == Refused::Draining || patience.is_over(self.parts.timing.finish)) {
            return Err(Trouble::Stopping);
        }
        self.parts.counters.count_waits(1);
        self.parts.counters.set_waiting(true);
        let wait = sleep(patience.next_wait(refused));
        tokio::select! { () = wait => {}, () = self.stopped(), if !stopping => {} }
        self.parts.counters.set_waiting(false);
        Ok(())
    }

    async fn bury(&self, session: &Session, dead: &[(Entry, Poison)]) -> Result<(), Trouble> {
        let list = self.list.keys().list();
        let mut rest = dead;
        while !rest.is_empty() {
            let (mut letters, mut bytes) = (Vec::new(), 0);
            while let Some(((entry, poison), tail)) = rest.split_first() {
                if bytes > BURY_BYTES_MAX {
                    break;
                }
                let letter = DeadLetter::new(list, &entry.id, poison, &entry.item).to_json();
                bytes += letter.len();
                letters.push((entry.id.as_str(), letter));
                rest = tail;
            }
            let dropped = self.list.bury(&mut session.redis.clone(), &letters, self.parts.dead_items).await?;
            self.parts.counters.count_dead_forgotten(dropped);
        }
        for (_, poison) in dead {
            self.parts.counters.count_dead(poison.reason);
        }
        if let Some((entry, poison)) = dead.first() {
            let (count, key, item) = (dead.len(), self.list.keys().dead(), preview(&entry.item));
            log::warn!(
                "queue {list}: {count} dead letters in {key}, the first is {item}: {}",
                poison.to_string().escape_debug()
            );
        }
        Ok(())
    }
}

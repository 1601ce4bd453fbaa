//! The part that partition 0 has in the rules of rooms: it makes the changes that operators ask this node for, one after
//! the other, and tells the chat server what all nodes are to hold to. Called by the partition only.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use redis::RedisResult;

use crate::chat::moderation::Change;
use crate::chat::names::RoomName;
use crate::clock;
use crate::engines::redis::letters::Called;
use crate::engines::redis::life::rules::{self, Known, Next};
use crate::engines::redis::partition::{Live, Partition};
use crate::engines::redis::replies::{Remedy, remedy};
use crate::engines::redis::session::Session;
use crate::engines::shared::{RuleRefused, Says};

/// How long an order waits for Redis.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Most orders that wait.
const WAITING_MAX: usize = 1_000;

/// An order about a room.
#[derive(Debug, Clone)]
pub struct Ruling {
    /// Comes back with what became of it.
    pub ticket: u64,
    /// Which room.
    pub room: RoomName,
    /// What changes.
    pub change: Change,
    /// Since when it waits.
    pub since: Instant,
}

/// What waits here.
#[derive(Debug, Default)]
pub struct RulingDesk {
    waiting: VecDeque<Ruling>,
    /// What is being carried out.
    under_way: Option<Ruling>,
    known: Known,
}

impl RulingDesk {
    /// A stay has ended. Whether what was under way was written is not known; twice is as good as once.
    pub fn start_over(&mut self) {
        if let Some(ruling) = self.under_way.take() {
            self.waiting.push_front(ruling);
        }
        self.known.forget();
    }
}

impl Partition {
    /// An operator's order.
    pub(super) fn on_ruling(&mut self, ruling: Ruling) {
        if self.ruling.waiting.len() >= WAITING_MAX {
            return self
                .end_ruling(ruling.ticket, Err(RuleRefused::Away("too many orders wait for Redis".into())));
        }
        self.ruling.waiting.push_back(ruling);
    }

    fn end_ruling(&self, ticket: u64, settled: Result<(), RuleRefused>) {
        self.world.say(Says::Ruled { ticket, settled });
    }

    /// Carries out the next order, if none is under way.
    pub(super) fn rule_on(&mut self, live: &mut Live) {
        if self.ruling.under_way.is_some() {
            return;
        }
        let Some(ruling) = self.ruling.waiting.pop_front() else { return };
        self.ruling.under_way = Some(ruling.clone());
        let (mut connection, keys, _) = self.at(live);
        live.calls.push(Box::pin(async move {
            let now = clock::wall_ms();
            let ruled = rules::change(&mut connection, &keys, &ruling.room, &ruling.change, now).await;
            Called::Ruled(ruled)
        }));
    }

    pub(super) fn on_ruled(
        &mut self,
        ruled: RedisResult<Result<Option<rules::Told>, RuleRefused>>,
    ) -> Result<(), String> {
        let settled = match ruled {
            Ok(Ok(told)) => {
                // Here it holds before the answer, whenever the frame comes.
                told.into_iter().for_each(|told| self.on_rules(told));
                Ok(())
            }
            Ok(Err(refused)) => Err(refused),
            Err(error) if remedy(&error) == Remedy::Wait => Err(RuleRefused::Away(error.to_string())),
            // It is tried again at the next server.
            Err(error) => return Err(error.to_string()),
        };
        if let Some(ruling) = self.ruling.under_way.take() {
            self.end_ruling(ruling.ticket, settled);
        }
        Ok(())
    }

    /// A room has other rules.
    pub(super) fn on_rules(&mut self, told: rules::Told) {
        match self.ruling.known.told(told.number) {
            Next::Tell => self.world.say(Says::Rules { list: vec![(told.room, told.rules)], all: false }),
            Next::Nothing => {}
            // The next look brings all of them.
            Next::Ask => self.living.looked = None,
        }
    }

    /// Reads all rules at the beginning of a stay.
    pub(super) async fn read_rules(&mut self, session: &mut Session) -> Result<(), String> {
        if self.number != 0 {
            return Ok(());
        }
        let all = rules::all(&mut session.control, &self.living.keys, None).await;
        self.on_all_rules(all)
    }

    /// Asks whether there are rules that this node has not heard of.
    pub(super) fn ask_rules(&mut self, live: &mut Live) {
        let known = self.ruling.known.number();
        let (mut connection, keys, _) = self.at(live);
        live.calls
            .push(Box::pin(async move { Called::Rules(rules::all(&mut connection, &keys, known).await) }));
    }

    pub(super) fn on_all_rules(&mut self, all: RedisResult<Option<rules::All>>) -> Result<(), String> {
        let all = all.map_err(|error| error.to_string())?;
        if let Some((number, list)) = all
            && self.ruling.known.read(number)
        {
            self.world.say(Says::Rules { list, all: true });
        }
        Ok(())
    }

    /// Refuses orders that have waited too long.
    pub(super) fn expire_rulings(&mut self, now: Instant) {
        let is_late = |ruling: &Ruling| now.duration_since(ruling.since) > WAIT_MAX;
        while self.ruling.waiting.front().is_some_and(is_late) {
            let Some(late) = self.ruling.waiting.pop_front() else { return };
            self.end_ruling(late.ticket, Err(RuleRefused::Away("Redis cannot be reached".into())));
        }
    }
}

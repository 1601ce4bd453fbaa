//! The part that partition 0 has in the rules of rooms: it makes the changes that operators ask this node for, one after
//! the other, and tells the chat server what all nodes are to hold to. Called by the partition only.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use crate::chat::moderation::Change;
use crate::chat::names::RoomName;
use crate::clock;
use crate::engines::redis::archive::ArchiveThread;
use crate::engines::redis::letters::Called;
use crate::engines::redis::life::keys::Keys;
use crate::engines::redis::life::rule_repair::{self, Repair};
use crate::engines::redis::life::rules::{self, Kept, Known, Next};
use crate::engines::redis::partition::{Live, Partition};
use crate::engines::redis::replies::{Remedy, remedy};
use crate::engines::redis::session::Session;
use crate::engines::shared::{NodeSlot, RuleRefused, Says};
use crate::store::archive::{Answer, Question};

/// How long an order waits for Redis.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long the archive, or another partition, is waited for.
const RULES_WAIT: Duration = Duration::from_secs(2);
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
    /// Whether Redis is being asked for rules.
    looking: bool,
    /// Whether Redis lacks rules that the archive has.
    lacking: bool,
}

/// What was found of the rules of all rooms.
pub enum Looked {
    /// Those that are known.
    Same,
    /// All, as of a change.
    Rules(u64, Vec<Kept>),
    /// Redis does not have all, and the archive does not tell now; why.
    Lacking(String),
}

/// Looks at all rules. Where Redis does not have all that the archive has, they come back first.
async fn look(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    known: Option<u64>,
    archive: Option<ArchiveThread>,
) -> RedisResult<Looked> {
    let mut all = rules::all(connection, keys, known).await?;
    if let (false, Some(archive)) = (all.whole, archive) {
        let list = match timeout(RULES_WAIT, archive.ask(Question::Rules)).await {
            Ok(Ok(Answer::Rules(list))) => list,
            Ok(Ok(_)) => return Ok(Looked::Lacking("the archive gave another answer".into())),
            Ok(Err(why)) => return Ok(Looked::Lacking(why)),
            Err(_) => return Ok(Looked::Lacking("the archive does not answer".into())),
        };
        rules::restore(connection, keys, &list).await?;
        all = rules::all(connection, keys, known).await?;
        log::info!("redis: the archive knew the rules of {} rooms; Redis has all of them", list.len());
    }
    Ok(match all.list {
        None => Looked::Same,
        Some(list) => Looked::Rules(all.number, list),
    })
}

impl RulingDesk {
    /// A stay has ended. Whether what was under way was written is not known; twice is as good as once.
    pub fn start_over(&mut self) {
        if let Some(ruling) = self.under_way.take() {
            self.waiting.push_front(ruling);
        }
        self.known.forget();
        self.looking = false;
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
        let has_archive = self.world.archive.is_some();
        let (mut connection, keys, _) = self.at(live);
        live.calls.push(Box::pin(async move {
            let now = clock::wall_ms();
            let Ruling { room, change, .. } = &ruling;
            Called::Ruled(rules::change(&mut connection, &keys, has_archive, room, change, now).await)
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
        match self.ruling.known.told(&told) {
            Next::Tell => self.world.say(Says::Rules { list: vec![(told.room, told.rules)], all: false }),
            Next::Nothing => {}
            // The next look brings all of them.
            Next::Ask => self.living.looked = None,
        }
    }

    /// Reads all rules at the beginning of a stay. Until this node knows the rules of all rooms, nobody comes into one here:
    /// he may be banned there.
    pub(super) async fn read_rules(&mut self, session: &mut Session) -> Result<(), String> {
        if self.number != 0 {
            let known = timeout(RULES_WAIT, self.world.rules_known()).await;
            return known.map_err(|_| "the rules of rooms are not known yet; partition 0 is away".into());
        }
        let looked = look(&mut session.control, &self.living.keys, None, self.world.archive.clone()).await;
        let looked = looked.map_err(|error| error.to_string())?;
        match (&looked, self.ruling.known.memory()) {
            (Looked::Lacking(why), None) => Err(format!("the rules of rooms are not known yet: {why}")),
            _ => {
                self.heed(looked);
                Ok(())
            }
        }
    }

    /// Asks whether there are rules that this node has not heard of.
    pub(super) fn ask_rules(&mut self, live: &mut Live) {
        if std::mem::replace(&mut self.ruling.looking, true) {
            return;
        }
        let (known, archive) = (self.ruling.known.number(), self.world.archive.clone());
        let (mut connection, keys, _) = self.at(live);
        live.calls
            .push(Box::pin(async move { Called::Rules(look(&mut connection, &keys, known, archive).await) }));
    }

    pub(super) fn on_looked_at_rules(&mut self, looked: RedisResult<Looked>) -> Result<(), String> {
        self.ruling.looking = false;
        self.heed(looked.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn heed(&mut self, looked: Looked) {
        match looked {
            Looked::Same => {}
            // What was told last holds on.
            Looked::Lacking(why) => {
                if !std::mem::replace(&mut self.ruling.lacking, true) {
                    log::error!("redis: no rule of a room can be changed: {}", why.escape_debug());
                }
            }
            Looked::Rules(number, list) => {
                if std::mem::take(&mut self.ruling.lacking) {
                    log::info!("redis: the rules of rooms are whole again");
                }
                if self.ruling.known.read(number, &list) {
                    let list = list.iter().filter_map(rules::read).collect();
                    self.world.say(Says::Rules { list, all: true });
                }
                self.world.rules_are_known();
            }
        }
    }

    /// A part of a repair: puts down the rules that this node knows, for a server that knows less.
    pub(super) async fn stage_rules(
        &self,
        connection: &mut MultiplexedConnection,
        run_id: &str,
        node: NodeSlot,
    ) -> RedisResult<()> {
        let (0, Some((number, list))) = (self.number, self.ruling.known.memory()) else { return Ok(()) };
        let repair = Repair { key: &self.keys.repair(), run_id };
        rule_repair::stage(connection, &self.living.keys, repair, node, number, &list).await
    }

    /// The end of that: the server knows what the nodes knew.
    pub(super) async fn write_rules(
        &self,
        connection: &mut MultiplexedConnection,
        run_id: &str,
    ) -> RedisResult<()> {
        if self.number != 0 {
            return Ok(());
        }
        let repair = Repair { key: &self.keys.repair(), run_id };
        rule_repair::apply(connection, &self.living.keys, repair, self.world.archive.is_some()).await
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

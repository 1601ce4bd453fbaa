//! How a room that may have missed something catches up: what Redis still has comes from there, what it does not have
//! from the archive, what nobody has is skipped; and what this node has shown but Redis says otherwise is taken
//! back. Called by the partition only.

use std::time::Instant;

use crate::chat::entry::Entry;
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::RoomName;
use crate::clock;
use crate::engines::redis::archive::ArchiveThread;
use crate::engines::redis::frame;
use crate::engines::redis::joining::{Facts, Wish};
use crate::engines::redis::letters::Called;
use crate::engines::redis::logs::{Lives, Stage, epoch_at, parting};
use crate::engines::redis::partition::{Live, Partition};
use crate::engines::shared::Says;
use crate::store::archive::StoredEntry;

/// Younger entries may be missing at the next primary, in milliseconds.
const REMEMBERED_MS: u64 = 60_000;

/// What comes next in a room.
pub enum Part {
    /// Entries.
    Run(Vec<Entry>),
    /// Places that Redis does not have.
    Missing {
        /// From here.
        from: Offset,
        /// To here.
        to: Offset,
        /// The life of the log behind them.
        epoch: u64,
    },
}

/// What a room has missed.
pub struct Filling {
    parts: Vec<Part>,
    lives: Lives,
    /// Where the room was when that was asked.
    from: Offset,
}

impl Partition {
    /// Redis has said what a room has missed.
    pub(super) fn on_missed(&mut self, live: &mut Live, room: RoomName, facts: Facts) {
        let Some(log) = self.rooms.get_mut(&room) else { return };
        if matches!(log.stage, Stage::Opening | Stage::Told) {
            return;
        }
        log.joined = Instant::now();
        log.stage = Stage::Stale;
        let Some(top) = facts.meta.top else {
            if self.world.archive.is_some() {
                return self.seed(live, room.clone(), Some(Wish::Again(room)));
            }
            return self.take_back_or_go_on(live, room, Facts { rows: Vec::new(), ..facts }, 0);
        };
        self.take_back_or_go_on(live, room, facts, top);
    }

    fn take_back_or_go_on(&mut self, live: &mut Live, room: RoomName, facts: Facts, top: Offset) {
        let Some(log) = self.rooms.get_mut(&room) else { return };
        if let Some(to) = parting(&log.lives, log.top, &facts.meta.lives, top) {
            log.lives.retain(|(_, first)| *first <= to);
            log.top = to;
            log.cut();
            let epoch = match epoch_at(&facts.meta.lives, to + 1) {
                epoch if to < top => epoch,
                _ => live.fence.epoch,
            };
            log::warn!("redis: a room goes on differently after {to}; what stood there is taken back");
            self.wishes.push_back(Wish::Again(room.clone()));
            self.world.say(Says::Rewound { room, to, epoch: Epoch(epoch) });
            return;
        }
        let young = clock::wall_ms().saturating_sub(REMEMBERED_MS);
        for row in facts.rows.iter().filter(|row| frame::ts_of(&row.body) > young) {
            self.memory.put(&room, row.offset, row.epoch, row.body.clone().into());
        }
        let filling = plan(&room, log.top, top, facts);
        let missing = filling.parts.iter().any(|part| matches!(part, Part::Missing { .. }));
        match self.world.archive.clone() {
            Some(archive) if missing => {
                if self.filling.insert(room.clone()) {
                    live.calls.push(Box::pin(async move {
                        let filling = filled(&archive, &room, filling).await;
                        Called::Filled(room, filling)
                    }));
                }
            }
            _ => self.on_filled(&room, filling),
        }
    }

    /// Tells what a room has missed, and what has come meanwhile.
    pub(super) fn on_filled(&mut self, room: &RoomName, filling: Filling) {
        self.filling.remove(room);
        let Some(log) = self.rooms.get_mut(room) else { return };
        if log.stage != Stage::Stale || log.top != filling.from {
            return;
        }
        for part in filling.parts {
            match part {
                Part::Run(run) => {
                    log.top = run.last().map_or(log.top, |last| last.offset);
                    self.world.say(Says::Arrived(room.clone(), run));
                }
                Part::Missing { to, epoch, .. } => {
                    log.top = to;
                    self.world.say(Says::Skipped { room: room.clone(), to, epoch: Epoch(epoch) });
                }
            }
        }
        log.lives = filling.lives;
        log.stage = Stage::Live;
        let mut out = Vec::new();
        let heard = log.catch_up(&mut out);
        self.after_hearing(room, heard);
        self.say_arrived(room.clone(), out);
    }
}

/// What comes after `have`, up to `top`.
fn plan(room: &RoomName, have: Offset, top: Offset, facts: Facts) -> Filling {
    let (mut at, mut parts, mut run) = (have, Vec::new(), Vec::new());
    for row in facts.rows {
        if row.offset <= at || row.offset > top {
            continue;
        }
        let Some(entry) = frame::entry(room, row.offset, row.epoch, &row.body) else { continue };
        if row.offset > at + 1 {
            if !run.is_empty() {
                parts.push(Part::Run(std::mem::take(&mut run)));
            }
            parts.push(Part::Missing { from: at + 1, to: row.offset - 1, epoch: row.epoch });
        }
        at = row.offset;
        run.push(entry);
    }
    if !run.is_empty() {
        parts.push(Part::Run(run));
    }
    if at < top {
        let epoch = epoch_at(&facts.meta.lives, top);
        parts.push(Part::Missing { from: at + 1, to: top, epoch });
    }
    Filling { parts, lives: facts.meta.lives, from: have }
}

/// The same with what the archive has.
async fn filled(archive: &ArchiveThread, room: &RoomName, filling: Filling) -> Filling {
    let mut parts = Vec::with_capacity(filling.parts.len());
    for part in filling.parts {
        let Part::Missing { from, to, epoch } = part else {
            parts.push(part);
            continue;
        };
        let found = archive.run(room, from, to).await.unwrap_or_default();
        let run: Option<Vec<Entry>> =
            found.into_iter().map(|stored| entry_of(room, stored, &filling.lives)).collect();
        match run {
            Some(run) if !run.is_empty() => parts.push(Part::Run(run)),
            _ => parts.push(Part::Missing { from, to, epoch }),
        }
    }
    Filling { parts, ..filling }
}

/// An entry as it comes from an archive; none for an edit that a later one has replaced.
fn entry_of(room: &RoomName, stored: StoredEntry, lives: &Lives) -> Option<Entry> {
    Some(Entry {
        room: room.clone(),
        epoch: Epoch(epoch_at(lives, stored.offset)),
        offset: stored.offset,
        ts: stored.ts,
        kind: stored.kind,
        user: stored.user,
        id: None,
        of: stored.of,
        mark: None,
        off: false,
        line: stored.line?,
    })
}

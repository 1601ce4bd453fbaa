//! Answers questions about rooms: from Redis' history, where edits and deletions are folded in, and from the archive
//! for what is older. Each answer in a task of its own; started by the partition.

use std::rc::Rc;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};

use crate::chat::entry::{Entry, Kind};
use crate::chat::history::PageFrom;
use crate::chat::message::Offset;
use crate::chat::names::{RoomName, UserName};
use crate::engines::redis::archive::ArchiveThread;
use crate::engines::redis::folding::{Page, Shown, folded, newest, oldest};
use crate::engines::redis::keys::Keys;
use crate::engines::redis::life;
use crate::engines::redis::replies::{self};
use crate::engines::redis::world::World;
use crate::store::archive::{Answer, Question, StoredEntry, StoredRoom, StoredState};

/// What Redis knows of a room together with what the archive has of it.
pub async fn complete(
    archive: &ArchiveThread,
    room: &RoomName,
    mut stored: StoredRoom,
    tail: usize,
    tail_bytes: usize,
) -> Result<StoredRoom, String> {
    if stored.first <= 1 {
        return Ok(stored);
    }
    let Some(old) = archive.room(room).await? else { return Ok(stored) };
    stored.first = stored.first.min(old.first);
    let before = stored.tail.first().map_or(stored.top + 1, |entry| entry.offset);
    let bytes: usize = stored.tail.iter().filter_map(|entry| entry.line.as_ref()).map(Bytes::len).sum();
    let missing = tail.saturating_sub(stored.tail.len());
    if missing > 0 && before > stored.first && bytes < tail_bytes {
        let from = PageFrom::Before(before);
        let question = Question::Page { room: room.clone(), from, n: missing, bytes: tail_bytes - bytes };
        let (mut older, _) = archive.entries(question).await?;
        // An archive that is behind lacks what comes right before; the tail has no holes.
        if older.last().is_some_and(|entry| entry.offset + 1 == before) {
            older.append(&mut stored.tail);
            stored.tail = older;
        }
    }
    Ok(stored)
}

/// One question.
pub struct Reading {
    /// Where the history is.
    pub connection: MultiplexedConnection,
    /// The names of the partition.
    pub keys: Keys,
    /// The names of what is beside the logs.
    pub life: life::keys::Keys,
    /// See [`World`].
    pub world: Rc<World>,
}

impl Reading {
    /// Its answer.
    pub async fn answer(mut self, question: Question) -> Result<Answer, String> {
        match question {
            Question::Range { room, from, to, bytes } => {
                let (list, more) = self.after(&room, from.saturating_sub(1), to, usize::MAX, bytes).await?;
                Ok(Answer::Entries { list, more })
            }
            Question::Page { room, from, n, bytes } => {
                let (list, more) = match from {
                    PageFrom::After(offset) => self.after(&room, offset, u64::MAX, n, bytes).await?,
                    PageFrom::Before(offset) => self.before(&room, offset, n, bytes).await?,
                    PageFrom::Since(ts) => {
                        let first = self.since(&room, ts).await?;
                        self.after(&room, first.saturating_sub(1), u64::MAX, n, bytes).await?
                    }
                    PageFrom::Until(ts) => {
                        let first = self.since(&room, ts).await?;
                        self.before(&room, first, n, bytes).await?
                    }
                };
                Ok(Answer::Entries { list, more })
            }
            Question::Since { room, ts } => Ok(Answer::Offset(self.since(&room, ts).await?)),
            Question::Entry { room, offset, user } => {
                Ok(Answer::Entry(self.entry(&room, offset, user.as_ref()).await?))
            }
            Question::Find { .. } => match &self.world.archive {
                Some(archive) => archive.ask(question).await,
                None => Err("search needs an archive; set store.url = postgres://…".into()),
            },
            Question::Room { .. } => Err("a room is joined, not read".into()),
            Question::Session(session) => Ok(Answer::Session(self.session(&session).await?)),
            Question::RoomsOf { user, n } => Ok(Answer::RoomsOf(self.rooms_of(&user, n).await?)),
            Question::ReadMarks { room, n } => Ok(Answer::ReadMarks(self.read_marks(&room, n).await?)),
            Question::ReadMark { room, user } => Ok(Answer::ReadMark(self.read_mark(&room, &user).await?)),
            // The sources keep their dead letters themselves.
            Question::Dead { .. } => Ok(Answer::Dead(Vec::new())),
            Question::Rules => Err("rules are told, not asked for".into()),
            Question::Id { .. } | Question::Ids { .. } => {
                Err("ids are known to Redis alone; propose with the id instead".into())
            }
        }
    }

    /// The newest places of rooms; 0 for one that was never written to, or not for long.
    pub async fn tops(mut self, rooms: &[RoomName]) -> Result<Vec<Offset>, String> {
        let mut pipeline = redis::pipe();
        for room in rooms {
            pipeline.cmd("HGET").arg(self.keys.meta(room.as_str())).arg("s");
        }
        let tops: Vec<Option<Offset>> = pipeline.query_async(&mut self.connection).await.map_err(unread)?;
        let mut known = Vec::with_capacity(rooms.len());
        for (room, top) in rooms.iter().zip(tops) {
            known.push(match (top, &self.world.archive) {
                (Some(top), _) => top,
                (None, Some(archive)) => archive.room(room).await?.map_or(0, |stored| stored.top),
                (None, None) => 0,
            });
        }
        Ok(known)
    }

    /// The history from an offset on; its oldest place; the top of the room.
    async fn history(&mut self, room: &RoomName, from: Offset) -> Result<(Shown, Offset, Offset), String> {
        let name = room.as_str();
        let (history, meta) = (self.keys.history(name), self.keys.meta(name));
        let mut pipeline = redis::pipe();
        pipeline.cmd("XRANGE").arg(&history).arg("-").arg("+").arg("COUNT").arg(1);
        pipeline.cmd("XRANGE").arg(&history).arg(from.max(1)).arg("+");
        pipeline.cmd("HGETALL").arg(self.keys.changes(name));
        pipeline.cmd("HGET").arg(meta).arg("s");
        let (first, rows, changes, top): (Value, Value, Value, Option<u64>) =
            pipeline.query_async(&mut self.connection).await.map_err(unread)?;
        let top = top.unwrap_or(0);
        let first = replies::rows(first).map_err(unread)?.first().map_or(top + 1, |row| row.offset);
        let rows = replies::rows(rows).map_err(unread)?;
        let changes = replies::changes(changes).map_err(unread)?;
        let shown = folded(room, rows, &changes, self.world.lives(room).age_ms);
        let first = first.max(shown.first);
        Ok((shown, first, top))
    }

    /// The oldest entries behind an offset, up to another.
    async fn after(
        &mut self,
        room: &RoomName,
        after: Offset,
        to: Offset,
        n: usize,
        bytes: usize,
    ) -> Result<Page, String> {
        let (mut shown, first, top) = self.history(room, after.saturating_add(1)).await?;
        shown.list.retain(|entry| entry.offset <= to);
        let wanted_from_archive = after + 1 < first && after < top;
        let Some(archive) = self.world.archive.as_ref().filter(|_| wanted_from_archive) else {
            return Ok(oldest(shown.list, n, bytes));
        };
        let last = to.min(first - 1);
        let question = Question::Range { room: room.clone(), from: after + 1, to: last, bytes };
        let (mut list, more) = archive.entries(question).await?;
        if !more {
            has_all(archive, room, &list, last).await?;
            list.append(&mut shown.list);
        }
        let (list, cut) = oldest(list, n, bytes);
        Ok((list, more || cut))
    }

    /// The newest entries before an offset.
    async fn before(
        &mut self,
        room: &RoomName,
        before: Offset,
        n: usize,
        bytes: usize,
    ) -> Result<Page, String> {
        let (mut shown, first, top) = self.history(room, 1).await?;
        let before = before.min(top + 1);
        shown.list.retain(|entry| entry.offset < before);
        let (mut list, more) = newest(shown.list, n, bytes);
        let Some(archive) = self.world.archive.as_ref().filter(|_| !more && list.len() < n && first > 1)
        else {
            return Ok((list, more));
        };
        let used: usize = list.iter().filter_map(|entry| entry.line.as_ref()).map(Bytes::len).sum();
        if used >= bytes {
            return Ok((list, true));
        }
        let (before, n) = (first.min(before), n - list.len());
        let from = PageFrom::Before(before);
        let question = Question::Page { room: room.clone(), from, n, bytes: bytes - used };
        let (mut older, more) = archive.entries(question).await?;
        has_all(archive, room, &older, before.saturating_sub(1)).await?;
        older.append(&mut list);
        Ok((older, more))
    }

    /// The first place whose entry is not older than a time; `top + 1` for none.
    async fn since(&mut self, room: &RoomName, ts: u64) -> Result<Offset, String> {
        let (shown, first, top) = self.history(room, 1).await?;
        let found = shown.list.iter().find(|entry| entry.ts >= ts).map(|entry| entry.offset);
        let reaches_back = first <= 1 || shown.list.first().is_some_and(|entry| entry.ts < ts);
        match &self.world.archive {
            Some(archive) if !reaches_back => {
                let answer = archive.ask(Question::Since { room: room.clone(), ts }).await?;
                let Answer::Offset(offset) = answer else {
                    return Err("the archive gave an answer of another kind than was asked for".into());
                };
                // It may be behind: what it does not have yet is in the history.
                Ok(offset.min(found.unwrap_or(top + 1)))
            }
            _ => Ok(found.unwrap_or(top + 1)),
        }
    }

    async fn entry(
        &mut self,
        room: &RoomName,
        offset: Offset,
        user: Option<&UserName>,
    ) -> Result<Option<StoredState>, String> {
        let (shown, ..) = self.history(room, offset).await?;
        let is_there = shown.states.first().filter(|entry| entry.offset == offset);
        let mut state = match (is_there, &self.world.archive) {
            (Some(entry), _) => StoredState {
                kind: entry.kind,
                user: entry.user.clone(),
                deleted: false,
                edited: 0,
                reactions: Vec::new(),
            },
            (None, Some(archive)) => {
                let question = Question::Entry { room: room.clone(), offset, user: user.cloned() };
                match archive.ask(question).await? {
                    Answer::Entry(Some(state)) => state,
                    Answer::Entry(None) => return Ok(None),
                    _ => return Err("the archive gave an answer of another kind than was asked for".into()),
                }
            }
            (None, None) => return Ok(None),
        };
        shown
            .states
            .iter()
            .filter(|entry| entry.of == offset)
            .for_each(|change| take(&mut state, change, user));
        Ok(Some(state))
    }
}

/// Whether a list from the archive reaches up to a place. If not, the archive has forgotten everything up to there, or
/// does not have it yet; then the list must not pass for all there is.
async fn has_all(
    archive: &ArchiveThread,
    room: &RoomName,
    list: &[StoredEntry],
    last: Offset,
) -> Result<(), String> {
    match list.last() {
        Some(entry) if entry.offset == last => return Ok(()),
        None if last == 0 || archive.room(room).await?.is_some_and(|stored| stored.first > last) => {
            return Ok(());
        }
        _ => {}
    }
    Err("the archive does not have everything yet; try again".into())
}

/// For people.
pub fn unread(error: RedisError) -> String {
    format!("Redis cannot be read: {error}")
}

/// What a later entry makes of one.
fn take(state: &mut StoredState, change: &Entry, user: Option<&UserName>) {
    match change.kind {
        Kind::Edit => state.edited = state.edited.max(change.offset),
        Kind::Delete => state.deleted = true,
        Kind::React if change.user.as_ref() == user => {
            let mark: Box<str> = change.mark.as_deref().unwrap_or("").into();
            state.reactions.retain(|(old, ..)| *old != mark);
            state.reactions.push((mark, !change.off, change.offset));
        }
        Kind::React | Kind::Message => {}
    }
}

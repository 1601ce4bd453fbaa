//! The start: what the engine has kept and its archive does not have yet goes back into the rooms, exactly as it
//! was before the process ended.

use std::collections::HashMap;

use actix::Addr;
use ahash::RandomState;
use std::sync::Arc;

use super::ChatServer;
use super::Opening;
use super::fetching;
use super::keeping::{Change, Link};
use crate::actors::letters::{FromEngine, FromService};
use crate::chat::data::Data;
use crate::chat::dedup::Seen;
use crate::chat::entry::{Entry, Kind};
use crate::chat::history::Hot;
use crate::chat::line;
use crate::chat::message::{Epoch, Offset};
use crate::chat::names::RoomName;
use crate::chat::room::Past;
use crate::chat::rooms::RoomKey;
use crate::engines::engine::EngineSays;
use crate::engines::shared::Says;
use crate::protocols::websocket::frame::payload_of;
use crate::store::archive::StoredRoom;
use crate::store::record::{Item, Record};

impl ChatServer {
    /// Puts back what the archive does not have yet.
    pub(super) fn restore(&mut self) {
        let Some(Opening::Store(opened)) = &mut self.opened else { return self.rooms.begin() };
        let replay = std::mem::take(&mut opened.replay);
        let rules = std::mem::take(&mut opened.rules);
        let mut known: HashMap<RoomName, Option<StoredRoom>, RandomState> =
            std::mem::take(&mut opened.rooms).into_iter().collect();
        self.rooms.note_archived(replay.first().map_or(opened.next, |item| item.lsn) - 1);
        rules.into_iter().for_each(|rules| self.restore_rules(rules));
        for item in replay {
            match item {
                Item { lsn, record: Record::Entry(entry), .. } => {
                    self.restore_entry(lsn, entry, &mut known);
                }
                Item { lsn, record: Record::Seen(seen), .. } => {
                    let Some(key) = self.restore_room(&seen.room, None, &mut known) else { continue };
                    let id = self.keys.key(seen.user.as_ref(), &seen.id);
                    self.rooms.add_id(key, id, Seen { offset: 0, ts: seen.ts });
                    self.rooms.get_mut(key).note_record(lsn);
                }
                Item { record: Record::Read(mark), .. } => {
                    if let Some(key) = self.rooms.find(&mark.room) {
                        self.rooms.get_mut(key).reads.marks.insert(mark.user, mark.offset);
                    }
                }
                Item { record: Record::Rules(rules), .. } => self.restore_rules(rules),
                // Whoever asks for them waits until the archive has them.
                _ => {}
            }
        }
        self.rooms.begin();
    }

    fn restore_entry(
        &mut self,
        lsn: u64,
        entry: Entry,
        known: &mut HashMap<RoomName, Option<StoredRoom>, RandomState>,
    ) {
        let begins = (entry.epoch, entry.offset);
        let Some(key) = self.restore_room(&entry.room, Some(begins), known) else { return };
        let room = self.rooms.get(key);
        if entry.offset != room.next_offset() {
            // A record between them was damaged; the store has told which. The archive keeps what there is.
            log::error!("store: offset {} follows {} in a room", entry.offset, room.next_offset() - 1);
            return;
        }
        self.rooms.get_mut(key).begin_life(entry.epoch, entry.offset);
        let id = entry.id.as_ref().map(|id| self.keys.key(entry.user.as_ref(), id));
        let id = id.filter(|id| !self.rooms.get(key).knows_id(*id));
        self.rooms.promise(key, entry.ts, lsn, id);
        let frame = super::text_frame(&entry.line);
        let offset = self.rooms.show(key, Hot { ts: entry.ts, lsn, frame });
        let data = match entry.kind {
            Kind::Edit => line::data_of(&entry.line).map(<[u8]>::to_vec),
            _ => None,
        };
        if matches!(entry.kind, Kind::Edit | Kind::Delete) {
            let raw = data.as_deref().and_then(|data| serde_json::from_slice(data).ok());
            let data = raw.and_then(|raw| Data::new(raw).ok());
            let replaces = self.edit_before(key, entry.of, offset);
            self.change_hot(key, offset, &Change { of: entry.of, data, replaces });
        }
    }

    /// The room of a record; opened as the archive knows it, or as a life that begins with this record.
    fn restore_room(
        &mut self,
        name: &RoomName,
        begins: Option<(Epoch, Offset)>,
        known: &mut HashMap<RoomName, Option<StoredRoom>, RandomState>,
    ) -> Option<RoomKey> {
        if let Some(key) = self.rooms.find(name) {
            return Some(key);
        }
        let past = match known.remove(name).flatten() {
            Some(room) => Some(self.past_of(name, room)),
            None => begins.map(|(epoch, offset)| Past {
                lives: vec![(epoch, offset)],
                top: offset - 1,
                first: offset,
                tail: Vec::new(),
            }),
        };
        let opened = self.open_room(name, past);
        if opened.is_err() {
            log::error!("store: limits.rooms is too low for the rooms that were in use; raise it");
        }
        opened.ok()
    }

    /// The hot edit of the same message before this one; 0 for none.
    pub(super) fn edit_before(&self, key: RoomKey, of: Offset, offset: Offset) -> Offset {
        #[derive(serde::Deserialize)]
        struct Edit {
            of: Offset,
        }
        let history = &self.rooms.get(key).history;
        if let Some(message) = history.get(of) {
            // It tells itself which edit it has the words of.
            return fetching::state_of(payload_of(message), false).map_or(0, |state| state.edited);
        }
        let is_edit = |at: &Offset| {
            let line = history.get(*at).map(|frame| payload_of(frame));
            let line = line.filter(|line| line.starts_with(br#"{"t":"edit","#));
            line.is_some_and(|line| serde_json::from_slice::<Edit>(line).is_ok_and(|edit| edit.of == of))
        };
        (history.first()..offset).rev().find(is_edit).unwrap_or(0)
    }

    /// Starts the engine, which tells this actor what happens.
    pub(super) fn start_engine(&mut self, address: &Addr<ChatServer>) {
        let started = match self.opened.take() {
            None => return,
            Some(Opening::Store(opened)) => {
                let address = address.clone().recipient();
                let sink = Arc::new(move |says: EngineSays| address.do_send(FromEngine(says)));
                (opened.start)(sink).map(Link::Store)
            }
            Some(Opening::Service(start)) => {
                let address = address.clone().recipient();
                self.keeping.note_service(Some("Redis has not been reached yet".into()));
                start(Arc::new(move |says: Says| address.do_send(FromService(says)))).map(Link::Service)
            }
        };
        match started {
            Ok(link) => self.keeping.link = link,
            // Going on without a store would break what was promised.
            Err(error) => {
                log::error!("store: {error}");
                std::process::exit(1);
            }
        }
    }
}

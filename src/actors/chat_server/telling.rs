//! What an application's backend hears of sessions. Where the engine keeps records, these go into its journal among
//! the entries, so that their order is that in which things happened; else they go through a tap, with the entries.

use super::keeping::Then;
use super::{ChatServer, Seat};
use crate::actors::letters::ConnectionId;
use crate::chat::message::Epoch;
use crate::clock;
use crate::store::record::{Happened, Record, SessionEvent};

/// Takes records that no engine keeps for the backend.
pub type Tap = Box<dyn FnMut(Record) + Send>;

/// Which events the backend wants to hear, and how they get there.
#[derive(Default)]
pub struct Telling {
    /// Beginnings of sessions.
    pub opens: bool,
    /// Ends of sessions.
    pub closes: bool,
    /// Broken connections.
    pub errors: bool,
    /// Takes records where the engine's journal does not.
    pub tap: Option<Tap>,
    /// Tells the sessions of this process from those of others; see [`Telling::new`].
    pub run: u64,
}

impl Telling {
    /// Nothing is told yet, by a process that begins.
    pub fn new() -> Telling {
        Telling { run: rand::random(), ..Telling::default() }
    }

    fn wants(&self, what: &Happened) -> bool {
        match what {
            Happened::Opened(_) => self.opens || self.closes,
            Happened::Closed(_) => self.closes,
            Happened::Failed(_) => self.errors,
        }
    }

    fn session(&self, connection: ConnectionId) -> Box<str> {
        let ConnectionId { worker, slot, generation } = connection;
        format!("{}-{worker}-{slot}-{generation}", Epoch(self.run).to_text()).into()
    }
}

impl ChatServer {
    /// Has a backend told of what happens.
    pub fn telling(mut self, telling: Option<Telling>) -> ChatServer {
        if let Some(telling) = &telling {
            self.traces.name_by(telling.run);
        }
        self.telling = telling;
        self
    }

    /// Something has happened to a session.
    pub(super) fn tell_backend(&mut self, connection: ConnectionId, what: impl FnOnce() -> Happened) {
        let Some(telling) = &self.telling else { return };
        let Some(Seat::Session { identity, .. }) = self.seat(connection) else { return };
        let what = what();
        if !telling.wants(&what) {
            return;
        }
        let (session, user, ts) = (telling.session(connection), identity.user.clone(), clock::wall_ms());
        let record = Record::Event(SessionEvent { session, user, ts, what });
        if let Some(tap) = self.telling.as_mut().and_then(|telling| telling.tap.as_mut()) {
            return tap(record);
        }
        // It has happened whether it is kept or not, so it is tried again should the disk fail.
        let again = record.clone();
        let lsn = self.keeping.record(record, false);
        self.when(lsn, Then::Keep(Box::new(again), Default::default()));
    }

    /// An entry has its place, and no engine keeps it.
    pub(super) fn tap(&mut self, record: &Record) {
        if let Some(tap) = self.telling.as_mut().and_then(|telling| telling.tap.as_mut()) {
            tap(record.clone());
        }
    }
}

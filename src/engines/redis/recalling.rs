//! What stands beside the logs and Redis does not know (any more): the archive is asked, and Redis gets it back. What Redis
//! knows costs no question there. Called by the tasks that answer questions.

use std::time::Duration;

use tokio::time::timeout;

use crate::chat::message::Offset;
use crate::chat::names::{RoomName, UserName};
use crate::engines::redis::archive::ArchiveThread;
use crate::engines::redis::life::notes::{self, ROOMS_PER_USER};
use crate::engines::redis::life::recalls::{self, Known};
use crate::engines::redis::reading::{Reading, unread};
use crate::store::archive::{Answer, Question, UserRoom};
use crate::store::record::SessionNote;

/// Most read marks of a room that come back at once; of more, each when it is asked for.
const MARKS_MAX: usize = 5_000;
/// How long somebody who enters a room waits for read marks from the archive.
const MARKS_WAIT: Duration = Duration::from_secs(2);

impl Reading {
    fn archive(&self) -> Option<ArchiveThread> {
        self.world.archive.clone()
    }

    /// Where a session stood. An archive that is away is an error: a session that is gone is another matter.
    pub(super) async fn session(&mut self, name: &str) -> Result<Option<SessionNote>, String> {
        let known = notes::session(&mut self.connection, &self.life, name).await.map_err(unread)?;
        let (None, Some(archive)) = (&known, self.archive()) else { return Ok(known) };
        let Answer::Session(found) = archive.ask(Question::Session(name.into())).await? else {
            return Err(other_answer());
        };
        let Some(note) = found else { return Ok(None) };
        // What came meanwhile is newer, and stays.
        let list = std::slice::from_ref(&note);
        notes::note_sessions(&mut self.connection, &self.life, list, 0).await.map_err(unread)?;
        let known = notes::session(&mut self.connection, &self.life, name).await.map_err(unread)?;
        Ok(known.or(Some(note)))
    }

    /// The newest read marks of a room. If the archive is away, those that Redis has: people come in all the same.
    pub(super) async fn read_marks(
        &mut self,
        room: &RoomName,
        n: usize,
    ) -> Result<Vec<(UserName, Offset)>, String> {
        let read = recalls::read_marks(&mut self.connection, &self.life, room, n).await;
        let (list, known) = read.map_err(unread)?;
        if known != Known::Some || !self.recall_marks(room).await? {
            return Ok(list);
        }
        let read = recalls::read_marks(&mut self.connection, &self.life, room, n).await;
        Ok(read.map_err(unread)?.0)
    }

    /// How far a user has read; 0 for nothing.
    pub(super) async fn read_mark(&mut self, room: &RoomName, user: &UserName) -> Result<Offset, String> {
        let read = recalls::read_mark(&mut self.connection, &self.life, room, user).await;
        let (mut mark, mut known) = read.map_err(unread)?;
        if known == Known::Some && self.recall_marks(room).await? {
            let read = recalls::read_mark(&mut self.connection, &self.life, room, user).await;
            (mark, known) = read.map_err(unread)?;
        }
        if mark.is_none() && known == Known::Newest {
            let question = Question::ReadMark { room: room.clone(), user: user.clone() };
            if let Some(Answer::ReadMark(offset)) = self.ask_in_passing(question).await {
                let marks = [(user.clone(), offset)];
                let put =
                    recalls::put_marks(&mut self.connection, &self.life, room, &marks, Known::Some).await;
                put.map_err(unread)?;
                mark = Some(offset);
            }
        }
        Ok(mark.unwrap_or(0))
    }

    /// Brings the read marks of a room back. Whether that could be done.
    async fn recall_marks(&mut self, room: &RoomName) -> Result<bool, String> {
        let question = Question::ReadMarks { room: room.clone(), n: MARKS_MAX };
        let Some(Answer::ReadMarks(marks)) = self.ask_in_passing(question).await else { return Ok(false) };
        let known = if marks.len() < MARKS_MAX { Known::All } else { Known::Newest };
        let put = recalls::put_marks(&mut self.connection, &self.life, room, &marks, known).await;
        put.map_err(unread)?;
        Ok(true)
    }

    /// Asks the archive what can be done without. After a failure it is left alone for a while.
    async fn ask_in_passing(&self, question: Question) -> Option<Answer> {
        let archive = self.archive().filter(|_| self.world.may_recall())?;
        match timeout(MARKS_WAIT, archive.ask(question)).await {
            Ok(Ok(answer)) => Some(answer),
            failed => {
                let why = failed.map_or_else(
                    |_| format!("no answer within {} s", MARKS_WAIT.as_secs()),
                    |failed| failed.err().unwrap_or_default(),
                );
                self.world.recall_failed(&why);
                None
            }
        }
    }

    /// The rooms of a user. An archive that is away is an error: a part of them must not pass for all.
    pub(super) async fn rooms_of(&mut self, user: &UserName, n: usize) -> Result<Vec<UserRoom>, String> {
        let read = recalls::rooms_of(&mut self.connection, &self.life, user, n).await;
        let (list, known) = read.map_err(unread)?;
        let (Known::Some, Some(archive)) = (known, self.archive()) else { return Ok(list) };
        let question = Question::RoomsOf { user: user.clone(), n: ROOMS_PER_USER };
        let Answer::RoomsOf(rooms) = archive.ask(question).await? else { return Err(other_answer()) };
        let put = recalls::put_rooms(&mut self.connection, &self.life, user, &rooms).await;
        put.map_err(unread)?;
        let read = recalls::rooms_of(&mut self.connection, &self.life, user, n).await;
        Ok(read.map_err(unread)?.0)
    }
}

fn other_answer() -> String {
    "the archive gave an answer of another kind than was asked for".into()
}

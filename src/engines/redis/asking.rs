//! Puts the answers to an ask together from the partitions and the archive that know them, and sees to it that a room's
//! entries follow its answer. Runs on the engine's thread, one task per ask.

use std::rc::Rc;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::chat::names::RoomName;
use crate::engines::engine::Ask;
use crate::engines::redis::keys::partition_of;
use crate::engines::redis::partition::Letter;
use crate::engines::redis::world::World;
use crate::engines::shared::Says;
use crate::store::archive::{Answer, Question, StoredRoom};

/// The partitions' letter boxes.
pub type Boxes = Rc<Vec<UnboundedSender<Letter>>>;

/// One part of an answer that is on its way.
enum Part {
    Room(oneshot::Receiver<Result<StoredRoom, String>>),
    Read(oneshot::Receiver<Result<Answer, String>>),
}

/// Asks all questions at once and tells the answers together.
pub async fn ask(world: Rc<World>, boxes: Boxes, ask: Ask) {
    let mut joined = Vec::new();
    let parts: Vec<Part> =
        ask.questions.into_iter().map(|question| send(&boxes, question, &mut joined)).collect();
    let mut answers = Ok(Vec::with_capacity(parts.len()));
    for part in parts {
        let gone = |_| "the engine ends".to_owned();
        let answer = match part {
            Part::Room(room) => {
                room.await.map_err(gone).and_then(|room| room).map(|room| Answer::Room(Some(room)))
            }
            Part::Read(answer) => answer.await.map_err(gone).and_then(|answer| answer),
        };
        // All are waited for, so that what was joined is known to be joined.
        match (&mut answers, answer) {
            (Ok(list), Ok(answer)) => list.push(answer),
            (Ok(_), Err(why)) => answers = Err(why),
            (Err(_), _) => {}
        }
    }
    let failed = answers.is_err();
    world.say(Says::Answered { ticket: ask.ticket, answers });
    for room in joined {
        let at = &boxes[partition_of(&room, boxes.len() as u32)];
        // What nobody was told of, nobody wants to hear of.
        let letter = if failed { Letter::Leave(vec![room]) } else { Letter::Told(vec![room]) };
        // A partition that is gone tells nothing more anyway.
        at.send(letter).ok();
    }
}

fn send(boxes: &Boxes, question: Question, joined: &mut Vec<RoomName>) -> Part {
    let room = room_of(&question).cloned();
    let at = &boxes[room.as_ref().map_or(0, |room| partition_of(room, boxes.len() as u32))];
    match question {
        Question::Room { room, tail, tail_bytes } => {
            let (reply, answer) = oneshot::channel();
            joined.push(room.clone());
            // The answer tells that the partition is gone.
            at.send(Letter::Join { room, tail, tail_bytes, reply }).ok();
            Part::Room(answer)
        }
        question => {
            let (reply, answer) = oneshot::channel();
            at.send(Letter::Read { question, reply }).ok();
            Part::Read(answer)
        }
    }
}

/// The room that a question is about.
fn room_of(question: &Question) -> Option<&RoomName> {
    match question {
        Question::Room { room, .. }
        | Question::Range { room, .. }
        | Question::Page { room, .. }
        | Question::Since { room, .. }
        | Question::Entry { room, .. }
        | Question::Id { room, .. }
        | Question::Ids { room, .. }
        | Question::Find { room, .. }
        | Question::ReadMarks { room, .. }
        | Question::ReadMark { room, .. } => Some(room),
        Question::Session(_) | Question::RoomsOf { .. } | Question::Dead { .. } => None,
    }
}

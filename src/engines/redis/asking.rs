//! Puts the answers to an ask together from the partitions and the archive that know them, and sees to it that a room's
//! entries follow its answer. Runs on the engine's thread, one task per ask.

use std::rc::Rc;

use ahash::AHashMap;
use tokio::sync::oneshot;

use crate::chat::names::RoomName;
use crate::engines::engine::Ask;
use crate::engines::redis::keys::partition_of;
use crate::engines::redis::letters::{Asked, Letter};
use crate::engines::redis::world::World;
use crate::engines::shared::Says;
use crate::store::archive::{Answer, Question, StoredRoom, UserRoom};

/// One part of an answer that is on its way.
enum Part {
    Room(oneshot::Receiver<Result<StoredRoom, String>>),
    Read(oneshot::Receiver<Result<Answer, String>>),
}

impl Part {
    async fn answer(self, world: &World) -> Result<Answer, String> {
        let answer = match self {
            Part::Room(room) => room.await.map_err(gone)?.map(|room| Answer::Room(Some(room)))?,
            Part::Read(answer) => answer.await.map_err(gone)??,
        };
        match answer {
            Answer::RoomsOf(mut rooms) => {
                add_tops(world, &mut rooms).await?;
                Ok(Answer::RoomsOf(rooms))
            }
            answer => Ok(answer),
        }
    }
}

/// The engine has ended before there was an answer.
pub fn gone(_: oneshot::error::RecvError) -> String {
    "the engine ends".into()
}

/// Asks all questions at once and tells the answers together.
pub async fn ask(world: Rc<World>, ask: Ask) {
    let mut joined = Vec::new();
    let parts: Vec<Part> =
        ask.questions.into_iter().map(|question| send(&world, question, &mut joined)).collect();
    let mut answers = Ok(Vec::with_capacity(parts.len()));
    for part in parts {
        // All are waited for, so that what was joined is known to be joined.
        match (&mut answers, part.answer(&world).await) {
            (Ok(list), Ok(answer)) => list.push(answer),
            (Ok(_), Err(why)) => answers = Err(why),
            (Err(_), _) => {}
        }
    }
    let failed = answers.is_err();
    world.say(Says::Answered { ticket: ask.ticket, answers });
    for room in joined {
        let rooms = vec![room.clone()];
        let letter = if failed { Letter::Untold(rooms) } else { Letter::Told(rooms) };
        world.post(room.as_str(), letter);
    }
}

fn send(world: &World, question: Question, joined: &mut Vec<RoomName>) -> Part {
    if let Question::Room { room, tail, tail_bytes } = question {
        let (reply, answer) = oneshot::channel();
        joined.push(room.clone());
        let name = room.clone();
        world.post(name.as_str(), Letter::Join { room, tail, tail_bytes, reply });
        return Part::Room(answer);
    }
    let (reply, answer) = oneshot::channel();
    let at = partition_of(name_of(&question), world.partitions() as u32);
    world.post_at(at, Letter::Read(Asked::Question(question, reply)));
    Part::Read(answer)
}

/// The name whose partition knows the answer.
fn name_of(question: &Question) -> &str {
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
        | Question::ReadMark { room, .. } => room.as_str(),
        Question::Session(session) => session,
        Question::RoomsOf { user, .. } => user.as_str(),
        Question::Dead { .. } | Question::Rules => "",
    }
}

/// A user's partition does not know where her rooms are; their own partitions do.
async fn add_tops(world: &World, rooms: &mut [UserRoom]) -> Result<(), String> {
    let mut asked: AHashMap<usize, Vec<usize>> = AHashMap::new();
    for (at, room) in rooms.iter().enumerate() {
        asked.entry(partition_of(room.room.as_str(), world.partitions() as u32)).or_default().push(at);
    }
    let mut answers = Vec::with_capacity(asked.len());
    for (partition, places) in asked {
        let (reply, answer) = oneshot::channel();
        let names = places.iter().map(|at| rooms[*at].room.clone()).collect();
        world.post_at(partition, Letter::Read(Asked::Tops(names, reply)));
        answers.push((places, answer));
    }
    for (places, answer) in answers {
        let tops = answer.await.map_err(gone)??;
        places.into_iter().zip(tops).for_each(|(at, top)| rooms[at].top = top);
    }
    Ok(())
}

//! The hub by itself, with real sockets. Letters come from a model of the chat server that leads on whoever is
//! behind; readers read fast, slowly or not at all, and every reader's stream has to be exact.

use std::task::Waker;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::actors::connection::Life;
use crate::actors::letters::Report;
use crate::protocols::websocket::frame::{Opcode, encode_frame};

mod model;
mod reader;

use model::{Model, ROOMS};
use reader::Reader;

const LIMITS: HubLimits = HubLimits { outbox_bytes: 64 << 10, outbox_age_ms: 30_000, ping_ms: 25_000 };

fn new_core() -> Core {
    Core::new(0, LIMITS, Arc::default())
}

fn text(words: &str) -> Bytes {
    let mut frame = bytes::BytesMut::new();
    encode_frame(&mut frame, Opcode::Text, words.as_bytes());
    frame.freeze()
}

/// What the readers' tasks do: write on where the kernel takes bytes again.
async fn write_on(core: &mut Core, connections: &[SharedConnection]) {
    tokio::task::yield_now().await;
    for connection in connections {
        let mut cx = Context::from_waker(Waker::noop());
        let ready = {
            let open = connection.borrow();
            open.outbox.is_blocked() && open.poll_write_ready(&mut cx).is_ready()
        };
        if ready {
            core.writable(connection);
        }
    }
}

/// A room's letters for its member `connection`, with the place of the last entry.
fn join(connection: &SharedConnection, room: RoomKey, stay: u32, after: Offset, slow: SlowReader) -> ToHub {
    ToHub::Joined { connection: connection.borrow().id, room, stay, frames: Vec::new(), after, slow }
}

fn say(room: RoomKey, last: Offset, bytes: usize) -> ToHub {
    ToHub::Deliver {
        room,
        frames: text(&"x".repeat(bytes)),
        count: 1,
        last,
        except: None,
        span: Default::default(),
    }
}

/// Runs random letters and reads, then lets everybody catch up.
async fn play(seed: u64, readers: usize, steps: usize) -> Model {
    let mut random = StdRng::seed_from_u64(seed);
    let mut model = Model::new(readers);
    for _ in 0..steps {
        model.step(&mut random).await;
    }
    let end = tokio::time::timeout(Duration::from_secs(60), model.come_to_rest()).await;
    assert!(end.is_ok(), "seed {seed}: somebody never caught up: {model:?}");
    model
}

#[tokio::test]
async fn every_stream_is_exact_whoever_stalls_falls_behind_leaves_and_comes_back() {
    let mut cut = [0; ROOMS];
    let mut closed = 0;
    for seed in 0..40 {
        let model = play(seed, 2 + seed as usize % 5, 1_500).await;
        model.check_streams(seed);
        model.check_figures(seed);
        cut.iter_mut().zip(model.cut).for_each(|(all, this)| *all += this);
        closed += model.closed;
    }
    // The story was told: lanes were cut where rooms allow it, and nowhere else, and readers were closed.
    assert!(cut[..ROOMS - 1].iter().all(|n| *n > 50), "{cut:?}");
    assert_eq!(cut[ROOMS - 1], 0);
    assert!(closed > 5, "{closed}");
}

#[tokio::test]
async fn what_a_watch_waits_for_is_what_was_there_before_it() {
    let mut core = new_core();
    let mut reader = Reader::attach(&mut core, 0);
    let connection = reader.connection.clone();
    let id = connection.borrow().id;
    core.carry_out(ToHub::Watch { connection: id });
    assert_eq!(core.take_reports(), [Report::Drained { connection: id }], "nothing waits");
    core.carry_out(ToHub::Feed { connection: id, frames: Vec::new() });
    assert_eq!(core.take_reports(), [Report::Drained { connection: id }]);

    let piece: Vec<Bytes> = (0..500).map(|n| text(&format!("d {n} {}", "x".repeat(2_000)))).collect();
    core.carry_out(ToHub::Feed { connection: id, frames: piece.clone() });
    core.carry_out(ToHub::Watch { connection: id });
    core.carry_out(ToHub::Feed { connection: id, frames: piece });
    core.flush();
    assert_eq!(core.take_reports(), [], "the kernel does not take a megabyte");
    assert_eq!(connection.borrow().outbox.own_bytes(), 0, "fed frames cost the reader nothing");
    let mut reports = Vec::new();
    while reports.len() < 3 {
        let left = connection.borrow().outbox.frames();
        reports.extend(core.take_reports());
        assert_eq!(reports.len() >= 2, left <= 500, "after the first piece, {left} frames wait");
        reader.read(20_000);
        write_on(&mut core, std::slice::from_ref(&connection)).await;
    }
    assert!(connection.borrow().outbox.is_empty());
    reader.read_all();
    assert!(core.find(id).is_some());
    core.detach(&connection);
    core.carry_out(ToHub::Watch { connection: id });
    core.carry_out(ToHub::Feed { connection: id, frames: vec![text("late")] });
    assert_eq!(core.take_reports(), [], "who is gone drains nothing");
}

#[tokio::test]
async fn a_reader_that_is_behind_is_closed_when_it_takes_nothing_and_not_when_it_is_slow() {
    let age_ms = LIMITS.outbox_age_ms;
    // Enough that the kernel does not take it all at once.
    let mut core = Core::new(0, HubLimits { outbox_bytes: 2 << 20, ..LIMITS }, Arc::default());
    let mut reader = Reader::attach(&mut core, 0);
    let connection = reader.connection.clone();
    let room = RoomKey(0);
    core.carry_out(join(&connection, room, 1, 0, SlowReader::Wait));
    let mut last = 0;
    while core.reports.is_empty() {
        last += 1;
        core.carry_out(say(room, last, 5_000));
        core.flush();
    }
    let cut = Report::Behind { connection: connection.borrow().id, room, stay: 1, after: last - 1 };
    assert_eq!(core.take_reports(), [cut]);
    assert_eq!(core.counters().lanes_cut.get(), 1);

    // Two looks, half of the patience apart each, with a little reading between them.
    for _ in 0..2 {
        core.began -= Duration::from_millis(age_ms / 2 + 1_000);
        let before = core.counters().socket_bytes_out.get();
        while core.counters().socket_bytes_out.get() == before {
            reader.read(4_000);
            write_on(&mut core, std::slice::from_ref(&connection)).await;
        }
    }
    let now = core.now_ms();
    let mut open = connection.borrow_mut();
    assert!(open.outbox.stuck_since_ms().is_some_and(|since| since + age_ms < now), "its frames are old");
    assert!(core.look_at(&mut open, now).is_some_and(|next| next > now));
    assert!(open.is_open(), "it took bytes");
    core.look_at(&mut open, now + age_ms);
    assert!(matches!(&open.life, Life::Closing { goodbye, .. } if goodbye.code == 4202), "it took none");
}

#[tokio::test]
async fn who_has_caught_up_gets_the_usual_time_from_then_on() {
    let age_ms = LIMITS.outbox_age_ms;
    let mut core = new_core();
    let reader = Reader::attach(&mut core, 0);
    let connection = reader.connection.clone();
    let (slow, other) = (RoomKey(0), RoomKey(1));
    core.carry_out(join(&connection, slow, 1, 0, SlowReader::Gap));
    core.carry_out(join(&connection, other, 1, 0, SlowReader::Close));
    let mut last = 0;
    while core.reports.is_empty() {
        last += 1;
        core.carry_out(say(slow, last, 5_000));
        core.flush();
    }
    core.began -= Duration::from_millis(2 * age_ms);
    core.carry_out(join(&connection, slow, 2, last, SlowReader::Gap));
    let now = core.now_ms();
    let mut open = connection.borrow_mut();
    core.look_at(&mut open, now + age_ms - 1_000);
    assert!(open.is_open());
    core.look_at(&mut open, now + age_ms);
    assert!(!open.is_open());
}

#[tokio::test]
async fn who_reads_what_waits_is_not_silent() {
    let mut core = new_core();
    let mut reader = Reader::attach(&mut core, 0);
    let connection = reader.connection.clone();
    let id = connection.borrow().id;
    let piece = (0..200).map(|n| text(&format!("d {n} {}", "x".repeat(5_000)))).collect();
    core.carry_out(ToHub::Feed { connection: id, frames: piece });
    core.flush();
    core.began -= Duration::from_millis(3 * LIMITS.ping_ms);
    while !connection.borrow().outbox.is_empty() {
        reader.read_all();
        write_on(&mut core, std::slice::from_ref(&connection)).await;
    }
    let now = core.now_ms();
    let mut open = connection.borrow_mut();
    core.look_at(&mut open, now);
    assert!(open.is_open(), "it has said nothing for three pings, and was asked for nothing");
    assert_eq!(core.tally.pings, 1);
    core.look_at(&mut open, now + 2 * LIMITS.ping_ms);
    assert!(matches!(&open.life, Life::Closing { goodbye, .. } if goodbye.code == 4201));
}

#[test]
fn a_member_costs_little() {
    assert!(size_of::<Member>() <= 16);
    assert!(size_of::<LocalRoom>() <= 80);
    // One room stands in the connection itself.
    assert!(size_of::<crate::actors::connection::Membership>() <= 16);
}

#[tokio::test]
async fn members_that_come_and_are_cut_while_a_large_room_is_written_do_not_disturb_the_others() {
    let mut core = new_core();
    let room = RoomKey(0);
    let mut readers: Vec<Reader> = (0..100).map(|n| Reader::attach(&mut core, n)).collect();
    let all: Vec<SharedConnection> = readers.iter().map(|reader| reader.connection.clone()).collect();
    // When each of them came. Every third reads.
    let mut came = Vec::new();
    for connection in &all[..12] {
        core.carry_out(join(connection, room, 1, 0, SlowReader::Wait));
        came.push(0);
    }
    let (mut last, mut cut) = (0, 0);
    while cut < all.len() - all.len().div_ceil(3) {
        last += 1;
        core.carry_out(say(room, last, 5_000));
        // In slices of two; each time somebody comes between the first two of them.
        while !core.write_room(room, 2) {
            if let Some(newcomer) = all.get(came.len()).filter(|_| came.len() < 12 + last as usize) {
                core.carry_out(join(newcomer, room, 1, last, SlowReader::Wait));
                came.push(last);
            }
        }
        core.flush();
        write_on(&mut core, &all).await;
        readers.iter_mut().step_by(3).for_each(Reader::read_all);
        for report in core.take_reports() {
            let Report::Behind { after, .. } = report else { panic!("{report:?}") };
            assert_eq!(after, last - 1);
            cut += 1;
        }
        let mut live = 0;
        for (n, connection) in all[..came.len()].iter().enumerate() {
            let at = core.index_in(connection.borrow().id, room);
            assert!(n % 3 > 0 || at.is_some(), "a reader that reads is never cut");
            if let Some(at) = at {
                live += 1;
                assert_eq!(core.rooms[0].members[at].slot, connection.borrow().id.slot);
            }
        }
        assert_eq!(core.rooms[0].members.len(), live);
    }
    assert_eq!(came.len(), all.len());
    for (reader, came) in readers.iter_mut().zip(came).step_by(3) {
        while (reader.lines.len() as u64) < last - came {
            reader.read_all();
            write_on(&mut core, &all).await;
        }
        assert_eq!(reader.lines.len() as u64, last - came, "everything since it came, once");
    }
}

#[tokio::test]
async fn a_member_is_cut_also_where_a_letter_makes_its_batch_due_before_the_end_of_the_turn() {
    let mut core = new_core();
    let reader = Reader::attach(&mut core, 0);
    let connection = reader.connection.clone();
    let (id, room) = (connection.borrow().id, RoomKey(0));
    core.carry_out(join(&connection, room, 4, 0, SlowReader::Gap));
    let mut last = 0;
    let is_full = |core: &Core| core.is_too_much(&connection.borrow(), 6_000);
    while !is_full(&core) {
        last += 1;
        core.carry_out(say(room, last, 5_000));
        core.flush();
    }
    let held = connection.borrow().outbox.own_bytes();
    for n in 1..=2 {
        core.carry_out(say(room, last + n, 5_000));
    }
    assert_eq!(core.take_reports(), [], "they go out at the end of the turn");
    let frames = text("typing");
    core.carry_out(ToHub::Deliver {
        room,
        frames,
        count: 1,
        last: 0,
        except: Some(id),
        span: Default::default(),
    });
    assert_eq!(core.take_reports(), [Report::Behind { connection: id, room, stay: 4, after: last }]);
    core.carry_out(say(room, last + 3, 5_000));
    core.flush();
    assert_eq!((core.take_reports(), connection.borrow().outbox.own_bytes()), (vec![], held));
    assert!(connection.borrow().is_open());
    // With the same number of frames accepted as are on their way or gone.
    let counters = core.counters();
    let there = counters.deliveries_delivered.get() + counters.deliveries_waiting.get();
    assert_eq!((counters.deliveries_accepted.get(), there), (last, last));
}

//! A model of the chat server: gives out offsets, leads on who is behind, and speaks with the hub by letters
//! that lie about for a while on both ways, so that they cross.

use std::collections::{HashMap, VecDeque};

use super::reader::Reader;
use super::*;

pub const ROOMS: usize = 4;
const POLICIES: [SlowReader; ROOMS] =
    [SlowReader::Wait, SlowReader::Gap, SlowReader::Latest, SlowReader::Close];
/// Entries in one piece for a reader that is led.
const PIECE: u64 = 20;

/// One thing said in a room.
#[derive(Debug)]
pub struct Said {
    /// Its offset; 0 when it is not logged.
    pub last: Offset,
    /// The reader that does not get it.
    pub except: Option<usize>,
}

/// What happened, for the readers to compare.
#[derive(Debug, Default)]
pub struct Record {
    pub said: [Vec<Said>; ROOMS],
    /// How far a stay got, by reader, room and stay.
    pub behind: HashMap<(usize, usize, u32), Offset>,
}

impl Record {
    pub fn top(&self, room: usize) -> Offset {
        self.said[room].iter().map(|said| said.last).max().unwrap_or(0)
    }
}

#[derive(Debug, Clone, Copy)]
struct Stay {
    number: u32,
    /// The last entry that was sent to one that is behind.
    behind: Option<Offset>,
}

/// A client as the model of the chat server knows it.
#[derive(Debug)]
struct Seat {
    reader: Reader,
    rooms: [Option<Stay>; ROOMS],
    /// Feeds and watches without an answer.
    asked: usize,
    answers: u64,
    stalled: bool,
}

pub struct Model {
    core: Core,
    seats: Vec<Seat>,
    /// Those that were closed.
    gone: Vec<Reader>,
    record: Record,
    tops: [Offset; ROOMS],
    stays: u32,
    to_hub: VecDeque<ToHub>,
    to_chat: VecDeque<Report>,
    /// Lanes cut by room, and readers closed.
    pub cut: [usize; ROOMS],
    pub closed: usize,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("seats", &self.seats).field("tops", &self.tops).finish_non_exhaustive()
    }
}

impl Model {
    pub fn new(readers: usize) -> Model {
        let mut model = Model {
            core: new_core(),
            seats: Vec::new(),
            gone: Vec::new(),
            record: Record::default(),
            tops: [0; ROOMS],
            stays: 0,
            to_hub: VecDeque::new(),
            to_chat: VecDeque::new(),
            cut: [0; ROOMS],
            closed: 0,
        };
        for _ in 0..readers {
            model.enter();
        }
        model
    }

    fn enter(&mut self) {
        let reader = Reader::attach(&mut self.core, self.seats.len() + self.gone.len());
        self.seats.push(Seat { reader, rooms: [None; ROOMS], asked: 0, answers: 0, stalled: false });
    }

    fn id(&self, seat: usize) -> ConnectionId {
        self.seats[seat].reader.connection.borrow().id
    }

    /// One random thing.
    pub async fn step(&mut self, random: &mut StdRng) {
        let (seat, room) = (random.random_range(0..self.seats.len()), random.random_range(0..ROOMS));
        match random.random_range(0..100) {
            0..30 => self.say(random, room),
            30..36 => self.say_unlogged(random, room),
            36..44 => self.join(random, seat, room),
            44..46 => self.leave(seat, room),
            46..50 => self.answer(seat),
            50..53 => self.seats[seat].stalled = !self.seats[seat].stalled,
            53..70 => self.carry(random.random_range(1..20)),
            70..76 => self.hear(random.random_range(1..4)),
            76..80 => {
                // A slice of a large room, with other letters before the rest.
                if self.core.room(RoomKey(room as u32)).dirty {
                    self.core.write_room(RoomKey(room as u32), random.random_range(1..4));
                }
            }
            80..90 => self.flush(),
            _ => self.read(random).await,
        }
    }

    /// Letters that wait go to the hub, which writes, and to the model; then all read until nothing moves.
    pub async fn come_to_rest(&mut self) {
        loop {
            self.carry(usize::MAX);
            self.flush();
            self.hear(usize::MAX);
            for seat in &mut self.seats {
                seat.reader.read_all();
            }
            self.write_on().await;
            self.see_off();
            let quiet = self.to_hub.is_empty() && self.to_chat.is_empty();
            let all = self.seats.iter().all(|seat| {
                let led = seat.rooms.iter().flatten().any(|stay| stay.behind.is_some());
                !led && seat.asked == 0 && seat.reader.connection.borrow().outbox.is_empty()
            });
            if quiet && all && self.core.dirty.is_empty() && self.core.listed.is_empty() {
                break;
            }
        }
        // What the kernel has may still be on its way through the loopback.
        while self.frames_read() < self.core.counters().deliveries_delivered.get() {
            tokio::task::yield_now().await;
            self.seats
                .iter_mut()
                .map(|seat| &mut seat.reader)
                .chain(&mut self.gone)
                .for_each(Reader::read_all);
        }
    }

    fn frames_read(&self) -> u64 {
        let readers = self.seats.iter().map(|seat| &seat.reader).chain(&self.gone);
        readers.map(|reader| reader.lines.len() as u64).sum()
    }

    pub fn check_streams(&self, seed: u64) {
        println!("seed {seed}");
        self.gone.iter().for_each(|reader| reader.check(&self.record, false));
        self.seats.iter().for_each(|seat| seat.reader.check(&self.record, true));
    }

    pub fn check_figures(&self, seed: u64) {
        let counters = self.core.counters();
        let dropped = counters.deliveries_dropped_slow.get() + counters.deliveries_dropped_closed.get();
        let delivered = counters.deliveries_delivered.get();
        assert_eq!(counters.deliveries_waiting.get(), 0, "seed {seed}");
        assert_eq!(counters.deliveries_accepted.get(), delivered + dropped, "seed {seed}");
        assert_eq!(self.frames_read(), delivered, "seed {seed}");
        assert_eq!(counters.outbox_bytes.get(), 0, "seed {seed}");
        assert_eq!(counters.lanes_cut.get(), self.cut.iter().sum::<usize>() as u64, "seed {seed}");
        assert_eq!(
            self.record.behind.len(),
            self.cut.iter().sum::<usize>(),
            "seed {seed}: one for each stay"
        );
    }

    // ---- the four things that happen in rooms ----

    /// A few entries in one letter, as when a group of them was kept at once.
    fn say(&mut self, random: &mut StdRng, room: usize) {
        // The room that closes slow readers is quieter, so that they do not all end there.
        if POLICIES[room] == SlowReader::Close && random.random_range(0..4) > 0 {
            return;
        }
        let (mut frames, mut count) = (Vec::new(), 0);
        for _ in 0..random.random_range(1..6) {
            let filling = "x".repeat(random.random_range(0..3_000));
            let place = self.record.said[room].len();
            self.tops[room] += 1;
            self.record.said[room].push(Said { last: self.tops[room], except: None });
            frames.extend_from_slice(&text(&format!("e {room} {place} {filling}")));
            count += 1;
            if random.random_range(0..5) == 0 {
                frames.extend_from_slice(&self.unlogged(room, None));
                count += 1;
            }
        }
        self.deliver(room, frames, count, self.tops[room], None);
    }

    fn say_unlogged(&mut self, random: &mut StdRng, room: usize) {
        let except = Some(random.random_range(0..self.seats.len())).filter(|_| random.random());
        let frame = self.unlogged(room, except);
        self.deliver(room, frame.to_vec(), 1, 0, except);
    }

    fn unlogged(&mut self, room: usize, except: Option<usize>) -> Bytes {
        let place = self.record.said[room].len();
        let except = except.map(|seat| self.seats[seat].reader.number);
        self.record.said[room].push(Said { last: 0, except });
        text(&format!("s {room} {place}"))
    }

    /// Only a worker with members in the room hears of what is said there.
    fn deliver(&mut self, room: usize, frames: Vec<u8>, count: u32, last: Offset, except: Option<usize>) {
        if self.seats.iter().all(|seat| seat.rooms[room].is_none()) {
            return;
        }
        let except = except.map(|seat| self.id(seat));
        let frames = frames.into();
        self.to_hub.push_back(ToHub::Deliver {
            room: RoomKey(room as u32),
            frames,
            count,
            last,
            except,
            span: Default::default(),
        });
    }

    /// The client joins, or joins again, with some of what was said before.
    fn join(&mut self, random: &mut StdRng, seat: usize, room: usize) {
        let (top, place) = (self.tops[room], self.record.said[room].len());
        let since = top - random.random_range(0..=top.min(30));
        let mut frames = vec![text(&format!("j {room} {since} {place}"))];
        frames.extend((since + 1..=top).map(|offset| led(room, offset)));
        self.make_live(seat, room, frames);
    }

    fn make_live(&mut self, seat: usize, room: usize, mut frames: Vec<Bytes>) {
        self.stays += 1;
        let (stay, after) = (self.stays, self.tops[room]);
        frames.push(text(&format!("l {room} {stay} {after} {}", self.record.said[room].len())));
        self.seats[seat].rooms[room] = Some(Stay { number: stay, behind: None });
        let (connection, slow) = (self.id(seat), POLICIES[room]);
        let room = RoomKey(room as u32);
        self.to_hub.push_back(ToHub::Joined { connection, room, stay, frames, after, slow });
    }

    fn leave(&mut self, seat: usize, room: usize) {
        if self.seats[seat].rooms[room].take().is_none() {
            return;
        }
        let connection = self.id(seat);
        self.to_hub.push_back(ToHub::Left { connection, room: RoomKey(room as u32) });
        let frame = text(&format!("x {room} 0 {}", self.record.said[room].len()));
        self.to_hub.push_back(ToHub::Direct { connection, frame });
    }

    fn answer(&mut self, seat: usize) {
        let frame = text(&format!("d {}", self.seats[seat].answers));
        self.seats[seat].answers += 1;
        self.to_hub.push_back(ToHub::Direct { connection: self.id(seat), frame });
    }

    // ---- leading on who is behind ----

    fn hear(&mut self, most: usize) {
        for _ in 0..most {
            let Some(report) = self.to_chat.pop_front() else { return };
            let (Report::Behind { connection, .. } | Report::Drained { connection }) = report;
            let Some(seat) = (0..self.seats.len()).find(|seat| self.id(*seat) == connection) else {
                continue;
            };
            match report {
                Report::Behind { room, stay, after, .. } => {
                    let known = self.seats[seat].rooms[room.0 as usize].as_mut();
                    let Some(known) = known.filter(|known| known.number == stay) else { continue };
                    known.behind = Some(after);
                    self.ask(seat, ToHub::Watch { connection });
                }
                Report::Drained { .. } => {
                    self.seats[seat].asked -= 1;
                    self.lead_on(seat);
                }
            }
        }
    }

    fn ask(&mut self, seat: usize, letter: ToHub) {
        self.seats[seat].asked += 1;
        self.to_hub.push_back(letter);
    }

    /// The next piece for each room that the reader is behind in; with the last piece it is live.
    fn lead_on(&mut self, seat: usize) {
        for (room, policy) in POLICIES.into_iter().enumerate() {
            let Some(Stay { behind: Some(from), .. }) = self.seats[seat].rooms[room] else { continue };
            let top = self.tops[room];
            let (frames, to) = match policy {
                SlowReader::Wait => {
                    let to = top.min(from + PIECE);
                    ((from + 1..=to).map(|offset| led(room, offset)).collect(), to)
                }
                SlowReader::Gap if from < top => (vec![gap(room, from + 1, top)], top),
                SlowReader::Latest if from + 1 < top => {
                    (vec![gap(room, from + 1, top - 1), led(room, top)], top)
                }
                _ => ((from + 1..=top).map(|offset| led(room, offset)).collect(), top),
            };
            if to == top {
                self.make_live(seat, room, frames);
                continue;
            }
            self.seats[seat].rooms[room].as_mut().expect("it was there").behind = Some(to);
            let connection = self.id(seat);
            self.ask(seat, ToHub::Feed { connection, frames });
        }
    }

    // ---- the hub ----

    fn carry(&mut self, most: usize) {
        for _ in 0..most {
            let Some(letter) = self.to_hub.pop_front() else { break };
            self.core.carry_out(letter);
        }
        self.see_reports();
    }

    fn flush(&mut self) {
        self.core.flush();
        self.see_reports();
        self.see_off();
    }

    fn see_reports(&mut self) {
        for report in self.core.take_reports() {
            if let Report::Behind { connection, room, stay, after } = report {
                let seat = (0..self.seats.len()).find(|seat| self.id(*seat) == connection);
                let seat = &self.seats[seat.expect("who is reported has a place")];
                let known = self.record.behind.insert((seat.reader.number, room.0 as usize, stay), after);
                assert_eq!(known, None, "a stay ends once");
                self.cut[room.0 as usize] += 1;
            }
            self.to_chat.push_back(report);
        }
    }

    async fn read(&mut self, random: &mut StdRng) {
        for seat in self.seats.iter_mut().filter(|seat| !seat.stalled) {
            match random.random_range(0..3) {
                0 => seat.reader.read_all(),
                _ => {
                    seat.reader.read(random.random_range(1..4_000));
                }
            }
        }
        self.write_on().await;
        self.see_off();
    }

    async fn write_on(&mut self) {
        let all: Vec<_> = self.seats.iter().map(|seat| seat.reader.connection.clone()).collect();
        write_on(&mut self.core, &all).await;
        self.see_reports();
    }

    /// Whoever was closed reads the last that comes and goes; another one takes its place.
    fn see_off(&mut self) {
        for seat in (0..self.seats.len()).rev() {
            let connection = self.seats[seat].reader.connection.clone();
            if connection.borrow().is_open() {
                continue;
            }
            self.closed += 1;
            let id = self.id(seat);
            for room in 0..ROOMS {
                if self.seats[seat].rooms[room].is_some() {
                    self.to_hub.push_back(ToHub::Left { connection: id, room: RoomKey(room as u32) });
                }
            }
            self.gone.push(self.seats.swap_remove(seat).reader);
            self.core.detach(&connection);
            self.enter();
        }
    }
}

/// An entry for one that is led.
fn led(room: usize, offset: Offset) -> Bytes {
    text(&format!("f {room} {offset} {}", "x".repeat((offset % 7) as usize * 300)))
}

fn gap(room: usize, from: Offset, to: Offset) -> Bytes {
    text(&format!("g {room} {from} {to}"))
}

//! Promise: a reader who is too slow for a room costs nobody else anything, and hears exactly what the room's
//! rule says: everything in its own time, or what it has missed, or that it is closed.

use std::ops::Range;

use futures_util::future::{join, join_all, join3};
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::time::Instant;

use crate::stage::PATIENCE;
use crate::stage::guest::{Guest, Line};
use crate::stage::hall::{Hall, PROGRAM, program};
use crate::stage::stream::{Follower, Transcript, offset_of};
use crate::stage::tokens::{SECRET, Token};
use crate::stage::wire::{Seen, Wire};

const RULES: &str = r#"
[[rooms.rule]]
match = "wait-*"
slow_reader = "wait"
[[rooms.rule]]
match = "gap-*"
slow_reader = "gap"
[[rooms.rule]]
match = "latest-*"
slow_reader = "latest"
"#;

/// Messages to warm up with.
const FIRST: u64 = 2_000;
/// Messages said while somebody does not read. Ten megabytes: more than kernels keep between two sockets.
const MUCH: u64 = 10_000;
/// The last message before the slow reader comes. As many are said without it as with it, because the store
/// takes memory for its cache as well, up to a limit that lies further ahead.
const BEFORE: u64 = FIRST + MUCH;
/// The last message that it does not read in time.
const SAID: u64 = BEFORE + MUCH;
const MESSAGE_BYTES: usize = 1_000;
/// Messages that are said in one go.
const RUN: u64 = 50;
/// What one slow reader may cost, in bytes: its outbox, one piece of the log, and much rounding.
const COST: u64 = 4 << 20;

const LANES_CUT: &str = "roomcast_lanes_cut_total";
const SLOW: &str = "roomcast_deliveries_dropped_total{reason=\"slow\"}";

async fn open_hall(settings: &[&str]) -> Hall {
    let home = tempfile::tempdir().expect("a folder for the hall");
    let rules = home.path().join("rules.toml");
    std::fs::write(&rules, RULES).expect("it can be written");
    let mut command = program(PROGRAM, home.path());
    command.args(["--listen", "127.0.0.1:0", "--set", "queue.door.listen=", "--config"]).arg(rules);
    command.args(["--set", &format!("auth.secret={SECRET}")]);
    let usual = ["limits.messages_per_second=0", "limits.outbox_bytes=400000", "limits.outbox_age=1h"];
    for setting in usual.iter().chain(settings) {
        command.args(["--set", setting]);
    }
    Hall::run(command, home).await
}

/// Says messages with these numbers, in runs; each run after the acks of the one before.
async fn say_much(hall: &Hall, room: &str, numbers: Range<u64>) {
    let mut speaker = hall.enter_with(&Token::of("speaker").rooms(&[room]).signed(), "speaker").await;
    let data = "x".repeat(MESSAGE_BYTES);
    let line = |n: u64| json!({"t": "pub", "r": room, "d": data, "id": n.to_string()}).to_string();
    let mut from = numbers.start;
    while from < numbers.end {
        let to = numbers.end.min(from + RUN);
        speaker.sends((from..to).map(line).collect::<Vec<_>>().join("\n")).await;
        for n in from..to {
            assert_eq!(speaker.hears_a("ack").await.text("id"), n.to_string());
        }
        from = to;
    }
}

/// A room in which much was said before anybody slow came; its readers, who read everything.
struct Scene {
    hall: Hall,
    room: &'static str,
    others: Vec<Follower>,
    transcript: Transcript,
    /// Bytes of memory that the server took while much was said and everybody read.
    usual: u64,
}

impl Scene {
    async fn set(room: &'static str) -> Scene {
        let hall = open_hall(&[]).await;
        let (transcript, mut others) = (Transcript::default(), Vec::new());
        for n in 0..3 {
            let wire = hall.wire(&format!("/v1/ws?user=reader-{n}")).await;
            others.push(Follower::join(wire, room, &transcript, "").await.0);
        }
        let mut scene = Scene { hall, room, others, transcript, usual: 0 };
        scene.goes_on(0..FIRST).await;
        scene.usual = scene.grows_by(FIRST..BEFORE).await;
        scene
    }

    /// Much is said; the others hear all of it.
    async fn goes_on(&mut self, numbers: Range<u64>) {
        let end = numbers.end;
        let reading = join_all(self.others.iter_mut().map(|reader| reader.up_to(end)));
        join(say_much(&self.hall, self.room, numbers), reading).await;
    }

    /// Much is said; by how many bytes the server's memory grows.
    async fn grows_by(&mut self, numbers: Range<u64>) -> u64 {
        let before = self.hall.memory();
        self.goes_on(numbers).await;
        self.hall.memory().saturating_sub(before)
    }

    /// Somebody joins at the head and does not read while as much is said again. What it costs is looked at
    /// before it reads on.
    async fn with_one_who_does_not_read(&mut self) -> SlowReader {
        let slow = SlowReader::join(&self.hall, self.room).await;
        assert_eq!(slow.last, BEFORE);
        let grown = self.grows_by(BEFORE..SAID).await;
        println!("{}: {} KiB more, {} KiB without it", self.room, grown >> 10, self.usual >> 10);
        assert!(grown < self.usual + COST, "memory grew by {grown} bytes, {} without it", self.usual);
        slow
    }

    /// One more word reaches everybody, the slow one too, as what comes next. All connections are there.
    async fn ends_as_before(mut self, mut slow: SlowReader, connections: f64) {
        say_much(&self.hall, self.room, SAID..SAID + 1).await;
        join_all(self.others.iter_mut().map(|reader| reader.up_to(SAID + 1))).await;
        slow.up_to(SAID + 1, &self.transcript).await;
        assert_eq!(slow.entries.last(), Some(&(SAID + 1)));
        self.hall.figure_becomes("roomcast_connections", |n| n == connections).await;
        assert_eq!(self.hall.figure(SLOW).await, 0.0, "nothing was thrown away");
        self.hall.figure_becomes("roomcast_outbox_bytes", |bytes| bytes == 0.0).await;
    }
}

/// Somebody with a small receive buffer, who keeps what it sees of one room.
struct SlowReader {
    wire: Wire,
    room: String,
    /// The last offset that was seen, as an entry or in a gap.
    last: u64,
    entries: Vec<u64>,
    gaps: Vec<(u64, u64)>,
    /// Lines of other types and other rooms.
    rest: Vec<Line>,
}

impl SlowReader {
    async fn join(hall: &Hall, room: &str) -> SlowReader {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(32 << 10).expect("a TCP socket has this option");
        let socket = socket.connect(hall.address()).await.expect("the server listens");
        let wire = Wire::upgrade(socket, hall.address(), "/v1/ws?user=slow", &[]).await.expect("let in");
        let (entries, gaps, rest) = (Vec::new(), Vec::new(), Vec::new());
        let mut slow = SlowReader { wire, room: room.into(), last: 0, entries, gaps, rest };
        slow.joins(room, "").await;
        slow
    }

    /// Joins, and reads to `live`; `joined`.
    async fn joins(&mut self, room: &str, more: &str) -> Line {
        self.wire.writer.text(&format!(r#"{{"t":"join","r":"{room}"{more}}}"#)).await;
        loop {
            let joined = Line::of(self.text().await);
            if joined.t() == "joined" {
                if room == self.room {
                    self.last = joined.s() - joined.number("n");
                }
                return joined;
            }
        }
    }

    async fn text(&mut self) -> String {
        match self.wire.next_before(Instant::now() + PATIENCE).await {
            Some(Seen::Text(text)) => text,
            other => panic!("after {}: {other:?}", self.last),
        }
    }

    /// Reads one line. Every place comes once and in order: as an entry, or in a gap.
    async fn reads(&mut self, transcript: &Transcript) {
        let raw = self.text().await;
        if let Some(offset) = offset_of(&self.room, &raw) {
            assert_eq!(offset, self.last + 1, "after {} comes {raw}", self.last);
            transcript.sees(offset, &raw);
            self.entries.push(offset);
            self.last = offset;
            return;
        }
        let line = Line::of(raw);
        if line.t() != "gap" {
            self.rest.push(line);
            return;
        }
        let (from, to) = (line.json["missing"][0].as_u64(), line.json["missing"][1].as_u64());
        let (from, to) = from.zip(to).unwrap_or_else(|| panic!("missing from where to where: {}", line.raw));
        assert_eq!((line.text("r"), line.text("why"), from), (&*self.room, "slow", self.last + 1));
        assert!(from <= to, "{}", line.raw);
        self.gaps.push((from, to));
        self.last = to;
    }

    async fn up_to(&mut self, offset: u64, transcript: &Transcript) {
        while self.last < offset {
            self.reads(transcript).await;
        }
    }
}

#[tokio::test]
async fn where_the_room_waits_a_slow_reader_hears_everything_in_its_own_time() {
    let mut scene = Scene::set("wait-hall").await;
    let mut slow = scene.with_one_who_does_not_read().await;
    scene.hall.figure_becomes(LANES_CUT, |cut| cut >= 1.0).await;
    // It asks on the way, and is answered on the way.
    slow.wire.writer.text(r#"{"t":"ping","i":7}"#).await;
    slow.up_to(SAID, &scene.transcript).await;
    assert_eq!(slow.entries, (BEFORE + 1..=SAID).collect::<Vec<_>>(), "every place as itself");
    assert!(slow.rest.iter().any(|line| line.t() == "pong"), "{:#?}", slow.rest);
    scene.ends_as_before(slow, 4.0).await;
}

#[tokio::test]
async fn where_the_room_does_not_wait_a_slow_reader_hears_what_it_has_missed() {
    let mut scene = Scene::set("gap-hall").await;
    let mut slow = scene.with_one_who_does_not_read().await;
    scene.hall.figure_becomes(LANES_CUT, |cut| cut >= 1.0).await;
    slow.up_to(SAID, &scene.transcript).await;
    assert!(!slow.gaps.is_empty() && !slow.entries.is_empty(), "{:?}", slow.gaps);
    scene.ends_as_before(slow, 4.0).await;
}

#[tokio::test]
async fn where_only_the_newest_counts_a_slow_reader_gets_the_newest() {
    let mut scene = Scene::set("latest-hall").await;
    let mut slow = scene.with_one_who_does_not_read().await;
    scene.hall.figure_becomes(LANES_CUT, |cut| cut >= 1.0).await;
    slow.up_to(SAID, &scene.transcript).await;
    assert_eq!(slow.entries.last(), Some(&SAID), "the newest comes as itself");
    assert!(slow.gaps.iter().any(|(from, to)| to - from > 1_000), "{:?}", slow.gaps);
    scene.ends_as_before(slow, 4.0).await;
}

#[tokio::test]
async fn where_slow_readers_are_closed_one_comes_back_to_everything() {
    let Scene { hall, room, mut others, transcript, .. } = Scene::set("hall").await;
    let slow = SlowReader::join(&hall, room).await;
    let heard_by_others = join_all(others.iter_mut().map(|reader| reader.up_to(SAID)));
    // Who is closed has five seconds to read why.
    let closed = async {
        hall.figure_becomes(SLOW, |dropped| dropped > 0.0).await;
        let (mut last, mut slow) = (BEFORE, Guest::silent(slow.wire, "slow"));
        loop {
            let line = slow.claims("what had left already", |_| true).await;
            match line.t() {
                "msg" => {
                    assert_eq!(line.s(), last + 1, "no hole before the close");
                    transcript.sees(line.s(), &line.raw);
                    last = line.s();
                }
                "bye" => return (last, line),
                _ => {}
            }
        }
    };
    let (_, _, (last, bye)) = join3(say_much(&hall, room, BEFORE..SAID), heard_by_others, closed).await;
    assert_eq!((bye.number("code"), bye.text("why")), (4202, "slow"));
    assert!((BEFORE + 1..SAID).contains(&last), "{last}");
    assert_eq!(hall.figure(LANES_CUT).await, 0.0);
    let wire = hall.wire("/v1/ws?user=slow").await;
    let more = format!(r#","since":{last}"#);
    let (mut back, joined) = Follower::join(wire, room, &transcript, &more).await;
    assert_eq!((joined.s(), joined.number("n"), joined.has("missing")), (SAID, SAID - last, false));
    say_much(&hall, room, SAID..SAID + 1).await;
    back.up_to(SAID + 1).await;
}

#[tokio::test]
async fn a_room_that_waits_does_not_hold_up_the_other_rooms_of_its_reader() {
    let mut scene = Scene::set("wait-hall").await;
    let mut slow = SlowReader::join(&scene.hall, scene.room).await;
    slow.joins("calm", "").await;
    let mut calm = scene.hall.join("calm", "ann").await;
    scene.goes_on(BEFORE..SAID).await;
    scene.hall.figure_becomes(LANES_CUT, |cut| cut >= 1.0).await;
    for n in 1..=3 {
        assert_eq!(calm.says(&format!("calm {n}")).await.s(), n);
    }
    let calm_words = |slow: &SlowReader| {
        let lines = slow.rest.iter().filter(|line| line.t() == "msg");
        lines.map(|line| (line.text("r").to_owned(), line.s())).collect::<Vec<_>>()
    };
    let mut heard_at = 0;
    while slow.last < SAID {
        slow.reads(&scene.transcript).await;
        if heard_at == 0 && calm_words(&slow).len() == 3 {
            heard_at = slow.last;
        }
    }
    assert_eq!(calm_words(&slow), [1, 2, 3].map(|n| ("calm".to_owned(), n)));
    assert!((BEFORE..SAID - 1_000).contains(&heard_at), "heard only at {heard_at}");
    scene.ends_as_before(slow, 5.0).await;
}

#[tokio::test]
async fn who_joins_again_from_long_ago_hears_it_all_in_order_while_the_room_goes_on() {
    for room in ["wait-hall", "hall"] {
        let mut scene = Scene::set(room).await;
        let mut reader = SlowReader::join(&scene.hall, room).await;
        // As a member that hears all of it live, it wants everything once more.
        let joined = reader.joins(room, r#","since":0"#).await;
        assert_eq!((joined.number("n"), reader.last), (BEFORE, 0));
        let transcript = scene.transcript.clone();
        join(scene.goes_on(BEFORE..SAID), reader.up_to(SAID, &transcript)).await;
        assert_eq!(reader.entries, (1..=SAID).collect::<Vec<_>>());
        scene.ends_as_before(reader, 4.0).await;
    }
}

//! Promise: who comes back goes on exactly where he was, from memory or from the store, by his own cursor or the
//! server's, after a restart and after a crash; what is forgotten is named; what was acknowledged is there.

use std::cell::RefCell;
use std::collections::BTreeMap;

use futures_util::future::{join, join_all};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::stage::guest::{Guest, Line};
use crate::stage::hall::Hall;
use crate::stage::stream::{Follower, Transcript};
use crate::stage::wire::{Seen, Wire};
use crate::stage::{PATIENCE, dice, eventually};

const FAST: &str = "limits.messages_per_second=0";

/// Says so many messages, many at a time.
async fn say_many(guest: &mut Guest, room: &str, n: u64) {
    let mut left = n;
    while left > 0 {
        let now = left.min(200);
        let lines: Vec<String> =
            (0..now).map(|i| json!({"t": "pub", "r": room, "d": left - i}).to_string()).collect();
        guest.sends(lines.join("\n")).await;
        for _ in 0..now {
            guest.claims("an ack", |line| matches!(line.t(), "ack" | "err")).await.s();
        }
        left -= now;
    }
}

// ---- since ----

#[tokio::test]
async fn since_is_answered_from_memory_and_from_the_store_with_the_same_bytes() {
    const N: u64 = 600;
    let mut hall = Hall::stored(&[FAST, "rooms.history=16"]).await;
    let transcript = Transcript::default();
    let (mut live, _) =
        Follower::join(hall.wire("/v1/ws?user=live").await, "lobby", &transcript, r#","since":0"#).await;
    let mut ann = hall.join("lobby", "ann").await;
    say_many(&mut ann, "lobby", N).await;
    live.up_to(N).await;
    let times: Vec<u64> = transcript.entries().iter().map(|line| line.number("ts")).collect();
    let epoch = live.epoch.clone();
    drop((live, ann));
    for life in 0..3 {
        let comes = |more: String| Follower::join_as(&hall, "late", &transcript, more);
        for since in [0, 1, 300, N - 130, N - 17, N - 16, N - 15, N - 1, N] {
            for e in [format!(r#","e":"{epoch}""#), String::new()] {
                let (_, joined) = comes(format!(r#","since":{since}{e}"#)).await;
                assert_eq!((joined.number("n"), joined.has("missing")), (N - since, false), "{}", joined.raw);
                assert_eq!(joined.text("e"), epoch, "in life {life}: {}", joined.raw);
            }
        }
        for last in [0, 1, 16, 17, 128, 129, 400, N, N + 1, u64::MAX] {
            let (_, joined) = comes(format!(r#","last":{last}"#)).await;
            assert_eq!(joined.number("n"), last.min(N), "last {last}: {}", joined.raw);
        }
        for at in [0, 1, 250, N as usize - 17, N as usize - 1] {
            for ts in [times[at], times[at] + 1] {
                let (_, joined) = comes(format!(r#","from":{ts}"#)).await;
                let expected = times.iter().filter(|time| **time >= ts).count() as u64;
                assert_eq!(joined.number("n"), expected, "from the time of {at}: {}", joined.raw);
            }
        }
        let (_, ahead) = comes(format!(r#","since":{},"e":"{epoch}""#, N + 5)).await;
        assert_eq!(ahead.text("missing"), "all", "nobody has seen what was never said: {}", ahead.raw);
        let (_, stranger) = comes(r#","since":3,"e":"zzzzzzz""#.into()).await;
        assert_eq!((stranger.text("missing"), stranger.text("was")), ("all", "zzzzzzz"), "{}", stranger.raw);
        if life == 0 {
            hall.restarts().await;
        } else {
            hall.crashes().await;
        }
    }
}

#[tokio::test]
async fn what_is_forgotten_is_named_to_the_last_place() {
    let hall = Hall::stored(&[FAST, "rooms.keep=1s"]).await;
    let transcript = Transcript::default();
    let mut ann = hall.join("lobby", "ann").await;
    let mut top = 0;
    for round in 1..=3 {
        say_many(&mut ann, "lobby", 50).await;
        top += 50;
        eventually(&format!("all is forgotten, round {round}"), || async {
            // Whatever is left, it is exactly what is not missing: the follower counts.
            let (_, joined) = Follower::join_as(&hall, "late", &transcript, r#","since":0"#.into()).await;
            assert_eq!(joined.s(), top);
            let n = joined.number("n");
            let expected = (n < top).then(|| json!([1, top - n]));
            assert_eq!(joined.json.get("missing"), expected.as_ref(), "{}", joined.raw);
            (n == 0).then_some(())
        })
        .await;
        let (_, joined) =
            Follower::join_as(&hall, "late", &transcript, format!(r#","since":{}"#, top - 7)).await;
        assert_eq!(joined.json["missing"], json!([top - 6, top]), "{}", joined.raw);
        let (_, joined) = Follower::join_as(&hall, "late", &transcript, format!(r#","since":{top}"#)).await;
        assert_eq!((joined.number("n"), joined.has("missing")), (0, false), "{}", joined.raw);
        let page = ann.asks(json!({"t": "log", "r": "lobby"})).await;
        assert_eq!((&page.json["list"], &page.json["more"]), (&json!([]), &json!(false)), "{}", page.raw);
    }
}

impl Follower {
    /// Somebody new who joins the lobby with more keys.
    async fn join_as(hall: &Hall, name: &str, transcript: &Transcript, more: String) -> (Follower, Line) {
        let wire = hall.wire(&format!("/v1/ws?user={name}")).await;
        Follower::join(wire, "lobby", transcript, &more).await
    }
}

// ---- the server's cursor ----

/// Says hello on a new connection; the session's name.
async fn hello(hall: &Hall, user: &str, session: Option<&str>) -> (Guest, String) {
    let mut guest = Guest::silent(hall.wire("/v1/ws").await, user);
    let hello = json!({"t": "hello", "v": 1, "u": user, "session": session});
    guest.sends(hello.to_string()).await;
    let welcome = guest.hears_a("welcome").await;
    assert_eq!(welcome.text("u"), user);
    (guest, welcome.text("session").to_owned())
}

/// What a session that comes back hears of a room: the places of the replay, then `live`.
async fn is_back_in(guest: &mut Guest, room: &str) -> (Line, Vec<u64>) {
    let is_of = |line: &Line| line.json["r"] == room;
    let joined = guest.claims(&format!("{room} again"), |line| line.t() == "joined" && is_of(line)).await;
    let mut places = Vec::new();
    loop {
        let line = guest.claims("the replay", |line| matches!(line.t(), "msg" | "live") && is_of(line)).await;
        if line.t() == "live" {
            assert_eq!(joined.number("n"), places.len() as u64, "{}", joined.raw);
            return (joined, places);
        }
        places.push(line.s());
    }
}

async fn got(guest: &mut Guest, room: &str, place: u64) {
    guest.sends(json!({"t": "got", "r": room, "s": place}).to_string()).await;
    // It is done before what is asked behind it.
    assert_eq!(guest.asks(json!({"t": "ping"})).await.t(), "pong");
}

/// A session in two rooms with five messages each, which has got three and none.
async fn settled(hall: &Hall) -> (Guest, String) {
    let (mut ann, session) = hello(hall, "ann", None).await;
    for room in ["lobby", "kitchen"] {
        ann.joins(room).await;
        for n in 1..=5 {
            ann.says(&format!("{n}")).await;
        }
    }
    got(&mut ann, "lobby", 3).await;
    (ann, session)
}

async fn goes_on(guest: &mut Guest) {
    let (joined, places) = is_back_in(guest, "lobby").await;
    assert_eq!((joined.s(), places), (5, vec![4, 5]), "behind what the application has");
    assert!(!joined.has("missing"), "{}", joined.raw);
    let (_, places) = is_back_in(guest, "kitchen").await;
    assert_eq!(places, [1, 2, 3, 4, 5], "nothing was got there since the join");
}

#[tokio::test]
async fn a_session_that_was_cut_goes_on_with_nothing_but_its_name() {
    let hall = Hall::stored(&[]).await;
    let (ann, session) = settled(&hall).await;
    ann.wire.cut(true);
    let (mut ann, again) = hello(&hall, "ann", Some(&session)).await;
    assert_eq!(again, session);
    goes_on(&mut ann).await;
    got(&mut ann, "kitchen", 5).await;
    ann.goes().await;
    let (mut ann, again) = hello(&hall, "ann", Some(&session)).await;
    assert_eq!(again, session);
    let (_, places) = is_back_in(&mut ann, "kitchen").await;
    assert_eq!(places, [] as [u64; 0]);
    assert_eq!(is_back_in(&mut ann, "lobby").await.1, [4, 5], "it still has got no more than before");
}

#[tokio::test]
async fn a_second_connection_takes_the_session_over() {
    let hall = Hall::stored(&[]).await;
    let (mut old, session) = settled(&hall).await;
    let (mut new, again) = hello(&hall, "ann", Some(&session)).await;
    assert_eq!(again, session);
    assert_eq!(old.is_closed_with(4009).await.text("why"), "replaced");
    goes_on(&mut new).await;
    let mut bob = hall.join("lobby", "bob").await;
    bob.says("hello").await;
    new.claims("what comes after", |line| line.t() == "msg" && line.json["d"] == "hello").await;
    let who = bob.asks(json!({"t": "who", "r": "lobby"})).await;
    assert_eq!(who.json["list"], json!([{"u": "ann", "n": 1}, {"u": "bob", "n": 1}]), "{}", who.raw);
}

#[tokio::test]
async fn a_session_outlives_a_restart() {
    let mut hall = Hall::stored(&[]).await;
    let (ann, session) = settled(&hall).await;
    hall.restarts().await;
    drop(ann);
    let (mut ann, again) = hello(&hall, "ann", Some(&session)).await;
    assert_eq!(again, session);
    goes_on(&mut ann).await;
}

#[tokio::test]
async fn a_session_outlives_a_crash() {
    let mut hall = Hall::stored(&[]).await;
    let (mut ann, session) = settled(&hall).await;
    // Where sessions stand is kept in the background. The place that others are told of is the sign that time
    // has passed: cursors go to the journal on the same beat, and a later message behind them.
    ann.hears_a("got").await;
    let said = ann.asks(json!({"t": "pub", "r": "kitchen", "d": 6})).await;
    assert_eq!(said.t(), "ack", "{}", said.raw);
    let mut lives = 0;
    let (mut ann, again) = loop {
        hall.crashes().await;
        let (mut ann, again) = hello(&hall, "ann", Some(&session)).await;
        if again == session {
            break (ann, again);
        }
        lives += 1;
        assert!(lives < 2, "a session's cursor is not there after a crash: {again}");
        ann.is_refused(404, "no-session").await;
    };
    assert_eq!(again, session);
    let (joined, places) = is_back_in(&mut ann, "lobby").await;
    assert!(places.len() >= 2 && places.ends_with(&[4, 5]), "{} then {places:?}", joined.raw);
}

#[tokio::test]
async fn a_session_that_is_not_hers_or_not_known_begins_anew() {
    let hall = Hall::stored(&[]).await;
    let (_ann, session) = settled(&hall).await;
    for (user, named) in [("eve", session.as_str()), ("ann", "s0000000000"), ("ann", "nonsense")] {
        let (mut guest, own) = hello(&hall, user, Some(named)).await;
        assert_ne!(own, named);
        guest.is_refused(404, "no-session").await;
        let rest = guest.hears_no_more().await;
        assert!(rest.iter().all(|line| line.t() != "joined"), "{rest:#?}");
        assert_eq!(guest.joins("lobby").await.s(), 5, "the connection stays");
    }
    let mut bad = Guest::silent(hall.wire("/v1/ws").await, "ann");
    bad.sends(r#"{"t":"hello","u":"ann","session":"NO!"}"#).await;
    bad.is_refused(400, "bad-json").await;
}

// ---- ids ----

#[tokio::test]
async fn ids_are_known_after_a_restart_and_after_a_crash() {
    let mut hall = Hall::stored(&[]).await;
    let mut ann = hall.join("lobby", "ann").await;
    let kept = json!({"t": "pub", "r": "lobby", "d": "once", "id": "k-1"});
    let fleeting = json!({"t": "pub", "r": "lobby", "d": "for now", "id": "k-2", "keep": false});
    let pushed = json!({"r": "lobby", "u": "ann", "d": "by the shop", "id": "k-3"});
    let (first, passing) = (ann.asks(kept.clone()).await, ann.asks(fleeting.clone()).await);
    assert_eq!((first.s(), passing.has("s")), (1, false));
    assert_eq!(hall.publish(&pushed).await.json()["s"], 2);
    for life in 0..3 {
        if life == 1 {
            hall.restarts().await;
        } else {
            hall.crashes().await;
        }
        let mut ann = hall.join("lobby", "ann").await;
        let again = ann.asks(kept.clone()).await;
        let found = (again.s(), again.number("ts"), again.json["dup"].as_bool());
        assert_eq!(found, (1, first.number("ts"), Some(true)), "life {life}: {}", again.raw);
        let again = ann.asks(fleeting.clone()).await;
        let found = (again.has("s"), again.number("ts"), again.json["dup"].as_bool());
        assert_eq!(found, (false, passing.number("ts"), Some(true)), "life {life}: {}", again.raw);
        let answer = hall.publish(&pushed).await.json();
        assert_eq!((&answer["s"], &answer["dup"]), (&json!(2), &json!(true)), "life {life}: {answer}");
        let mut bob = hall.join("lobby", "bob").await;
        let other = bob.asks(kept.clone()).await;
        let is_first = life == 0;
        assert_eq!((other.s(), other.has("dup")), (3, !is_first), "another's id: {}", other.raw);
        ann.hears_no_more().await.iter().for_each(|line| {
            assert!(line.t() != "msg" || is_first && line.s() == 3, "nothing is said twice: {}", line.raw);
        });
    }
}

// ---- crashes in the middle of everything ----

const LIVES: usize = 6;
const WRITERS: u64 = 3;

/// What a writer knows of its messages: by id the place and time that an ack told, or nothing yet.
type Told = BTreeMap<String, Option<(u64, u64)>>;

#[tokio::test]
async fn what_was_acknowledged_or_seen_is_there_after_every_crash() {
    let mut hall = Hall::stored(&[FAST, "rooms.history=50"]).await;
    let seed = dice().random::<u64>();
    let mut dice = StdRng::seed_from_u64(seed);
    let transcript = Transcript::default();
    let told: Vec<RefCell<Told>> = (0..WRITERS).map(|_| RefCell::default()).collect();
    let (mut last, mut epoch) = (0, None);
    for life in 0..LIVES {
        let e = epoch.as_ref().map(|e| format!(r#","e":"{e}""#)).unwrap_or_default();
        let (mut reader, joined) =
            Follower::join_as(&hall, "reader", &transcript, format!(r#","since":{last}{e}"#)).await;
        assert!(!joined.has("missing"), "life {life}: {}", joined.raw);
        assert_eq!(joined.s() - joined.number("n"), last, "life {life}: it goes on where it was");
        assert!(epoch.replace(reader.epoch.clone()).is_none_or(|before| before == reader.epoch));
        let enough = acked(&told) + dice.random_range(50..400);
        let writers = join_all((0..WRITERS).map(|n| write(&hall, n, life, &told[n as usize])));
        let end = async {
            eventually("enough acks", || async { (acked(&told) >= enough).then_some(()) }).await;
            hall.signal("KILL");
        };
        join(join(writers, reader.until_the_end()), end).await;
        last = reader.last;
        hall.crashes().await;
    }
    // Whoever got no answer sends it again, and now everybody gets one.
    let (mut reader, joined) =
        Follower::join_as(&hall, "reader", &transcript, format!(r#","since":{last}"#)).await;
    assert!(!joined.has("missing"), "{}", joined.raw);
    let mut top = joined.s();
    for n in 0..WRITERS {
        let mut writer = hall.join("lobby", &format!("writer-{n}")).await;
        let mut mine = told[n as usize].take();
        for (id, place) in &mut mine {
            let ack = writer.asks(publish(id)).await;
            let found = (ack.s(), ack.number("ts"));
            match place {
                Some(place) => {
                    assert_eq!((found, ack.json["dup"].as_bool()), (*place, Some(true)), "{}", ack.raw);
                }
                None => *place = Some(found),
            }
            top = top.max(ack.s());
        }
        told[n as usize].replace(mine);
    }
    reader.up_to(top).await;
    let entries = transcript.entries();
    let mut seen: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for line in &entries {
        let key = (line.text("u").to_owned(), line.text("id").to_owned());
        let before = seen.insert(key, (line.s(), line.number("ts")));
        assert_eq!(before, None, "said twice: {}", line.raw);
    }
    let all: BTreeMap<(String, String), (u64, u64)> = (0..WRITERS)
        .flat_map(|n| {
            let told = told[n as usize].borrow().clone();
            told.into_iter()
                .map(move |(id, place)| ((format!("writer-{n}"), id), place.expect("told by now")))
        })
        .collect();
    println!("{} messages, {LIVES} crashes", all.len());
    assert_eq!(seen, all, "what the acks said is what everybody sees");
}

#[tokio::test]
async fn what_was_shown_too_early_is_taken_back_by_name() {
    let mut hall = Hall::stored(&[FAST, "rooms.ack=sequenced"]).await;
    let seed = dice().random::<u64>();
    let mut dice = StdRng::seed_from_u64(seed);
    let told: Vec<RefCell<Told>> = (0..WRITERS).map(|_| RefCell::default()).collect();
    let (mut screen, mut before) = (Screen::default(), Screen::default());
    for life in 0..LIVES {
        let mut wire = hall.wire("/v1/ws?user=reader").await;
        screen.joins(&mut wire).await;
        let enough = acked(&told) + dice.random_range(50..400);
        let writers = join_all((0..WRITERS).map(|n| write(&hall, n, life, &told[n as usize])));
        let end = async {
            eventually("enough acks", || async { (acked(&told) >= enough).then_some(()) }).await;
            hall.signal("KILL");
        };
        join(join(writers, screen.until_the_end(&mut wire)), end).await;
        hall.crashes().await;
        let mut wire = hall.wire("/v1/ws?user=fresh").await;
        before = Screen::default();
        before.joins(&mut wire).await;
        before.up_to_live(&mut wire).await;
    }
    // Acks say less here, so everything is said again: what was lost is said now, the rest is a repeat.
    let mut lost = 0;
    for n in 0..WRITERS {
        let mut writer = hall.join("lobby", &format!("writer-{n}")).await;
        let mine = told[n as usize].borrow().clone();
        for (id, place) in mine {
            let ack = writer.asks(publish(&id)).await;
            lost += usize::from(place.is_some() && !ack.has("dup"));
        }
    }
    for screen in [&mut screen, &mut before] {
        let mut wire = hall.wire("/v1/ws?user=reader").await;
        screen.joins(&mut wire).await;
        screen.up_to_live(&mut wire).await;
    }
    println!("{} entries, {} taken back, {lost} acks came to nothing", screen.lines.len(), screen.taken_back);
    assert_eq!(screen.lines, before.lines, "who saw it all and who came late have the same");
    let mut ids: Vec<String> = screen
        .lines
        .iter()
        .map(|raw| Line::of(raw.clone()))
        .map(|line| format!("{} {}", line.text("u"), line.text("id")))
        .collect();
    ids.sort();
    let mut expected: Vec<String> = (0..WRITERS)
        .flat_map(|n| {
            told[n as usize].borrow().keys().map(|id| format!("writer-{n} {id}")).collect::<Vec<_>>()
        })
        .collect();
    expected.sort();
    assert_eq!(ids, expected, "each message once");
}

/// The lobby as a reader shows it who takes off what is taken back.
#[derive(Default)]
struct Screen {
    lines: Vec<String>,
    epoch: Option<String>,
    taken_back: usize,
}

impl Screen {
    /// Comes back where it was.
    async fn joins(&mut self, wire: &mut Wire) {
        let mut join = json!({"t": "join", "r": "lobby", "since": self.lines.len(), "quiet": true});
        if let Some(epoch) = &self.epoch {
            join["e"] = json!(epoch);
        }
        wire.writer.text(&join.to_string()).await;
    }

    async fn up_to_live(&mut self, wire: &mut Wire) {
        while self.takes(wire).await.expect("the server is there") != "live" {}
    }

    async fn until_the_end(&mut self, wire: &mut Wire) {
        while self.takes(wire).await.is_some() {}
    }

    /// Takes the next line; its type.
    async fn takes(&mut self, wire: &mut Wire) -> Option<String> {
        let raw = match wire.next_before(Instant::now() + PATIENCE).await.expect("a line, or the end") {
            Seen::Text(raw) => raw,
            Seen::End => return None,
            other => panic!("{other:?}"),
        };
        let line = Line::of(raw);
        match line.t() {
            "joined" => {
                assert!(!line.has("missing"), "{}", line.raw);
                self.epoch = Some(line.text("e").to_owned());
            }
            "rewind" => {
                let kept = line.s() as usize;
                assert!(kept < self.lines.len(), "{} with {} lines", line.raw, self.lines.len());
                self.taken_back += self.lines.len() - kept;
                self.lines.truncate(kept);
            }
            "msg" => {
                assert_eq!(line.s(), self.lines.len() as u64 + 1, "a hole or an overlap: {}", line.raw);
                self.lines.push(line.raw.clone());
            }
            "live" => assert_eq!(line.s(), self.lines.len() as u64, "{}", line.raw),
            _ => assert_ne!(line.t(), "err", "{}", line.raw),
        }
        Some(line.t().to_owned())
    }
}

fn acked(told: &[RefCell<Told>]) -> usize {
    told.iter().map(|told| told.borrow().values().flatten().count()).sum()
}

fn publish(id: &str) -> Value {
    json!({"t": "pub", "r": "lobby", "d": id, "id": id})
}

/// Writes in bursts, first what had no answer in an earlier life, until the server is gone.
async fn write(hall: &Hall, n: u64, life: usize, told: &RefCell<Told>) {
    let mut wire = hall.wire(&format!("/v1/ws?user=writer-{n}")).await;
    wire.writer.text(r#"{"t":"join","r":"lobby","quiet":true}"#).await;
    let mut burst: Vec<String> =
        told.borrow().iter().filter(|(_, place)| place.is_none()).map(|(id, _)| id.clone()).collect();
    for number in 0.. {
        burst.extend((0..=number % 7).map(|at| format!("{life}-{number}-{at}")));
        let lines: Vec<String> = burst.iter().map(|id| publish(id).to_string()).collect();
        told.borrow_mut().extend(burst.drain(..).map(|id| (id, None)));
        wire.writer.text(&lines.join("\n")).await;
        for _ in 0..lines.len() {
            let Some(ack) = ack(&mut wire).await else { return };
            let place = (ack.s(), ack.number("ts"));
            told.borrow_mut().insert(ack.text("id").to_owned(), Some(place));
        }
    }
}

/// The next ack; none when the server is gone.
async fn ack(wire: &mut Wire) -> Option<Line> {
    let end = Instant::now() + PATIENCE;
    loop {
        match wire.next_before(end).await.expect("an ack, or the end") {
            Seen::End => return None,
            Seen::Text(raw) => {
                let line = Line::of(raw);
                assert_ne!(line.t(), "err", "{}", line.raw);
                if line.t() == "ack" {
                    return Some(line);
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

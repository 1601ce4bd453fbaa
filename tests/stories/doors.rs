//! Promise: one room has many doors. By WebSocket, by event stream, by long polls and in pages of the log, whoever is cut
//! off at whatever moment sees the same entries in the same order, each once.

use std::time::Duration;

use futures_util::future::join;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};

use crate::stage::events::Stream;
use crate::stage::guest::Line;
use crate::stage::hall::Hall;
use crate::stage::polls::{Link, Poller};
use crate::stage::wire::Seen as Frame;
use crate::stage::{PATIENCE, dice};
use crate::streaming::Seen;

const SETTINGS: [&str; 3] =
    ["limits.messages_per_second=0", "limits.connections_per_address=0", "rooms.history=64"];
/// Entries that are said.
const SAID: u64 = 1_500;
/// Longest that a reader may take to have read all of them.
const ALL: Duration = PATIENCE;

/// Says things and reacts to them; each after its answer.
async fn writes(hall: &Hall, mut dice: StdRng) {
    let mut ann = hall.join("lobby", "ann").await;
    let mut last = 0;
    while last < SAID {
        let line = match dice.random_range(0..10) {
            0 if last > 0 => {
                json!({"t": "react", "r": "lobby", "of": dice.random_range(1..=last), "k": "+1"})
            }
            _ => json!({"t": "pub", "r": "lobby", "d": "x".repeat(dice.random_range(1..300))}),
        };
        let answer = ann.asks(line).await;
        match answer.t() {
            // A reaction that stands already is answered with its place, and takes no new one.
            "ack" => last = last.max(answer.s()),
            _ => assert_eq!(answer.number("code") / 100, 4, "{}", answer.raw),
        }
    }
}

async fn by_websocket(hall: &Hall, mut dice: StdRng) -> Seen {
    let (mut seen, mut epoch) = (Seen::default(), None::<String>);
    while (seen.count() as u64) < SAID {
        let mut wire = hall.wire("/v1/ws?user=wire").await;
        let mut join = json!({"t": "join", "r": "lobby", "since": seen.count()});
        epoch.iter().for_each(|epoch| join["e"] = json!(epoch));
        wire.writer.text(&join.to_string()).await;
        let goal = (seen.count() as u64 + dice.random_range(1..400)).min(SAID);
        while (seen.count() as u64) < goal {
            let Some(Frame::Text(text)) = wire.next_before(Instant::now() + PATIENCE).await else {
                panic!("no text after {}", seen.count())
            };
            let line = Line::of(text);
            if line.t() == "joined" {
                epoch = Some(line.text("e").to_owned());
            }
            seen.takes(&line);
        }
        wire.cut(dice.random());
    }
    seen
}

async fn by_stream(hall: &Hall, mut dice: StdRng) -> Seen {
    const PATH: &str = "/v1/stream?rooms=lobby&last=100000&user=stream";
    let mut seen = Seen::default();
    let mut stream = Stream::open(hall, PATH).await;
    while (seen.count() as u64) < SAID {
        let goal = (seen.count() as u64 + dice.random_range(1..400)).min(SAID);
        while (seen.count() as u64) < goal {
            seen.takes(&stream.next().await.expect("the stream goes on").line);
        }
        stream = stream.again(hall, PATH).await;
    }
    seen
}

async fn by_polls(hall: &Hall, mut dice: StdRng) -> Seen {
    let mut seen = Seen::default();
    let mut poller = Poller::new(hall, "/v1/poll?rooms=lobby&last=100000&user=poll").await;
    while (seen.count() as u64) < SAID {
        if dice.random_ratio(1, 8) {
            // The answer gets lost.
            let url = poller.url(25);
            poller.link.sends("GET", &url, &[], "").await;
            poller.link = Link::to(hall).await;
        }
        for line in poller.polls(25).await {
            seen.takes(&line);
        }
    }
    seen
}

async fn by_pages(hall: &Hall, mut dice: StdRng) -> Seen {
    let mut seen = Seen::default();
    let mut link = Link::to(hall).await;
    while (seen.count() as u64) < SAID {
        let path =
            format!("/v1/rooms/lobby/log?user=page&after={}&n={}", seen.count(), dice.random_range(1..200));
        if dice.random_ratio(1, 4) {
            link.sends("GET", &path, &[], "").await;
            link = Link::to(hall).await;
        }
        let answer = link.get(&path).await;
        if answer.status == 404 {
            // Nothing has been said yet.
            answer.is_refusal(404, "no-room");
            continue;
        }
        let page: Page = serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{e}: {answer:?}"));
        for entry in page.list {
            // In a page the room stands outside.
            let (head, rest) = entry.get().split_once(',').expect("an entry has keys");
            seen.takes(&Line::of(format!("{head},\"r\":\"lobby\",{rest}")));
        }
    }
    seen
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    list: Vec<&'a RawValue>,
}

#[tokio::test]
async fn one_room_has_four_doors() {
    let mut dice = dice();
    let mut chance = || StdRng::seed_from_u64(dice.random());
    let hall = Hall::stored(&SETTINGS).await;
    let (writer, wire, stream, poll, page) = (chance(), chance(), chance(), chance(), chance());
    let reading = join(by_websocket(&hall, wire), by_stream(&hall, stream));
    let asking = join(by_polls(&hall, poll), by_pages(&hall, page));
    let all = join(writes(&hall, writer), join(reading, asking));
    let ((), ((wire, stream), (poll, page))) =
        timeout(ALL, all).await.expect("all have read everything in time");
    let expected = wire.of("lobby");
    assert_eq!(expected.len() as u64, SAID);
    assert_eq!(stream.of("lobby"), expected);
    assert_eq!(poll.of("lobby"), expected);
    assert_eq!(page.of("lobby"), expected);
}

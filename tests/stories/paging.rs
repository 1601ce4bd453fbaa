//! Promise: a long log reads the same from both ends, by place and by time.

use futures_util::future::join_all;
use rand::Rng;
use serde_json::json;

use crate::stage::dice;
use crate::stage::guest::{Guest, Line};
use crate::stage::hall::Hall;
use crate::stage::tokens::{SECRET, Token};
use crate::stage::view::{View, Way, page};

const WRITERS: u64 = 4;
const ENTRIES: u64 = 100_000;
/// Lines that a writer sends at once.
const BURST: u64 = 250;

async fn write(hall: &Hall, n: u64) {
    let name = format!("writer-{n}");
    // Who need not join hears only the acks.
    let mut writer = hall.enter_with(&Token::of(&name).rooms(&["lobby"]).signed(), &name).await;
    for burst in 0..ENTRIES / WRITERS / BURST {
        let line = |at| json!({"t": "pub", "r": "lobby", "d": {"burst": burst, "at": at}}).to_string();
        writer.sends((0..BURST).map(line).collect::<Vec<_>>().join("\n")).await;
        for _ in 0..BURST {
            let ack = writer.hears_a("ack").await;
            assert!(ack.s() > 0);
        }
    }
}

#[tokio::test]
async fn a_hundred_thousand_entries_read_the_same_from_both_ends() {
    let secret = format!("auth.secret={SECRET}");
    let settings = [&secret, "limits.messages_per_second=0", "limits.message_bytes=200000"];
    let mut hall = Hall::stored(&settings).await;
    join_all((0..WRITERS).map(|n| write(&hall, n))).await;
    hall.restarts().await;
    let mut ann = hall.join("lobby", "ann").await;
    let all = View::of_pages(&mut ann, "lobby", 500, Way::Forwards).await;
    assert_eq!((all.lines.len() as u64, all.last()), (ENTRIES, ENTRIES));
    View::of_pages(&mut ann, "lobby", 500, Way::Backwards).await.is_the_same_as(&all, "backwards");
    let times: Vec<u64> =
        all.lines.keys().map(|place| all.at(*place)["ts"].as_u64().expect("a time")).collect();
    assert!(times.is_sorted(), "time does not run back in a room");
    by_time(&mut ann, &all, Way::Forwards).await;
    by_time(&mut ann, &all, Way::Backwards).await;
    anywhere(&mut ann, &times).await;
}

/// Reads the log by time alone as far as that goes: many entries may have the same time.
async fn by_time(ann: &mut Guest, all: &View, way: Way) {
    let (mut lines, mut end): (Vec<Vec<String>>, Option<Line>) = (Vec::new(), None);
    loop {
        let mut ask = json!({"t": "log", "r": "lobby", "n": 500});
        let (time, next_to) = match way {
            Way::Forwards => (("from", 0, 0), "after"),
            Way::Backwards => (("until", u64::MAX, 1), "before"),
        };
        let (key, first, more) = time;
        ask[key] = json!(end.as_ref().map_or(first, |line| line.number("ts") + more));
        let (mut list, _) = page(ann, ask).await;
        let is_new = |line: &String| {
            let place = Line::of(line.clone()).s();
            end.as_ref()
                .is_none_or(|end| if way == Way::Forwards { place > end.s() } else { place < end.s() })
        };
        list.retain(is_new);
        if let (Some(end), true) = (&end, list.is_empty()) {
            // All of the page has one time: only the place leads on.
            let mut ask = json!({"t": "log", "r": "lobby", "n": 500});
            ask[next_to] = json!(end.s());
            list = page(ann, ask).await.0;
        }
        let newest = if way == Way::Forwards { list.last() } else { list.first() };
        let Some(newest) = newest else { break };
        end = Some(Line::of(newest.clone()));
        lines.push(list);
    }
    if way == Way::Backwards {
        lines.reverse();
    }
    let mut view = View::default();
    lines.iter().flatten().for_each(|line| view.takes(line));
    view.is_the_same_as(all, &format!("{way:?} by time"));
}

/// Pages that begin at random places and times.
async fn anywhere(ann: &mut Guest, times: &[u64]) {
    let mut dice = dice();
    for _ in 0..200 {
        let (at, n) = (dice.random_range(0..ENTRIES), dice.random_range(1..=500_u64));
        let ts = times[at as usize] + dice.random_range(0..2);
        // Places are counted from 1, and `times` from 0.
        let since = times.partition_point(|time| *time < ts) as u64;
        let place = at + 1;
        for (key, value, expected) in [
            ("before", place, place.saturating_sub(n).max(1)..place),
            ("after", place, place + 1..(place + n + 1).min(ENTRIES + 1)),
            ("from", ts, since + 1..(since + n + 1).min(ENTRIES + 1)),
            ("until", ts, (since + 1).saturating_sub(n).max(1)..since + 1),
        ] {
            let mut ask = json!({"t": "log", "r": "lobby", "n": n});
            ask[key] = json!(value);
            let (list, more) = page(ann, ask.clone()).await;
            let places: Vec<u64> = list.into_iter().map(|line| Line::of(line).s()).collect();
            let is_end = match key {
                "before" | "until" => expected.start == 1,
                _ => expected.end == ENTRIES + 1,
            };
            assert_eq!(places, expected.collect::<Vec<_>>(), "{ask}");
            assert_eq!(more, !is_end, "{ask}");
        }
    }
}

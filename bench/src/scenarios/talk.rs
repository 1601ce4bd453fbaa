//! Fan-out, chat and the floor alone: people speak and others hear them. One table each, the server's figures beside
//! the kernel's floor for the same load.

use super::bench::Bench;
use crate::client::{Pace, Speakers};
use crate::failure::Failure;
use crate::figures::Figures;
use crate::measure::Subject;
use crate::options::{Shape, Talk};
use crate::report::{faults_cell, mebibytes, milliseconds, number, optional};

const FAN_OUT_SHAPES: &[Shape] = &[
    Shape { rooms: 1, members: 1000 },
    Shape { rooms: 1, members: 5000 },
    Shape { rooms: 100, members: 100 },
];
const FAN_OUT_WINDOWS: &[u32] = &[1, 4, 16, 32];
const CHAT_SHAPES: &[Shape] = &[Shape { rooms: 500, members: 10 }];
const CHAT_WINDOWS: &[u32] = &[1, 4];
const CHAT_RATES: &[f64] = &[5000.0];

const HEADS: &[&str] = &[
    "rooms × members, pace",
    "deliveries/s",
    "CPU µs / delivery",
    "user",
    "system",
    "floor, one send each",
    "floor, batched",
    "writes / delivery",
    "p50 ms",
    "p99 ms",
    "max ms",
    "switches / message",
    "RSS MiB",
    "other cores",
    "faults",
];

const NOTES: &str = "CPU is that of the server's process, user and system, over the measured time; on loopback the \
    receiving side's TCP work is done inside the sender's `send()` and so is in it, for the floor as well. The floor is \
    a bare epoll loop that sends the same bytes: one `send()` per message and listener, or one per listener and loop \
    turn. `writes` are counted after the measured time. Latency runs from when a message was sent (in flight) or due \
    (per second). `other cores` is what else ran on the machine.";

pub fn fan_out(bench: &mut Bench, talk: &Talk) -> Result<(), Failure> {
    let paces = talk.paces(FAN_OUT_WINDOWS, &[]);
    table(bench, "fan-out", "Fan-out: one speaker a room", talk, FAN_OUT_SHAPES, &paces, &Speakers::OneApart)
}

pub fn chat(bench: &mut Bench, talk: &Talk) -> Result<(), Failure> {
    let paces = talk.paces(CHAT_WINDOWS, CHAT_RATES);
    table(bench, "chat", "Chat: every member speaks", talk, CHAT_SHAPES, &paces, &Speakers::Members)
}

fn table(
    bench: &mut Bench,
    scenario: &'static str,
    title: &str,
    talk: &Talk,
    shapes: &[Shape],
    paces: &[Pace],
    speakers: &Speakers,
) -> Result<(), Failure> {
    talk.check()?;
    let mut rows = vec![];
    let mut command = String::new();
    for shape in talk.shapes(shapes) {
        for pace in paces {
            let name = format!("{shape}, {}", pace_text(*pace));
            let server = bench.server(&[])?;
            let case = bench.case(scenario, &name, "roomcast", &server.command);
            let plan = bench.plan(server.address, shape, speakers.clone(), *pace)?;
            let subject =
                Subject { pids: server.pids.clone(), beside: vec![], metrics: Some(server.address) };
            let figures = bench.measure(&case, plan, bench.timing(), &subject)?;
            command.clone_from(&server.command);
            server.stop()?;
            let floors = match bench.common.no_floor {
                true => [None, None],
                false => [false, true]
                    .map(|batched| Some(bench.measure_floor(&case, shape, speakers.clone(), *pace, batched))),
            };
            let [each, batched] = floors.map(Option::transpose);
            rows.push(row(&name, &figures, each?.as_ref(), batched?.as_ref()));
        }
    }
    let notes = format!("Server: `{command}`. {NOTES}");
    bench.report.table(title, &notes, HEADS, &rows)
}

/// The floor without any server beside it.
pub fn floor(bench: &mut Bench, talk: &Talk) -> Result<(), Failure> {
    talk.check()?;
    let mut rows = vec![];
    for shape in talk.shapes(FAN_OUT_SHAPES) {
        for pace in talk.paces(FAN_OUT_WINDOWS, &[]) {
            for batched in [false, true] {
                let name = format!("{shape}, {}", pace_text(pace));
                let case = bench.case("floor", &name, "", "");
                let figures = bench.measure_floor(&case, shape, Speakers::OneApart, pace, batched)?;
                let kind = if batched { "batched" } else { "one send each" };
                rows.push(row(&format!("{name}, {kind}"), &figures, None, None));
            }
        }
    }
    bench.report.table("The kernel's floor", NOTES, HEADS, &rows)
}

fn row(name: &str, figures: &Figures, each: Option<&Figures>, batched: Option<&Figures>) -> Vec<String> {
    let cpu = |figures: Option<&Figures>| optional(figures.and_then(|figures| figures.cpu_us_per_delivery));
    vec![
        name.to_owned(),
        number(figures.deliveries_per_s),
        cpu(Some(figures)),
        optional(figures.user_us_per_delivery),
        optional(figures.system_us_per_delivery),
        cpu(each),
        cpu(batched),
        optional(figures.calls.map(|calls| calls.writes_per_delivery)),
        milliseconds(figures.latency_p50_us),
        milliseconds(figures.latency_p99_us),
        milliseconds(figures.latency_max_us),
        number(figures.switches_voluntary_per_message + figures.switches_involuntary_per_message),
        figures.rss().map_or_else(|| "-".to_owned(), |(_, _, last)| mebibytes(last)),
        number(figures.other_cores),
        faults_cell(&figures.faults),
    ]
}

pub fn pace_text(pace: Pace) -> String {
    match pace {
        Pace::Window(window) => format!("{window} in flight"),
        Pace::Rate(rate) => format!("{}/s", number(rate)),
    }
}

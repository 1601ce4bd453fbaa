//! What goes out: the publishers of one thread and when each speaks. Called by the event loop once a turn; gives it
//! whole messages to send and says how long it may sleep. Knows no socket.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use super::plan::{Pace, Plan, Speakers};
use super::shared::{Shared, count};
use crate::marker::{Mark, blank_payload, mark_place};

/// Messages that one turn of the loop may send before it reads again.
const BURST_MAX: usize = 64;
/// The longest sleep when nothing is due; phases change by a flag that nobody announces.
const IDLE_NS: u64 = 2_000_000;
/// How long a full window waits for its deliveries before it counts them as lost and goes on.
const PATIENCE_NS: u64 = 1_000_000_000;

/// One publisher with its message laid out, ready to be stamped.
struct Speaker {
    publisher: usize,
    /// Place of its connection among those of the thread.
    connection: usize,
    /// The line, or the whole RESP command.
    text: Vec<u8>,
    mark_at: usize,
    sequence: u32,
}

/// One room whose publishers live on this thread.
struct Desk {
    room: usize,
    speakers: Range<usize>,
    next: usize,
    sent: u64,
    /// Deliveries that were waited for in vain.
    forgiven: u64,
    delivered_before: u64,
    changed_ns: u64,
}

/// All publishers of one thread.
pub(super) struct Schedule {
    speakers: Vec<Speaker>,
    desks: Vec<Desk>,
    /// Rate: messages sent so far, and when the first was due.
    spoken: u64,
    start_ns: u64,
    /// How late the schedule was at its worst.
    pub lag_max_ns: u64,
}

/// A message to send now.
pub(super) struct Utterance<'a> {
    pub connection: usize,
    pub text: &'a [u8],
}

impl Schedule {
    pub fn new() -> Self {
        Self { speakers: vec![], desks: vec![], spoken: 0, start_ns: 0, lag_max_ns: 0 }
    }

    /// Adds the publishers of `room`; `connections` are their places among the thread's connections.
    pub fn add_room(&mut self, plan: &Plan, room: usize, connections: impl Iterator<Item = usize>) {
        let first = self.speakers.len();
        let text = message_text(plan, room).into_bytes();
        let mark_at = mark_place(&text).expect("the payload has a mark");
        for (place, connection) in connections.enumerate() {
            self.speakers.push(Speaker {
                publisher: room * plan.publishers_per_room() + place,
                connection,
                text: text.clone(),
                mark_at,
                sequence: 0,
            });
        }
        self.desks.push(Desk {
            room,
            speakers: first..self.speakers.len(),
            next: first,
            sent: 0,
            forgiven: 0,
            delivered_before: 0,
            changed_ns: 0,
        });
    }

    /// The clock starts now. Threads are staggered so that their messages interleave.
    pub fn start(&mut self, plan: &Plan, thread: usize, now_ns: u64) {
        self.start_ns = now_ns;
        if let Pace::Rate(rate) = plan.pace {
            self.start_ns += (thread as f64 / rate * 1e9) as u64;
        }
        self.desks.iter_mut().for_each(|desk| desk.changed_ns = now_ns);
    }

    /// Hands all that is due to `say`; returns the nanoseconds until there may be more. `say` answers false when the
    /// connection can take no more at the moment.
    pub fn speak(
        &mut self,
        shared: &Shared,
        thread: usize,
        now_ns: u64,
        say: impl FnMut(Utterance<'_>) -> bool,
    ) -> u64 {
        match shared.plan.pace {
            _ if self.speakers.is_empty() => IDLE_NS,
            Pace::Rate(rate) => self.speak_by_rate(shared, thread, rate, now_ns, say),
            Pace::Window(window) => self.speak_by_window(shared, thread, u64::from(window), now_ns, say),
        }
    }

    fn speak_by_rate(
        &mut self,
        shared: &Shared,
        thread: usize,
        rate: f64,
        now_ns: u64,
        mut say: impl FnMut(Utterance<'_>) -> bool,
    ) -> u64 {
        let count = self.speakers.len();
        let gap_ns = shared.plan.publishers() as f64 / count as f64 / rate * 1e9;
        for _ in 0..BURST_MAX {
            let due_ns = self.start_ns + (self.spoken as f64 * gap_ns) as u64;
            if due_ns > now_ns {
                return (due_ns - now_ns).min(IDLE_NS);
            }
            self.lag_max_ns = self.lag_max_ns.max(now_ns - due_ns);
            let speaker = &mut self.speakers[self.spoken as usize % count];
            if !speaker.say(shared, thread, due_ns, &mut say) {
                return IDLE_NS;
            }
            self.spoken += 1;
        }
        0
    }

    fn speak_by_window(
        &mut self,
        shared: &Shared,
        thread: usize,
        window: u64,
        now_ns: u64,
        mut say: impl FnMut(Utterance<'_>) -> bool,
    ) -> u64 {
        let mut said = 0;
        for desk in &mut self.desks {
            let readers = shared.plan.readers_of(desk.room) as u64;
            let delivered = desk.notice(shared, readers, now_ns);
            while said < BURST_MAX && (desk.sent + 1) * readers <= delivered + window * readers {
                let speaker = &mut self.speakers[desk.next];
                if !speaker.say(shared, thread, crate::sys::monotonic_ns(), &mut say) {
                    break;
                }
                desk.sent += 1;
                desk.next =
                    if desk.next + 1 == desk.speakers.end { desk.speakers.start } else { desk.next + 1 };
                said += 1;
            }
        }
        match (said, shared.plan.threads) {
            (BURST_MAX, _) => 0,
            // Deliveries wake a lone thread; with several, another one may have heard the last.
            (_, 1) => IDLE_NS,
            _ => IDLE_NS / 20,
        }
    }
}

impl Desk {
    /// Deliveries so far, those waited for in vain included.
    fn notice(&mut self, shared: &Shared, readers: u64, now_ns: u64) -> u64 {
        let delivered = shared.rooms[self.room].delivered.load(Relaxed);
        if delivered != self.delivered_before {
            (self.delivered_before, self.changed_ns) = (delivered, now_ns);
        } else if now_ns.saturating_sub(self.changed_ns) > PATIENCE_NS {
            self.forgiven = (self.sent * readers).saturating_sub(delivered);
            self.changed_ns = now_ns;
        }
        delivered + self.forgiven
    }
}

impl Speaker {
    fn say(
        &mut self,
        shared: &Shared,
        thread: usize,
        stamp_ns: u64,
        say: &mut impl FnMut(Utterance<'_>) -> bool,
    ) -> bool {
        let mark = Mark {
            time_ns: stamp_ns,
            publisher: shared.plan.publisher_on_wire(self.publisher),
            sequence: self.sequence + 1,
        };
        mark.stamp(&mut self.text[self.mark_at..]);
        if !say(Utterance { connection: self.connection, text: &self.text }) {
            return false;
        }
        self.sequence += 1;
        shared.sent[self.publisher].store(self.sequence, Relaxed);
        count(&shared.counters[thread].sent, 1);
        true
    }
}

fn message_text(plan: &Plan, room: usize) -> String {
    let (room, payload) = (Plan::room_name(room), blank_payload(plan.payload_bytes));
    match &plan.speakers {
        Speakers::Queue(door) => {
            let entry = format!("{{\"type\":\"message\",\"room\":\"{room}\",\"content\":\"{payload}\"}}");
            let list = &door.list;
            format!("*3\r\n$5\r\nLPUSH\r\n${}\r\n{list}\r\n${}\r\n{entry}\r\n", list.len(), entry.len())
        }
        _ => format!("{{\"t\":\"pub\",\"r\":\"{room}\",\"d\":\"{payload}\"}}"),
    }
}

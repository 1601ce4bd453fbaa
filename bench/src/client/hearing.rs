//! What comes in: lines of the native protocol, checked against the books. Called by the event loop with whole frames;
//! counts deliveries, notes faults, never answers. Reads only the few bytes it needs: the fixed key order of server
//! lines makes one comparison enough to know kind and room.

use super::connection::Connection;
use super::shared::{Outcome, Shared};
use crate::marker::Mark;
use crate::tally::Heard;

/// The ears of one thread, for the time of one read.
pub(super) struct Ear<'a> {
    pub shared: &'a Shared,
    pub outcome: &'a mut Outcome,
    /// When the read returned.
    pub now_ns: u64,
    /// Deliveries heard in this read.
    pub delivered: u64,
}

impl Ear<'_> {
    /// Takes one text frame of a joined connection; it holds one line or several.
    pub fn hear(&mut self, connection: &mut Connection, text: &[u8]) {
        let mut rest = text;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.hear_line(connection, &rest[..end]);
            rest = &rest[end + 1..];
        }
        self.hear_line(connection, rest);
    }

    fn hear_line(&mut self, connection: &mut Connection, line: &[u8]) {
        match line.strip_prefix(self.shared.rooms[connection.room].line_start.as_bytes()) {
            Some(entry) => self.hear_entry(connection, entry, line),
            None if line.is_empty() => {}
            None => self.hear_other(connection, line),
        }
    }

    fn hear_entry(&mut self, connection: &mut Connection, entry: &[u8], line: &[u8]) {
        self.delivered += 1;
        self.check_offset(connection, entry, line);
        let Some(mark) = Mark::find(entry) else {
            return self.misrouted(connection, line);
        };
        let plan = &self.shared.plan;
        let first = plan.publisher_on_wire(connection.room * plan.publishers_per_room());
        let place = mark.publisher.wrapping_sub(first) as usize;
        let Some(track) = connection.tracks.get_mut(place) else {
            return self.misrouted(connection, line);
        };
        match track.hear(mark.sequence) {
            Heard::New => {}
            Heard::Late => self.outcome.faults.out_of_order += 1,
            Heard::Doubled => self.outcome.faults.doubled += 1,
        }
        if connection.stalls {
            self.outcome.stalled_heard += 1;
        } else if self.shared.measures(mark.time_ns) {
            self.outcome.latency_ns.add(self.now_ns.saturating_sub(mark.time_ns));
        }
    }

    fn check_offset(&mut self, connection: &mut Connection, entry: &[u8], line: &[u8]) {
        let offset = leading_number(entry);
        if connection.offset != 0 && offset != connection.offset + 1 {
            self.outcome.faults.offset_jumps += 1;
            let (number, before) = (connection.number, connection.offset);
            self.shared
                .complain(|| format!("connection {number} had offset {before} and then got {}", show(line)));
        }
        connection.offset = offset;
    }

    fn hear_other(&mut self, connection: &mut Connection, line: &[u8]) {
        match kind(line) {
            b"ack" => self.outcome.acknowledged += 1,
            b"err" => {
                self.outcome.faults.refused += 1;
                self.shared.complain(|| show(line));
            }
            b"gap" | b"skip" => {
                // What is missing was told, so the next offset may be anything.
                self.outcome.told_gaps += 1;
                connection.offset = 0;
            }
            b"msg" => self.misrouted(connection, line),
            b"bye" if !connection.stalls => self.shared.complain(|| show(line)),
            // Presence, typing and the like are no deliveries.
            _ => {}
        }
    }

    fn misrouted(&mut self, connection: &Connection, line: &[u8]) {
        self.outcome.faults.misrouted += 1;
        self.shared.complain(|| {
            format!("connection {} of another room or run got {}", connection.number, show(line))
        });
    }
}

/// The value of `t`, which always comes first; empty when the line has another shape.
pub(super) fn kind(line: &[u8]) -> &[u8] {
    let Some(rest) = line.strip_prefix(b"{\"t\":\"") else {
        return b"";
    };
    let end = rest.iter().position(|byte| *byte == b'"').unwrap_or(0);
    &rest[..end]
}

fn leading_number(text: &[u8]) -> u64 {
    text.iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
}

/// Foreign bytes, safe to print on a terminal.
pub(super) fn show(line: &[u8]) -> String {
    String::from_utf8_lossy(line).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::connection::Role;
    use crate::client::plan::Speakers;
    use crate::client::plan::tests::plan;
    use crate::marker::blank_payload;
    use crate::tally::Faults;

    /// An entry of `room` at `offset` with what publisher `publisher` of run 3 said as his `sequence`-th.
    fn entry(room: &str, offset: u64, publisher: u32, sequence: u32) -> String {
        let mut payload = blank_payload(40).into_bytes();
        Mark { time_ns: 1, publisher: 3 << 20 | publisher, sequence }.stamp(&mut payload);
        let payload = String::from_utf8(payload).expect("ASCII");
        format!(
            "{{\"t\":\"msg\",\"r\":\"{room}\",\"s\":{offset},\"id\":\"x\",\"u\":\"u1\",\"ts\":5,\"d\":\"{payload}\"}}"
        )
    }

    /// What a listener of room-2, whose publisher is number 1, finds in these frames.
    fn faults_in(frames: &[String]) -> (Faults, Outcome, u64) {
        let shared = Shared::new(plan(2, 1, Speakers::OneApart, 0));
        let mut outcome = Outcome::default();
        let mut connection = Connection::new(Role::Member, 2, 1, 1);
        let mut ear = Ear { shared: &shared, outcome: &mut outcome, now_ns: 9, delivered: 0 };
        frames.iter().for_each(|frame| ear.hear(&mut connection, frame.as_bytes()));
        let delivered = ear.delivered;
        outcome.faults.lost += connection.tracks[0].missing_inside();
        assert_eq!(
            outcome.faults.any(),
            shared.complaint().is_some(),
            "each fault is shown and nothing else"
        );
        (outcome.faults, outcome, delivered)
    }

    #[test]
    fn lines_are_heard_alike_in_one_frame_or_in_several() {
        let lines = [
            entry("room-2", 7, 1, 1),
            "{\"t\":\"pres\",\"r\":\"room-2\"}".to_owned(),
            entry("room-2", 8, 1, 2),
        ];
        for frames in [lines.to_vec(), vec![lines.join("\n")]] {
            let (faults, _, delivered) = faults_in(&frames);
            assert_eq!((faults, delivered), (Faults::default(), 2));
        }
    }

    #[test]
    fn a_message_of_another_room_publisher_or_run_is_misrouted() {
        let (faults, ..) = faults_in(&[entry("room-1", 1, 0, 1)]);
        assert_eq!(faults, Faults { misrouted: 1, ..Faults::default() });
        let (faults, ..) = faults_in(&[entry("room-2", 1, 0, 1)]);
        assert_eq!(faults, Faults { misrouted: 1, ..Faults::default() });
        let (faults, ..) = faults_in(&[entry("room-2", 1, 1 << 22 | 1, 1)]);
        assert_eq!(faults, Faults { misrouted: 1, ..Faults::default() });
    }

    #[test]
    fn a_jump_of_the_offset_is_a_fault_unless_it_was_told() {
        let jump = [entry("room-2", 7, 1, 1), entry("room-2", 9, 1, 2)];
        assert_eq!(faults_in(&jump).0, Faults { offset_jumps: 1, ..Faults::default() });
        let gap = "{\"t\":\"gap\",\"r\":\"room-2\",\"missing\":[8,8],\"why\":\"slow\"}".to_owned();
        let (faults, outcome, _) = faults_in(&[jump[0].clone(), gap, jump[1].clone()]);
        assert_eq!((faults, outcome.told_gaps), (Faults::default(), 1));
    }

    #[test]
    fn refusals_and_answers_are_counted() {
        let lines =
            ["{\"t\":\"ack\",\"r\":\"room-2\",\"s\":1}", "{\"t\":\"err\",\"code\":429,\"why\":\"rate\"}"];
        let (faults, outcome, _) = faults_in(&lines.map(str::to_owned));
        assert_eq!((faults.refused, outcome.acknowledged), (1, 1));
    }
}

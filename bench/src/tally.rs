//! The book-keeping of what one listener heard from one publisher: lost, doubled, out of order. Filled by the client
//! loops for every pair over the whole run, warm-up and drain included. Exact, and one comparison for the usual case.

use serde::Serialize;

/// Unseen stretches that one pair may keep open; past it the oldest is closed for good as lost.
const HOLES_MAX: usize = 1024;

/// What became of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The next one, or a later one with a hole before it.
    New,
    /// It fills a hole: it came after one that was sent later.
    Late,
    /// It was here already.
    Doubled,
}

/// What one listener heard from one publisher.
#[derive(Clone, Default)]
pub struct Track {
    newest: u32,
    /// First and last sequence of each stretch that was jumped over, oldest first.
    holes: Vec<(u32, u32)>,
    given_up: u64,
}

impl Track {
    /// Notes sequence `sequence` (1, 2, 3 …).
    pub fn hear(&mut self, sequence: u32) -> Heard {
        if sequence <= self.newest {
            return self.hear_again(sequence);
        }
        if sequence > self.newest + 1 {
            self.open_hole(self.newest + 1, sequence - 1);
        }
        self.newest = sequence;
        Heard::New
    }

    fn hear_again(&mut self, sequence: u32) -> Heard {
        let Some(at) = self.holes.iter().position(|(first, last)| (*first..=*last).contains(&sequence))
        else {
            return Heard::Doubled;
        };
        let (first, last) = self.holes.remove(at);
        if sequence < last {
            self.holes.insert(at, (sequence + 1, last));
        }
        if first < sequence {
            self.holes.insert(at, (first, sequence - 1));
        }
        Heard::Late
    }

    fn open_hole(&mut self, first: u32, last: u32) {
        if self.holes.len() >= HOLES_MAX {
            let (first, last) = self.holes.remove(0);
            self.given_up += u64::from(last - first) + 1;
        }
        self.holes.push((first, last));
    }

    /// Messages missing below the newest one heard.
    pub fn missing_inside(&self) -> u64 {
        self.given_up + self.holes.iter().map(|(first, last)| u64::from(last - first) + 1).sum::<u64>()
    }

    /// Messages missing out of the `sent` that the publisher sent in all.
    pub fn missing(&self, sent: u32) -> u64 {
        self.missing_inside() + u64::from(sent.saturating_sub(self.newest))
    }
}

/// What went wrong in a run; all zero is a correct run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Never arrived at a listener that was there for the whole run.
    pub lost: u64,
    /// Arrived more than once.
    pub doubled: u64,
    /// Arrived after a later one of the same publisher.
    pub out_of_order: u64,
    /// Of another room or another run, or without a mark.
    pub misrouted: u64,
    /// Entries whose offset is not the one before plus one, with no `gap` or `skip` that explains it.
    pub offset_jumps: u64,
    /// Publishes that were refused (`err` or a RESP error).
    pub refused: u64,
    /// Publishes that were never acknowledged.
    pub unacknowledged: u64,
    /// Connections that the server closed though they read all the time.
    pub closed: u64,
}

impl Faults {
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

impl std::ops::AddAssign for Faults {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
        self.misrouted += other.misrouted;
        self.offset_jumps += other.offset_jumps;
        self.refused += other.refused;
        self.unacknowledged += other.unacknowledged;
        self.closed += other.closed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear_all(sequences: &[u32]) -> (Track, Vec<Heard>) {
        let mut track = Track::default();
        let heard = sequences.iter().map(|sequence| track.hear(*sequence)).collect();
        (track, heard)
    }

    #[test]
    fn a_straight_stream_has_no_fault() {
        let (track, heard) = hear_all(&[1, 2, 3, 4]);
        assert!(heard.iter().all(|one| *one == Heard::New));
        assert_eq!(track.missing(4), 0);
    }

    #[test]
    fn planted_loss_is_found_inside_and_at_the_end() {
        let (track, _) = hear_all(&[1, 2, 5, 6, 9]);
        assert_eq!(track.missing_inside(), 4);
        assert_eq!(track.missing(12), 7);
    }

    #[test]
    fn planted_doubles_are_found_even_far_behind() {
        let (mut track, _) = hear_all(&(1..=1000).collect::<Vec<_>>());
        assert_eq!(track.hear(1), Heard::Doubled);
        assert_eq!(track.hear(1000), Heard::Doubled);
        assert_eq!(track.missing(1000), 0);
    }

    #[test]
    fn planted_reorder_is_late_once_and_then_doubled() {
        let (track, heard) = hear_all(&[1, 4, 3, 2, 3]);
        assert_eq!(heard, [Heard::New, Heard::New, Heard::Late, Heard::Late, Heard::Doubled]);
        assert_eq!(track.missing(4), 0);
    }

    #[test]
    fn a_hole_filled_in_its_middle_leaves_two() {
        let (mut track, _) = hear_all(&[1, 10]);
        assert_eq!(track.hear(5), Heard::Late);
        assert_eq!(track.holes, [(2, 4), (6, 9)]);
        assert_eq!(track.missing(10), 7);
    }

    #[test]
    fn holes_are_bounded_and_nothing_is_forgotten_in_the_sum() {
        let (track, _) = hear_all(&(1..=5000).map(|n| n * 2).collect::<Vec<_>>());
        assert_eq!(track.holes.len(), HOLES_MAX);
        assert_eq!(track.missing(10_000), 5000);
    }
}

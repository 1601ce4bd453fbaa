//! How much goes in one step where a server takes entries one by one and may take a later one and not an earlier one:
//! each room once, so that what is sent again can stand behind nothing of its own room. Called by targets.

use crate::forwards::target::Outgoing;

/// How many from the front have each a room of their own, at most so many entries and bytes; at least one.
#[cfg(any(feature = "nats", feature = "sqs"))]
pub fn of_different_rooms(entries: &[Outgoing], items_max: usize, bytes_max: usize) -> usize {
    let mut rooms = std::collections::HashSet::new();
    let fits = entries.iter().scan(0, |bytes, entry| {
        *bytes += entry.line.len();
        Some((*bytes, entry))
    });
    let run =
        fits.take(items_max).take_while(|(bytes, entry)| *bytes <= bytes_max && rooms.insert(&entry.room));
    run.count().max(1).min(entries.len())
}

/// How many from the front, at most so many entries and bytes; at least one.
#[cfg(any(feature = "sqs", feature = "pubsub"))]
pub fn of_any_rooms(entries: &[Outgoing], items_max: usize, bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fits = |entry: &&Outgoing| {
        bytes += entry.line.len();
        bytes <= bytes_max
    };
    entries.iter().take(items_max).take_while(fits).count().max(1).min(entries.len())
}

#[cfg(all(test, feature = "sqs"))]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::chat::message::Epoch;
    use crate::chat::names::RoomName;

    fn entries(rooms: &str) -> Vec<Outgoing> {
        let entry = |(place, room): (usize, char)| Outgoing {
            room: RoomName::new(&room.to_string()).unwrap(),
            epoch: Epoch(1),
            offset: place as u64 + 1,
            ts_ms: 1,
            user: None,
            line: Bytes::from_static(b"0123456789"),
        };
        rooms.chars().enumerate().map(entry).collect()
    }

    #[test]
    fn a_run_ends_before_a_room_comes_again_or_a_limit_is_passed() {
        let run = |rooms, items_max, bytes_max| of_different_rooms(&entries(rooms), items_max, bytes_max);
        assert_eq!(run("abcab", 10, 1_000), 3);
        assert_eq!(run("aab", 10, 1_000), 1);
        assert_eq!(run("abcd", 2, 1_000), 2);
        assert_eq!(run("abcd", 10, 29), 2);
        assert_eq!((run("ab", 10, 5), run("", 10, 5)), (1, 0), "one goes, however big");
        let any = |rooms, items_max, bytes_max| of_any_rooms(&entries(rooms), items_max, bytes_max);
        assert_eq!((any("aaaa", 10, 1_000), any("aaaa", 3, 1_000), any("aaaa", 10, 29)), (4, 3, 2));
        assert_eq!((any("a", 10, 5), any("", 10, 5)), (1, 0));
    }
}

//! What is wrong with what stands in the rooms, compared with what was pushed. Knows neither the server nor a queue.

use std::collections::BTreeMap;
use std::fmt;

/// The numbers that stand in each room, by their places.
pub type Heard = BTreeMap<String, Vec<u64>>;

/// How many items each fault has.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    /// Pushed, and nowhere.
    pub lost: usize,
    /// Places beyond the first one.
    pub doubled: usize,
    /// Behind one that was pushed later into the same room.
    pub reordered: usize,
    /// In a room into which they were not pushed.
    pub astray: usize,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { lost, doubled, reordered, astray } = self;
        write!(f, "lost {lost}, doubled {doubled}, reordered {reordered}, astray {astray}")
    }
}

/// Items 0 to `pushed` went into the rooms that `room_of` names, in their order.
pub fn judge(heard: &Heard, pushed: u64, room_of: impl Fn(u64) -> String) -> Verdict {
    let mut places: BTreeMap<u64, usize> = BTreeMap::new();
    let mut verdict = Verdict::default();
    for (room, numbers) in heard {
        let mut newest = 0;
        for &number in numbers {
            verdict.astray += usize::from(room_of(number) != *room || number >= pushed);
            let times = places.entry(number).or_default();
            *times += 1;
            verdict.doubled += usize::from(*times > 1);
            verdict.reordered += usize::from(*times == 1 && number < newest);
            newest = newest.max(number);
        }
    }
    verdict.lost = (0..pushed).filter(|number| !places.contains_key(number)).count();
    verdict
}

#[test]
fn a_judge_who_cannot_convict_is_worth_nothing() {
    let room_of = |number: u64| format!("room-{}", number % 2);
    let of = |even: &[u64], odd: &[u64]| {
        let heard = [("room-0", even), ("room-1", odd)];
        let heard = heard.map(|(room, numbers)| (room.to_owned(), numbers.to_vec()));
        let Verdict { lost, doubled, reordered, astray } = judge(&Heard::from(heard), 6, room_of);
        (lost, doubled, reordered, astray)
    };
    assert_eq!(of(&[0, 2, 4], &[1, 3, 5]), (0, 0, 0, 0));
    assert_eq!(of(&[0, 4], &[1, 3, 5]), (1, 0, 0, 0));
    assert_eq!(of(&[0, 2, 4, 2], &[1, 3, 5]), (0, 1, 0, 0));
    assert_eq!(of(&[0, 4, 2], &[1, 3, 5]), (0, 0, 1, 0));
    assert_eq!(of(&[0, 2, 4, 5], &[1, 3]), (0, 0, 0, 1));
    assert_eq!(of(&[0, 2, 4, 6], &[1, 3, 5]), (0, 0, 0, 1));
    assert_eq!(of(&[], &[]), (6, 0, 0, 0));
}

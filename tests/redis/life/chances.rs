//! Whatever happens in whatever order, all see the truth in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use roomcast::engines::redis::life::roster::{self, Limits};
use roomcast::engines::shared::News;

use crate::fixtures::eventually;
use crate::fixtures::servers::Server;
use crate::fixtures::sharer::{Sharer, room, user};

/// Who is where, as the story did it: for each node, the users in each room.
type Truth = [BTreeMap<&'static str, BTreeSet<String>>; 3];

const ROOMS: [&str; 3] = ["lobby", "hall", "a:{b}"];

/// Whether a node sees what is true of the others: names, or numbers where the room is large.
fn sees_truth(sharers: &[Sharer; 3], truth: &Truth, at: usize) -> bool {
    let others: Vec<usize> = (0..3).filter(|n| *n != at).collect();
    ROOMS.iter().all(|room| match sharers[at].numbers.get(*room) {
        Some(numbers) => {
            others.iter().all(|n| {
                let told = numbers.get(&sharers[*n].lease.slot).copied().unwrap_or(0);
                told as usize == truth[*n].get(room).map_or(0, BTreeSet::len)
            }) && numbers
                .iter()
                .all(|(slot, n)| *n == 0 || others.iter().any(|at| sharers[*at].lease.slot == *slot))
        }
        None => {
            let all: BTreeSet<&str> = others
                .iter()
                .flat_map(|n| truth[*n].get(room).into_iter().flatten().map(String::as_str))
                .collect();
            sharers[at].sees(room) == Vec::from_iter(all)
        }
    })
}

#[actix_rt::test]
async fn whatever_happens_in_whatever_order_all_see_the_truth_in_the_end() {
    let server = Server::start(&[]).await;
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut truth = Truth::default();
    let mut sharers =
        [Sharer::start(&server).await, Sharer::start(&server).await, Sharer::start(&server).await];
    let limits = Limits { named: 9, again: 6 };
    for sharer in &mut sharers {
        sharer.limits = limits;
        for name in ROOMS {
            sharer.join(name).await;
        }
    }
    let mut was_large = 0;
    for _ in 0..6 {
        // Rooms fill and empty in turn, so that they become large and small again.
        let filling = random.random_bool(0.5);
        for _ in 0..100 {
            let at = random.random_range(0..3);
            let (name, who) =
                (ROOMS[random.random_range(0..3)], format!("user:{}", random.random_range(0..9)));
            let users = truth[at].entry(name).or_default();
            if random.random_bool(if filling { 0.8 } else { 0.2 }) {
                if users.insert(who.clone()) {
                    sharers[at].telling.push(&room(name), News::Came(user(&who), None));
                }
            } else if users.remove(&who) {
                sharers[at].telling.push(&room(name), News::Went(user(&who)));
            }
            match random.random_range(0..100) {
                0 => {
                    // It dies, with what it has not told yet, and another one begins.
                    let mut next = Sharer::start(&server).await;
                    next.limits = limits;
                    for name in ROOMS {
                        next.join(name).await;
                    }
                    sharers[at] = next;
                    truth[at].clear();
                }
                1 | 2 => {
                    // A cut: what it was about to tell may have been told or not.
                    let call = sharers[at].telling.take(Instant::now());
                    let (lease, limits) = (sharers[at].lease, sharers[at].limits);
                    if random.random_bool(0.5) && !call.is_empty() {
                        let Sharer { redis, keys, .. } = &mut sharers[at];
                        // It may have lost its lease on a slow machine; then nothing was told.
                        roster::tell(redis, keys, lease, limits, &call).await.ok();
                    }
                    sharers[at].telling.failed(&call);
                }
                _ => {}
            }
            for sharer in &mut sharers {
                sharer.live_on(&ROOMS).await;
            }
        }
        eventually("all to see the truth", async || {
            for sharer in &mut sharers {
                sharer.live_on(&ROOMS).await;
            }
            (0..3).all(|at| sees_truth(&sharers, &truth, at)).then_some(())
        })
        .await;
        was_large += sharers.iter().map(|sharer| sharer.numbers.len()).sum::<usize>();
    }
    println!("{was_large} large rooms seen");
}

//! From what arrives to what is said: frames of an inbox and the answers of ticks, judged by whom this node knows,
//! become words of the contract. Called by whoever reads inboxes; all partitions share one [`Nodes`]. Knows no
//! connection.

use super::bytes::Unreadable;
use super::commands::Done;
use super::lease::Tick;
use super::nodes::{Heard, Nodes};
use super::wire::{self, Order, There, Told};
use crate::chat::names::RoomName;
use crate::engines::shared::{NodeSlot, Says};

/// What follows from what was heard, in this order.
#[derive(Debug)]
pub enum Effect {
    /// To be said.
    Says(Says),
    /// The room is large: so many users are there on a node, none of whom is named any more.
    Number(RoomName, NodeSlot, u32),
    /// The same for all other nodes; what was known of them before does not count.
    Numbers(RoomName, Vec<(NodeSlot, u32)>),
    /// The room is not large any more: [ask](super::roster::ask) for its roster.
    Ask(RoomName),
}

/// The content of a frame with news. Of a sender that is gone nothing is heard.
pub fn news(nodes: &mut Nodes, content: &[u8]) -> Result<Vec<Effect>, Unreadable> {
    let frame = wire::news(content)?;
    let mut effects = Vec::with_capacity(frame.told.len());
    match nodes.heard(frame.slot, frame.stamp) {
        Heard::Fine => {}
        Heard::Replaced => effects.push(Effect::Says(Says::NodeGone(frame.slot))),
        Heard::Ghost => return Ok(effects),
    }
    for (room, told) in frame.told {
        match told {
            Told::News(news) => effects.push(Effect::Says(Says::News(room, frame.slot, news))),
            // A room that becomes large is told with the numbers of all, the receiver's among them.
            Told::Number(slot, _) if nodes.is_own(slot) || nodes.is_gone(slot) => {}
            Told::Number(slot, n) => effects.push(Effect::Number(room, slot, n)),
            Told::NamedAgain => effects.push(Effect::Ask(room)),
            Told::Roster(holders, there) => {
                let (believed, gone) = nodes.believed(&holders);
                effects.extend(gone.into_iter().map(|slot| Effect::Says(Says::NodeGone(slot))));
                effects.push(match there {
                    There::Named(mut list) => {
                        list.retain(|there| believed.contains(&there.node));
                        Effect::Says(Says::Roster(room, list))
                    }
                    There::Numbers(mut list) => {
                        list.retain(|(slot, _)| believed.contains(slot));
                        Effect::Numbers(room, list)
                    }
                });
            }
        }
    }
    Ok(effects)
}

/// The content of a frame with a command.
pub fn order(nodes: &mut Nodes, done: &mut Done, content: &[u8]) -> Result<Option<Says>, Unreadable> {
    Ok(match wire::order(content)? {
        Order::Command(number, command) => done.is_new(number).then_some(Says::Command(command)),
        Order::Left(slot, stamp) => nodes.left(slot, stamp).then_some(Says::NodeGone(slot)),
    })
}

/// Who is gone by what a tick has told.
pub fn ticked(nodes: &mut Nodes, tick: &Tick) -> impl Iterator<Item = Says> {
    nodes.seen(&tick.peers).into_iter().map(Says::NodeGone)
}

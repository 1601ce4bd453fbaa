//! What other nodes tell beside the logs, as it comes through the inbox of a partition. Called by the partition only.

use crate::chat::names::RoomName;
use crate::engines::redis::life::lease::Lease;
use crate::engines::redis::life::nodes::Heard;
use crate::engines::redis::life::rules;
use crate::engines::redis::life::wire::{self, Order, There, Told};
use crate::engines::redis::logs::Stage;
use crate::engines::redis::partition::Partition;
use crate::engines::redis::tracing;
use crate::engines::shared::Says;

impl Partition {
    /// A frame that is no entry.
    pub(super) fn on_other_frame(&mut self, tag: u8, content: &[u8]) {
        let read = match tag {
            wire::NEWS => wire::news(content).map(|frame| self.on_news(frame)),
            wire::COMMAND => wire::order(content).map(|order| self.on_order(order)),
            wire::RULES => rules::told(content).map(|told| self.on_rules(told)),
            wire::QUESTION => tracing::question(content).map(|asked| tracing::pass_on(&self.world, asked)),
            wire::ANSWER => tracing::answer(content).map(|answer| self.world.traces.answered(answer)),
            // Of a later version of this program.
            _ => Ok(()),
        };
        if let Err(why) = read {
            log::error!("redis: what another node tells cannot be read ({why}); is it another version?");
        }
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Command(number, command) => {
                if self.world.peers.done(|done| done.is_new(number)) {
                    self.world.say(Says::Command(command));
                } else {
                    // Some before it are missing: the next look brings all of them in order.
                    self.living.looked = None;
                }
            }
            Order::Left(slot, stamp) => {
                if self.world.peers.left(slot, stamp) {
                    self.world.say(Says::NodeGone(slot));
                }
                self.living.looked = None;
            }
        }
    }

    fn on_news(&mut self, frame: wire::Frame) {
        match self.world.peers.heard(frame.slot, frame.stamp) {
            None | Some(Heard::Ghost) => return,
            Some(Heard::Replaced) => self.world.say(Says::NodeGone(frame.slot)),
            Some(Heard::Fine) => {}
        }
        for (room, told) in frame.told {
            // Before the room is shown here nobody could hear of it; then its roster says all.
            let shown =
                self.rooms.get(&room).is_some_and(|log| matches!(log.stage, Stage::Live | Stage::Stale));
            if !shown {
                continue;
            }
            match told {
                Told::News(news) => self.world.say(Says::News(room, frame.slot, news)),
                Told::Number(slot, users) => {
                    self.world.say(Says::Crowd { room, nodes: vec![(slot, users)], all: false })
                }
                Told::NamedAgain => self.living.ask_roster(room, false),
                Told::Roster(holders, there) => self.on_roster(room, &holders, there),
            }
        }
    }

    fn on_roster(&mut self, room: RoomName, holders: &[Lease], there: There) {
        let (believed, gone) = self.world.peers.believed(holders);
        gone.into_iter().for_each(|slot| self.world.say(Says::NodeGone(slot)));
        match there {
            There::Named(mut list) => {
                list.retain(|elsewhere| believed.contains(&elsewhere.node));
                self.world.say(Says::Roster(room, list));
            }
            There::Numbers(mut list) => {
                list.retain(|(slot, _)| believed.contains(slot));
                self.world.say(Says::Crowd { room, nodes: list, all: true });
            }
        }
    }
}

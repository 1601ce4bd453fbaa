//! What one run looks like, told as data: rooms, listeners, who speaks and how fast. Made by the scenarios, read by
//! every client thread. Holds the numbering of rooms, connections and publishers, so that all agree on it.

use std::net::SocketAddrV4;

/// Where messages come from.
#[derive(Clone, Debug)]
pub enum Speakers {
    /// Nobody speaks.
    Nobody,
    /// One more connection in each room; like everybody it hears what it says.
    OneApart,
    /// Every listener speaks.
    Members,
    /// A backend pushes into a Redis list; one connection for all rooms.
    Queue(QueueDoor),
}

/// A Redis, or a door that speaks its protocol.
#[derive(Clone, Debug)]
pub struct QueueDoor {
    pub address: SocketAddrV4,
    /// Name of the list.
    pub list: String,
    /// Pushes that may wait for their answer: 1 is a backend that pushes one by one, more is a pipeline.
    pub unanswered_max: u32,
}

/// How fast.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many messages in flight in each room: the next is sent when all listeners have the oldest.
    Window(u32),
    /// So many messages a second over all publishers, each due at its time whatever the server does.
    Rate(f64),
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub target: SocketAddrV4,
    /// Further nodes that share the rooms of the target: connections are dealt over all of them in turn.
    pub also: Vec<SocketAddrV4>,
    /// A join goes on from here instead of at the head.
    pub since: Option<Since>,
    pub rooms: usize,
    /// Listeners of each room, a speaker apart not counted.
    pub listeners: usize,
    pub speakers: Speakers,
    pub pace: Pace,
    pub payload_bytes: usize,
    /// Listeners that stop reading when the speaking begins, dealt over the rooms.
    pub stalled: usize,
    /// True when every publish is answered by an `ack` (the floor server sends none).
    pub acknowledged: bool,
    pub threads: usize,
    /// Connections of one thread that may be on their way at once.
    pub connecting_max: usize,
    /// Tells the messages of this run from those of another; 12 bits.
    pub run: u32,
}

/// A place in every room: an offset, and the epoch that it belongs to.
#[derive(Clone, Debug)]
pub struct Since {
    pub offset: u64,
    pub epoch: String,
}

impl Plan {
    /// Where a connection goes, by its number.
    pub fn target_of(&self, number: usize) -> SocketAddrV4 {
        match number % (self.also.len() + 1) {
            0 => self.target,
            place => self.also[place - 1],
        }
    }

    /// The line by which a connection joins its room.
    pub fn join_line(&self, room: usize) -> String {
        let name = Self::room_name(room);
        match &self.since {
            None => format!("{{\"t\":\"join\",\"r\":\"{name}\"}}"),
            Some(Since { offset, epoch }) => {
                format!("{{\"t\":\"join\",\"r\":\"{name}\",\"since\":{offset},\"e\":\"{epoch}\"}}")
            }
        }
    }

    /// Connections of each room.
    pub fn members(&self) -> usize {
        self.listeners + usize::from(matches!(self.speakers, Speakers::OneApart))
    }

    /// All connections that join a room.
    pub fn joining(&self) -> usize {
        self.rooms * self.members()
    }

    /// All connections, the backend's own included.
    pub fn connections(&self) -> usize {
        self.joining() + usize::from(matches!(self.speakers, Speakers::Queue(_)))
    }

    pub fn publishers_per_room(&self) -> usize {
        match self.speakers {
            Speakers::Nobody => 0,
            Speakers::OneApart | Speakers::Queue(_) => 1,
            Speakers::Members => self.listeners,
        }
    }

    pub fn publishers(&self) -> usize {
        self.rooms * self.publishers_per_room()
    }

    /// Stalled listeners of one room; they are its first members.
    pub fn stalled_in(&self, room: usize) -> usize {
        self.stalled / self.rooms + usize::from(room < self.stalled % self.rooms)
    }

    /// Deliveries that each message of the room has to make.
    pub fn readers_of(&self, room: usize) -> usize {
        self.members() - self.stalled_in(room)
    }

    pub fn room_name(room: usize) -> String {
        format!("room-{}", room + 1)
    }

    /// The publisher's number as it stands in marks.
    pub fn publisher_on_wire(&self, publisher: usize) -> u32 {
        (self.run << 20) | publisher as u32
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn plan(rooms: usize, listeners: usize, speakers: Speakers, stalled: usize) -> Plan {
        Plan {
            target: SocketAddrV4::new([127, 0, 0, 1].into(), 1),
            also: vec![],
            since: None,
            rooms,
            listeners,
            speakers,
            pace: Pace::Window(1),
            payload_bytes: 128,
            stalled,
            acknowledged: true,
            threads: 1,
            connecting_max: 1,
            run: 3,
        }
    }

    #[test]
    fn a_speaker_apart_is_a_member_and_chat_members_are_all_publishers() {
        let fan_out = plan(2, 5, Speakers::OneApart, 0);
        assert_eq!((fan_out.members(), fan_out.connections(), fan_out.publishers()), (6, 12, 2));
        let chat = plan(2, 5, Speakers::Members, 0);
        assert_eq!((chat.members(), chat.connections(), chat.publishers()), (5, 10, 10));
    }

    #[test]
    fn connections_are_dealt_over_all_nodes_and_go_on_from_a_place() {
        let address = |port| SocketAddrV4::new([127, 0, 0, 1].into(), port);
        let mut nodes = plan(1, 5, Speakers::OneApart, 0);
        assert_eq!(nodes.target_of(7).port(), 1);
        assert_eq!(nodes.join_line(0), r#"{"t":"join","r":"room-1"}"#);
        nodes.also = vec![address(2), address(3)];
        assert_eq!((0..4).map(|number| nodes.target_of(number).port()).collect::<Vec<_>>(), [1, 2, 3, 1]);
        nodes.since = Some(Since { offset: 7, epoch: "k3f9".to_owned() });
        assert_eq!(nodes.join_line(0), r#"{"t":"join","r":"room-1","since":7,"e":"k3f9"}"#);
    }

    #[test]
    fn stalled_listeners_are_dealt_over_the_rooms() {
        let slow = plan(3, 10, Speakers::OneApart, 10);
        assert_eq!((0..3).map(|room| slow.stalled_in(room)).collect::<Vec<_>>(), [4, 3, 3]);
        assert_eq!(slow.readers_of(0), 7);
    }
}

//! A client's end of a connection: reads as much as it is told, and holds what it has read to the rules.

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};

use bytes::BytesMut;
use socket2::{Domain, SockRef, Socket, Type};

use super::model::{ROOMS, Record};
use super::*;
use crate::protocols::websocket::frame::{frame_len, payload_of};

/// Where a reader is in a room.
#[derive(Debug, Clone, Copy)]
enum At {
    Outside,
    /// The next thing said there that it has to get, and the last entry that it has.
    Live {
        stay: u32,
        next: usize,
        offset: Offset,
    },
    /// It is led: the last entry that it has.
    Led {
        offset: Offset,
    },
}

pub struct Reader {
    pub number: usize,
    pub connection: SharedConnection,
    /// What it has read, as words: the model's frames begin with a letter and have numbers behind it.
    pub lines: Vec<Vec<String>>,
    socket: TcpStream,
    buffer: BytesMut,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("number", &self.number)
            .field("read", &self.lines.len())
            .field("waiting", &self.connection.borrow().outbox.frames())
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// A connection over the loopback with small buffers on both sides.
    pub fn attach(core: &mut Core, number: usize) -> Reader {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.connect(&door.local_addr().unwrap().into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let (ours, _) = door.accept().unwrap();
        SockRef::from(&ours).set_send_buffer_size(16 << 10).unwrap();
        ours.set_nonblocking(true).unwrap();
        let connection = core.attach(actix_rt::net::TcpStream::from_std(ours).unwrap(), false);
        let (lines, buffer) = (Vec::new(), BytesMut::new());
        Reader { number, connection, lines, socket: socket.into(), buffer }
    }

    /// Reads at most so many bytes; returns how many there were.
    pub fn read(&mut self, most: usize) -> usize {
        let mut chunk = vec![0; most];
        let n = match self.socket.read(&mut chunk) {
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("reader {}: {error}", self.number),
        };
        self.buffer.extend_from_slice(&chunk[..n]);
        while let Some(length) = frame_len(&self.buffer).filter(|length| *length <= self.buffer.len()) {
            let frame = self.buffer.split_to(length);
            let words = String::from_utf8_lossy(payload_of(&frame)).into_owned();
            self.lines.push(words.split(' ').map(str::to_owned).collect());
        }
        n
    }

    pub fn read_all(&mut self) {
        while self.read(256 << 10) > 0 {}
    }

    /// Holds all that it has read to what happened. Whoever was closed may lack the rest.
    pub fn check(&self, record: &Record, whole: bool) {
        let mut at = [At::Outside; ROOMS];
        let mut direct = 0;
        for line in &self.lines {
            let kind = line[0].as_str();
            let numbers: Vec<u64> = line[1..].iter().filter_map(|word| word.parse().ok()).collect();
            match kind {
                "d" => {
                    assert_eq!(numbers[0], direct, "{self:?}: answers keep their order");
                    direct += 1;
                }
                // Saying goodbye; the model does not write this.
                _ if !["e", "s", "f", "g", "j", "l", "x"].contains(&kind) => {
                    assert!(!whole, "{self:?}: {line:?}")
                }
                _ => {
                    let room = numbers[0] as usize;
                    at[room] = self.follow(record, at[room], kind, room, &numbers[1..]);
                }
            }
        }
        if !whole {
            return;
        }
        for (room, at) in at.into_iter().enumerate() {
            if let At::Live { next, offset, .. } = at {
                let said = &record.said[room];
                let rest = said[next..].iter().filter(|said| said.except != Some(self.number)).count();
                assert_eq!((rest, offset), (0, record.top(room)), "{self:?}: room {room} to its end");
            }
        }
    }

    /// One step in one room.
    fn follow(&self, record: &Record, at: At, kind: &str, room: usize, numbers: &[u64]) -> At {
        let what = || format!("{self:?} in room {room} at {at:?}: {kind} {numbers:?}");
        match (kind, at) {
            // Live: everything said, one after the other.
            ("e" | "s", At::Live { stay, next, offset }) => {
                let place = numbers[0] as usize;
                assert!(self.nothing_between(record, room, next, place), "{}", what());
                let last = record.said[room][place].last;
                assert_eq!(kind == "e", last > 0, "{}", what());
                assert!(last == 0 || last == offset + 1, "{}", what());
                At::Live { stay, next: place + 1, offset: last.max(offset) }
            }
            // Led: every entry once, as itself or in a gap.
            ("f", _) => {
                let offset = self.led_from(record, at, room, &what());
                assert_eq!(numbers[0], offset + 1, "{}", what());
                At::Led { offset: numbers[0] }
            }
            ("g", _) => {
                let offset = self.led_from(record, at, room, &what());
                assert_eq!(numbers[0], offset + 1, "{}", what());
                At::Led { offset: numbers[1] }
            }
            ("l", _) => {
                let offset = self.led_from(record, at, room, &what());
                let (stay, next) = (numbers[0] as u32, numbers[2] as usize);
                assert_eq!(numbers[1], offset, "{}", what());
                At::Live { stay, next, offset }
            }
            // The client asked: what it had before ends at the place that the model noted, or with a report.
            ("j" | "x", _) => {
                if let At::Live { stay, next, offset } = at {
                    let behind = record.behind.get(&(self.number, room, stay));
                    let all = self.nothing_between(record, room, next, numbers[1] as usize);
                    assert!(all || behind.is_some(), "{}", what());
                    assert!(behind.is_none_or(|after| *after == offset), "{}: {behind:?}", what());
                }
                match kind {
                    "j" => At::Led { offset: numbers[0] },
                    _ => At::Outside,
                }
            }
            _ => panic!("{}", what()),
        }
    }

    /// The last entry of one that is led from here on; who was live until now was reported with just that.
    fn led_from(&self, record: &Record, at: At, room: usize, what: &str) -> Offset {
        match at {
            At::Led { offset } => offset,
            At::Live { stay, offset, .. } => {
                let behind = record.behind.get(&(self.number, room, stay));
                assert_eq!(behind, Some(&offset), "{what}");
                offset
            }
            At::Outside => panic!("{what}"),
        }
    }

    fn nothing_between(&self, record: &Record, room: usize, from: usize, to: usize) -> bool {
        from <= to && record.said[room][from..to].iter().all(|said| said.except == Some(self.number))
    }
}

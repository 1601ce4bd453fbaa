//! The built-in door, spoken to byte by byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use roomcast::actors::letters::Drain;
use roomcast::actors::resp_door::{RespDoor, RespDoorParts};
use roomcast::chat::names::RoomName;
use roomcast::sources::counters::QueueCounters;
use roomcast::sources::dead_letters::MemoryDeadLetters;
use roomcast::sources::payload::PayloadLimits;
use roomcast::sources::settings::{DoorSettings, QueueSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fixtures::rooms::Rooms;
use crate::fixtures::{PATIENCE, eventually};

pub const PASSWORD: &str = "open sesame";

pub struct Door {
    pub port: u16,
    pub counters: Arc<QueueCounters>,
    pub dead: Arc<MemoryDeadLetters>,
    actor: Addr<RespDoor>,
}

/// A door on a free port that cuts `app_` off channels; stories change its settings.
pub async fn open_door(rooms: &Rooms, change: impl FnOnce(&mut DoorSettings)) -> Door {
    let mut settings =
        DoorSettings { listen: "127.0.0.1:0".into(), prefix: "app_".into(), ..DoorSettings::default() };
    change(&mut settings);
    let (counters, dead) = (Arc::<QueueCounters>::default(), Arc::<MemoryDeadLetters>::default());
    let door = RespDoor::bind(RespDoorParts {
        settings,
        lists: QueueSettings::default().lists,
        room: RoomName::new("lobby").unwrap(),
        limits: PayloadLimits::default(),
        chat: rooms.chat(),
        dead: dead.clone(),
        graves: None,
        counters: counters.clone(),
        tracer: Default::default(),
    })
    .unwrap();
    let port = door.address().unwrap().port();
    let actor = door.start();
    eventually("the door to open", async || counters.is_connected().then_some(())).await;
    Door { port, counters, dead, actor }
}

/// A backend that writes bytes by hand.
struct Hand(TcpStream);

impl Hand {
    async fn at(door: &Door) -> Hand {
        Hand(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], door.port))).await.unwrap())
    }

    async fn says(&mut self, bytes: impl AsRef<[u8]>) -> &mut Hand {
        self.0.write_all(bytes.as_ref()).await.unwrap();
        self
    }

    async fn hears(&mut self, wanted: &str) {
        let mut heard = vec![0; wanted.len()];
        let reading = tokio::time::timeout(PATIENCE, self.0.read_exact(&mut heard));
        let read = reading.await.unwrap_or_else(|_| panic!("waited for {wanted:?}"));
        assert!(read.is_ok(), "the connection ended before {wanted:?}");
        assert_eq!(String::from_utf8_lossy(&heard), wanted);
    }

    async fn hears_line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(
                tokio::time::timeout(PATIENCE, self.0.read_u8())
                    .await
                    .expect("a line in time")
                    .expect("a line"),
            );
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    /// The connection ends with nothing more said.
    async fn hears_the_end(&mut self) {
        let mut rest = Vec::new();
        // A reset is an end as well: the door does not read what it refuses.
        let ended =
            tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("the end in time");
        assert!(rest.is_empty(), "{:?} after {ended:?}", String::from_utf8_lossy(&rest));
    }
}

fn command(words: &[&str]) -> String {
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes += &format!("${}\r\n{word}\r\n", word.len());
    }
    bytes
}

fn push(item: &str) -> String {
    command(&["LPUSH", "message_queue", item])
}

#[actix_rt::test]
async fn a_push_is_answered_when_the_rooms_have_it_and_not_before() {
    let rooms = Rooms::open();
    let door = open_door(&rooms, |_| {}).await;
    rooms.be_busy(true);
    let mut hand = Hand::at(&door).await;
    hand.says(push("1")).await;
    rooms.be_asked(3).await;
    let early = tokio::time::timeout(Duration::from_millis(50), hand.0.read_u8()).await;
    assert!(early.is_err(), "no answer while the rooms are busy: {early:?}");
    rooms.be_busy(false);
    hand.hears(":1\r\n").await;
    assert_eq!(rooms.data(), ["1"]);
}

#[actix_rt::test]
async fn pipelined_pushes_become_batches_and_keep_their_order() {
    let rooms = Rooms::open();
    let door = open_door(&rooms, |_| {}).await;
    rooms.be_busy_every(3);
    let mut hand = Hand::at(&door).await;
    let pushes: String = (0..2_000).map(|number: u32| push(&number.to_string())).collect();
    hand.says(pushes + "PING\r\n").await;
    hand.hears(&(":1\r\n".repeat(2_000) + "+PONG\r\n")).await;
    let wanted: Vec<String> = (0..2_000).map(|number: u32| number.to_string()).collect();
    assert_eq!(rooms.data(), wanted);
    let (batches, biggest) = rooms.batches();
    assert!(batches < 200 && biggest <= 256, "{batches} batches, the biggest of {biggest}");
}

#[actix_rt::test]
async fn one_push_of_many_values_is_cut_into_batches() {
    let rooms = Rooms::open();
    let door = open_door(&rooms, |_| {}).await;
    let values: Vec<String> = (0..1_000).map(|number: u32| number.to_string()).collect();
    let mut words = vec!["RPUSH", "message_queue"];
    words.extend(values.iter().map(String::as_str));
    let mut hand = Hand::at(&door).await;
    hand.says(command(&words)).await.hears(":1000\r\n").await;
    assert_eq!(rooms.data(), values);
    assert_eq!(rooms.batches().1, 256);
}

#[actix_rt::test]
async fn a_bad_item_is_refused_kept_and_counted_and_the_good_ones_are_said() {
    let rooms = Rooms::open();
    let door = open_door(&rooms, |_| {}).await;
    let mut hand = Hand::at(&door).await;
    hand.says(command(&["LPUSH", "message_queue", "1", "oops\n", "3"])).await;
    let error = hand.hears_line().await;
    assert!(error.starts_with("-ERR value 2 of 3: not-json: "), "{error}");
    assert!(error.ends_with("2 values are accepted"), "{error}");
    assert_eq!(rooms.data(), ["1", "3"]);
    let kept = door.dead.list(10);
    assert_eq!(
        (kept.len(), kept[0].item.as_str(), kept[0].source.as_str()),
        (1, "oops\n", "door:message_queue")
    );
    assert!(error.contains(&kept[0].id), "{error}");
    assert_eq!(door.counters.dead_total(), 1);
    hand.says(push(&format!("\"{}\"", "x".repeat(100_000)))).await;
    assert!(hand.hears_line().await.starts_with("-ERR too-big: "));
    hand.says(command(&["PUBLISH", "a*", "1"])).await;
    assert!(hand.hears_line().await.starts_with("-ERR bad-room: channel a*: "));
    hand.says(command(&["LPUSH", "jobs", "1"])).await;
    assert!(hand.hears_line().await.contains("pushes to message_queue"));
}

#[actix_rt::test]
async fn what_is_far_too_large_is_thrown_away_and_the_connection_stays() {
    let rooms = Rooms::open();
    let door = open_door(&rooms, |_| {}).await;
    let mut hand = Hand::at(&door).await;
    hand.says(push(&"x".repeat(50 << 20))).await;
    let error = hand.hears_line().await;
    assert!(error.starts_with("-ERR LPUSH with 52428800 bytes is over the limit of 262144"), "{error}");
    let many =
        "*200002\r\n$5\r\nLPUSH\r\n$13\r\nmessage_queue\r\n".to_owned() + &"$1\r\n1\r\n".repeat(200_000);
    hand.says(many).await;
    assert!(hand.hears_line().await.contains("over the limit of 8388608"));
    hand.says(push("1")).await.hears(":1\r\n").await;
    assert_eq!(rooms.data(), ["1"]);
}

#[actix_rt::test]
async fn a_password_is_asked_for_with_the_texts_of_redis() {
    let rooms = Rooms::open();
    let door = open_door(&rooms, |settings| settings.password = PASSWORD.into()).await;
    let mut hand = Hand::at(&door).await;
    hand.says(push("1")).await.hears("-NOAUTH Authentication required.\r\n").await;
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    hand.says(command(&["AUTH", "guess"])).await.hears(wrong).await;
    hand.says(command(&["AUTH", "root", PASSWORD])).await.hears(wrong).await;
    hand.says(command(&["HELLO", "3"])).await;
    assert!(hand.hears_line().await.starts_with("-NOAUTH HELLO must be called"));
    hand.says(command(&["HELLO", "3", "AUTH", "default", "guess"])).await.hears(wrong).await;
    hand.says(command(&["AUTH", "default", PASSWORD])).await.hears("+OK\r\n").await;
    hand.says(push("1")).await.hears(":1\r\n").await;
    hand.says("RESET\r\n").await.hears("+RESET\r\n").await;
    hand.says("PING\r\n").await.hears("-NOAUTH Authentication required.\r\n").await;
    hand.says("*11\r\n").await.hears("-ERR Protocol error: unauthenticated multibulk length\r\n").await;
    hand.hears_the_end().await;
    assert_eq!(rooms.data(), ["1"]);

    let open = open_door(&rooms, |_| {}).await;
    let mut hand = Hand::at(&open).await;
    hand.says(command(&["AUTH", "x"])).await;
    assert!(
        hand.hears_line().await.starts_with("-ERR AUTH <password> called without any password configured")
    );
}

#[actix_rt::test]
async fn a_browser_is_cut_off_without_a_word() {
    let rooms = Rooms::open();
    let door = open_door(&rooms, |_| {}).await;
    for start in ["POST / HTTP/1.1\r\n", "GET / HTTP/1.1\r\n", "Host: 127.0.0.1\r\n"] {
        let mut hand = Hand::at(&door).await;
        hand.says(format!("{start}Content-Length: 33\r\n\r\nLPUSH message_queue 1\r\n")).await;
        hand.hears_the_end().await;
    }
    assert!(rooms.heard().is_empty());
}

#[actix_rt::test]
async fn a_transaction_is_answered_as_a_list_and_a_wrong_one_not_at_all() {
    let rooms = Rooms::open();
    let door = open_door(&rooms, |_| {}).await;
    let mut hand = Hand::at(&door).await;
    hand.says(format!("MULTI\r\n{}{}PING\r\nEXEC\r\n", push("1"), push("2"))).await;
    hand.hears("+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n:1\r\n:1\r\n+PONG\r\n").await;
    hand.says(format!("MULTI\r\n{}FOO\r\n", push("3"))).await.hears("+OK\r\n+QUEUED\r\n").await;
    assert!(hand.hears_line().await.starts_with("-ERR unknown command 'FOO'"));
    hand.says("EXEC\r\n").await;
    assert!(hand.hears_line().await.starts_with("-EXECABORT"));
    hand.says(format!("MULTI\r\n{}DISCARD\r\nEXEC\r\n", push("4")))
        .await
        .hears("+OK\r\n+QUEUED\r\n+OK\r\n-ERR EXEC")
        .await;
    assert_eq!(rooms.data(), ["1", "2"]);
}

#[actix_rt::test]
async fn more_connections_than_allowed_are_told_so() {
    let rooms = Rooms::open();
    let door = open_door(&rooms, |settings| settings.connections = 2).await;
    let (mut first, mut second) = (Hand::at(&door).await, Hand::at(&door).await);
    first.says("PING\r\n").await.hears("+PONG\r\n").await;
    second.says("PING\r\n").await.hears("+PONG\r\n").await;
    let mut third = Hand::at(&door).await;
    third.hears("-ERR max number of clients reached\r\n").await;
    third.hears_the_end().await;
    drop(first);
    eventually("the place of the first to be free", async || {
        let mut again = Hand::at(&door).await;
        again.0.write_all(b"PING\r\n").await.ok()?;
        (again.0.read_u8().await.ok()? == b'+').then_some(())
    })
    .await;
}

#[actix_rt::test]
async fn a_drain_answers_what_came_and_closes() {
    let rooms = Rooms::open();
    let door = open_door(&rooms, |_| {}).await;
    let mut idle = Hand::at(&door).await;
    idle.says("PING\r\n").await.hears("+PONG\r\n").await;
    rooms.be_busy(true);
    let mut waiting = Hand::at(&door).await;
    waiting.says(push("1")).await;
    rooms.be_asked(1).await;
    door.actor.send(Drain).await.unwrap();
    let answer = waiting.hears_line().await;
    assert!(answer.starts_with("-TRYAGAIN the server is busy"), "{answer}");
    waiting.hears_the_end().await;
    idle.hears_the_end().await;
    assert!(TcpStream::connect(("127.0.0.1", door.port)).await.is_err(), "nobody listens any more");
    assert!(rooms.heard().is_empty());
}

#[actix_rt::test]
async fn a_taken_port_is_told_at_once() {
    let rooms = Rooms::open();
    let door = open_door(&rooms, |_| {}).await;
    let parts = RespDoorParts {
        settings: DoorSettings { listen: format!("127.0.0.1:{}", door.port), ..DoorSettings::default() },
        lists: QueueSettings::default().lists,
        room: RoomName::new("lobby").unwrap(),
        limits: PayloadLimits::default(),
        chat: rooms.chat(),
        dead: Arc::default(),
        graves: None,
        counters: Arc::default(),
        tracer: Default::default(),
    };
    let error = RespDoor::bind(parts).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

//! The one story of all queues: items are pushed, the server takes them and is killed at a bad moment, and the next one
//! begins on the same store and the same queue. In the end everything stands in its room once. Knows the queues by their
//! contract, and reads the rooms as any backend may.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::time::{Duration, Instant};

use rand::Rng;
use roomcast_rig::eventually;
use roomcast_rig::server::{Server, Setup, get};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::relay::{Acks, Moment, Relay, mark};
use crate::verdict::{Heard, Verdict, judge};

/// Kills where `ROOMCAST_SOURCE_KILLS` says nothing else: two at each kind of moment.
const KILLS: u64 = 8;
/// Pushed for each life of the server.
const ITEMS_PER_LIFE: u64 = 9;
/// The items go to so many rooms in turn.
const ROOMS: u64 = 3;
/// How long the server is waited for before the service takes back what it may have given to one that was dead.
const MISSED: Duration = Duration::from_millis(500);
/// A moment by chance lies so soon after the server has got something new, most often sooner: while it says it, keeps it,
/// says so.
const CHANCE_MICROS: u64 = 15_000;
/// The exit of a process that was killed.
const SIGKILL: i32 = 9;

/// What is pushed.
pub struct Item {
    pub number: u64,
    pub room: String,
    pub body: String,
    /// For queues with a place of their own for it.
    pub own_id: Option<String>,
}

/// A third of the items has an id in its body, a third one beside it where the queue has a place for that. The others
/// are known by what their queue names them.
fn item(number: u64) -> Item {
    let (room, id) = (room_of(number), format!("id-{number}"));
    let mut body = json!({"room": room, "content": mark(number)});
    let mut own_id = None;
    match number / ROOMS % 3 {
        0 => {}
        1 => body["id"] = id.into(),
        _ => own_id = Some(id),
    }
    Item { number, room, body: body.to_string(), own_id }
}

fn room_of(number: u64) -> String {
    format!("room-{}", number % ROOMS)
}

/// A queue with its service.
pub trait Queue: Sized {
    /// For what is printed.
    const NAME: &'static str;
    /// Whether a room's items come in the order in which they were pushed.
    const IS_ORDERED: bool;
    /// How an acknowledgement looks on the wire.
    const ACKS: Acks;

    async fn open() -> Self;

    /// Where its service listens.
    fn port(&self) -> u16;

    /// Its part of a table `[[queue.sources]]`, with the service at that port.
    fn settings(&self, port: u16) -> String;

    async fn push(&mut self, item: &Item);

    /// A server has died, and the next one does not wait as long as it would to be sure of it.
    async fn is_missed(&self);

    /// The time is over for which items are somebody's, if this queue knows such a time.
    async fn takes_back(&self) {}

    /// Waits until nothing is left in it, taken or not.
    async fn is_empty(&self);
}

/// What stands in the rooms, as it was read up to now.
#[derive(Default)]
struct Reader {
    heard: Heard,
}

impl Reader {
    /// Reads what has come since. What was read once keeps its place.
    async fn reads_on(&mut self, server: &Server) {
        for room in (0..ROOMS).map(room_of) {
            let heard = self.heard.entry(room.clone()).or_default();
            while let Some(page) = page(server, &room, heard.len()).await {
                for entry in page["list"].as_array().expect("a page has a list") {
                    assert_eq!(entry["s"], heard.len() as u64 + 1, "{entry}");
                    heard.push(number_of(entry));
                }
                if page["more"] == false {
                    break;
                }
            }
        }
    }

    fn numbers(&self) -> BTreeSet<u64> {
        self.heard.values().flatten().copied().collect()
    }
}

fn number_of(entry: &Value) -> u64 {
    let number = || entry["d"].as_str()?.strip_prefix("item-")?.strip_suffix('.')?.parse().ok();
    number().unwrap_or_else(|| panic!("no item: {entry}"))
}

/// None while nothing was said in this room.
async fn page(server: &Server, room: &str, after: usize) -> Option<Value> {
    let path = format!("/api/rooms/{room}/log?after={after}&n=1000");
    let asked = async || get(server.address(), &path).await.filter(|(status, _)| *status != 503);
    let (status, body) = eventually("a page of the log", asked).await;
    let body: Value = serde_json::from_str(&body).expect("the answer is JSON");
    match status {
        200 => Some(body),
        404 => None,
        _ => panic!("{path}: {status} {body}"),
    }
}

/// Waits for something that needs items to be given out. What the service has given to a server that was dying comes
/// back meanwhile.
async fn with_what_comes_back<Q: Queue, T>(queue: &Q, done: impl Future<Output = T>) -> T {
    let mut done = pin!(done);
    loop {
        match timeout(MISSED, &mut done).await {
            Ok(done) => return done,
            Err(_) => queue.takes_back().await,
        }
    }
}

/// A queue, the server that takes from it, and who watches both.
struct Stage<Q> {
    queue: Q,
    relay: Relay,
    server: Server,
    reader: Reader,
    pushed: u64,
    /// The first item that the server before never had in its hands, where that is certain.
    unread: Option<u64>,
    /// The store, and the log of the server.
    _home: TempDir,
}

impl<Q: Queue> Stage<Q> {
    async fn open() -> Stage<Q> {
        let queue = Q::open().await;
        let relay = Relay::start(queue.port(), Q::ACKS);
        let home = tempfile::tempdir().expect("a folder for the server");
        let mut setup = Setup::new(env!("CARGO_BIN_EXE_roomcast"), home.path());
        // One of the rooms shows first what it keeps later; its queue waits until then all the same.
        let rule = "[[rooms.rule]]\nmatch = \"room-2\"\nack = \"sequenced\"\n";
        setup.file = format!("{rule}[[queue.sources]]\nname = \"pushes\"\n{}", queue.settings(relay.port));
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            setup.environment.push((name.into(), "test".into()));
        }
        let (server, reader) = (Server::new(setup), Reader::default());
        Stage { queue, relay, server, reader, pushed: 0, unread: None, _home: home }
    }

    /// Something new for the next life of the server: its first number.
    async fn pushes(&mut self) -> u64 {
        let new_from = self.pushed;
        self.pushed += ITEMS_PER_LIFE;
        for number in new_from..self.pushed {
            self.queue.push(&item(number)).await;
        }
        new_from
    }

    /// One life of the server.
    async fn lives_until(&mut self, moment: Moment) {
        let new_from = self.pushes().await;
        self.begins(moment, new_from).await;
        let status = with_what_comes_back(&self.queue, self.server.is_dead()).await;
        assert_eq!(status.signal(), Some(SIGKILL), "the server ended by itself: {status}");
        self.relay.closes();
        self.unread = (moment == Moment::GivenOut).then_some(new_from);
    }

    /// The server starts, and shows what it has before it can take anything.
    async fn begins(&mut self, moment: Moment, new_from: u64) {
        self.server.spawn();
        self.server.says("/healthz", 200).await;
        self.reader.reads_on(&self.server).await;
        self.has_kept_its_word();
        self.relay.opens(self.server.pid(), moment, new_from);
    }

    /// What was acknowledged stands in the rooms, and what nobody had read does not.
    fn has_kept_its_word(&self) {
        let (heard, seen) = (self.reader.numbers(), self.relay.seen());
        let broken: Vec<&u64> = seen.acknowledged.difference(&heard).collect();
        assert!(broken.is_empty(), "{}: acknowledged, and not in the rooms: {broken:?}", Q::NAME);
        if let Some(unread) = self.unread {
            let said: Vec<&u64> = heard.range(unread..).collect();
            assert!(said.is_empty(), "{}: the server was dead before it read these: {said:?}", Q::NAME);
        }
    }

    /// The last server has all the time that it wants, and finds out by itself that the others are dead. How many items
    /// there were, and how many of them came again.
    async fn ends(mut self) -> (u64, u64, Verdict) {
        self.queue.takes_back().await;
        let new_from = self.pushes().await;
        self.begins(Moment::Never, new_from).await;
        let Stage { queue, relay, mut server, mut reader, pushed, .. } = self;
        let is_there = eventually("all items in the rooms", async || {
            reader.reads_on(&server).await;
            (reader.numbers().len() as u64 == pushed).then_some(())
        });
        with_what_comes_back(&queue, is_there).await;
        with_what_comes_back(&queue, queue.is_empty()).await;
        let mut late = Reader::default();
        late.reads_on(&server).await;
        server.stop().await;
        let verified = server.setup.command(&["verify", "--store", &server.setup.store]).output();
        let verified = verified.expect("the program can be run");
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        if !Q::IS_ORDERED {
            late.heard.values_mut().for_each(|numbers| numbers.sort_unstable());
        }
        (pushed, relay.seen().given_out - pushed, judge(&late.heard, pushed, room_of))
    }
}

/// Most lives end at a moment that is known to be bad, every fourth one at any moment.
fn moment_of(life: u64) -> Moment {
    match life % 4 {
        0 => Moment::GivenOut,
        1 => Moment::Kept,
        2 => Moment::Forgotten,
        _ => {
            let latest = rand::rng().random_range(1..=CHANCE_MICROS);
            Moment::Later(Duration::from_micros(rand::rng().random_range(0..latest)))
        }
    }
}

/// As many kills as the environment wants.
pub async fn kills<Q: Queue>() {
    let kills = std::env::var("ROOMCAST_SOURCE_KILLS");
    let kills = kills.map_or(KILLS, |text| text.parse().expect("ROOMCAST_SOURCE_KILLS is a number"));
    let (mut stage, began) = (Stage::<Q>::open().await, Instant::now());
    for life in 0..kills {
        stage.lives_until(moment_of(life)).await;
        // The last server waits as long as it has to.
        if life + 1 < kills {
            stage.queue.is_missed().await;
        }
    }
    let ((pushed, again, verdict), took) = (stage.ends().await, began.elapsed());
    println!("{}: {kills} kills, {pushed} items, {again} came again, {verdict}, {took:.1?}", Q::NAME);
    assert_eq!(verdict, Verdict::default(), "{}", Q::NAME);
}

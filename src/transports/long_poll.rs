//! Polls, plain and long: one answer with what has come, or with nothing after a while. Between two polls the session
//! stays, so a poller is present as others are, hears who came and went meanwhile, and its next poll costs no join.
//! Nothing depends on that: a poll that meets no such session, because it comes to another thread or node, begins one
//! from its cursor.
//!
//! Invariant: a session is gone on with only by a poll that stands exactly where its last answer ended. So an answer
//! that got lost is given again, and nothing twice.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use actix::Addr;
use actix_web::HttpRequest;
use ahash::RandomState;
use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep, timeout};

use crate::actors::pipe::{Outlet, Shape, pipe};
use crate::actors::session::{Arrival, Entrance, Errand, Session};
use crate::chat::message::Offset;
use crate::chat::names::{RoomName, UserName};
use crate::chat::trace::Wire;
use crate::protocols::codes::Problem;
use crate::protocols::cursor::Cursor;
use crate::protocols::native::{Reference, Request};
use crate::protocols::native_frames::write_text;
use crate::protocols::standing::{Meaning, Standing};
use crate::transports::entrance::{Asker, Entry, Params, Quiet, Wish};

/// Longest wait, in seconds: proxies end answers that say nothing for a minute.
const WAIT_MAX_S: u64 = 55;
/// Most bytes of lines in one answer, and kept for the next one. What comes then waits in the session's outbox.
const HELD_MAX: usize = 256 << 10;
/// Least time to enter the rooms: a store may be asked first, and a node may have to catch up with what the reader has seen.
const ENTER: Duration = Duration::from_secs(12);
/// How long a poller stays present after its last poll: this part of `limits.ping`, within these bounds.
const LINGER_PART: u32 = 2;
const LINGER_MIN: Duration = Duration::from_millis(500);
const LINGER_MAX: Duration = Duration::from_secs(10);
/// How often it is looked who has lingered long enough: so many times in that time.
const LOOKS: u32 = 8;
/// Idle sessions of one user in the same rooms, on one thread: two tabs of a browser, say.
const IDLE_MAX: usize = 2;

/// Lines for the next answer.
struct Lines {
    list: Vec<Bytes>,
    bytes: usize,
    standing: Standing,
    /// Rooms that are being entered, and whether the client is told so.
    entering: Vec<(RoomName, bool)>,
    /// All that was asked of the session is dealt with.
    entered: bool,
    /// Something has come that is worth an answer.
    has_news: bool,
    /// The client is told that it enters, also where it misses nothing.
    tells_all: bool,
}

impl Lines {
    fn is_settled(&self) -> bool {
        self.entered && self.entering.is_empty()
    }

    /// What a line is to the next answer: whether it stands in it, and whether it is worth one.
    fn weigh(&mut self, meaning: Meaning, line: &[u8]) -> (bool, bool) {
        let about = |lines: &Lines| lines.standing.room_of(line).cloned();
        match meaning {
            Meaning::Welcome => (self.tells_all, self.tells_all),
            Meaning::Pong => {
                self.entered = true;
                (false, false)
            }
            Meaning::Joined { known, missing } => {
                let is_told = self.tells_all || !known || missing;
                self.entering.extend(about(self).map(|room| (room, is_told)));
                (is_told, is_told)
            }
            Meaning::Live { renewed } => {
                let room = about(self);
                let at = self.entering.iter().position(|(entering, _)| room.as_ref() == Some(entering));
                let is_told = renewed || at.is_some_and(|at| self.entering.swap_remove(at).1);
                (is_told, is_told)
            }
            // Where somebody enters he is told all state. To who polls again it is nothing new.
            Meaning::State => (true, self.is_settled()),
            // His own poll says that he has got what he has. It would end the next one.
            Meaning::Receipt => (true, false),
            Meaning::Entry | Meaning::Refused | Meaning::Bye | Meaning::Other => (true, true),
        }
    }
}

impl Shape for Lines {
    fn line(&mut self, line: &[u8]) {
        let (meaning, _) = self.standing.note(line);
        let (is_kept, is_news) = self.weigh(meaning, line);
        self.has_news |= is_news;
        if is_kept {
            self.bytes += line.len();
            self.list.push(Bytes::copy_from_slice(line));
        }
    }

    fn find_held(&self, look: &mut dyn FnMut(&[u8]) -> bool) {
        self.list.iter().any(|line| look(line));
    }

    fn held(&self) -> usize {
        self.bytes
    }

    fn held_max(&self) -> usize {
        HELD_MAX
    }

    fn ends_with_last_frame(&self) -> bool {
        true
    }
}

/// A session that is polled.
struct Poller {
    session: Addr<Session>,
    outlet: Outlet<Lines>,
    /// The cursor of its last answer.
    at: Vec<u8>,
    /// Where that is in each room.
    stands: Vec<(RoomName, Offset)>,
    /// How far its client has got, as the session was told.
    got: Vec<(RoomName, Offset)>,
    /// Until when it waits for its next poll.
    until: Instant,
}

/// Who polls what: the user, his token, the rooms, and where unseen.
type Key = (UserName, Option<String>, Vec<RoomName>, Quiet);

/// The sessions that wait for their next poll.
#[derive(Default)]
pub struct Pollers {
    idle: RefCell<HashMap<Key, Vec<Poller>, RandomState>>,
    /// Somebody looks from time to time who has waited long enough.
    is_watched: Cell<bool>,
}

/// A poller while it is polled. Goes back to the others when that is over, also when the client hangs up.
struct Polled {
    entry: Rc<Entry>,
    key: Option<Key>,
    poller: Option<Poller>,
}

/// Answers a poll: the body, as JSON.
pub async fn poll(entry: &Rc<Entry>, request: &HttpRequest) -> Result<String, Problem> {
    let params = Params::of(request);
    let asker = entry.ask(request, &params)?;
    let wish = Wish::read(&params, None)?;
    entry.check(&wish)?;
    let wait = Duration::from_secs(params.number("wait")?.unwrap_or(0).min(WAIT_MAX_S));
    let since = params.text("since").unwrap_or_default();
    let known = match params.text("enter") {
        None => Polled::again(entry, &asker, &wish, since),
        Some(_) => None,
    };
    let polled = match known {
        Some(polled) => polled,
        None => Polled::begin(entry, request, &params, asker, wish)?,
    };
    entry.house().metrics.door.polls.inc();
    polled.answer(wait).await
}

impl Polled {
    /// Goes on with the session whose last answer ended where this poll stands.
    fn again(entry: &Rc<Entry>, asker: &Asker, wish: &Wish, since: &str) -> Option<Polled> {
        let key = key_of(asker, wish);
        let mut idle = entry.pollers.idle.borrow_mut();
        let pollers = idle.get_mut(&key)?;
        pollers.retain(|poller| !poller.outlet.has_ended());
        let at = pollers.iter().position(|poller| !since.is_empty() && poller.at == since.as_bytes())?;
        let mut poller = pollers.swap_remove(at);
        poller.goes_on();
        Some(Polled { entry: entry.clone(), key: Some(key), poller: Some(poller) })
    }

    fn begin(
        entry: &Rc<Entry>,
        request: &HttpRequest,
        params: &Params<'_>,
        asker: Asker,
        mut wish: Wish,
    ) -> Result<Polled, Problem> {
        let place = entry.place(request)?;
        // Who has no name of his own would be somebody else at each poll.
        let stays = asker.is_named;
        if !stays {
            wish.quiet = Quiet::Everywhere;
        }
        let key = stays.then(|| key_of(&asker, &wish));
        let standing = Standing::new(&wish.rooms, wish.from.as_ref());
        let lines = Lines {
            list: Vec::new(),
            bytes: 0,
            standing,
            entering: Vec::new(),
            entered: false,
            has_news: false,
            tells_all: wish.from.is_none() || params.text("enter").is_some(),
        };
        let (link, outlet) = pipe(lines);
        let joins = wish.joins();
        let back = match wish.from {
            Some(Cursor::Session { name, moved }) => Some((name, moved)),
            _ => None,
        };
        let (wire, visitor) = (Wire::Poll, entry.visitor(request));
        let entrance = Entrance { wire, identity: asker.identity, back, joins, pong: true, visitor };
        let house = entry.house().clone();
        let connection = house.core.borrow_mut().attach(link, false);
        let session =
            Session::begin(house, connection, Arrival::Http(Box::new(entrance)), BytesMut::new(), place);
        let poller = Poller {
            session,
            outlet,
            at: Vec::new(),
            stands: Vec::new(),
            got: Vec::new(),
            until: Instant::now(),
        };
        Ok(Polled { entry: entry.clone(), key, poller: Some(poller) })
    }

    async fn answer(mut self, wait: Duration) -> Result<String, Problem> {
        let began = Instant::now();
        let poller = self.poller.as_mut().expect("it is there until this is dropped");
        let is_in = timeout(wait.max(ENTER), poll_fn(|cx| poller.poll(cx, Lines::is_settled))).await.is_ok();
        if is_in {
            let rest = wait.saturating_sub(began.elapsed());
            // Without news in time the answer is empty, and nothing is wrong with that.
            timeout(rest, poll_fn(|cx| poller.poll(cx, |lines| lines.has_news))).await.unwrap_or_default();
        } else if !poller.outlet.shape().has_news {
            self.key = None;
            return Err(
                Problem::new(503, "busy", "the rooms cannot be entered just now; ask again").wait(1_000)
            );
        }
        Ok(poller.take())
    }
}

impl Poller {
    /// Ready when something is true of the lines, or no more of them will come now.
    fn poll(&self, cx: &Context<'_>, is_so: impl Fn(&Lines) -> bool) -> Poll<()> {
        let lines = self.outlet.shape();
        let is_ready = is_so(&lines) || lines.bytes >= HELD_MAX;
        drop(lines);
        if is_ready || self.outlet.has_ended() {
            return Poll::Ready(());
        }
        self.outlet.wake_at_next(cx);
        Poll::Pending
    }

    /// The answer with what has come.
    fn take(&mut self) -> String {
        let mut lines = self.outlet.shape();
        let list = match lines.has_news {
            true => {
                lines.bytes = 0;
                lines.has_news = false;
                lines.tells_all = false;
                std::mem::take(&mut lines.list)
            }
            // State that was told at the entrance waits for something worth an answer.
            false => Vec::new(),
        };
        self.at.clear();
        lines.standing.write(&mut self.at);
        self.stands = lines.standing.stands().map(|(room, offset)| (room.clone(), offset)).collect();
        drop(lines);
        self.outlet.taken();
        let mut body =
            Vec::with_capacity(list.iter().map(|line| line.len() + 1).sum::<usize>() + self.at.len() + 32);
        body.extend_from_slice(b"{\"frames\":[");
        for (at, line) in list.iter().enumerate() {
            if at > 0 {
                body.push(b',');
            }
            body.extend_from_slice(line);
        }
        body.extend_from_slice(b"],\"next\":");
        write_text(&mut body, &String::from_utf8_lossy(&self.at));
        body.push(b'}');
        String::from_utf8(body).expect("lines are UTF-8, as every frame of text is")
    }

    /// A client that polls from a place has everything up to it. The session is asked for a sign, so that everything
    /// that others have an answer to by now is in this one.
    fn goes_on(&mut self) {
        self.outlet.shape().entered = false;
        let known = |room: &RoomName| {
            self.got.iter().find(|(known, _)| known == room).map_or(0, |(_, offset)| *offset)
        };
        let got = |(room, offset): &(RoomName, Offset)| {
            let request = Request::Got { room: room.clone(), offset: *offset };
            (Reference::default(), Ok(request))
        };
        let news = self.stands.iter().filter(|(room, offset)| *offset > known(room)).map(got);
        let errand = news.chain([(Reference::default(), Ok(Request::Ping))]).collect();
        self.got.clone_from(&self.stands);
        self.session.do_send(Errand(errand));
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        let (Some(key), Some(mut poller)) = (self.key.take(), self.poller.take()) else { return };
        if poller.outlet.has_ended() {
            return;
        }
        let linger = linger_of(Duration::from_millis(self.entry.house().limits.ping.millis()));
        poller.until = Instant::now() + linger;
        let pollers = &self.entry.pollers;
        let mut idle = pollers.idle.borrow_mut();
        let waiting = idle.entry(key).or_default();
        if waiting.len() >= IDLE_MAX {
            let oldest = waiting.iter().enumerate().min_by_key(|(_, poller)| poller.until).map(|(at, _)| at);
            oldest.map(|at| waiting.swap_remove(at));
        }
        waiting.push(poller);
        if !pollers.is_watched.replace(true) {
            actix_rt::spawn(watch(Rc::downgrade(&self.entry), linger / LOOKS));
        }
    }
}

/// Lets sessions go that have not been polled again, as long as there are any. One task for all of them: a timer for
/// each poll would outlive it by far.
async fn watch(entry: Weak<Entry>, pause: Duration) {
    loop {
        sleep(pause).await;
        let Some(entry) = entry.upgrade() else { return };
        let mut idle = entry.pollers.idle.borrow_mut();
        let now = Instant::now();
        idle.retain(|_, pollers| {
            pollers.retain(|poller| poller.until > now);
            !pollers.is_empty()
        });
        if idle.is_empty() {
            return entry.pollers.is_watched.set(false);
        }
    }
}

fn key_of(asker: &Asker, wish: &Wish) -> Key {
    (asker.identity.user.clone(), asker.token.clone(), wish.rooms.clone(), wish.quiet.clone())
}

fn linger_of(ping: Duration) -> Duration {
    (ping / LINGER_PART).clamp(LINGER_MIN, LINGER_MAX)
}

//! Event streams: a session whose frames go to a browser's `EventSource` (WHATWG HTML, "Server-sent events"). The
//! session is the same actor as over a WebSocket; its frames come from the hub through a pipe, from which the body of
//! the answer takes them. A client that does not read is slow as over a WebSocket, and falls under the same rules.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::HttpRequest;
use actix_web::body::{BodySize, MessageBody};
use bytes::{Bytes, BytesMut};

use crate::actors::pipe::{Outlet, Shape, pipe};
use crate::actors::session::{Arrival, Entrance, Session};
use crate::chat::trace::Wire;
use crate::protocols::codes::Problem;
use crate::protocols::cursor::Cursor;
use crate::protocols::events;
use crate::protocols::standing::Standing;
use crate::transports::entrance::{Entry, Params, Wish};

/// Bytes of events that may wait for the HTTP connection; what comes then waits in the session's outbox.
const HELD_MAX: usize = 16 << 10;
/// When clients come back whose stream breaks off, in milliseconds: somewhere in this range, so that they do not all
/// come in one moment.
const RETRY_MS: std::ops::Range<u64> = 500..2_500;

/// Lines as events.
struct Events {
    out: BytesMut,
    id: Vec<u8>,
    standing: Standing,
}

impl Shape for Events {
    fn line(&mut self, line: &[u8]) {
        events::event(&mut self.out, &mut self.standing, line, &mut self.id);
    }

    fn ping(&mut self) {
        events::comment(&mut self.out);
    }

    fn find_held(&self, look: &mut dyn FnMut(&[u8]) -> bool) {
        events::lines(&self.out).any(look);
    }

    fn held(&self) -> usize {
        self.out.len()
    }

    fn held_max(&self) -> usize {
        HELD_MAX
    }

    fn ends_with_last_frame(&self) -> bool {
        // The client is to get it first; it has gone when the body is dropped.
        false
    }
}

/// The body of an answer that goes on as long as the session.
pub struct EventStream(Outlet<Events>);

/// Begins a session whose events are the body of the answer to this request.
pub fn begin(entry: &Rc<Entry>, request: &HttpRequest) -> Result<EventStream, Problem> {
    let params = Params::of(request);
    let asker = entry.ask(request, &params)?;
    let again = request.headers().get("last-event-id");
    let again = again.map(|value| value.to_str()).transpose();
    let again = again.map_err(|_| Problem::bad_json("Last-Event-ID is none of ours; leave it out"))?;
    let wish = Wish::read(&params, again)?;
    entry.check(&wish)?;
    let place = entry.place(request)?;

    let mut out = BytesMut::new();
    events::open(&mut out, rand::random_range(RETRY_MS));
    let standing = Standing::new(&wish.rooms, wish.from.as_ref());
    let (link, outlet) = pipe(Events { out, id: Vec::new(), standing });
    let joins = wish.joins();
    let back = match wish.from {
        Some(Cursor::Session { name, moved }) => Some((name, moved)),
        _ => None,
    };
    let (wire, visitor) = (Wire::Stream, entry.visitor(request));
    let entrance = Entrance { wire, identity: asker.identity, back, joins, pong: false, visitor };
    let connection = entry.house().core.borrow_mut().attach(link, false);
    Session::begin(
        entry.house().clone(),
        connection,
        Arrival::Http(Box::new(entrance)),
        BytesMut::new(),
        place,
    );
    Ok(EventStream(outlet))
}

impl MessageBody for EventStream {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let events = std::mem::take(&mut self.0.shape().out);
        if !events.is_empty() {
            self.0.taken();
            return Poll::Ready(Some(Ok(events.freeze())));
        }
        if self.0.has_ended() {
            return Poll::Ready(None);
        }
        self.0.wake_at_next(cx);
        Poll::Pending
    }
}

//! What one connection has sent only in part: a frame whose payload is still coming, and the message that it
//! belongs to. Called by the decoder, which has judged every header before it comes here. Holds no more than the
//! limits of the decoder allow, and nothing of a message that is too big.

use super::{Event, Found, Limits, TEXT_NOT_UTF8};
use crate::protocols::websocket::frame::{CONTROL_BYTES_MAX, ClientHeader, Fault, Opcode, unmask};
use crate::protocols::websocket::utf8::{PartialText, room_to_reserve};

/// What is unfinished behind a complete header.
#[derive(Debug, Default)]
pub struct Unfinished {
    /// The frame whose payload is still coming.
    frame: Option<OpenFrame>,
    /// Payload of an unfinished control frame; a message may be unfinished beside it.
    control: Vec<u8>,
    /// The message whose frames are still coming.
    message: Option<Message>,
    /// Bytes that the frames of the message have announced so far.
    announced_bytes: u64,
    /// `message` was handed out by the last call.
    delivered: bool,
}

#[derive(Debug)]
struct OpenFrame {
    header: ClientHeader,
    /// Bytes of the payload that have come.
    seen: u64,
}

#[derive(Debug)]
enum Message {
    Text(PartialText),
    Binary(Vec<u8>),
    /// Too big: its bytes are passed over until its last frame ends.
    Discarded,
}

impl Unfinished {
    /// Forgets a message that was handed out. `true`: nothing is unfinished any more.
    pub fn forget_delivered(&mut self) -> bool {
        if self.delivered {
            self.message = None;
            self.delivered = false;
        }
        self.frame.is_none() && self.message.is_none()
    }

    /// The payload is still coming of some frame.
    pub fn is_in_frame(&self) -> bool {
        self.frame.is_some()
    }

    /// Bytes announced so far by the frames of an unfinished message; `None` if there is none.
    pub fn announced_bytes(&self) -> Option<u64> {
        self.message.as_ref().map(|_| self.announced_bytes)
    }

    /// The payload of the control frame that [`Found::Control`] speaks of.
    pub fn control(&self) -> &[u8] {
        &self.control
    }

    /// The message that [`Found::Message`] speaks of, once its last frame is complete.
    pub fn read_message(&self) -> Result<Event<'_>, Fault> {
        match &self.message {
            Some(Message::Text(text)) => text.finish().map(Event::Text).map_err(|_| TEXT_NOT_UTF8),
            Some(Message::Binary(bytes)) => Ok(Event::Binary(bytes)),
            Some(Message::Discarded) | None => unreachable!("a discarded message is never found"),
        }
    }

    /// Makes `header` the frame whose payload comes next. `true`: its message has just become too big.
    pub fn open(&mut self, header: ClientHeader, too_big: bool) -> bool {
        self.frame = Some(OpenFrame { header, seen: 0 });
        match header.opcode {
            Opcode::Continuation => {
                self.announced_bytes = self.announced_bytes.saturating_add(header.payload_bytes)
            }
            Opcode::Text => self.start(Message::Text(PartialText::default()), header.payload_bytes),
            Opcode::Binary => self.start(Message::Binary(Vec::new()), header.payload_bytes),
            Opcode::Close | Opcode::Ping | Opcode::Pong => self.control = Vec::new(),
        }
        let news = too_big && !matches!(self.message, Some(Message::Discarded));
        if news {
            self.message = Some(Message::Discarded);
        }
        news
    }

    fn start(&mut self, message: Message, announced_bytes: u64) {
        self.message = Some(message);
        self.announced_bytes = announced_bytes;
    }

    /// Takes what the input has of the open frame. Closes the frame when its payload is complete, and hands out
    /// the message (or control frame) that it ends.
    pub fn take_payload(
        &mut self,
        input: &mut [u8],
        used: &mut usize,
        limits: &Limits,
    ) -> Result<Option<Found>, Fault> {
        let Some(frame) = &mut self.frame else {
            return Ok(None);
        };
        let missing = frame.header.payload_bytes - frame.seen;
        let count = missing.min((input.len() - *used) as u64) as usize;
        let part = &mut input[*used..*used + count];
        let control = frame.header.opcode.is_control();
        if control || !matches!(self.message, Some(Message::Discarded)) {
            unmask(part, frame.header.mask, frame.seen);
        }
        frame.seen += count as u64;
        *used += count;
        let header = frame.header;
        if count as u64 == missing {
            self.frame = None;
        }
        if control {
            self.control.reserve_exact(room_to_reserve(
                self.control.len(),
                self.control.capacity(),
                count,
                CONTROL_BYTES_MAX,
            ));
            self.control.extend_from_slice(part);
            return Ok(self.frame.is_none().then_some(Found::Control(header.opcode)));
        }
        self.append(part, limits)?;
        Ok(if self.frame.is_none() && header.fin { self.end_message() } else { None })
    }

    fn append(&mut self, part: &[u8], limits: &Limits) -> Result<(), Fault> {
        match &mut self.message {
            Some(Message::Text(text)) => text.push(part, limits.message_bytes).map_err(|_| TEXT_NOT_UTF8),
            Some(Message::Binary(bytes)) => {
                let extra = room_to_reserve(bytes.len(), bytes.capacity(), part.len(), limits.message_bytes);
                bytes.reserve_exact(extra);
                bytes.extend_from_slice(part);
                Ok(())
            }
            Some(Message::Discarded) | None => Ok(()),
        }
    }

    /// The last frame is complete. Of a discarded message nothing is left to say.
    fn end_message(&mut self) -> Option<Found> {
        if matches!(self.message, Some(Message::Discarded)) {
            self.message = None;
            return None;
        }
        self.delivered = true;
        Some(Found::Message)
    }

    /// Bytes of payload memory that are held on to.
    #[cfg(test)]
    pub fn held_bytes(&self) -> usize {
        let message = match &self.message {
            Some(Message::Text(text)) => text.held_bytes(),
            Some(Message::Binary(bytes)) => bytes.capacity(),
            Some(Message::Discarded) | None => 0,
        };
        message + self.control.capacity()
    }
}

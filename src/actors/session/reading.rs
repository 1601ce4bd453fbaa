//! What the client sends: bytes to events, events to letters.

use bytes::{Bytes, BytesMut};

use super::{Mind, RAW_MESSAGE_BYTES, Session};
use crate::actors::connection::Ending;
use crate::actors::letters::{RawMessage, Said, SaidRaw};
use crate::protocols::codes::Problem;
use crate::protocols::native::Reference;
use crate::protocols::websocket::codec;
use crate::protocols::websocket::codec::{Event, Oversize};
use crate::protocols::websocket::frame::encode_pong;

impl Session {
    pub(super) fn read(&mut self, bytes: &mut [u8]) {
        let now = self.house.core.borrow().now_ms();
        self.connection.borrow_mut().heard_ms = now;
        self.house.core.borrow().counters().socket_bytes_in.add(bytes.len() as u64);
        let limits = self.codec_limits();
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut at = 0;
        loop {
            let (used, event) = decoder.decode(&mut bytes[at..], &limits);
            at += used;
            let Some(event) = event else { break };
            self.heard(event);
        }
        self.decoder = decoder;
        self.post();
    }

    pub(super) fn codec_limits(&self) -> codec::Limits {
        match self.mind {
            Mind::Raw { .. } => codec::Limits {
                message_bytes: RAW_MESSAGE_BYTES,
                frame_bytes_max: RAW_MESSAGE_BYTES as u64,
                oversize: Oversize::Fail,
            },
            Mind::Native(_) => codec::Limits {
                message_bytes: self.house.limits.message_bytes,
                frame_bytes_max: self.house.limits.message_bytes as u64 * 4,
                oversize: Oversize::Discard,
            },
        }
    }

    pub(super) fn heard(&mut self, event: Event<'_>) {
        if !self.connection.borrow().is_open() {
            // Our close frame is under way: only the client's own matters.
            if let Event::Close { .. } | Event::Fault(_) = event {
                self.house.core.borrow_mut().end_after_letters(&self.connection, Ending::ByClient(None));
            }
            return;
        }
        self.house.core.borrow().counters().messages_in.inc();
        match event {
            Event::Text(text) => match &mut self.mind {
                Mind::Raw { messages } => {
                    messages.push(RawMessage::Text(Bytes::copy_from_slice(text.as_bytes())))
                }
                Mind::Native(_) => self.lines(text),
            },
            Event::Binary(bytes) => match &mut self.mind {
                Mind::Raw { messages } => messages.push(RawMessage::Binary(Bytes::copy_from_slice(bytes))),
                Mind::Native(_) => {
                    self.refuse(
                        Reference::default(),
                        Problem::bad_json("frames are text; send JSON as a text message"),
                    );
                }
            },
            Event::Ping(payload) => self.pong(payload),
            Event::Pong(_) => {}
            Event::TooBig => {
                let limit = self.house.limits.message_bytes;
                self.refuse(Reference::default(), Problem::too_big(limit));
            }
            Event::Close { code, .. } => {
                self.close_code = code.unwrap_or(1005);
                self.post();
                self.house.core.borrow_mut().end_after_letters(&self.connection, Ending::ByClient(code));
            }
            Event::Fault(fault) => {
                self.close_code = fault.close_code;
                self.post();
                self.failed(fault.why.to_owned());
                self.house
                    .core
                    .borrow_mut()
                    .end_after_letters(&self.connection, Ending::ByFault(fault.close_code, fault.why));
            }
        }
    }

    pub(super) fn pong(&mut self, payload: &[u8]) {
        let mut frame = BytesMut::with_capacity(payload.len() + 2);
        encode_pong(&mut frame, payload);
        self.house.core.borrow_mut().send(&self.connection, &frame);
    }

    /// Puts what this turn has gathered into the chat server's mailbox, as one letter.
    pub(super) fn post(&mut self) {
        let connection = self.connection.borrow().id;
        match &mut self.mind {
            Mind::Raw { messages } if !messages.is_empty() => {
                let messages = std::mem::take(messages);
                self.house.chat.do_send(SaidRaw { connection, messages });
            }
            Mind::Native(native) if !native.asks.is_empty() => {
                let asks = std::mem::take(&mut native.asks);
                self.house.chat.do_send(Said { connection, asks });
            }
            _ => return,
        }
        self.connection.borrow_mut().letter_sent();
    }
}

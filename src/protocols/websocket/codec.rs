//! Bytes from a browser to WebSocket events (RFC 6455, server side, no extension). Owns what is unfinished
//! between two reads: a header, a frame, a message. Called by the WebSocket transport, one decoder for each
//! connection. Knows no socket, no clock and no protocol above: bytes come in, events go out, nothing is sent.

use super::frame::{CLIENT_HEADER_BYTES_MAX, ClientHeader, Fault, Opcode, is_close_code, unmask};
use std::ops::Range;
use unfinished::Unfinished;

mod unfinished;

/// What one client may send. Shared by all connections and given with every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest message in bytes, all fragments together. Also the most a decoder ever holds for one message.
    pub message_bytes: usize,
    /// Longest payload a single data frame may announce, in bytes; above it the connection ends with 1009 at
    /// once. Between `message_bytes` and this, `oversize` decides.
    pub frame_bytes_max: u64,
    /// What a message above `message_bytes` leads to.
    pub oversize: Oversize,
}

/// What a message above the limit leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oversize {
    /// One [`Event::TooBig`]; its bytes are thrown away as they come, then the next message is read.
    Discard,
    /// A fault with close code 1009.
    Fail,
}

/// What came. Slices live until the next call.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// Answer it with a pong that carries the same bytes.
    Ping(&'a [u8]),
    /// The answer to a ping.
    Pong(&'a [u8]),
    /// The client is closing. The decoder says nothing more.
    Close {
        /// `None` if the frame was empty.
        code: Option<u16>,
        /// At most 123 bytes; may be empty.
        reason: &'a str,
    },
    /// A message above `message_bytes`; said once, as soon as a header shows it ([`Oversize::Discard`]).
    TooBig,
    /// The connection must end. The decoder says nothing more.
    Fault(Fault),
}

/// The unfinished part of one connection's input: 24 bytes, plus a box only while a frame or message is
/// incomplete.
///
/// ```
/// use roomcast::protocols::websocket::codec::{Decoder, Limits, Oversize};
///
/// let limits = Limits { message_bytes: 65_536, frame_bytes_max: 262_144, oversize: Oversize::Discard };
/// let mut decoder = Decoder::new();
/// let mut buffer = *b"\x81\x82\x01\x02\x03\x04ik\x89\x80\x01\x02\x03\x04";
/// let mut at = 0;
/// let mut heard = Vec::new();
/// loop {
///     let (used, event) = decoder.decode(&mut buffer[at..], &limits);
///     at += used;
///     let Some(event) = event else { break };
///     heard.push(format!("{event:?}"));
/// }
/// assert_eq!(heard, [r#"Text("hi")"#, "Ping([])"]);
/// assert_eq!(at, buffer.len());
/// ```
#[derive(Debug, Default)]
pub struct Decoder {
    header: [u8; CLIENT_HEADER_BYTES_MAX],
    header_len: u8,
    /// Set by a close frame or a fault: whatever follows is passed over.
    ended: bool,
    unfinished: Option<Box<Unfinished>>,
}

/// Where the payload of an event lies. Kept apart from [`Event`] so that no borrow is held while decoding.
enum Found {
    /// In the input, unmasked.
    InInput(Opcode, Range<usize>),
    /// In `Unfinished::control`.
    Control(Opcode),
    /// In `Unfinished::message`.
    Message,
    TooBig,
}

/// What a text message that is not UTF-8 leads to.
const TEXT_NOT_UTF8: Fault = Fault::not_utf8("text is not UTF-8");

impl Decoder {
    /// A decoder at the start of a connection, right behind the handshake.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Reads from the front of `input`, unmasking it in place, up to the end of the first event. Gives the count
    /// of bytes it used and the event. Without an event all of `input` is used, and what is unfinished is kept
    /// inside; so call again with the rest until it gives `None`. That last call also frees a message that the
    /// one before handed out from the decoder's own memory.
    ///
    /// A message in one frame that lies wholly in `input` is handed out as a slice of it: no copy, no allocation.
    /// After [`Event::Close`] and [`Event::Fault`] everything is used up and nothing more is said.
    pub fn decode<'a>(&'a mut self, input: &'a mut [u8], limits: &Limits) -> (usize, Option<Event<'a>>) {
        self.free_what_is_done();
        if self.ended {
            return (input.len(), None);
        }
        let mut used = 0;
        let event = match self.find(input, &mut used, limits) {
            Ok(None) => {
                self.free_what_is_done();
                return (used, None);
            }
            Ok(Some(found)) => read_event(found, input, self.unfinished.as_deref()),
            Err(fault) => Err(fault),
        };
        let event = event.unwrap_or_else(Event::Fault);
        self.ended = matches!(event, Event::Close { .. } | Event::Fault(_));
        (used, Some(event))
    }

    /// Bytes of payload memory that the decoder holds on to.
    #[cfg(test)]
    fn held_bytes(&self) -> usize {
        self.unfinished.as_ref().map_or(0, |unfinished| unfinished.held_bytes())
    }

    #[inline]
    fn free_what_is_done(&mut self) {
        if let Some(unfinished) = &mut self.unfinished
            && (unfinished.forget_delivered() || self.ended)
        {
            self.unfinished = None;
        }
    }

    /// Goes on until an event is found or the input is used up.
    fn find(&mut self, input: &mut [u8], used: &mut usize, limits: &Limits) -> Result<Option<Found>, Fault> {
        loop {
            if let Some(unfinished) = &mut self.unfinished
                && unfinished.is_in_frame()
            {
                let found = unfinished.take_payload(input, used, limits)?;
                if found.is_some() || unfinished.is_in_frame() {
                    return Ok(found);
                }
            }
            let Some(header) = self.take_header(input, used)? else {
                return Ok(None);
            };
            let found = self.begin_frame(header, input, used, limits)?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// The next header, whole; `None` once the input is used up before its end.
    #[inline]
    fn take_header(&mut self, input: &[u8], used: &mut usize) -> Result<Option<ClientHeader>, Fault> {
        if self.header_len == 0
            && let Some((header, length)) = ClientHeader::parse(&input[*used..])?
        {
            *used += length;
            return Ok(Some(header));
        }
        while *used < input.len() {
            let length = usize::from(self.header_len);
            self.header[length] = input[*used];
            self.header_len += 1;
            *used += 1;
            if let Some((header, _)) = ClientHeader::parse(&self.header[..=length])? {
                self.header_len = 0;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// Judges a new frame. Hands it out at once if it is a message (or control frame) of its own that lies wholly
    /// in the input; else leaves it open for [`Unfinished::take_payload`].
    #[inline]
    fn begin_frame(
        &mut self,
        header: ClientHeader,
        input: &mut [u8],
        used: &mut usize,
        limits: &Limits,
    ) -> Result<Option<Found>, Fault> {
        let too_big = !header.opcode.is_control() && self.admit_data_frame(&header, limits)?;
        let alone = header.fin && header.opcode != Opcode::Continuation && !too_big;
        let present = (input.len() - *used) as u64 >= header.payload_bytes;
        if alone && present {
            let payload = *used..*used + header.payload_bytes as usize;
            unmask(&mut input[payload.clone()], header.mask, 0);
            *used = payload.end;
            return Ok(Some(Found::InInput(header.opcode, payload)));
        }
        let news = self.unfinished.get_or_insert_default().open(header, too_big);
        Ok(news.then_some(Found::TooBig))
    }

    /// Checks the order of fragments and the size. `true`: the message is above the limit.
    #[inline]
    fn admit_data_frame(&self, header: &ClientHeader, limits: &Limits) -> Result<bool, Fault> {
        let announced_bytes = self.unfinished.as_ref().and_then(|unfinished| unfinished.announced_bytes());
        match (header.opcode, announced_bytes) {
            (Opcode::Continuation, None) => return Err(Fault::protocol("continuation of no message")),
            (Opcode::Continuation, Some(_)) | (_, None) => {}
            (_, Some(_)) => return Err(Fault::protocol("new message inside a fragmented one")),
        }
        if header.payload_bytes > limits.frame_bytes_max {
            return Err(Fault::too_big("frame too big"));
        }
        let too_big =
            announced_bytes.unwrap_or(0).saturating_add(header.payload_bytes) > limits.message_bytes as u64;
        if too_big && limits.oversize == Oversize::Fail {
            return Err(Fault::too_big("message too big"));
        }
        Ok(too_big)
    }
}

/// Turns a place into an event.
#[inline]
fn read_event<'a>(
    found: Found,
    input: &'a [u8],
    unfinished: Option<&'a Unfinished>,
) -> Result<Event<'a>, Fault> {
    match (found, unfinished) {
        (Found::InInput(opcode, place), _) => read_payload(opcode, &input[place]),
        (Found::Control(opcode), Some(unfinished)) => read_payload(opcode, unfinished.control()),
        (Found::Message, Some(unfinished)) => unfinished.read_message(),
        (Found::TooBig, _) => Ok(Event::TooBig),
        (Found::Control(_) | Found::Message, None) => {
            unreachable!("only unfinished input finds them in itself")
        }
    }
}

/// A payload that lies in one piece; checks what can only be checked on the whole of it.
#[inline]
fn read_payload(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, Fault> {
    match opcode {
        Opcode::Text => simdutf8::basic::from_utf8(payload).map(Event::Text).map_err(|_| TEXT_NOT_UTF8),
        Opcode::Binary | Opcode::Continuation => Ok(Event::Binary(payload)),
        Opcode::Ping => Ok(Event::Ping(payload)),
        Opcode::Pong => Ok(Event::Pong(payload)),
        Opcode::Close => read_close(payload),
    }
}

fn read_close(payload: &[u8]) -> Result<Event<'_>, Fault> {
    if payload.is_empty() {
        return Ok(Event::Close { code: None, reason: "" });
    }
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return Err(Fault::protocol("close frame with half a code"));
    };
    let code = u16::from_be_bytes(*code);
    if !is_close_code(code) {
        return Err(Fault::protocol("close frame with a code that must not be sent"));
    }
    let reason =
        simdutf8::basic::from_utf8(reason).map_err(|_| Fault::not_utf8("close reason is not UTF-8"))?;
    Ok(Event::Close { code: Some(code), reason })
}

#[cfg(test)]
mod tests;

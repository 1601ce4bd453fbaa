//! The decoder against each rule of RFC 6455, always in one piece and byte by byte.

use super::*;
use crate::protocols::websocket::frame::{
    CLOSE_NOT_UTF8, CLOSE_PROTOCOL_ERROR, CLOSE_TOO_BIG, CONTROL_BYTES_MAX,
};

mod streams;

const LIMITS: Limits = Limits { message_bytes: 1_000, frame_bytes_max: 4_000, oversize: Oversize::Discard };
const FIN: u8 = 0x80;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// An [`Event`] that owns its bytes; of a fault the close code alone.
#[derive(Debug, Clone, PartialEq)]
enum Heard {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    TooBig,
    Fault(u16),
}

impl From<Event<'_>> for Heard {
    fn from(event: Event<'_>) -> Heard {
        match event {
            Event::Text(text) => Heard::Text(text.to_owned()),
            Event::Binary(bytes) => Heard::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Heard::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Heard::Pong(bytes.to_vec()),
            Event::Close { code, reason } => Heard::Close(code, reason.to_owned()),
            Event::TooBig => Heard::TooBig,
            Event::Fault(fault) => Heard::Fault(fault.close_code),
        }
    }
}

/// A client frame whose first byte is `first`.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

fn text(payload: &str) -> Vec<u8> {
    frame(FIN | 1, payload.as_bytes())
}

fn said(payload: &str) -> Heard {
    Heard::Text(payload.to_owned())
}

/// Reads one piece the way a transport does, and checks what must hold after every call.
fn read(decoder: &mut Decoder, piece: &[u8], limits: &Limits, heard: &mut Vec<Heard>) {
    let mut buffer = piece.to_vec();
    let mut at = 0;
    loop {
        let left = buffer.len() - at;
        let (used, event) = decoder.decode(&mut buffer[at..], limits);
        assert!(used <= left);
        let event = event.map(Heard::from);
        assert!(event.is_some() || used == left, "no event, but input left over");
        assert!(decoder.held_bytes() <= limits.message_bytes + CONTROL_BYTES_MAX);
        at += used;
        let Some(event) = event else { break };
        heard.push(event);
    }
}

/// What is heard when `stream` comes in pieces that end at `cuts` (and at its end).
fn hear_cut(stream: &[u8], cuts: &[usize], limits: &Limits) -> Vec<Heard> {
    let mut decoder = Decoder::new();
    let mut heard = Vec::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([stream.len()]) {
        read(&mut decoder, &stream[from..to], limits, &mut heard);
        from = to;
    }
    heard
}

/// What is heard, in one piece and byte by byte: it must be the same.
fn hear(stream: &[u8]) -> Vec<Heard> {
    let whole = hear_cut(stream, &[], &LIMITS);
    let every: Vec<usize> = (0..stream.len()).collect();
    assert_eq!(hear_cut(stream, &every, &LIMITS), whole, "byte by byte");
    whole
}

#[test]
fn an_idle_decoder_is_small_and_owns_nothing() {
    assert!(size_of::<Decoder>() <= 48, "{} bytes", size_of::<Decoder>());
    let mut decoder = Decoder::new();
    let stream =
        [frame(1, b"a"), frame(FIN | 9, b"p"), frame(FIN, b"b"), frame(FIN | 2, &[0; 2_000])].concat();
    for byte in stream {
        read(&mut decoder, &[byte], &LIMITS, &mut Vec::new());
    }
    assert!(decoder.unfinished.is_none(), "kept after the last message: {:?}", decoder.unfinished);
}

#[test]
fn a_whole_frame_is_handed_out_as_a_slice_of_the_input() {
    let mut buffer = [text("hello"), frame(FIN | 2, b"bytes")].concat();
    let range = buffer.as_ptr_range();
    let mut decoder = Decoder::new();
    let (used, event) = decoder.decode(&mut buffer, &LIMITS);
    let Some(Event::Text(hello)) = event else { panic!("{event:?}") };
    assert!(range.contains(&hello.as_ptr()));
    assert_eq!((hello, used), ("hello", 11));
    let (used, event) = decoder.decode(&mut buffer[used..], &LIMITS);
    let Some(Event::Binary(bytes)) = event else { panic!("{event:?}") };
    assert!(range.contains(&bytes.as_ptr()));
    assert_eq!((bytes, used), (&b"bytes"[..], 11));
    assert!(decoder.unfinished.is_none());
}

#[test]
fn messages_of_every_length_form_are_read() {
    let limits = Limits { message_bytes: 70_000, frame_bytes_max: 70_000, ..LIMITS };
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
        let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
        let stream = frame(FIN | 2, &payload);
        for cuts in [&[][..], &[1], &[3], &[stream.len() - 1], &[2, stream.len() / 2]] {
            assert_eq!(hear_cut(&stream, cuts, &limits), [Heard::Binary(payload.clone())], "{length} bytes");
        }
    }
}

#[test]
fn control_frames_may_stand_between_fragments() {
    let stream = [
        frame(1, b"frag"),
        frame(FIN | 9, b"ping"),
        frame(0, b""),
        frame(FIN | 10, b""),
        frame(FIN, b"ments"),
    ];
    let pings = [Heard::Ping(b"ping".to_vec()), Heard::Pong(Vec::new())];
    assert_eq!(hear(&stream.concat()), [&pings[..], &[said("fragments")]].concat());
}

#[test]
fn fragments_out_of_order_are_protocol_errors() {
    let fault = [Heard::Fault(CLOSE_PROTOCOL_ERROR)];
    assert_eq!(hear(&frame(FIN, b"of nothing")), fault);
    assert_eq!(hear(&frame(0, b"of nothing")), fault);
    assert_eq!(hear(&[frame(1, b"a"), text("b")].concat()), fault);
    assert_eq!(hear(&[frame(2, b"a"), frame(1, b"b")].concat()), fault);
    let after_the_end = [frame(1, b"a"), frame(FIN, b"b"), frame(FIN, b"c")].concat();
    assert_eq!(hear(&after_the_end), [said("ab"), Heard::Fault(CLOSE_PROTOCOL_ERROR)]);
}

#[test]
fn bad_headers_end_the_connection_and_what_follows_is_passed_over() {
    let unmasked = b"\x81\x02hi".to_vec();
    let long_ping = frame(FIN | 9, &[0; 126]);
    for bad in [
        unmasked,
        long_ping,
        frame(0xc1, b""),
        frame(FIN | 3, b""),
        frame(9, b""),
        b"\x81\xfe\x00\x05".to_vec(),
    ] {
        let stream = [text("before"), bad, text("after")].concat();
        assert_eq!(hear(&stream), [said("before"), Heard::Fault(CLOSE_PROTOCOL_ERROR)]);
    }
}

#[test]
fn close_frames_are_read_and_end_the_stream() {
    let close = |payload: &[u8]| hear(&[frame(FIN | 8, payload), text("late")].concat());
    assert_eq!(close(b""), [Heard::Close(None, String::new())]);
    assert_eq!(close(b"\x03\xe8"), [Heard::Close(Some(1000), String::new())]);
    assert_eq!(close("\u{3}\u{0}ö".as_bytes()), [Heard::Fault(CLOSE_PROTOCOL_ERROR)], "code 768");
    assert_eq!(close(b"\x03\xe9going"), [Heard::Close(Some(1001), "going".to_owned())]);
    assert_eq!(close(b"\x03"), [Heard::Fault(CLOSE_PROTOCOL_ERROR)], "half a code");
    assert_eq!(close(b"\x03\xed"), [Heard::Fault(CLOSE_PROTOCOL_ERROR)], "1005");
    assert_eq!(close(b"\x03\xe8\xce\xba\xe1"), [Heard::Fault(CLOSE_NOT_UTF8)]);
    let between = [frame(1, b"unfinished"), frame(FIN | 8, b"\x03\xe8")].concat();
    assert_eq!(hear(&between), [Heard::Close(Some(1000), String::new())]);
}

#[test]
fn what_was_unfinished_is_freed_when_the_stream_has_ended() {
    for end in [frame(FIN | 8, b""), frame(FIN | 3, b"")] {
        let mut decoder = Decoder::new();
        let mut heard = Vec::new();
        read(&mut decoder, &frame(2, &[0; 900]), &LIMITS, &mut heard);
        assert!(decoder.unfinished.is_some());
        read(&mut decoder, &end, &LIMITS, &mut heard);
        assert_eq!(heard.len(), 1);
        assert!(decoder.unfinished.is_none(), "kept after {heard:?}");
    }
}

#[test]
fn characters_cut_by_fragments_and_reads_are_whole_again() {
    for sample in ["a", "é", "€", "𝄞", "x𝄞é€y"] {
        for cut in 0..=sample.len() {
            let (left, right) = sample.as_bytes().split_at(cut);
            let stream = [frame(1, left), frame(FIN | 10, b"p"), frame(0, b""), frame(FIN, right)].concat();
            assert_eq!(hear(&stream), [Heard::Pong(b"p".to_vec()), said(sample)]);
        }
    }
}

#[test]
fn a_bad_byte_is_refused_before_its_frame_is_complete() {
    let payload = "κόσμε".as_bytes();
    let bad = [payload, b"\xf4\x90\x80\x80edited"].concat();
    let stream = frame(FIN | 1, &bad);
    let header = stream.len() - bad.len();
    let mut decoder = Decoder::new();
    let mut heard = Vec::new();
    read(&mut decoder, &stream[..header + payload.len() + 1], &LIMITS, &mut heard);
    assert_eq!(heard, [], "F4 alone can still become a character");
    read(&mut decoder, &stream[header + payload.len() + 1..][..1], &LIMITS, &mut heard);
    assert_eq!(heard, [Heard::Fault(CLOSE_NOT_UTF8)], "F4 90 cannot");
    assert_eq!(hear(&[frame(1, payload), frame(0, b"\xff")].concat()), [Heard::Fault(CLOSE_NOT_UTF8)]);
}

#[test]
fn text_that_ends_inside_a_character_is_refused() {
    assert_eq!(hear(&frame(FIN | 1, b"abc\xe2\x82")), [Heard::Fault(CLOSE_NOT_UTF8)]);
    assert_eq!(hear(&[frame(1, b"abc\xe2"), frame(FIN, b"\x82")].concat()), [Heard::Fault(CLOSE_NOT_UTF8)]);
    assert_eq!(hear(&frame(FIN | 2, b"\xff")), [Heard::Binary(vec![0xff])], "binary may hold anything");
}

#[test]
fn a_message_at_the_limit_passes_and_one_byte_more_is_too_big() {
    let full = "x".repeat(LIMITS.message_bytes);
    assert_eq!(hear(&text(&full)), [said(&full)]);
    let over = [text(&(full.clone() + "y")), text("next")].concat();
    assert_eq!(hear(&over), [Heard::TooBig, said("next")]);
    let halves =
        [frame(1, &full.as_bytes()[..600]), frame(0, &[b'x'; 400]), frame(FIN, b"y"), text("next")].concat();
    assert_eq!(hear(&halves), [Heard::TooBig, said("next")]);
}

#[test]
fn too_big_is_said_once_at_the_header_and_pings_go_on() {
    let start = frame(2, &[0; 1_001]);
    assert_eq!(hear(&start[..8]), [Heard::TooBig], "the header alone");
    let stream =
        [start, frame(FIN | 9, b"p"), frame(0, &[0xff; 3_000]), frame(FIN, b""), text("next")].concat();
    assert_eq!(hear(&stream), [Heard::TooBig, Heard::Ping(b"p".to_vec()), said("next")]);
}

#[test]
fn a_frame_that_announces_far_too_much_or_a_strict_limit_ends_the_connection() {
    assert_eq!(hear(&frame(FIN | 2, &[0; 4_001])[..8]), [Heard::Fault(CLOSE_TOO_BIG)]);
    let strict = Limits { oversize: Oversize::Fail, ..LIMITS };
    assert_eq!(hear_cut(&text(&"x".repeat(1_001)), &[], &strict), [Heard::Fault(CLOSE_TOO_BIG)]);
    let fragments = [frame(2, &[0; 1_000]), frame(FIN | 9, b""), frame(FIN, b"x")].concat();
    assert_eq!(hear_cut(&fragments, &[5], &strict), [Heard::Ping(Vec::new()), Heard::Fault(CLOSE_TOO_BIG)]);
}

#[test]
fn memory_follows_the_bytes_that_came_and_not_the_length_that_was_announced() {
    let wide = Limits { message_bytes: usize::MAX / 2, frame_bytes_max: u64::MAX, ..LIMITS };
    for first in [1, 2] {
        let mut decoder = Decoder::new();
        let mut heard = Vec::new();
        let header = [&[first, 0xff, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff], &MASK[..]].concat();
        read(&mut decoder, &header, &wide, &mut heard);
        assert_eq!(decoder.held_bytes(), 0);
        for zeros in 1..=300 {
            read(&mut decoder, &[MASK[(zeros - 1) % 4]], &wide, &mut heard);
            assert!((zeros..=2 * zeros).contains(&decoder.held_bytes()), "{zeros} came");
        }
        assert_eq!(heard, []);
    }
}

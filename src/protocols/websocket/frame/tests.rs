//! Headers, masks, close codes and encoded frames, each against the bytes that RFC 6455 asks for.

use super::*;

fn parse(bytes: &[u8]) -> Result<Option<(u64, usize)>, u16> {
    match ClientHeader::parse(bytes) {
        Ok(found) => Ok(found.map(|(header, length)| (header.payload_bytes, length))),
        Err(fault) => Err(fault.close_code),
    }
}

#[test]
fn lengths_of_all_three_forms_are_read() {
    assert_eq!(parse(b"\x82\x80mask"), Ok(Some((0, 6))));
    assert_eq!(parse(b"\x82\xfdmask"), Ok(Some((125, 6))));
    assert_eq!(parse(b"\x82\xfe\x00\x7emask"), Ok(Some((126, 8))));
    assert_eq!(parse(b"\x82\xfe\xff\xffmask"), Ok(Some((65_535, 8))));
    assert_eq!(parse(b"\x82\xff\0\0\0\0\x00\x01\0\0mask"), Ok(Some((65_536, 14))));
    assert_eq!(parse(b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xffmask"), Ok(Some((u64::MAX >> 1, 14))));
}

#[test]
fn a_header_cut_anywhere_asks_for_more() {
    for header in [&b"\x82\x85mask"[..], b"\x82\xfe\x00\x7emask", b"\x82\xff\0\0\0\0\x00\x01\0\0mask"] {
        for end in 0..header.len() {
            assert_eq!(parse(&header[..end]), Ok(None), "{end} bytes of {header:x?}");
        }
    }
}

#[test]
fn bad_headers_are_protocol_errors_at_the_first_byte_that_shows_it() {
    for bytes in [
        &b"\xc1"[..], // RSV1
        b"\xa1",      // RSV2
        b"\x91",      // RSV3
        b"\x83",      // opcodes without a meaning
        b"\x87",
        b"\x8b",
        b"\x8f",
        b"\x08", // control frames without FIN
        b"\x09",
        b"\x0a",
        b"\x81\x05", // no mask
        b"\x89\xfe", // control frames of 126 bytes and more
        b"\x88\xff",
        b"\x82\xfe\x00\x7d",             // 125 in two bytes
        b"\x82\xff\0\0\0\0\0\0\xff\xff", // 65,535 in eight bytes
        b"\x82\xff\x80\0\0\0\0\0\0\0",   // highest bit
    ] {
        assert_eq!(parse(bytes), Err(1002), "{bytes:x?}");
        assert_eq!(parse(&bytes[..bytes.len() - 1]), Ok(None), "{bytes:x?} but for its last byte");
    }
}

#[test]
fn the_mask_comes_off_at_every_alignment_and_length() {
    let mask = [0x11, 0x22, 0x44, 0x88];
    for offset in 0..9 {
        for length in 0..40 {
            for start in 0..8 {
                let mut buffer: Vec<u8> = (0..start + length).map(|n| n as u8).collect();
                unmask(&mut buffer[start..], mask, offset);
                for (n, byte) in buffer[start..].iter().enumerate() {
                    assert_eq!(*byte, (start + n) as u8 ^ mask[(offset as usize + n) % 4]);
                }
            }
        }
    }
}

#[test]
fn close_codes_that_may_be_sent() {
    for code in [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4999] {
        assert!(is_close_code(code), "{code}");
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        assert!(!is_close_code(code), "{code}");
    }
}

#[test]
fn frames_carry_the_shortest_length_and_their_payload_is_found_again() {
    for (length, header) in [
        (0, &b"\x82\x00"[..]),
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (65_535, b"\x82\x7e\xff\xff"),
        (65_536, b"\x82\x7f\0\0\0\0\x00\x01\0\0"),
    ] {
        let payload = vec![7; length];
        let mut out = BytesMut::new();
        encode_frame(&mut out, Opcode::Binary, &payload);
        assert_eq!(out[..header.len()], *header);
        assert_eq!(frame_header_len(length), header.len());
        assert_eq!(payload_of(&out), payload);
        assert_eq!(payload_of(&out[..1]), b"");
    }
}

#[test]
fn a_close_reason_is_cut_at_the_end_of_a_character() {
    let mut out = BytesMut::new();
    encode_close(&mut out, 1000, "bye");
    assert_eq!(out[..], *b"\x88\x05\x03\xe8bye");
    out.clear();
    encode_close(&mut out, 4200, &"é".repeat(100));
    assert_eq!(out.len(), 2 + 2 + 122);
    assert_eq!(payload_of(&out)[2..], *"é".repeat(61).as_bytes());
    out.clear();
    encode_close_without_code(&mut out);
    assert_eq!(out[..], *b"\x88\x00");
}

#[test]
fn pings_and_pongs_carry_their_payload() {
    let mut out = BytesMut::new();
    encode_ping(&mut out, b"a");
    encode_pong(&mut out, b"");
    assert_eq!(out[..], *b"\x89\x01a\x8a\x00");
}

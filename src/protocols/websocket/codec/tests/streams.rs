//! The decoder against whole streams: generated ones whose events a model knows, damaged ones, and noise, each cut
//! into reads at random places.

use super::*;
use proptest::prelude::*;

/// One message of a generated stream: how it is cut into frames, and the pings between them.
#[derive(Debug, Clone)]
struct Sent {
    payload: Vec<u8>,
    is_text: bool,
    cuts: Vec<usize>,
    pings: Vec<Vec<u8>>,
}

impl Sent {
    /// Appends the frames to `stream` and what must be heard to `heard`.
    fn send(&self, stream: &mut Vec<u8>, heard: &mut Vec<Heard>) {
        let mut cuts: Vec<usize> = self.cuts.iter().map(|cut| cut % (self.payload.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(self.payload.len());
        let mut from = 0;
        let mut too_big = false;
        for (n, to) in cuts.iter().copied().enumerate() {
            let opcode = if n > 0 {
                0
            } else if self.is_text {
                1
            } else {
                2
            };
            let fin = if n + 1 == cuts.len() { FIN } else { 0 };
            stream.extend(frame(fin | opcode, &self.payload[from..to]));
            if to > LIMITS.message_bytes && !too_big {
                too_big = true;
                heard.push(Heard::TooBig);
            }
            if fin == 0
                && let Some(ping) = self.pings.get(n)
            {
                stream.extend(frame(FIN | 9, ping));
                heard.push(Heard::Ping(ping.clone()));
            }
            from = to;
        }
        if !too_big {
            heard.push(match self.is_text {
                true => Heard::Text(String::from_utf8(self.payload.clone()).unwrap()),
                false => Heard::Binary(self.payload.clone()),
            });
        }
    }
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let payload = prop_oneof![
        ".{0,40}".prop_map(|text| (text.into_bytes(), true)),
        "[a-zé€𝄞]{300,600}".prop_map(|text| (text.into_bytes(), true)),
        prop::collection::vec(any::<u8>(), 0..1_400).prop_map(|bytes| (bytes, false)),
    ];
    let pings = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..126), 0..3);
    (payload, prop::collection::vec(any::<usize>(), 0..4), pings)
        .prop_map(|((payload, is_text), cuts, pings)| Sent { payload, is_text, cuts, pings })
}

fn any_stream() -> impl Strategy<Value = (Vec<u8>, Vec<Heard>)> {
    prop::collection::vec(any_sent(), 0..5).prop_map(|sent| {
        let (mut stream, mut heard) = (Vec::new(), Vec::new());
        sent.iter().for_each(|message| message.send(&mut stream, &mut heard));
        (stream, heard)
    })
}

fn places(stream: &[u8], cuts: &[usize]) -> Vec<usize> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    places.sort_unstable();
    places
}

proptest! {
    #[test]
    fn any_cut_of_a_valid_stream_is_heard_as_the_model_says(
        (stream, heard) in any_stream(), cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        prop_assert_eq!(&hear_cut(&stream, &[], &LIMITS), &heard);
        prop_assert_eq!(&hear_cut(&stream, &places(&stream, &cuts), &LIMITS), &heard);
    }

    #[test]
    fn a_damaged_stream_is_heard_alike_however_it_is_cut(
        (mut stream, _) in any_stream(), damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let length = stream.len().max(1);
        for (place, byte) in damage {
            if let Some(hit) = stream.get_mut(place % length) { *hit = byte; }
        }
        let whole = hear_cut(&stream, &[], &LIMITS);
        prop_assert_eq!(hear_cut(&stream, &places(&stream, &cuts), &LIMITS), whole);
    }

    #[test]
    fn random_bytes_neither_panic_nor_fill_the_memory(
        stream in prop::collection::vec(any::<u8>(), 0..3_000), cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let heard = hear_cut(&stream, &places(&stream, &cuts), &LIMITS);
        let ends = heard.iter().filter(|event| matches!(event, Heard::Fault(_) | Heard::Close(..))).count();
        prop_assert!(ends <= 1);
    }
}

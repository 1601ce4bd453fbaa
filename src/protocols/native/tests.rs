//! Lines of clients: what the protocol page shows is read, and whatever else comes is refused with its reason.

use proptest::prelude::*;

use super::*;

fn ok(line: &str) -> Request {
    read(line).1.unwrap_or_else(|problem| panic!("{line}: {problem:?}"))
}

fn why(line: &str) -> (u16, &'static str) {
    let problem = read(line).1.expect_err(line);
    (problem.code, problem.why)
}

#[test]
fn reads_what_the_protocol_page_shows() {
    assert!(matches!(ok(r#"{"t":"hello","v":1,"token":"eyJ"}"#), Request::Hello { token: Some(_), .. }));
    assert!(matches!(ok(r#"{"t":"join","r":"lobby"}"#), Request::Join(Join { resume: Resume::FromNow, .. })));
    let Request::Join(join) = ok(r#"{"t":"join","r":"lobby","since":42,"e":"k3f9","quiet":true}"#) else {
        panic!()
    };
    assert_eq!((join.resume, join.quiet), (Resume::Since(42, Some("k3f9".into())), true));
    let Request::Publish(publish) = ok(r#"{"t":"pub","r":"lobby","d":{"a": 1},"id":"k7-41","re":3}"#) else {
        panic!()
    };
    assert_eq!(
        (publish.data.as_bytes(), publish.reply_to, publish.keep),
        (&b"{\"a\": 1}"[..], Some(3), true)
    );
    let Request::Hello { joins, .. } =
        ok(r#"{"t":"hello","rooms":{"a":{"since":1,"e":"x"},"b":{},"c":null}}"#)
    else {
        panic!()
    };
    assert_eq!(joins.len(), 3);
    assert!(matches!(ok(r#"{"t":"typing","r":"lobby","off":true}"#), Request::Typing { on: false, .. }));
    assert!(matches!(
        ok(r#"{"t":"log","r":"a","after":7}"#),
        Request::Log { from: PageFrom::After(7), n: 50, .. }
    ));
    assert!(matches!(ok(r#"{"t":"who","r":"a","after":"bob"}"#), Request::Who { after: Some(_), .. }));
}

#[test]
fn one_bad_room_does_not_spoil_a_hello() {
    let Request::Hello { joins, refused, .. } =
        ok(r#"{"t":"hello","rooms":{"a":{},"*":{},"b":{"since":1,"last":1}}}"#)
    else {
        panic!()
    };
    assert_eq!((joins.len(), refused.len()), (1, 2));
}

#[test]
fn null_is_data_and_a_missing_d_is_not() {
    let Request::Publish(publish) = ok(r#"{"t":"pub","r":"a","d":null}"#) else { panic!() };
    assert_eq!(publish.data.as_bytes(), b"null");
    assert_eq!(why(r#"{"t":"pub","r":"a"}"#), (400, "bad-json"));
}

#[test]
fn reads_changes_of_what_was_said() {
    let Request::Edit { room, of, data, id } =
        ok(r#"{"t":"edit","r":"lobby","of":128,"d":{"a": 1},"id":"e-1"}"#)
    else {
        panic!()
    };
    assert_eq!((room.as_str(), of, data.as_bytes()), ("lobby", 128, &b"{\"a\": 1}"[..]));
    assert_eq!(id.unwrap().as_str(), "e-1");
    assert!(matches!(ok(r#"{"t":"del","r":"lobby","of":1}"#), Request::Delete { of: 1, id: None, .. }));
    let Request::React { of, mark, off, id, .. } = ok(r#"{"t":"react","r":"lobby","of":128,"k":"\u002b1"}"#)
    else {
        panic!()
    };
    assert_eq!((of, mark.as_str(), off, id), (128, "+1", false, None));
    assert!(matches!(
        ok(r#"{"t":"react","r":"lobby","of":128,"k":"👍","off":true,"id":"x"}"#),
        Request::React { off: true, id: Some(_), .. }
    ));
    let max = format!(r#"{{"t":"del","r":"lobby","of":{}}}"#, u64::MAX);
    assert!(matches!(ok(&max), Request::Delete { of: u64::MAX, .. }));
}

#[test]
fn reads_where_a_reader_stands_and_what_she_looks_for() {
    assert!(matches!(ok(r#"{"t":"read","r":"lobby","s":129}"#), Request::Read { offset: 129, .. }));
    assert!(matches!(ok(r#"{"t":"got","r":"lobby","s":1}"#), Request::Got { offset: 1, .. }));
    assert!(matches!(ok(r#"{"t":"rooms","i":10}"#), Request::Rooms));
    let Request::Find { words, before, n, .. } = ok(r#"{"t":"find","r":"a","q":" two\twords\n","n":20}"#)
    else {
        panic!()
    };
    assert_eq!((&*words, before, n), ("two\twords", None, 20));
    let long = format!(r#"{{"t":"find","r":"a","q":"  {}  ","before":9}}"#, "x".repeat(512));
    assert!(matches!(ok(&long), Request::Find { before: Some(9), n: 50, .. }));
    let Request::Hello { session, .. } = ok(r#"{"t":"hello","session":"s9f2a"}"#) else { panic!() };
    assert_eq!(session.as_deref(), Some("s9f2a"));
    assert!(matches!(ok(r#"{"t":"hello","session":null}"#), Request::Hello { session: None, .. }));
}

#[test]
fn a_page_of_the_log_begins_at_one_place_or_time() {
    let from = |line: &str| {
        let Request::Log { from, .. } = ok(line) else { panic!() };
        from
    };
    assert_eq!(from(r#"{"t":"log","r":"a"}"#), PageFrom::Before(u64::MAX));
    assert_eq!(from(r#"{"t":"log","r":"a","before":120}"#), PageFrom::Before(120));
    assert_eq!(from(r#"{"t":"log","r":"a","after":0}"#), PageFrom::After(0));
    assert_eq!(from(r#"{"t":"log","r":"a","from":1763820000000}"#), PageFrom::Since(1_763_820_000_000));
    assert_eq!(from(r#"{"t":"log","r":"a","until":1763820000000}"#), PageFrom::Until(1_763_820_000_000));
    let ends = [r#""before":1"#, r#""after":1"#, r#""from":1"#, r#""until":1"#];
    for (at, one) in ends.iter().enumerate() {
        for other in &ends[at + 1..] {
            assert_eq!(why(&format!(r#"{{"t":"log","r":"a",{one},{other}}}"#)), (400, "bad-json"));
        }
    }
}

#[test]
fn a_bad_value_is_named() {
    let words = format!(r#"{{"t":"find","r":"a","q":"{}"}}"#, "x".repeat(513));
    let session = format!(r#"{{"t":"hello","session":"{}"}}"#, "s".repeat(65));
    for (line, named) in [
        (r#"{"t":"edit","r":"a","d":1}"#, "\"of\""),
        (r#"{"t":"edit","r":"a","of":0,"d":1}"#, "\"of\""),
        (r#"{"t":"edit","r":"a","of":1}"#, "\"d\""),
        (r#"{"t":"del","r":"a","of":"1"}"#, "\"of\""),
        (r#"{"t":"del","r":"a","of":1.0}"#, "\"of\""),
        (r#"{"t":"del","r":"a","of":-1}"#, "\"of\""),
        (r#"{"t":"del","r":"a","of":null}"#, "\"of\""),
        (r#"{"t":"del","r":"a","of":18446744073709551616}"#, "\"of\""),
        (r#"{"t":"del","r":"a","of":1,"id":""}"#, "an id"),
        (r#"{"t":"react","r":"a","of":1}"#, "\"k\""),
        (r#"{"t":"react","r":"a","of":1,"k":1}"#, "\"k\""),
        (r#"{"t":"react","r":"a","of":1,"k":""}"#, "reacts"),
        (r#"{"t":"react","r":"a","of":1,"k":"a\nb"}"#, "reacts"),
        (r#"{"t":"react","r":"a","k":"x"}"#, "\"of\""),
        (r#"{"t":"read","r":"a"}"#, "\"s\""),
        (r#"{"t":"read","r":"a","s":0}"#, "\"s\""),
        (r#"{"t":"got","r":"a","s":"x"}"#, "\"s\""),
        (r#"{"t":"find","r":"a"}"#, "\"q\""),
        (r#"{"t":"find","r":"a","q":" \t "}"#, "\"q\""),
        (r#"{"t":"find","r":"a","q":["x"]}"#, "\"q\""),
        (&words, "\"q\""),
        (r#"{"t":"log","r":"a","until":"yesterday"}"#, "\"until\""),
        (r#"{"t":"log","r":"a","after":"x"}"#, "\"after\""),
        (r#"{"t":"hello","session":""}"#, "\"session\""),
        (r#"{"t":"hello","session":"S9"}"#, "\"session\""),
        (r#"{"t":"hello","session":5}"#, "\"session\""),
        (&session, "\"session\""),
        (r#"{"t":"join","r":"a","since":"42"}"#, "\"since\" is a whole number"),
        (r#"{"t":"pub","r":"a","d":1,"re":1.5}"#, "\"re\" is a whole number"),
        (r#"{"t":"log","r":"a","before":-1}"#, "\"before\" is a whole number"),
        (r#"{"t":"pub","r":7,"d":1}"#, "\"r\" is text"),
        (r#"{"t":"pub","r":"a","d":1,"id":7}"#, "\"id\" is text"),
        (r#"{"t":"react","r":"a","of":1,"k":"x","off":"yes"}"#, "\"off\" is true or false"),
        (r#"{"t":"hello","rooms":["a"]}"#, "\"rooms\" is an object"),
        (r#"{"t":"join","t":"pub","r":"a"}"#, "duplicate field `t`"),
    ] {
        let problem = read(line).1.expect_err(line);
        assert_eq!((problem.code, problem.why), (400, "bad-json"), "{line}");
        assert!(problem.msg.contains(named), "{line}: {}", problem.msg);
    }
    for line in [r#"{"t":"edit","of":1,"d":1}"#, r#"{"t":"find","q":"x"}"#, r#"{"t":"read","r":"*","s":1}"#] {
        assert_eq!(why(line), (400, "bad-room"), "{line}");
    }
}

#[test]
fn a_key_that_a_frame_does_not_know_is_passed_over_whatever_it_holds() {
    let line =
        r#"{"t":"pub","r":"a","d":1,"of":"x","s":[],"k":5,"q":{},"session":false,"until":"y","after":{}}"#;
    assert!(matches!(ok(line), Request::Publish(_)));
}

#[test]
fn a_direct_room_has_one_name_whoever_begins() {
    let (reference, request) = read(r#"{"t":"pub","r":"@bob+ann","d":1}"#);
    let Ok(Request::Publish(publish)) = request else { panic!() };
    assert_eq!(publish.room.as_str(), "@ann+bob");
    assert_eq!(reference.room, Some(publish.room));
    let Request::Hello { joins, refused, .. } = ok(r#"{"t":"hello","rooms":{"@bob+ann":{},"@b+":{}}}"#)
    else {
        panic!()
    };
    assert_eq!((joins[0].room.as_str(), joins.len(), refused.len()), ("@ann+bob", 1, 1));
}

proptest! {
    #[test]
    fn random_lines_never_panic(line in "[{]\"t\":\"(edit|del|react|read|got|find|log|hello|rooms)\"(,\"(r|s|of|k|q|d|id|i|session|before|after|from|until|n|off|rooms)\":([0-9]{1,21}|-1|\"[^\"]{0,5}\"|\"@b[+]a\"|null|true|[\\[]1[\\]]|[{][}])){0,6}[}]") {
        if let (_, Err(problem)) = read(&line) {
            prop_assert_eq!(problem.code, 400);
            prop_assert!(!problem.msg.is_empty());
        }
    }
}

#[test]
fn every_malformed_line_gets_its_error() {
    let deep = format!(r#"{{"t":"pub","r":"a","d":{}{}}}"#, "[".repeat(1000), "]".repeat(1000));
    for (line, expected) in [
        ("", (400, "bad-json")),
        ("nonsense", (400, "bad-json")),
        ("[]", (400, "bad-json")),
        ("{}", (400, "bad-json")),
        (r#"{"t":5}"#, (400, "bad-json")),
        (r#"{"t":"join"}"#, (400, "bad-room")),
        (r#"{"t":"join","r":""}"#, (400, "bad-room")),
        (r#"{"t":"join","r":"a\nb"}"#, (400, "bad-room")),
        (r#"{"t":"join","r":"a","since":-1}"#, (400, "bad-json")),
        (r#"{"t":"join","r":"a","since":1,"last":1}"#, (400, "bad-json")),
        (r#"{"t":"pub","r":"a","d":1,"id":""}"#, (400, "bad-json")),
        (r#"{"t":"hello","v":2}"#, (400, "too-old-version")),
        (r#"{"t":"dance"}"#, (400, "unknown-type")),
        (r#"{"t":"dance","n":"x"}"#, (400, "unknown-type")),
        (r#"["join","lobby"]"#, (400, "bad-json")),
        (r#"{"t":"auth"}"#, (400, "bad-json")),
        (&deep, (400, "bad-json")),
    ] {
        assert_eq!(why(line), expected, "{line}");
    }
}

#[test]
fn an_error_carries_the_number_of_its_request() {
    assert_eq!(read(r#"{"t":"dance","i":7}"#).0.i, Some(7));
    assert_eq!(read(r#"{"t":"join","r":5,"i":8}"#).0.i, Some(8));
    assert_eq!(read(r#"{"t":"join","r":"a","i":9,"since":"x"}"#).0.i, Some(9));
    let (reference, request) = read(r#"{"t":"edit","r":"a","i":10,"id":"e","of":0,"d":1}"#);
    assert!(request.is_err());
    assert_eq!((reference.i, reference.room.is_some(), reference.id.is_some()), (Some(10), true, true));
}

#[test]
fn escapes_in_text_and_unknown_keys_are_fine() {
    let (reference, request) = read(r#"{"x":[1,{"y":2}],"t":"j\u006fin","r":"caf\u00e9"}"#);
    assert!(matches!(request, Ok(Request::Join(_))));
    assert_eq!(reference.room.unwrap().as_str(), "café");
}

/// The page that the rules come from.
const PAGE: &str = include_str!("../../../docs/protocol.md");

#[test]
fn every_frame_that_the_protocol_page_tells_a_client_to_send_is_understood() {
    let section = PAGE.split("\n## What a client sends\n").nth(1).unwrap();
    let table = section.split("\n## ").next().unwrap();
    let mut types = Vec::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let frame = row.split('`').nth(1).unwrap().replace("\"d\":…", "\"d\":1");
        ok(&frame);
        // The keys that may be added stand behind it, each of them alone.
        let spans = row.split(" | ").next().unwrap().split('`').skip(3).step_by(2);
        for more in spans.filter(|span| span.starts_with('"') && span.contains(':')) {
            ok(&format!("{},{more}}}", frame.strip_suffix('}').unwrap()));
        }
        types.push(
            serde_json::from_str::<serde_json::Value>(&frame).unwrap()["t"].as_str().unwrap().to_owned(),
        );
    }
    types.push("hello".into());
    types.sort();
    let mut offered = line::TYPES.map(str::to_owned);
    offered.sort();
    assert_eq!(types, offered, "the page shows every type once");
}

#[test]
fn every_frame_on_the_protocol_page_is_json() {
    let mut n = 0;
    for block in PAGE.split("\n```json\n").skip(1) {
        for line in block.split("\n```").next().unwrap().lines() {
            let line = line.replace("\"d\":…", "\"d\":1");
            let json =
                serde_json::from_str::<serde_json::Value>(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            assert!(json["t"].is_string(), "{line}");
            n += 1;
        }
    }
    assert!(n > 30, "{n} frames");
}

//! Faults are planted, one of each kind at least, and have to be found; what is right has to pass.

use std::io::Cursor;

use super::*;

const HELLO: &str = r#"{"t":"hello","v":1,"u":"ann","rooms":{"a":{"since":0}}}"#;
const WELCOME: &str = r#"{"t":"welcome","v":1,"u":"ann","session":"s1"}"#;

/// A diary in the making: a line per frame, 10 ms apart.
struct Pages {
    text: String,
    ms: u64,
}

impl Pages {
    fn from(ms: u64) -> Pages {
        Pages { text: String::new(), ms }
    }

    fn line(mut self, direction: &str, frame: &str, more: &str) -> Pages {
        self.ms += 10;
        let ms = self.ms;
        self.text += &format!("{{\"dir\":\"{direction}\",\"ms\":{ms},\"frame\":{frame}{more}}}\n");
        self
    }

    fn out(self, frame: &str) -> Pages {
        self.line("out", frame, "")
    }

    fn hears(self, frame: &str) -> Pages {
        self.line("in", frame, "")
    }

    fn drops(self, frame: &str) -> Pages {
        self.line("in", frame, r#","dropped":true"#)
    }

    fn says(self, id: &str) -> Pages {
        self.out(&format!(r#"{{"t":"pub","r":"a","id":"{id}","d":"{id}"}}"#))
    }

    fn acked(self, id: &str, s: u64) -> Pages {
        self.hears(&format!(r#"{{"t":"ack","r":"a","s":{s},"id":"{id}","ts":7}}"#))
    }

    /// Comes in and is live at once, at a head.
    fn joins(self, name: &str, since: u64, head: u64) -> Pages {
        self.joins_to_replay(name, since, head).live(head)
    }

    fn joins_to_replay(self, name: &str, since: u64, head: u64) -> Pages {
        let n = head - since.min(head);
        self.out(&HELLO.replace("ann", name).replace(r#""since":0"#, &format!(r#""since":{since}"#)))
            .hears(&WELCOME.replace("ann", name))
            .hears(&format!(r#"{{"t":"joined","r":"a","s":{head},"e":"e1","n":{n}}}"#))
    }

    fn live(self, head: u64) -> Pages {
        self.hears(&format!(r#"{{"t":"live","r":"a","s":{head}}}"#))
    }

    fn sees(self, range: std::ops::RangeInclusive<u64>) -> Pages {
        range.fold(self, |pages, s| pages.hears(&entry(s)))
    }
}

/// What the writer `w` says at a place, under the id of that number.
fn entry(s: u64) -> String {
    format!(r#"{{"t":"msg","r":"a","s":{s},"id":"w-{s}","u":"w","ts":7,"d":"w-{s}"}}"#)
}

/// The writer `w`, whose messages are acknowledged one by one at places 1 to `count`.
fn writer(count: u64) -> Pages {
    let pages = Pages::from(0).out(r#"{"t":"hello","v":1,"u":"w","rooms":{"a":{}}}"#);
    (1..=count).fold(pages, |pages, n| pages.says(&format!("w-{n}")).acked(&format!("w-{n}"), n))
}

/// A reader who sees all of it.
fn reader(count: u64) -> Pages {
    Pages::from(0).joins("ann", 0, 0).sees(1..=count)
}

fn judged_by(mut checker: Checker, diaries: Vec<Pages>) -> Report {
    for (number, pages) in diaries.into_iter().enumerate() {
        let lines = Cursor::new(pages.text);
        checker.take_lines(&format!("client-{number}"), lines, Role::Client).expect("the diary is one");
    }
    checker.verdict()
}

fn judged(diaries: Vec<Pages>) -> Report {
    judged_by(Checker::new(), diaries)
}

/// All counts that are not zero.
fn found(report: &Report) -> Vec<(Fault, u64)> {
    let counts = Fault::ALL.map(|fault| (fault, report.count(fault)));
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

fn has(report: &Report, fault: Fault) {
    assert!(report.count(fault) > 0, "{} is not found:\n{report}", fault.word());
    assert!(!report.is_clean());
    assert!(report.to_string().contains(&format!("  {}: ", fault.word())), "it is told in words");
}

#[test]
fn what_is_right_passes() {
    let second_life = Pages::from(0)
        .joins("bob", 0, 0)
        .sees(1..=3)
        .joins_to_replay("bob", 3, 5)
        .sees(4..=5)
        .live(5)
        .sees(6..=6);
    let report = judged(vec![writer(6), reader(6), second_life]);
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.clients, report.sent, report.acked, report.places), (3, 6, 6, 6));
    assert_eq!((report.seen, report.dropped, report.forgotten), (12, 0, 0));
}

#[test]
fn a_server_side_cursor_may_repeat_what_the_reader_drops() {
    let back = r#"{"t":"hello","v":1,"u":"ann","session":"s1"}"#;
    let pages = reader(3)
        .out(back)
        .hears(WELCOME)
        .hears(r#"{"t":"joined","r":"a","s":4,"e":"e1","n":3}"#)
        .drops(&entry(2))
        .drops(&entry(3))
        .hears(&entry(4))
        .live(4);
    let report = judged(vec![writer(4), pages]);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.dropped, 2);

    let shown_again = reader(3)
        .out(back)
        .hears(WELCOME)
        .hears(r#"{"t":"joined","r":"a","s":3,"e":"e1","n":1}"#)
        .hears(&entry(3))
        .live(3);
    has(&judged(vec![writer(3), shown_again]), Fault::Doubled);

    let ahead = Pages::from(0).joins("ann", 0, 0).sees(1..=1).out(back).hears(WELCOME);
    let ahead = ahead.hears(r#"{"t":"joined","r":"a","s":3,"e":"e1","n":1}"#).hears(&entry(3)).live(3);
    let report = judged(vec![writer(3), ahead]);
    has(&report, Fault::Unaccounted);
    has(&report, Fault::Lost);
}

#[test]
fn lost_nobody_was_shown_what_was_acknowledged() {
    let report = judged(vec![writer(4), reader(3)]);
    assert_eq!(found(&report), [(Fault::Lost, 1)], "{report}");
}

#[test]
fn lost_another_message_stands_at_the_place() {
    let taken = entry(2).replace("w-2", "x-2");
    let other = Pages::from(0).out(r#"{"t":"hello","v":1,"u":"w"}"#).says("x-2");
    let pages = Pages::from(0).joins("ann", 0, 0).sees(1..=1).hears(&taken);
    has(&judged(vec![writer(2), other, pages]), Fault::Lost);
}

#[test]
fn lost_a_reader_did_not_get_it_though_others_did() {
    let pages = Pages::from(0).joins("bob", 0, 0).sees(1..=1).sees(3..=3);
    let report = judged(vec![writer(3), reader(3), pages]);
    assert_eq!(found(&report), [(Fault::Lost, 1), (Fault::Unaccounted, 1)], "{report}");
}

#[test]
fn lost_at_the_end_it_is_not_there() {
    let mut checker = Checker::new();
    for (name, pages) in [("w", writer(3)), ("ann", reader(3))] {
        checker.take_lines(name, Cursor::new(pages.text), Role::Client).unwrap();
    }
    let last = Pages::from(900).joins_to_replay("zoe", 0, 2).sees(1..=2).live(2);
    checker.take_lines("zoe", Cursor::new(last.text), Role::LastReader).unwrap();
    let report = checker.verdict();
    has(&report, Fault::Lost);
    has(&report, Fault::Vanished);
}

#[test]
fn lost_the_log_began_anew() {
    let pages = reader(3)
        .out(&HELLO.replace(r#""since":0"#, r#""since":3,"e":"e1""#))
        .hears(WELCOME)
        .hears(r#"{"t":"joined","r":"a","s":0,"e":"e2","n":0,"missing":"all","was":"e1"}"#)
        .live(0);
    has(&judged(vec![writer(3), pages]), Fault::Lost);
    // Who had seen nothing has lost nothing, as long as he gets all of the new life.
    let anew = |first: u64| {
        let joined = format!(
            r#"{{"t":"joined","r":"a","s":2,"e":"e2","n":{},"missing":"all","was":"e1"}}"#,
            3 - first
        );
        Pages::from(0).out(HELLO).hears(WELCOME).hears(&joined).sees(first..=2).live(2)
    };
    let report = judged(vec![writer(2), anew(1)]);
    assert!(report.is_clean(), "{report}");
    has(&judged(vec![writer(2), reader(2), anew(2)]), Fault::Lost);
}

#[test]
fn forgotten_places_are_lost_unless_the_server_may_forget() {
    let pages = || {
        let joined = r#"{"t":"joined","r":"a","s":3,"e":"e1","n":1,"missing":[1,2]}"#;
        Pages::from(0).out(HELLO).hears(WELCOME).hears(joined).hears(&entry(3)).live(3)
    };
    has(&judged(vec![writer(3), pages()]), Fault::Lost);
    let report = judged_by(Checker::of_a_forgetful_server(), vec![writer(3), pages()]);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.forgotten, 2);
}

#[test]
fn doubled_one_id_at_two_places() {
    let again = entry(3).replace("w-3", "w-2");
    let report = judged(vec![writer(2), reader(2).hears(&again)]);
    assert_eq!(found(&report), [(Fault::Doubled, 1)], "{report}");
}

#[test]
fn doubled_one_id_acknowledged_at_two_places() {
    has(&judged(vec![writer(2).acked("w-2", 3), reader(2)]), Fault::Doubled);
}

#[test]
fn doubled_one_place_shown_twice() {
    has(&judged(vec![writer(2), reader(2).sees(2..=2)]), Fault::Doubled);
    // Dropping does not excuse a server that was told where the reader stood.
    let asked = reader(2).joins_to_replay("ann", 2, 3).drops(&entry(2)).sees(3..=3).live(3);
    has(&judged(vec![writer(3), asked]), Fault::Doubled);
}

#[test]
fn reordered_for_a_reader() {
    let pages = Pages::from(0).joins("ann", 0, 0).hears(&entry(2)).hears(&entry(1));
    has(&judged(vec![writer(2), pages]), Fault::Reordered);
}

#[test]
fn reordered_before_live() {
    let pages = Pages::from(0).joins_to_replay("ann", 0, 1).sees(1..=2).live(1);
    let report = judged(vec![writer(2), pages]);
    assert_eq!(found(&report), [(Fault::Reordered, 1)], "{report}");
}

#[test]
fn reordered_for_a_writer_who_waited() {
    let pages = Pages::from(0).out(r#"{"t":"hello","v":1,"u":"w"}"#);
    let pages = pages.says("w-2").acked("w-2", 2).says("w-1").acked("w-1", 1);
    let report = judged(vec![pages, reader(2)]);
    assert_eq!(found(&report), [(Fault::Reordered, 1)], "{report}");
    // Two that were under way together have no order.
    let pages = Pages::from(0).out(r#"{"t":"hello","v":1,"u":"w"}"#);
    let pages = pages.says("w-2").says("w-1").acked("w-1", 1).acked("w-2", 2);
    assert!(judged(vec![pages, reader(2)]).is_clean());
}

#[test]
fn reordered_in_a_page() {
    let list = r#"[{"t":"msg","s":2,"id":"w-2","u":"w","ts":7,"d":"w-2"},{"t":"msg","s":1,"id":"w-1","u":"w","ts":7,"d":"w-1"}]"#;
    let page = |list: &str| format!(r#"{{"t":"page","r":"a","e":"e1","i":1,"list":{list}}}"#);
    has(&judged(vec![writer(2), reader(2).hears(&page(list))]), Fault::Reordered);
}

#[test]
fn unaccounted_holes_at_every_place_of_a_stream() {
    let at_the_start = Pages::from(0).joins("bob", 0, 0).sees(2..=3);
    let in_the_replay = Pages::from(0).joins_to_replay("bob", 0, 3).sees(1..=1).sees(3..=3).live(3);
    let at_live = Pages::from(0).joins_to_replay("bob", 0, 3).sees(1..=2).live(3);
    let after_a_return =
        Pages::from(0).joins("bob", 0, 0).sees(1..=1).joins_to_replay("bob", 1, 3).sees(3..=3).live(3);
    for pages in [at_the_start, in_the_replay, at_live, after_a_return] {
        let report = judged(vec![writer(3), reader(3), pages]);
        assert_eq!(found(&report), [(Fault::Lost, 1), (Fault::Unaccounted, 1)], "{report}");
    }
    let without_a_join = Pages::from(0).out(r#"{"t":"hello","v":1,"u":"bob"}"#).sees(1..=1);
    has(&judged(vec![writer(1), reader(1), without_a_join]), Fault::Unaccounted);
    let dropped_news = Pages::from(0).joins("bob", 0, 0).drops(&entry(1));
    has(&judged(vec![writer(1), reader(1), dropped_news]), Fault::Unaccounted);
}

#[test]
fn unaccounted_a_wrong_count_or_a_hole_in_a_page() {
    let joined = r#"{"t":"joined","r":"a","s":3,"e":"e1","n":2}"#;
    let pages = Pages::from(0).out(HELLO).hears(WELCOME).hears(joined).sees(1..=3).live(3);
    let report = judged(vec![writer(3), pages]);
    assert_eq!(found(&report), [(Fault::Unaccounted, 1)], "{report}");
    let page = |between: &str| {
        let entry = |s: u64| entry(s).replace(r#""r":"a","#, "");
        format!(r#"{{"t":"page","r":"a","e":"e1","i":1,"list":[{},{between}{}]}}"#, entry(1), entry(3))
    };
    let report = judged(vec![writer(3), reader(3).hears(&page(""))]);
    assert_eq!(found(&report), [(Fault::Lost, 1), (Fault::Unaccounted, 1)], "{report}");
    let skip = r#"{"t":"skip","s":2,"n":1},"#;
    assert!(judged(vec![writer(3), reader(3).hears(&page(skip))]).is_clean());
}

#[test]
fn skips_and_gaps_account_for_places() {
    let skip = r#"{"t":"skip","r":"a","s":2,"n":2}"#;
    let gap = r#"{"t":"gap","r":"a","missing":[2,3],"why":"slow"}"#;
    for told in [skip, gap] {
        let pages = Pages::from(0).joins("bob", 0, 0).sees(1..=1).hears(told).sees(4..=4);
        let report = judged_by(Checker::of_a_forgetful_server(), vec![writer(4), reader(4), pages]);
        assert_eq!(report.count(Fault::Unaccounted), 0, "{report}");
    }
    let too_late = Pages::from(0).joins("bob", 0, 0).sees(1..=2).hears(skip).sees(4..=4);
    has(&judged(vec![writer(4), reader(4), too_late]), Fault::Reordered);
}

#[test]
fn vanished_a_message_is_skipped_for_another_reader() {
    let skip = r#"{"t":"skip","r":"a","s":2,"n":1}"#;
    let pages = || Pages::from(0).joins("bob", 0, 0).sees(1..=1).hears(skip).sees(3..=3);
    has(&judged(vec![writer(3), reader(3), pages()]), Fault::Vanished);
    // Unless it was too old by then.
    let report = judged_by(Checker::of_a_forgetful_server(), vec![writer(3), reader(3), pages()]);
    assert!(report.is_clean(), "{report}");
}

#[test]
fn an_edit_that_another_edit_replaced_may_be_skipped() {
    let edit =
        |s: u64| format!(r#"{{"t":"edit","r":"a","s":{s},"id":"w-{s}","u":"w","ts":7,"d":"new","of":1}}"#);
    let say = |n: u64| format!(r#"{{"t":"edit","r":"a","of":1,"id":"w-{n}","d":"new"}}"#);
    let writes = || writer(1).out(&say(2)).acked("w-2", 2);
    let skip = r#"{"t":"skip","r":"a","s":2,"n":1}"#;
    let amended = entry(1).replace(r#""d":"w-1""#, r#""d":"new","edited":3"#);
    let late =
        || Pages::from(0).joins_to_replay("bob", 0, 3).hears(&amended).hears(skip).hears(&edit(3)).live(3);
    let witness = || reader(1).hears(&edit(2)).hears(&edit(3));
    let report = judged(vec![writes().out(&say(3)).acked("w-3", 3), witness(), late()]);
    assert!(report.is_clean(), "{report}");
    // Without the second edit there is no reason to skip the first.
    let alone = Pages::from(0).joins_to_replay("bob", 0, 2).hears(&entry(1)).hears(skip).live(2);
    has(&judged(vec![writes(), alone]), Fault::Lost);
}

#[test]
fn different_lines_at_one_place() {
    let other_time = entry(2).replace(r#""ts":7"#, r#""ts":8"#);
    let other_bytes = entry(2).replace(r#""d":"#, r#""d": "#);
    for line in [other_time, other_bytes] {
        let pages = Pages::from(0).joins("bob", 0, 0).sees(1..=1).hears(&line);
        let report = judged(vec![writer(2), reader(2), pages]);
        assert_eq!(found(&report), [(Fault::Different, 1)], "{report}");
    }
    let page = r#"{"t":"page","r":"a","e":"e1","i":1,"list":[{"t":"msg","s":1,"id":"w-1","u":"w","ts":9,"d":"w-1"}]}"#;
    has(&judged(vec![writer(1), reader(1).hears(page)]), Fault::Different);
}

#[test]
fn phantoms() {
    let never_sent = reader(2).hears(&entry(3));
    assert_eq!(found(&judged(vec![writer(2), never_sent])), [(Fault::Phantom, 1)]);
    let other_words =
        Pages::from(0).joins("ann", 0, 0).hears(&entry(1).replace(r#""d":"w-1""#, r#""d":"x""#));
    assert_eq!(found(&judged(vec![writer(1), other_words])), [(Fault::Phantom, 1)]);
    let another_user = Pages::from(0).joins("ann", 0, 0).hears(&entry(1).replace(r#""u":"w""#, r#""u":"x""#));
    has(&judged(vec![writer(1), another_user]), Fault::Phantom);
    let ack = Pages::from(0).out(r#"{"t":"hello","v":1,"u":"w"}"#).acked("w-9", 3);
    has(&judged(vec![writer(2), reader(2), ack]), Fault::Phantom);
}

#[test]
fn vanished_the_log_ends_before_what_was_seen() {
    // Ann has seen place 3 by 70 ms; Bob asks after that and is told of two places.
    let late = || Pages::from(500).joins_to_replay("bob", 0, 2).sees(1..=2).live(2);
    let unacked = writer(2).says("w-3");
    let report = judged(vec![unacked, reader(3), late()]);
    assert_eq!(found(&report), [(Fault::Vanished, 1)], "{report}");
    // Who asked before she saw it may have been told of less.
    let early = Pages::from(0).joins_to_replay("bob", 0, 2).sees(1..=2).live(2);
    let report = judged(vec![
        writer(2).says("w-3"),
        Pages::from(500).joins_to_replay("ann", 0, 3).sees(1..=3).live(3),
        early,
    ]);
    assert_eq!(report.count(Fault::Vanished), 0, "{report}");
}

#[test]
fn vanished_a_rewind() {
    has(
        &judged(vec![writer(2), reader(2).hears(r#"{"t":"rewind","r":"a","s":1,"e":"e1"}"#)]),
        Fault::Vanished,
    );
}

fn judged_as_several_nodes(diaries: Vec<Pages>) -> Report {
    judged_by(Checker::of_several_nodes(), diaries)
}

const REWIND_TO_1: &str = r#"{"t":"rewind","r":"a","s":1,"e":"e2"}"#;

/// What the writer `w` says under one number at another place.
fn moved(number: u64, s: u64) -> String {
    entry(number).replace(&format!(r#""s":{number}"#), &format!(r#""s":{s}"#))
}

#[test]
fn several_nodes_may_take_back_what_was_not_acknowledged() {
    // Places 2 and 3 were shown on a node that was cut off; the others had given them to 4 and 2 meanwhile.
    let cut_off = || reader(3).hears(REWIND_TO_1).hears(&moved(4, 2)).hears(&moved(2, 3)).hears(&moved(3, 4));
    let other = || reader(1).hears(&moved(4, 2)).hears(&moved(2, 3)).hears(&moved(3, 4));
    let writes = || {
        let pages = writer(1).says("w-2").says("w-3").says("w-4");
        pages.acked("w-4", 2).acked("w-2", 3).acked("w-3", 4)
    };
    let report = judged_as_several_nodes(vec![writes(), cut_off(), other()]);
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.rewinds, report.taken_back, report.moved), (1, 2, 0));
    // One node alone has no such excuse.
    has(&judged(vec![writes(), cut_off(), other()]), Fault::Vanished);
    // Who was not told to go back holds something else than the others.
    has(&judged_as_several_nodes(vec![writes(), reader(3), other()]), Fault::Different);
    // Nor may the same entry come again under his old place only.
    let back = reader(3).hears(REWIND_TO_1).hears(&moved(4, 2)).hears(&moved(2, 3)).hears(&moved(4, 4));
    has(&judged_as_several_nodes(vec![writes(), back, other()]), Fault::Doubled);
}

#[test]
fn several_nodes_lose_nothing_acknowledged_by_going_back() {
    // Acknowledged at 2 and shown there; then taken back for good.
    let cut_off = reader(2).hears(REWIND_TO_1).hears(&moved(3, 2));
    let other = || reader(1).hears(&moved(3, 2));
    let writes = || writer(2).says("w-3").acked("w-3", 2);
    let report = judged_as_several_nodes(vec![writes(), cut_off, other()]);
    assert_eq!(found(&report), [(Fault::Lost, 1)], "{report}");
    // Said again at another place it is kept; the report counts that its place was not.
    let cut_off = reader(2).hears(REWIND_TO_1).hears(&moved(3, 2)).hears(&moved(2, 3));
    let report = judged_as_several_nodes(vec![writes(), cut_off, other().hears(&moved(2, 3))]);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.moved, 1);
    // Without anybody having gone back there is no reason for it to stand elsewhere.
    has(&judged_as_several_nodes(vec![writes(), other().hears(&moved(2, 3))]), Fault::Lost);
}

#[test]
fn a_rewind_at_a_join_counts_before_the_figures_of_joined() {
    let back = |n: u64| {
        let joined = format!(r#"{{"t":"joined","r":"a","s":4,"e":"e2","n":{n}}}"#);
        let pages = reader(3).out(&HELLO.replace(r#""since":0"#, r#""since":3,"e":"e1""#)).hears(WELCOME);
        let pages = pages.hears(&joined).hears(REWIND_TO_1);
        pages.hears(&moved(4, 2)).hears(&moved(2, 3)).hears(&moved(3, 4)).live(4)
    };
    let writes = || {
        let pages = writer(1).says("w-2").says("w-3").says("w-4");
        pages.acked("w-4", 2).acked("w-2", 3).acked("w-3", 4)
    };
    let report = judged_as_several_nodes(vec![writes(), back(3)]);
    assert!(report.is_clean(), "{report}");
    has(&judged_as_several_nodes(vec![writes(), back(1)]), Fault::Unaccounted);
    // A log that ends before what he has is told by a rewind or not at all.
    let silent = reader(3).joins_to_replay("ann", 3, 2).live(2);
    has(&judged_as_several_nodes(vec![writer(3), silent]), Fault::Vanished);
}

#[test]
fn after_a_rewind_holes_and_repeats_are_found_as_ever() {
    let writes = || writer(3);
    let again = |first: u64| reader(3).hears(REWIND_TO_1).sees(first..=3);
    assert!(judged_as_several_nodes(vec![writes(), again(2)]).is_clean());
    has(&judged_as_several_nodes(vec![writes(), again(3)]), Fault::Unaccounted);
    has(&judged_as_several_nodes(vec![writes(), again(1)]), Fault::Doubled);
    has(&judged_as_several_nodes(vec![writes(), again(2), reader(2).hears(&moved(3, 2))]), Fault::Doubled);
}

#[test]
fn who_comes_in_without_saying_where_he_stood_is_told_nothing() {
    let anew = |pages: Pages, head: u64| {
        let hello = r#"{"t":"hello","v":1,"u":"bob","rooms":{"a":{}}}"#;
        let joined = format!(r#"{{"t":"joined","r":"a","s":{head},"e":"e2","n":0}}"#);
        pages.out(hello).hears(WELCOME).hears(&joined).live(head)
    };
    let bob = || anew(Pages::from(0).joins("bob", 0, 0).sees(1..=3), 3).sees(4..=4);
    assert!(judged_as_several_nodes(vec![writer(4), reader(4), bob()]).is_clean());
    // What he saw before still counts where nothing was taken back…
    let other = |s: u64| Pages::from(0).joins("eve", 0, 0).sees(1..=s - 1).hears(&moved(9, s));
    let writes = || writer(4).says("w-9");
    has(&judged_as_several_nodes(vec![writes(), bob(), other(3)]), Fault::Different);
    // … and does not where others were told to go back.
    let eve = other(3).hears(r#"{"t":"rewind","r":"a","s":2,"e":"e2"}"#).hears(&moved(9, 3)).sees(4..=4);
    let report = judged_as_several_nodes(vec![writes(), bob(), eve]);
    assert_eq!(report.count(Fault::Different), 0, "{report}");
}

#[test]
fn a_node_may_hear_of_an_entry_a_moment_later_than_another() {
    let late = || Pages::from(500).joins_to_replay("bob", 0, 2).sees(1..=2).live(2).sees(3..=3);
    has(&judged(vec![writer(3), reader(3), late()]), Fault::Vanished);
    assert!(judged_as_several_nodes(vec![writer(3), reader(3), late()]).is_clean());
    // But not for one and the same client.
    let back = reader(3).joins_to_replay("ann", 3, 2).live(2);
    has(&judged_as_several_nodes(vec![writer(3), back]), Fault::Vanished);
}

#[test]
fn a_broken_diary_is_told_with_its_line() {
    let lines = Cursor::new(format!("{}not a line\n", writer(1).text));
    let error = Checker::new().take_lines("ann", lines, Role::Client).unwrap_err();
    assert!(error.starts_with("ann:4: "), "{error}");
}

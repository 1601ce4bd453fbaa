//! Spans as they are recorded.

use super::*;

fn recording(sample: f64, queue: usize) -> (Tracer, Recorded) {
    Tracer::new(Recording { sample, queue, resource: Vec::new(), remembers: true })
}

fn ended(recorded: &mut Recorded) -> Vec<SpanData> {
    std::iter::from_fn(|| recorded.spans.try_recv().ok()).collect()
}

#[test]
fn a_span_ends_when_the_last_who_holds_it_lets_go() {
    let (tracer, mut recorded) = recording(1.0, 10);
    let span = tracer.begin("door", Kind::Server);
    let copy = span.clone();
    drop(span);
    assert!(ended(&mut recorded).is_empty());
    let (step, origin) = (copy.child("keep", Kind::Internal), copy.to_ref());
    step.number("n", 7);
    step.fail("not kept");
    drop(step);
    drop(copy);
    drop(origin.child("later", Kind::Producer));
    let [keep, door, later] = ended(&mut recorded).try_into().unwrap();
    assert_eq!((&*door.name, &*keep.name, &*later.name), ("door", "keep", "later"));
    assert_eq!(keep.parent_span_id, door.span_context.span_id());
    assert_eq!(later.parent_span_id, door.span_context.span_id());
    assert_eq!(later.span_context.trace_id(), door.span_context.trace_id());
    assert_eq!(keep.attributes, [KeyValue::new("n", 7)]);
    assert_eq!(keep.status, Status::error("not kept"));
    assert!(!keep.parent_span_is_remote);
}

#[test]
fn a_state_that_cannot_be_a_header_is_not_handed_on() {
    let (tracer, _recorded) = recording(0.0, 10);
    let state = |state: &str| {
        let parent =
            Parent::read(Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), Some(state));
        let span = tracer.go_on(&parent, "take from a queue", Kind::Consumer);
        assert!(span.is_on(), "the trace goes on all the same: {state:?}");
        span.tracestate()
    };
    assert_eq!(state("a=1,b=2").as_deref(), Some("a=1,b=2"));
    for wrong in ["a=1\r\nx: y", "a=\u{e4}", &format!("a=1,b={}", "c".repeat(600))] {
        assert_eq!(state(wrong), None, "{wrong:?}");
    }
}

#[test]
fn what_somebody_else_has_begun_goes_on_as_he_wants() {
    let (tracer, mut recorded) = recording(0.0, 10);
    let read = |flags: &str| {
        Parent::read(
            Some(&format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}")),
            Some("a=1"),
        )
    };
    let span = tracer.go_on(&read("01"), "door", Kind::Server);
    assert_eq!(span.trace_id(), TraceId::read("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(span.tracestate().as_deref(), Some("a=1"));
    let (parent, own) = (span.traceparent().unwrap(), span.child("ask", Kind::Client));
    assert!(parent.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && parent.ends_with("-01"));
    assert_ne!(own.traceparent(), span.traceparent());
    drop((span, own));
    let spans = ended(&mut recorded);
    assert!(
        spans
            .iter()
            .any(|span| span.parent_span_is_remote && span.parent_span_id.to_string() == "b7ad6b7169203331")
    );
    assert!(!tracer.go_on(&read("00"), "door", Kind::Server).is_on(), "he does not sample it");
    for wrong in [None, Some("00"), Some("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")] {
        let span = tracer.go_on(&Parent::read(wrong, None), "door", Kind::Server);
        assert!(!span.is_on(), "{wrong:?} is nobody's, and nothing is sampled here");
    }
    assert_eq!(Span::default().traceparent(), None);
}

#[test]
fn about_as_many_are_sampled_as_is_wanted() {
    for (sample, least, most) in [(0.0, 0, 0), (0.25, 2_100, 2_900), (1.0, 10_000, 10_000)] {
        let (tracer, _recorded) = recording(sample, 1);
        let n = (0..10_000).filter(|_| tracer.begin("x", Kind::Server).is_on()).count();
        assert!((least..=most).contains(&n), "{n} of 10,000 at {sample}");
    }
    assert!(!Tracer::default().begin("x", Kind::Server).is_on());
    assert_eq!((chance_of(f64::NAN), chance_of(-1.0), chance_of(2.0)), (0, 0, u64::MAX));
}

#[test]
fn what_does_not_fit_is_dropped_and_counted() {
    let (tracer, mut recorded) = recording(1.0, 2);
    for _ in 0..5 {
        drop(tracer.begin("x", Kind::Server));
    }
    let of = |figure: &AtomicU64| figure.load(Relaxed);
    assert_eq!((of(&recorded.figures.waiting), of(&recorded.figures.dropped)), (2, 3));
    assert_eq!(ended(&mut recorded).len(), 2);
}

#[test]
fn a_request_about_entries_stands_in_the_trace_of_the_first_that_is_sampled() {
    let (tracer, mut recorded) = recording(1.0, 10);
    let (one, two) = (tracer.begin("one", Kind::Server), tracer.begin("two", Kind::Server));
    one.remember(|| "lobby@1-1".into());
    two.remember(|| "lobby@1-3".into());
    let post = tracer.of_entries("post", ["lobby@1-3", "lobby@1-2", "lobby@1-1"].iter());
    assert_eq!(post.trace_id(), two.trace_id());
    drop(post);
    let post = ended(&mut recorded).remove(0);
    let linked: Vec<String> =
        post.links.iter().map(|link| link.span_context.trace_id().to_string()).collect();
    assert_eq!(linked, [one.trace_id().unwrap().to_string()]);
    let alone = tracer.of_entries("post", ["lobby@1-2"].iter());
    assert!(alone.is_on() && ![one.trace_id(), two.trace_id()].contains(&alone.trace_id()));
}

#[tokio::test]
async fn lines_of_the_log_know_the_trace_they_are_written_in() {
    let (tracer, _recorded) = recording(1.0, 10);
    let (span, other) = (tracer.begin("x", Kind::Server), tracer.begin("y", Kind::Server));
    let seen = span
        .over(async {
            let before = crate::traces::current();
            let inner = other.over(async { crate::traces::current() }).await;
            tokio::task::yield_now().await;
            (before, inner, crate::traces::current())
        })
        .await;
    assert_eq!(seen, (span.trace_id(), other.trace_id(), span.trace_id()));
    assert_eq!(crate::traces::current(), None);
    assert_eq!(Span::default().over(async { crate::traces::current() }).await, None);
}

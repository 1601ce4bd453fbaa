//! What traces are in a program that was built without them: the same names, without size and without effect. Called
//! as the recording ones are; there is nothing that it knows.

use super::{Kind, TraceId};

/// Begins no spans.
#[derive(Debug, Clone, Default)]
pub struct Tracer(());

/// What somebody else has begun: nothing.
#[derive(Debug, Clone, Default)]
pub struct Parent(());

/// A step that nobody notes.
#[derive(Debug, Clone, Default)]
pub struct Span(());

/// Where a step began: nowhere.
#[derive(Debug, Clone, Default)]
pub struct SpanRef(());

impl Parent {
    /// Nothing.
    #[inline]
    pub fn read(_: Option<&str>, _: Option<&str>) -> Parent {
        Parent(())
    }
}

impl Tracer {
    /// No span.
    #[inline]
    pub fn begin(&self, _: &'static str, _: Kind) -> Span {
        Span(())
    }

    /// No span.
    #[inline]
    pub fn go_on(&self, _: &Parent, _: &'static str, _: Kind) -> Span {
        Span(())
    }

    /// No span.
    #[inline]
    pub fn of_entries(&self, _: &'static str, _: impl Iterator<Item = impl AsRef<str>>) -> Span {
        Span(())
    }

    /// Whether spans are begun at all: never.
    #[inline]
    pub fn is_on(&self) -> bool {
        false
    }
}

impl Span {
    /// Whether it is noted: never.
    #[inline]
    pub fn is_on(&self) -> bool {
        false
    }

    /// No span.
    #[inline]
    pub fn child(&self, _: &'static str, _: Kind) -> Span {
        Span(())
    }

    /// Nowhere.
    #[inline]
    pub fn to_ref(&self) -> SpanRef {
        SpanRef(())
    }

    /// Notes nothing.
    #[inline]
    pub fn text(&self, _: &'static str, _: impl Into<String>) {}

    /// Notes nothing.
    #[inline]
    pub fn number(&self, _: &'static str, _: i64) {}

    /// Notes nothing.
    #[inline]
    pub fn fail(&self, _: &'static str) {}

    /// Notes nothing.
    #[inline]
    pub fn remember(&self, _: impl FnOnce() -> String) {}

    /// Nothing ends.
    #[inline]
    pub fn end(self) {}

    /// None.
    #[inline]
    pub fn trace_id(&self) -> Option<TraceId> {
        None
    }

    /// None.
    #[inline]
    pub fn traceparent(&self) -> Option<String> {
        None
    }

    /// None.
    #[inline]
    pub fn tracestate(&self) -> Option<String> {
        None
    }

    /// Just the work.
    #[inline]
    pub async fn over<F: Future>(&self, work: F) -> F::Output {
        work.await
    }
}

impl SpanRef {
    /// Whether it is anywhere: never.
    #[inline]
    pub fn is_on(&self) -> bool {
        false
    }

    /// No span.
    #[inline]
    pub fn child(&self, _: &'static str, _: Kind) -> Span {
        Span(())
    }
}

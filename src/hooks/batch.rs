//! Several events in one request, and what the answer means for them. Used by whoever posts events.

use bytes::Bytes;

use std::time::Duration;

use crate::hooks::post::Answer;
use crate::hooks::settings::shown;
use crate::traces::Span;

/// Most bytes of events in one request; one event that is larger goes alone.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend has the events.
    Taken,
    /// Not now; when to try again if it says so.
    Later(String, Option<Duration>),
    /// Never like this. Whether one event in it may be at fault.
    Refused(String, bool),
}

impl Outcome {
    /// The same; a request that was not taken is noted as failed.
    pub fn noted(self, span: &Span) -> Outcome {
        match &self {
            Outcome::Taken => {}
            Outcome::Later(..) => span.fail("not taken now"),
            Outcome::Refused(..) => span.fail("refused"),
        }
        self
    }

    /// What follows from an answer, or from none.
    pub fn of(answered: Result<Answer, String>, url: &str) -> Outcome {
        match answered {
            Ok(answer) => outcome_of(&answer, url),
            Err(why) => Outcome::Later(why, None),
        }
    }
}

/// The words of the body are not shown: nobody knows what they are.
fn outcome_of(answer: &Answer, url: &str) -> Outcome {
    let Answer { status, retry_after, .. } = *answer;
    let why = format!("{} answered {status}", shown(url));
    match status {
        200..300 => Outcome::Taken,
        // It is busy, or wants to be asked later.
        408 | 425 | 429 | 500..600 => Outcome::Later(why, retry_after),
        // It may be about one event of several.
        400 | 413 | 422 => Outcome::Refused(why, true),
        // Not followed: it would lead past the check of addresses.
        300..400 => {
            Outcome::Later(format!("{why}, a redirect; set hooks.url to where it leads"), retry_after)
        }
        410 => Outcome::Refused(format!("{why}: it is gone for good"), false),
        _ => Outcome::Refused(why, false),
    }
}

/// The body of a request: events in their order. `newest_ms`: when the last one happened. The same events give the same
/// bytes.
pub fn body_of<'a>(events: impl Iterator<Item = &'a str>, newest_ms: u64) -> Bytes {
    let newest = i64::try_from(newest_ms).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(newest).unwrap_or_default();
    let mut body =
        format!("{{\"type\":\"roomcast.events\",\"timestamp\":\"{time:.3}\",\"data\":{{\"events\":[");
    for (at, event) in events.enumerate() {
        if at > 0 {
            body.push(',');
        }
        body.push_str(event);
    }
    body.push_str("]}}");
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16) -> Outcome {
        let answer = Answer { status, retry_after: None, body: Ok(Bytes::new()) };
        Outcome::of(Ok(answer), "https://e.example/h?key=hunter2")
    }

    #[test]
    fn an_answer_says_whether_to_come_again() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(answered(status), Outcome::Taken, "{status}");
        }
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(matches!(answered(status), Outcome::Later(..)), "{status}");
        }
        for (status, of_one) in
            [(400, true), (413, true), (422, true), (401, false), (404, false), (410, false)]
        {
            assert!(matches!(answered(status), Outcome::Refused(_, one) if one == of_one), "{status}");
        }
        let Outcome::Later(why, _) = answered(302) else { panic!("a redirect is not followed") };
        assert!(why.contains("redirect") && !why.contains("hunter2"), "{why}");
        let wait = Some(Duration::from_secs(9));
        let busy = Answer { status: 503, retry_after: wait, body: Ok(Bytes::new()) };
        let busy = Outcome::of(Ok(busy), "https://e.example/");
        assert!(matches!(busy, Outcome::Later(_, told) if told == wait));
        assert_eq!(Outcome::of(Err("away".into()), "x"), Outcome::Later("away".into(), None));
    }

    #[test]
    fn a_batch_is_one_object_in_the_order_of_events() {
        let body = body_of(["{\"n\":1}", "{\"n\":2}"].into_iter(), 1_700_000_000_002);
        let expected = "{\"type\":\"roomcast.events\",\"timestamp\":\"2023-11-14T22:13:20.002Z\",\
                        \"data\":{\"events\":[{\"n\":1},{\"n\":2}]}}";
        assert_eq!(body, expected);
        assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());
    }
}

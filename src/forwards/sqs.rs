//! A queue of Amazon SQS as a target. In a FIFO queue the room is the message group, so each room keeps its order, and
//! SQS knows an entry that comes again for five minutes; a standard queue has neither. Called by the forwarder.
//!
//! SQS takes the entries of one request one by one, and may take a later one and not an earlier one. So in a request to a
//! FIFO queue each room is there once.

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::clouds::aws::sqs::{ITEMS_MAX, SqsParts, SqsQueue};
use crate::clouds::error::CloudError;
use crate::forwards::runs::{of_any_rooms, of_different_rooms};
use crate::forwards::target::{Outgoing, Target, TargetError};

/// Most bytes in one request where several entries share it. SQS itself takes 1 MiB, other servers still 256 KiB; an
/// entry that is bigger goes alone, and the server says whether it fits.
const BYTES_MAX: usize = 256 << 10;
/// Longest name of a group, and longest id, in characters.
const NAME_CHARS_MAX: usize = 128;
/// The words by which SQS refuses what is in a request and not who asks or how often.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
const CONTENT: [&str; 4] =
    ["BatchRequestTooLong", "InvalidMessageContents", "InvalidParameterValue", "InvalidAttributeValue"];

/// See above.
pub struct SqsTarget {
    queue: SqsQueue,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Outcomes {
    #[serde(default)]
    failed: Vec<Failure>,
}

/// One entry that was not taken.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    id: String,
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    sender_fault: bool,
}

impl SqsTarget {
    /// Reads the addresses. The error says which of them is wrong.
    pub fn new(parts: SqsParts) -> Result<SqsTarget, String> {
        Ok(SqsTarget { queue: SqsQueue::new(parts)? })
    }

    /// Sends some in one request. Where it is refused as a whole for what is in it, they go one by one.
    async fn send_some(&mut self, entries: &[Outgoing]) -> Result<(), (usize, TargetError)> {
        match self.request(entries).await {
            Ok(outcomes) => first_failure(entries.len(), outcomes),
            Err(error) if !is_about_content(&error) => Err((0, TargetError::away(error))),
            Err(error) if entries.len() == 1 => Err((0, refused(0, &error))),
            Err(_) => self.send_one_by_one(entries).await,
        }
    }

    async fn send_one_by_one(&mut self, entries: &[Outgoing]) -> Result<(), (usize, TargetError)> {
        for (index, entry) in entries.iter().enumerate() {
            match self.request(std::slice::from_ref(entry)).await {
                Ok(outcomes) => {
                    first_failure(1, outcomes).map_err(|(_, error)| (index, moved(error, index)))?
                }
                Err(error) if is_about_content(&error) => return Err((index, refused(index, &error))),
                Err(error) => return Err((index, TargetError::away(error))),
            }
        }
        Ok(())
    }

    async fn request(&mut self, entries: &[Outgoing]) -> Result<Outcomes, CloudError> {
        let is_fifo = self.queue.is_fifo();
        let entries: Vec<Value> =
            entries.iter().enumerate().map(|(place, entry)| written(place, entry, is_fifo)).collect();
        let answer = self.queue.call("SendMessageBatch", json!({ "Entries": entries })).await?;
        serde_json::from_slice(&answer).map_err(CloudError::away)
    }
}

fn written(place: usize, entry: &Outgoing, is_fifo: bool) -> Value {
    let mut written = json!({ "Id": place.to_string(), "MessageBody": body(&entry.line) });
    if is_fifo {
        written["MessageGroupId"] = name(entry.room.as_str().to_owned()).into();
        written["MessageDeduplicationId"] = name(entry.id()).into();
    }
    written
}

/// JSON may have two characters as they are that SQS does not take; they may be written in another way as well.
fn body(line: &[u8]) -> String {
    String::from_utf8_lossy(line).replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
}

/// As SQS takes names: 128 letters, digits and punctuation of ASCII. Another one is told by its hash.
fn name(text: String) -> String {
    match text.len() <= NAME_CHARS_MAX && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => text,
        false => Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// How many from the front were taken for sure, if not all.
fn first_failure(count: usize, outcomes: Outcomes) -> Result<(), (usize, TargetError)> {
    let place = |failure: &Failure| failure.id.parse::<usize>().ok().filter(|place| *place < count);
    let Some(first) = outcomes.failed.into_iter().min_by_key(|failure| place(failure).unwrap_or(0)) else {
        return Ok(());
    };
    let (index, why) = (place(&first).unwrap_or(0), format!("{}: {}", first.code, first.message));
    let is_its_own_fault = first.sender_fault && CONTENT.iter().any(|word| first.code.ends_with(word));
    Err((index, if is_its_own_fault { TargetError::Refused { index, why } } else { TargetError::Away(why) }))
}

fn is_about_content(error: &CloudError) -> bool {
    error.code().is_some_and(|code| CONTENT.iter().any(|word| code.ends_with(word)))
}

fn refused(index: usize, error: &CloudError) -> TargetError {
    TargetError::Refused { index, why: error.to_string() }
}

/// The same about an entry that stands so much further behind.
fn moved(error: TargetError, by: usize) -> TargetError {
    match error {
        TargetError::Refused { index, why } => TargetError::Refused { index: index + by, why },
        away => away,
    }
}

impl Target for SqsTarget {
    fn address(&self) -> String {
        self.queue.url().to_owned()
    }

    async fn open(&mut self) -> Result<(), TargetError> {
        self.queue.open();
        // A queue that is not there, or not ours, is told now.
        let asked = json!({ "AttributeNames": ["QueueArn"] });
        self.queue.call("GetQueueAttributes", asked).await.map(drop).map_err(TargetError::away)
    }

    async fn send(&mut self, entries: &[Outgoing]) -> (usize, Option<TargetError>) {
        let run_of = if self.queue.is_fifo() { of_different_rooms } else { of_any_rooms };
        let mut sent = 0;
        while sent < entries.len() {
            let run = run_of(&entries[sent..], ITEMS_MAX, BYTES_MAX);
            if let Err((more, error)) = self.send_some(&entries[sent..sent + run]).await {
                return (sent + more, Some(moved(error, sent)));
            }
            sent += run;
        }
        (sent, None)
    }

    fn batch(&self) -> usize {
        ITEMS_MAX * 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(text: &str) -> Outcomes {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_what_is_before_the_first_failure_is_there_for_sure() {
        let none = first_failure(3, outcomes(r#"{"Successful":[{"Id":"0"}]}"#));
        assert_eq!(none, Ok(()));
        let text = r#"{"Failed":[{"Id":"2","Code":"InternalError","SenderFault":false},
            {"Id":"1","Code":"InvalidMessageContents","Message":"no","SenderFault":true}]}"#;
        let wanted = TargetError::Refused { index: 1, why: "InvalidMessageContents: no".into() };
        assert_eq!(first_failure(3, outcomes(text)), Err((1, wanted)));
        // Who may not, or too often, is refused as a sender too; that passes.
        let text = r#"{"Failed":[{"Id":"1","Code":"RequestThrottled","Message":"slow","SenderFault":true}]}"#;
        assert_eq!(
            first_failure(3, outcomes(text)),
            Err((1, TargetError::Away("RequestThrottled: slow".into())))
        );
    }

    #[test]
    fn names_and_texts_are_written_as_sqs_takes_them() {
        assert_eq!(name("lobby@1k-7".into()), "lobby@1k-7");
        for other in ["über@1-1".to_owned(), "a b".into(), "x".repeat(129)] {
            let hash = name(other.clone());
            assert!(hash.len() == 64 && hash != name(format!("{other}2")), "{other}");
        }
        assert_eq!(body("\"a\u{fffe}\u{ffff}ä\"".as_bytes()), "\"a\\ufffe\\uffffä\"");
    }
}

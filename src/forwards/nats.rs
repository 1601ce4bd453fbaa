//! A subject of NATS JetStream as a target: an entry is there when its stream has acknowledged it. The server knows an
//! entry that comes again by its `Nats-Msg-Id` for as long as the stream's window says. Called by the forwarder.
//!
//! Of each room one entry is under way at a time: where a cluster changes its leader an entry may be lost while one sent
//! behind it is taken, and then it would come too late.

use std::error::Error as _;
use std::time::Duration;

use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{ConnectOptions, HeaderMap, ServerAddr};
use tokio::time::timeout;

use crate::forwards::runs::of_different_rooms;
use crate::forwards::target::{Outgoing, Target, TargetError};

/// Most entries in one call.
const ITEMS_MAX: usize = 128;
/// Most bytes on their way at once.
const BYTES_MAX: usize = 4 << 20;
/// Longest that the server may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(4);

/// See above.
pub struct NatsTarget {
    url: String,
    subject: String,
    context: Option<Context>,
}

impl NatsTarget {
    /// For entries that go to this subject; `url` is `nats://[user:password@]host:4222`, several with commas.
    pub fn new(url: String, subject: String) -> NatsTarget {
        NatsTarget { url, subject, context: None }
    }

    async fn connect(&self) -> Result<Context, TargetError> {
        let parse = |url: &str| url.trim().parse().map_err(|_| TargetError::away("its url cannot be read"));
        let servers: Vec<ServerAddr> = self.url.split(',').map(parse).collect::<Result<_, _>>()?;
        let options = ConnectOptions::new()
            .name("roomcast")
            .connection_timeout(ANSWER_MAX)
            .request_timeout(Some(ANSWER_MAX));
        let client = timeout(ANSWER_MAX, options.connect(servers)).await;
        let client =
            client.map_err(|_| TargetError::away("connecting timed out"))?.map_err(TargetError::away)?;
        let mut context = jetstream::new(client);
        context.set_timeout(ANSWER_MAX);
        Ok(context)
    }

    async fn publish(&self, entry: &Outgoing) -> Result<PublishAckFuture, PublishError> {
        let Some(context) = &self.context else { return Err(PublishErrorKind::BrokenPipe.into()) };
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", entry.id());
        context.publish_with_headers(self.subject.clone(), headers, entry.line.clone()).await
    }

    /// Sends entries of different rooms side by side.
    async fn send_run(&self, entries: &[Outgoing]) -> Result<(), (usize, TargetError)> {
        let mut sent = Vec::with_capacity(entries.len());
        for entry in entries {
            sent.push(self.publish(entry).await);
        }
        for (index, published) in sent.into_iter().enumerate() {
            let taken = match published {
                Ok(answer) => answer.await.map(drop),
                Err(error) => Err(error),
            };
            taken.map_err(|error| (index, self.told(index, &error)))?;
        }
        Ok(())
    }

    fn told(&self, index: usize, error: &PublishError) -> TargetError {
        let too_big = || TargetError::Refused { index, why: explained(error) };
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => too_big(),
            PublishErrorKind::StreamNotFound => TargetError::Away(format!(
                "no stream takes {}; make one with `nats stream add --subjects '{0}'`",
                self.subject
            )),
            _ if code_of(error) == Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM) => too_big(),
            _ => TargetError::Away(explained(error)),
        }
    }
}

/// What the server said.
fn code_of(error: &PublishError) -> Option<ErrorCode> {
    Some(error.source()?.downcast_ref::<jetstream::Error>()?.error_code())
}

/// With what lies behind it.
fn explained(error: &PublishError) -> String {
    let behind = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    format!("{}{behind}", error.kind())
}

impl Target for NatsTarget {
    fn address(&self) -> String {
        let urls = self.url.split(',').map(without_login).collect::<Vec<_>>();
        format!("{} {}", urls.join(","), self.subject)
    }

    async fn open(&mut self) -> Result<(), TargetError> {
        self.context = None;
        self.context = Some(self.connect().await?);
        Ok(())
    }

    async fn send(&mut self, entries: &[Outgoing]) -> (usize, Option<TargetError>) {
        let mut sent = 0;
        while sent < entries.len() {
            let run = of_different_rooms(&entries[sent..], ITEMS_MAX, BYTES_MAX);
            if let Err((more, error)) = self.send_run(&entries[sent..sent + run]).await {
                let error = match error {
                    TargetError::Refused { index, why } => TargetError::Refused { index: sent + index, why },
                    away => away,
                };
                return (sent + more, Some(error));
            }
            sent += run;
        }
        (sent, None)
    }

    fn batch(&self) -> usize {
        ITEMS_MAX
    }
}

/// An address as logs may have it.
fn without_login(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://***@{rest}"),
        (None, Some((_, rest))) => format!("***@{rest}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_in_the_address() {
        let target = NatsTarget::new("nats://ann:hunter2@a:4222,ann:hunter2@b".into(), "room.log".into());
        assert_eq!(target.address(), "nats://***@a:4222,***@b room.log");
    }
}

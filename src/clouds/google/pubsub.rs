//! Requests to Google Pub/Sub over one connection that is made anew when it has ended. Called by the source and the
//! target of that name. Knows what an answer says, not what a message is for.

use std::time::Duration;

use awc::Client;
use prost::Message;
use url::Url;

use crate::clouds::environment::Environment;
use crate::clouds::error::CloudError;
use crate::clouds::google::grpc::{Call, Channel, Incoming};
use crate::clouds::google::messages::{
    AcknowledgeRequest, Empty, ModifyAckDeadlineRequest, PublishRequest, PublishResponse, PubsubMessage,
    StreamingPullRequest, StreamingPullResponse,
};
use crate::clouds::google::token::Tokens;
use crate::http_client;

/// Google's own server.
const GOOGLE: &str = "https://pubsub.googleapis.com";
/// Longest that an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(8);

/// Pub/Sub's server, asked in the name of this machine.
pub struct PubSubServer {
    endpoint: Url,
    tokens: Tokens,
    http: Option<Client>,
    channel: Option<Channel>,
}

impl PubSubServer {
    /// The server at `endpoint`; empty: the one that `PUBSUB_EMULATOR_HOST` names, or else Google's. A server without
    /// TLS is taken for an emulator and sees no token. The error says what is wrong with the address.
    pub fn new(endpoint: &str, environment: Environment) -> Result<PubSubServer, String> {
        let emulator = || environment("PUBSUB_EMULATOR_HOST").map(|host| format!("http://{host}"));
        let at = match endpoint {
            "" => emulator().unwrap_or_else(|| GOOGLE.to_owned()),
            given => given.to_owned(),
        };
        let endpoint = Url::parse(&at).map_err(|error| format!("{at:?} is no URL: {error}"))?;
        if !matches!(endpoint.scheme(), "http" | "https")
            || endpoint.host_str().is_none()
            || endpoint.path() != "/"
        {
            return Err(format!(
                "{at:?} is no address of Pub/Sub; write https://REGION-pubsub.googleapis.com"
            ));
        }
        Ok(PubSubServer { endpoint, tokens: Tokens::new(environment), http: None, channel: None })
    }

    /// For logs.
    pub fn address(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    /// From scratch: a new connection, and a token that is looked for again.
    pub async fn open(&mut self) -> Result<(), CloudError> {
        self.close();
        self.tokens.forget();
        self.http = Some(http_client::client(ANSWER_MAX));
        self.channel = Some(Channel::connect(&self.endpoint, ANSWER_MAX).await?);
        Ok(())
    }

    /// Ends the connection.
    pub fn close(&mut self) {
        self.channel = None;
        self.http = None;
    }

    /// Messages as they come, without end.
    pub async fn pull(
        &mut self,
        request: &StreamingPullRequest,
    ) -> Result<Incoming<StreamingPullResponse>, CloudError> {
        let token = self.ready().await?;
        let call = Call {
            method: "/google.pubsub.v1.Subscriber/StreamingPull",
            about: ("subscription", &request.subscription),
            token: token.as_deref(),
        };
        self.channel()?.listen(call, request, ANSWER_MAX).await
    }

    /// These never have to come again.
    pub async fn acknowledge(&mut self, subscription: &str, ack_ids: Vec<String>) -> Result<(), CloudError> {
        let request = AcknowledgeRequest { subscription: subscription.to_owned(), ack_ids };
        let method = "/google.pubsub.v1.Subscriber/Acknowledge";
        self.ask::<Empty>(method, ("subscription", subscription), &request).await.map(drop)
    }

    /// These are nobody else's for so long from now on; zero: they are anybody's at once.
    pub async fn lease(
        &mut self,
        subscription: &str,
        ack_ids: Vec<String>,
        lasts: Duration,
    ) -> Result<(), CloudError> {
        let request = ModifyAckDeadlineRequest {
            subscription: subscription.to_owned(),
            ack_deadline_seconds: seconds(lasts),
            ack_ids,
        };
        let method = "/google.pubsub.v1.Subscriber/ModifyAckDeadline";
        self.ask::<Empty>(method, ("subscription", subscription), &request).await.map(drop)
    }

    /// The topic has all of these, in this order; the answer is their ids.
    pub async fn publish(
        &mut self,
        topic: &str,
        messages: Vec<PubsubMessage>,
    ) -> Result<Vec<String>, CloudError> {
        let request = PublishRequest { topic: topic.to_owned(), messages };
        let answer: PublishResponse =
            self.ask("/google.pubsub.v1.Publisher/Publish", ("topic", topic), &request).await?;
        Ok(answer.message_ids)
    }

    async fn ask<A: Message + Default>(
        &mut self,
        method: &'static str,
        about: (&'static str, &str),
        question: &impl Message,
    ) -> Result<A, CloudError> {
        let token = self.ready().await?;
        let call = Call { method, about, token: token.as_deref() };
        self.channel()?.ask(call, question, ANSWER_MAX).await
    }

    /// Connects again where the server has ended the connection, as Google's do about once an hour; and finds the
    /// token.
    async fn ready(&mut self) -> Result<Option<String>, CloudError> {
        let Some(http) = self.http.clone() else { return Err(CloudError::away("not connected")) };
        let is_open = match &self.channel {
            Some(channel) => channel.is_open().await,
            None => false,
        };
        if !is_open {
            self.channel = Some(Channel::connect(&self.endpoint, ANSWER_MAX).await?);
        }
        if self.endpoint.scheme() == "http" {
            return Ok(None);
        }
        self.tokens.get(&http).await.map(Some)
    }

    fn channel(&self) -> Result<&Channel, CloudError> {
        self.channel.as_ref().ok_or_else(|| CloudError::away("not connected"))
    }
}

/// As the protocol wants it.
pub fn seconds(lasts: Duration) -> i32 {
    i32::try_from(lasts.as_secs()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_given_or_found() {
        let nothing: Environment = |_| None;
        let emulator: Environment = |name| (name == "PUBSUB_EMULATOR_HOST").then(|| "127.0.0.1:8085".into());
        let address = |endpoint, environment| {
            PubSubServer::new(endpoint, environment).map(|server| server.address().to_owned())
        };
        assert_eq!(address("", nothing), Ok("https://pubsub.googleapis.com".into()));
        assert_eq!(address("", emulator), Ok("http://127.0.0.1:8085".into()));
        let here = "https://europe-west1-pubsub.googleapis.com";
        assert_eq!(address(here, emulator), Ok(here.into()));
        for wrong in ["h", "nats://h", "https://h/v1/projects"] {
            assert!(address(wrong, nothing).is_err(), "{wrong}");
        }
    }
}

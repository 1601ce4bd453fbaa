//! The messages of Pub/Sub's protocol that are used here, with the fields that are read or written; others are
//! skipped. Numbers and types are those of `google/pubsub/v1/pubsub.proto`, in which each field is explained.
//! <https://cloud.google.com/pubsub/docs/reference/rpc/google.pubsub.v1>

use std::collections::HashMap;

use bytes::Bytes;

/// What is published and received.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PubsubMessage {
    /// The payload.
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
    /// Named texts beside the payload.
    #[prost(map = "string, string", tag = "2")]
    pub attributes: HashMap<String, String>,
    /// Of the service; empty when published.
    #[prost(string, tag = "3")]
    pub message_id: String,
    /// Of the service.
    #[prost(message, optional, tag = "4")]
    pub publish_time: Option<Timestamp>,
    /// Messages with the same key are delivered in the order in which they were published.
    #[prost(string, tag = "5")]
    pub ordering_key: String,
}

/// A moment.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Timestamp {
    /// Since 1970, UTC.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Of the second.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// A message with what is needed to acknowledge it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReceivedMessage {
    /// Of this delivery.
    #[prost(string, tag = "1")]
    pub ack_id: String,
    /// What was published.
    #[prost(message, optional, tag = "2")]
    pub message: Option<PubsubMessage>,
}

/// `Publisher.Publish`
#[derive(Clone, PartialEq, prost::Message)]
pub struct PublishRequest {
    /// `projects/P/topics/T`
    #[prost(string, tag = "1")]
    pub topic: String,
    /// At most 1,000 and 10 MB.
    #[prost(message, repeated, tag = "2")]
    pub messages: Vec<PubsubMessage>,
}

/// The answer: all were taken.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PublishResponse {
    /// In the order of the request.
    #[prost(string, repeated, tag = "1")]
    pub message_ids: Vec<String>,
}

/// `Subscriber.StreamingPull`, its first request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct StreamingPullRequest {
    /// `projects/P/subscriptions/S`
    #[prost(string, tag = "1")]
    pub subscription: String,
    /// How long a delivered message is nobody else's.
    #[prost(int32, tag = "5")]
    pub stream_ack_deadline_seconds: i32,
    /// Who reads; a reader that comes back under the same name keeps its ordering keys.
    #[prost(string, tag = "6")]
    pub client_id: String,
    /// So many are delivered and not acknowledged, at most.
    #[prost(int64, tag = "7")]
    pub max_outstanding_messages: i64,
    /// Likewise, in bytes.
    #[prost(int64, tag = "8")]
    pub max_outstanding_bytes: i64,
}

/// One of its answers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StreamingPullResponse {
    /// Those with one ordering key in their order.
    #[prost(message, repeated, tag = "1")]
    pub received_messages: Vec<ReceivedMessage>,
}

/// `Subscriber.Acknowledge`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AcknowledgeRequest {
    /// `projects/P/subscriptions/S`
    #[prost(string, tag = "1")]
    pub subscription: String,
    /// What never has to come again.
    #[prost(string, repeated, tag = "2")]
    pub ack_ids: Vec<String>,
}

/// `Subscriber.ModifyAckDeadline`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ModifyAckDeadlineRequest {
    /// `projects/P/subscriptions/S`
    #[prost(string, tag = "1")]
    pub subscription: String,
    /// From now on; 0: they may come again at once.
    #[prost(int32, tag = "3")]
    pub ack_deadline_seconds: i32,
    /// Of which messages.
    #[prost(string, repeated, tag = "4")]
    pub ack_ids: Vec<String>,
}

/// An answer that says nothing but that it was done.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Empty {}

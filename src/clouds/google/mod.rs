//! Google: Pub/Sub's requests over one connection, in the name of a service account. Called by the source and the
//! target of that name. Knows what an answer says, not what a message is for.

pub mod grpc;
pub mod messages;
pub mod pubsub;
mod token;

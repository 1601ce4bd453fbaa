//! Amazon: requests to SQS, signed with the keys of the environment, the container or the machine. Called by the
//! source and the target of that name. Knows what an answer says, not what a message is for.

mod credentials;
mod signing;
pub mod sqs;

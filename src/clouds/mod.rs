//! Services of clouds that queues are taken from and entries are sent to: how they are asked, and in whose name.
//! Called by sources and forwards. Knows neither items nor entries, and shows no key.

#[cfg(feature = "sqs")]
pub mod aws;
pub mod environment;
pub mod error;
#[cfg(feature = "pubsub")]
pub mod google;

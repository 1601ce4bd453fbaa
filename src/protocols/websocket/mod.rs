//! WebSocket on the wire (RFC 6455): frames, text that is checked as it comes, and what is unfinished
//! between two reads. Sans-io; called by the session and whoever writes frames.

pub mod codec;
pub mod frame;
pub mod utf8;

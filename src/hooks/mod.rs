//! Callbacks to an application's backend: what the four events look like there, how a request is signed, and the
//! questions that it may be asked. Used by the actors; knows no room and no session.

pub mod batch;
pub mod figures;
pub mod post;
pub mod question;
pub mod settings;
pub mod signature;
pub mod target;

//! Who somebody is and where he stands: tokens, API keys, the origin of a page, the address of a visitor.
//! Asked by the doors before anything else happens. Knows the law of the rooms, but no socket.

pub mod api_key;
pub mod jwks;
pub mod origin;
pub mod settings;
pub mod token;
pub mod visitor;

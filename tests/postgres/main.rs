//! The archive in a PostgreSQL, judged by the model and the stories that all archives are judged by; and what only
//! such an archive can meet: outages, several nodes at once, other people's databases. Every test starts a server of
//! its own, or shares one that ends with the last test; none needs one that runs already.
//!
//! Needed: Debian's package `postgresql` (15 or newer).

#[path = "../archives/common/mod.rs"]
mod common;
mod feed;
mod figures;
mod outages;
mod remembering;
mod schema;
mod server;
mod serving;
mod sharers;
mod sharing;

use roomcast::store::archive::Archive;
use roomcast::store::postgres::PostgresArchive;

use common::{Home, Stage};
use server::Database;

impl Home for Database {
    fn open(&self) -> Box<dyn Archive> {
        Box::new(PostgresArchive::open(&self.url()).unwrap())
    }
}

common::every_story! { Stage::new(Database::new()) }

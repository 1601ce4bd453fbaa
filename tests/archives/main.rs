//! The archive in a file, judged by the model and the stories that all archives are judged by.

mod common;

use roomcast::store::archive::Archive;
use roomcast::store::sqlite::SqliteArchive;
use tempfile::TempDir;

use common::{Home, Stage};

struct Folder(TempDir);

impl Home for Folder {
    fn open(&self) -> Box<dyn Archive> {
        Box::new(SqliteArchive::open(&self.0.path().join("data/roomcast.db")).unwrap())
    }
}

common::every_story! { Stage::new(Folder(tempfile::tempdir().unwrap())) }

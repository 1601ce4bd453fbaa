//! A client's diary: one JSON line for every frame that it sent or received. This is all that the judge gets
//! to read. The shape, `{"dir":"out"|"in","ms":…,"frame":{…}}` with `"dropped":true` for what the client had
//! seen already, is a format of its own: `roomcast verify --clients` reads it too.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The diary of one client.
#[derive(Debug)]
pub struct Diary {
    file: BufWriter<File>,
}

/// Now, in Unix milliseconds.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right");
    u64::try_from(since.as_millis()).expect("it fits for ever")
}

impl Diary {
    /// A new diary at this path.
    pub fn begin(path: impl AsRef<Path>) -> Diary {
        let path = path.as_ref();
        let file =
            File::create(path).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        Diary { file: BufWriter::new(file) }
    }

    /// A frame that was sent, byte for byte.
    pub fn said(&mut self, frame: &str) {
        self.line("out", frame, "");
    }

    /// A frame that came, byte for byte. `dropped`: the client had it already and did not show it.
    pub fn heard(&mut self, frame: &str, dropped: bool) {
        self.line("in", frame, if dropped { r#","dropped":true"# } else { "" });
    }

    /// Writes what is still in memory to the file.
    pub fn flush(&mut self) {
        self.file.flush().expect("the diary can be written");
    }

    fn line(&mut self, direction: &str, frame: &str, more: &str) {
        let ms = now();
        writeln!(self.file, r#"{{"dir":"{direction}","ms":{ms},"frame":{frame}{more}}}"#)
            .expect("the diary can be written");
    }
}

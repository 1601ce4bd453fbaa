//! The library that makes syncs fail and clocks jump inside a running server, and that knows what a power cut
//! would take back; see shim.c.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use roomcast_rig::server::Setup;

/// The switches of one server.
pub struct Shim {
    library: PathBuf,
    switches: PathBuf,
    file: File,
}

impl Shim {
    /// Builds the library in a folder. All is well until something is switched.
    pub fn build(folder: &Path) -> Shim {
        let (library, switches) = (folder.join("shim.so"), folder.join("faults"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/shim.c");
        let built = Command::new("cc")
            .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", source, "-o"])
            .arg(&library)
            .status()
            .unwrap_or_else(|error| panic!("cc: {error}; on Debian: apt-get install gcc libc6-dev"));
        assert!(built.success(), "the shim cannot be built");
        std::fs::write(&switches, [0; 24]).expect("the folder can be written");
        let file = OpenOptions::new().write(true).open(&switches).expect("it was just made");
        Shim { library, switches, file }
    }

    /// The server gets the library.
    pub fn loads_into(&self, mut setup: Setup) -> Setup {
        let text = |path: &Path| path.to_str().expect("a temporary path is text").to_owned();
        setup.environment.push(("LD_PRELOAD".into(), text(&self.library)));
        setup.environment.push(("FAULTS".into(), text(&self.switches)));
        setup
    }

    /// The time of day is so many seconds off from now on.
    pub fn clock_is_off_by(&self, seconds: i64) {
        self.switch(0, seconds);
    }

    /// From now on every sync fails, or none.
    pub fn syncs_fail(&self, fail: bool) {
        self.switch(1, fail.into());
    }

    /// From now on every sync succeeds and does nothing.
    pub fn syncs_lie(&self) {
        self.switch(1, 2);
    }

    /// From now on it is noted what a power cut would take back.
    pub fn power_may_fail(&self) {
        self.switch(2, 1);
    }

    /// What a power cut does to the files of a server that has just been killed: of the writes that were not synced,
    /// newest first, those are taken back of which `takes` says so. Returns how many there were.
    pub fn power_fails(&self, store: &[PathBuf], mut takes: impl FnMut() -> bool) -> usize {
        let mut count = 0;
        for path in store {
            let inode = std::fs::metadata(path).expect("the store is there").ino();
            let undo = PathBuf::from(format!("{}.{inode}", self.switches.display()));
            let Ok(bytes) = std::fs::read(&undo) else { continue };
            let file = OpenOptions::new().write(true).open(path).expect("the store can be written");
            for write in writes(&bytes).iter().rev() {
                count += 1;
                if takes() {
                    write.take_back(&file);
                }
            }
            std::fs::remove_file(&undo).expect("it was just read");
        }
        count
    }

    fn switch(&self, number: u64, to: i64) {
        self.file.write_all_at(&to.to_ne_bytes(), number * 8).expect("the switches can be written");
    }
}

/// A write that was not synced.
struct Write<'a> {
    at: u64,
    length: u64,
    /// Bytes of the file before it.
    size: u64,
    /// What it covered.
    old: &'a [u8],
}

/// All writes that were noted, oldest first.
fn writes(mut bytes: &[u8]) -> Vec<Write<'_>> {
    let mut all = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<24>() {
        let number = |n: usize| u64::from_ne_bytes(head[n * 8..n * 8 + 8].try_into().expect("eight bytes"));
        let (at, length, size) = (number(0), number(1), number(2));
        let (old, rest) = rest.split_at(size.saturating_sub(at).min(length) as usize);
        all.push(Write { at, length, size, old });
        bytes = rest;
    }
    all
}

impl Write<'_> {
    /// The file is as if it had never been; what it had added to the file's end is zeros, for a later write may
    /// have stayed behind it.
    fn take_back(&self, file: &File) {
        let end = self.at + self.length;
        let zeros = vec![0; (end - self.at) as usize - self.old.len()];
        file.write_all_at(self.old, self.at).expect("the store can be written");
        if file.metadata().expect("it is open").len() == end {
            file.set_len(self.size.max(self.at + self.old.len() as u64)).expect("the store can be cut");
        } else {
            file.write_all_at(&zeros, self.at + self.old.len() as u64).expect("the store can be written");
        }
    }
}

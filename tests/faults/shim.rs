//! The library that makes syncs fail and clocks jump inside a running server; see shim.c.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
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
        std::fs::write(&switches, [0; 16]).expect("the folder can be written");
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

    fn switch(&self, number: u64, to: i64) {
        self.file.write_all_at(&to.to_ne_bytes(), number * 8).expect("the switches can be written");
    }
}

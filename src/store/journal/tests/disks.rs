//! A disk that fails where it is told to, and that forgets at a crash what was never synced. It does not sync the
//! real disk: the process goes on living.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::super::disk::{Disk, Handle};

const SECTOR: usize = 512;

/// What is to go wrong, and what was not synced yet.
#[derive(Default)]
pub(super) struct State {
    /// Syncs so far.
    pub(super) syncs: u64,
    /// The how manieth sync fails.
    pub(super) fail_sync: Option<u64>,
    /// So many bytes can still be written.
    pub(super) room: Option<u64>,
    /// One write takes so many bytes at most.
    pub(super) write_max: Option<usize>,
    /// So many operations are still done; then nothing is, as after a crash.
    pub(super) operations_left: Option<u64>,
    /// Files whose sync has failed; a second sync would be believed wrongly.
    failed: Vec<PathBuf>,
    /// What each file had at its last sync.
    synced: BTreeMap<PathBuf, Vec<u8>>,
    /// Files that were made or removed since the folder was synced, with what they had.
    unsure: BTreeMap<PathBuf, Option<Vec<u8>>>,
}

#[derive(Clone, Default)]
pub(super) struct FaultyDisk(pub(super) Arc<Mutex<State>>);

impl State {
    fn operation(&mut self) -> io::Result<()> {
        match &mut self.operations_left {
            Some(0) => Err(io::Error::other("the machine is off")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        if self.fail_sync == Some(self.syncs) { Err(io::Error::other("a sync failed")) } else { Ok(()) }
    }
}

impl FaultyDisk {
    /// The power is cut: of each sector that was not synced, `coin` says whether it has reached the disk; also
    /// whether files made or removed are there.
    pub(super) fn crash(&self, mut coin: impl FnMut() -> bool) {
        let mut state = self.0.lock().unwrap();
        for (path, synced) in &state.synced {
            let Ok(mut bytes) = std::fs::read(path) else { continue };
            if bytes.len() > synced.len() && coin() {
                bytes.truncate(synced.len());
            }
            for at in (0..bytes.len()).step_by(SECTOR) {
                let to = bytes.len().min(at + SECTOR);
                let old: Vec<u8> = (at..to).map(|at| synced.get(at).copied().unwrap_or(0)).collect();
                if bytes[at..to] != old[..] && coin() {
                    bytes[at..to].copy_from_slice(&old);
                }
            }
            std::fs::write(path, bytes).unwrap();
        }
        for (path, removed) in std::mem::take(&mut state.unsure) {
            match removed {
                Some(bytes) if coin() => std::fs::write(path, bytes).unwrap(),
                // It may have been removed since.
                None if coin() => drop(std::fs::remove_file(path)),
                _ => {}
            }
        }
    }
}

struct FaultyFile {
    file: File,
    path: PathBuf,
    disk: FaultyDisk,
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        let mut state = self.0.lock().unwrap();
        state.operation()?;
        let file = File::options().write(true).create_new(true).open(path)?;
        state.synced.insert(path.to_owned(), Vec::new());
        state.unsure.insert(path.to_owned(), None);
        Ok(Box::new(FaultyFile { file, path: path.to_owned(), disk: self.clone() }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        let mut state = self.0.lock().unwrap();
        state.operation()?;
        assert!(
            !state.failed.iter().any(|failed| failed == path),
            "{} is opened after a failed sync",
            path.display()
        );
        let file = File::options().write(true).open(path)?;
        if !state.synced.contains_key(path) {
            state.synced.insert(path.to_owned(), std::fs::read(path)?);
        }
        Ok(Box::new(FaultyFile { file, path: path.to_owned(), disk: self.clone() }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.operation()?;
        let synced = state.synced.remove(path).unwrap_or_default();
        std::fs::remove_file(path)?;
        // A later file of this name is another file.
        state.failed.retain(|failed| failed != path);
        if state.unsure.remove(path).is_none() {
            state.unsure.insert(path.to_owned(), Some(synced));
        }
        Ok(())
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.operation()?;
        state.sync()?;
        state.unsure.clear();
        Ok(())
    }
}

impl Handle for FaultyFile {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        let mut state = self.disk.0.lock().unwrap();
        state.operation()?;
        let mut count = bytes.len().min(state.write_max.unwrap_or(usize::MAX));
        if let Some(room) = &mut state.room {
            count = count.min(usize::try_from(*room).unwrap());
            *room -= count as u64;
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        self.file.write_all_at(&bytes[..count], at)?;
        Ok(count)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.0.lock().unwrap().operation()?;
        self.file.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        state.operation()?;
        assert!(!state.failed.contains(&self.path), "{} is synced after a failed sync", self.path.display());
        if let Err(error) = state.sync() {
            // As Linux does: the pages are dropped, and the next sync would find nothing to complain about.
            state.failed.push(self.path.clone());
            let synced = state.synced.get(&self.path).cloned().unwrap_or_default();
            std::fs::write(&self.path, synced)?;
            return Err(error);
        }
        let now = std::fs::read(&self.path)?;
        state.synced.insert(self.path.clone(), now);
        Ok(())
    }
}

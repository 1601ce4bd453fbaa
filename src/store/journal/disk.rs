//! The few things that the journal asks of a disk for writing, so that tests can let each of them fail. Used
//! by the journal alone; knows files and bytes, no record.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file system.
pub(super) trait Disk: Send {
    /// A new file that can be written. An error if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Handle>>;
    /// A file that is there, for writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>>;
    /// Takes a file away.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes it durable which files a folder has.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
}

/// An open file.
pub(super) trait Handle: Send {
    /// Writes some of the bytes (not always all) from this byte of the file on; returns how many.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize>;
    /// Cuts the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Makes what was written durable: `fdatasync`, which includes the length.
    fn sync(&self) -> io::Result<()>;
}

/// The real one.
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        let file = File::options().write(true).create_new(true).open(path)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        Ok(Box::new(File::options().write(true).open(path)?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

impl Handle for File {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, at)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Writes all of the bytes.
pub(super) fn write_all_at(handle: &dyn Handle, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match handle.write_at(bytes, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                at += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Writes zeros from one byte to another (not included). Returns how far that went, which is less than asked
/// for only with an error.
pub(super) fn write_zeros(handle: &dyn Handle, from: u64, to: u64) -> (u64, io::Result<()>) {
    let mut at = from;
    while at < to {
        let bytes = &ZEROS[..ZEROS.len().min((to - at) as usize)];
        if let Err(error) = write_all_at(handle, bytes, at) {
            return (at, Err(error));
        }
        at += bytes.len() as u64;
    }
    (at, Ok(()))
}

/// Whether an error means that there is no room left, on the disk or for this user.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

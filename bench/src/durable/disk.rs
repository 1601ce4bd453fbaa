//! The disk alone: 4 KiB into a file that has its length already, and `fdatasync`, again and again. Nothing that waits
//! for the disk each time can be faster.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Achieved;
use crate::histogram::Histogram;

const BLOCK: usize = 4096;
const BLOCKS: u64 = 4096;

pub fn measure(folder: &Path, time: Duration) -> io::Result<Achieved> {
    let file = File::create(folder.join("bare"))?;
    for block in 0..BLOCKS {
        file.write_all_at(&[0; BLOCK], block * BLOCK as u64)?;
    }
    file.sync_all()?;
    let (start, mut waits) = (Instant::now(), Histogram::default());
    for turn in 0.. {
        let before = Instant::now();
        if before - start >= time {
            break;
        }
        file.write_all_at(&[turn as u8; BLOCK], turn % BLOCKS * BLOCK as u64)?;
        file.sync_data()?;
        waits.add(before.elapsed().as_nanos() as u64);
    }
    Ok(Achieved::of(&waits, start.elapsed().as_secs_f64()))
}

//! Overwrites what SQLite leaves in the unused middle of its pages. When rows are moved to another page, the old page
//! may keep a copy of them between its list of cells and its cells, which `secure_delete` does not reach
//! (<https://www.sqlite.org/fileformat2.html#b_tree_pages>); so a word that is deleted later would stay in the file.
//! Called by the writing side before pages go from the log into the main file. Knows pages, not tables.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

/// Bytes of the header of a log and of each frame in it (<https://www.sqlite.org/fileformat2.html#walformat>).
const LOG_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;
/// Bytes before the header of the first page of a file.
const FILE_HEADER: usize = 100;
/// A page that begins with one of these is of a tree, if the file has fewer pages than the next constant: any other
/// kind of page begins with the number of a page, or with nothing.
const INNER: [u8; 2] = [2, 5];
const LEAF: [u8; 2] = [10, 13];
const PAGES_MAX: u32 = 2 << 24;

/// The pages of a log that have not been looked at.
#[derive(Debug)]
pub struct Scrub {
    /// Whether this SQLite lets pages be read and written. One that is built as `.cargo/config.toml` says does.
    can_clear: bool,
    /// Which run of the log this is about.
    salts: [u8; 8],
    /// Frames of it that are known.
    frames: u64,
    pages: BTreeSet<u32>,
}

impl Scrub {
    /// Knows nothing of the log yet.
    pub fn new(db: &Connection) -> Result<Scrub, rusqlite::Error> {
        let there = "SELECT EXISTS (SELECT 1 FROM pragma_module_list WHERE name = 'sqlite_dbpage')";
        let can_clear: bool = db.query_row(there, [], |row| row.get(0))?;
        if !can_clear {
            log::warn!(
                "this SQLite was built without SQLITE_ENABLE_DBPAGE_VTAB: words that are deleted may stay in unused \
                 parts of the store; build with the .cargo/config.toml of the sources"
            );
        }
        Ok(Scrub { can_clear, salts: [0; 8], frames: 0, pages: BTreeSet::new() })
    }

    /// Learns what has come to the log file since. Returns how many frames it has. A frame that was not committed is
    /// learned as well, which does no harm.
    pub fn learn(&mut self, log: &Path) -> io::Result<u64> {
        let log = match File::open(log) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            opened => opened?,
        };
        let mut header = [0; LOG_HEADER as usize];
        if !has(&log, &mut header, 0)? {
            return Ok(0);
        }
        if self.salts != header[16..24] {
            self.salts.copy_from_slice(&header[16..24]);
            self.frames = 0;
        }
        let page_bytes = u64::from(u32_at(&header, 8));
        let mut frame = [0; FRAME_HEADER as usize];
        let place = |frames: u64| LOG_HEADER + frames * (FRAME_HEADER + page_bytes);
        while has(&log, &mut frame, place(self.frames))? && frame[8..16] == self.salts {
            if self.can_clear {
                self.pages.insert(u32_at(&frame, 0));
            }
            self.frames += 1;
        }
        Ok(self.frames)
    }

    /// Clears the unused middle of the pages that were learned of.
    pub fn clear(&mut self, db: &Connection) -> Result<(), rusqlite::Error> {
        if self.pages.is_empty() {
            return Ok(());
        }
        let tx = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
        let pages: u32 = tx.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        if pages < PAGES_MAX {
            let mut read = tx.prepare_cached("SELECT data FROM sqlite_dbpage WHERE pgno = ?1")?;
            let mut write = tx.prepare_cached("UPDATE sqlite_dbpage SET data = ?2 WHERE pgno = ?1")?;
            for page in self.pages.iter().filter(|page| **page <= pages) {
                let data = read.query_row([page], |row| Ok(cleaned(*page, row.get_ref(0)?.as_blob()?)));
                if let Some(Some(data)) = data.optional()? {
                    write.execute((page, data))?;
                }
            }
        }
        tx.commit()?;
        self.pages.clear();
        Ok(())
    }
}

/// The page without what lies in its unused middle, if anything does.
fn cleaned(number: u32, page: &[u8]) -> Option<Vec<u8>> {
    let header = if number == 1 { FILE_HEADER } else { 0 };
    let fields = page.get(header..header + 8)?;
    let cells = match fields[0] {
        kind if INNER.contains(&kind) => header + 12,
        kind if LEAF.contains(&kind) => header + 8,
        _ => return None,
    };
    let (count, content) = (u16_at(fields, 3), u16_at(fields, 5));
    // Zero stands for 65536, which the largest pages need.
    let end = if content == 0 { 1 << 16 } else { content };
    let unused = cells + 2 * count..end;
    if page.get(unused.clone())?.iter().all(|byte| *byte == 0) {
        return None;
    }
    let mut page = page.to_vec();
    page[unused].fill(0);
    Some(page)
}

/// Reads all of `buffer` at `place`. `false`: the file ends before.
fn has(file: &File, buffer: &mut [u8], place: u64) -> io::Result<bool> {
    match file.read_exact_at(buffer, place) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

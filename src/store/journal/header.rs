//! The first page of a segment: which one it is in the order of segments, and the number of its first record.
//! Written twice, in two sectors, because without it nothing in the segment can be read.

use crate::store::record::Lsn;

/// Bytes before the first record.
pub(super) const PAGE: usize = 4096;
const MAGIC: [u8; 8] = *b"roomcstJ";
const VERSION: u32 = 1;
const BYTES: usize = 40;
/// Where the two copies stand.
const COPIES: [usize; 2] = [0, PAGE / 2];

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Segments have ascending numbers in the order in which they were begun.
    pub(super) number: u64,
    /// Number of its first record. Records from here on in earlier segments are void.
    pub(super) start: Lsn,
    /// Starts the checksums.
    pub(super) salt: u64,
}

/// What stands in a first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstPage {
    /// A header.
    Header(Header),
    /// A header of a later program.
    Newer(u32),
    /// Nothing that can be read.
    Unreadable,
}

impl Header {
    /// The whole page.
    pub(super) fn page(&self) -> [u8; PAGE] {
        let mut copy = [0; BYTES];
        copy[0..8].copy_from_slice(&MAGIC);
        copy[8..12].copy_from_slice(&VERSION.to_le_bytes());
        copy[12..20].copy_from_slice(&self.number.to_le_bytes());
        copy[20..28].copy_from_slice(&self.start.to_le_bytes());
        copy[28..36].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32c::crc32c(&copy[..BYTES - 4]);
        copy[BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        let mut page = [0; PAGE];
        for at in COPIES {
            page[at..at + BYTES].copy_from_slice(&copy);
        }
        page
    }
}

/// Reads a first page; any bytes are fine. One good copy is enough.
pub(super) fn read(page: &[u8]) -> FirstPage {
    let mut best = FirstPage::Unreadable;
    for at in COPIES {
        match page.get(at..at + BYTES).map_or(FirstPage::Unreadable, read_copy) {
            FirstPage::Unreadable => {}
            header @ FirstPage::Header(_) => return header,
            newer => best = newer,
        }
    }
    best
}

fn read_copy(copy: &[u8]) -> FirstPage {
    let number = |from: usize| u64::from_le_bytes(copy[from..from + 8].try_into().expect("eight bytes"));
    let short = |from: usize| u32::from_le_bytes(copy[from..from + 4].try_into().expect("four bytes"));
    if copy[0..8] != MAGIC || crc32c::crc32c(&copy[..BYTES - 4]) != short(BYTES - 4) {
        return FirstPage::Unreadable;
    }
    match short(8) {
        VERSION => FirstPage::Header(Header { number: number(12), start: number(20), salt: number(28) }),
        version => FirstPage::Newer(version),
    }
}

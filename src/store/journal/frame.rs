//! One record in a segment: `len u32 | crc32c u32 | lsn u64 | places since the first of its group u32 | flags u8 |
//! 3 zeros | body`, padded to 8 bytes. The checksum covers everything but itself and the padding, and starts from
//! the segment's own salt: what an earlier use of the file has left is never taken for a record of this one.

use super::codec;
use crate::store::record::{Item, Lsn};

/// Bytes before the body.
pub(super) const HEAD: usize = 24;
const WITH_NEXT: u8 = 1;

/// A record as it stands in a file, checked against its checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    /// Its number.
    pub(super) lsn: Lsn,
    /// Number of the first record that was written and synced together with it.
    pub(super) first: Lsn,
    /// Not without the next one.
    pub(super) with_next: bool,
    /// The encoded record.
    pub(super) body: &'a [u8],
    /// Where in the file it begins.
    pub(super) at: usize,
}

impl Frame<'_> {
    /// Where the next one begins.
    pub(super) fn end(&self) -> usize {
        self.at + padded(HEAD + self.body.len())
    }
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

/// Where the checksums of a segment with this salt start.
pub(super) fn seed(salt: u64) -> u32 {
    crc32c::crc32c(&salt.to_le_bytes())
}

/// Appends the item's frame. `first` is the number of the first item of its group.
pub(super) fn put(item: &Item, first: Lsn, seed: u32, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; HEAD]);
    codec::encode(&item.record, out);
    let len = u32::try_from(out.len() - at - HEAD).expect("no record has 4 GiB");
    let since = u32::try_from(item.lsn - first).expect("no group has 2^32 records");
    let head = &mut out[at..at + HEAD];
    head[0..4].copy_from_slice(&len.to_le_bytes());
    head[8..16].copy_from_slice(&item.lsn.to_le_bytes());
    head[16..20].copy_from_slice(&since.to_le_bytes());
    head[20] = if item.with_next { WITH_NEXT } else { 0 };
    let crc = checksum(seed, &out[at..]);
    out[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    out.resize(at + padded(out.len() - at), 0);
}

fn checksum(seed: u32, frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &frame[..4]), &frame[8..])
}

/// The frame that begins at this byte, if one of the numbers `lowest` and above does. Any bytes are fine.
pub(super) fn read(bytes: &[u8], at: usize, seed: u32, lowest: Lsn) -> Option<Frame<'_>> {
    let rest = bytes.get(at..)?;
    let head = rest.get(..HEAD)?;
    let len = u32::from_le_bytes(head[0..4].try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(head[4..8].try_into().ok()?);
    let lsn = u64::from_le_bytes(head[8..16].try_into().ok()?);
    let since = u32::from_le_bytes(head[16..20].try_into().ok()?);
    // The cheap questions first: a search through garbage asks them at every eighth byte.
    let highest = lowest.saturating_add((bytes.len() / HEAD) as u64);
    if lsn == 0 || lsn < lowest || lsn > highest || u64::from(since) >= lsn || head[20] > WITH_NEXT {
        return None;
    }
    let frame = rest.get(..HEAD + len)?;
    if checksum(seed, frame) != crc {
        return None;
    }
    Some(Frame {
        lsn,
        first: lsn - u64::from(since),
        with_next: head[20] == WITH_NEXT,
        body: &frame[HEAD..],
        at,
    })
}

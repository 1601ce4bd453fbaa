//! What is on its way to one socket: frames of this turn, and frames that the kernel would not take yet.
//! Owned by a connection, filled and emptied by the hub of its thread. Bounded: when it is over its limits
//! the hub closes the connection as too slow, and every frame that is not sent is counted.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::Bytes;

use crate::protocols::websocket::frame::{frame_len, payload_of};

/// Most buffers in one vectored write.
const SLICES_MAX: usize = 64;
/// Largest buffer, in bytes, and most buffers that a hub keeps to use again.
const SPARE_BYTES_MAX: usize = 64 << 10;
const SPARES_MAX: usize = 64;

/// Where an outbox writes to. A socket that never waits; [`io::ErrorKind::WouldBlock`] means not now.
pub trait Sink {
    /// Writes some of these bytes.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Writes some of these bytes, from several buffers in one call.
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// What a call did, for the counters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames that left whole.
    pub frames: u64,
    /// Bytes that left.
    pub bytes: u64,
    /// Calls of the kernel.
    pub writes: u64,
    /// Marks whose bytes have left; see [`Outbox::mark`].
    pub marks: u32,
}

#[derive(Debug)]
struct Segment {
    bytes: Bytes,
    frames: u32,
    /// Shared with a room's history: costs no memory of its own and does not count against the limit.
    replay: bool,
    /// How many want to know when its last byte has left.
    marks: u32,
    since_ms: u64,
}

/// The frames on their way to one socket, in order: first `waiting`, then `staged`.
#[derive(Debug, Default)]
pub struct Outbox {
    staged: Vec<u8>,
    staged_frames: u32,
    waiting: VecDeque<Segment>,
    /// Bytes of the first segment that have left.
    begun: usize,
    waiting_bytes: usize,
    replay_bytes: usize,
    waiting_frames: u64,
    progress_ms: u64,
    blocked: bool,
}

impl Outbox {
    /// Whether the kernel refused the last bytes; the reader's task waits for it to take more.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.staged.is_empty() && self.waiting.is_empty()
    }

    /// Whether something waits for the next flush.
    pub fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Bytes for the next flush.
    pub fn staged_bytes(&self) -> usize {
        self.staged.len()
    }

    /// Frames not sent yet.
    pub fn frames(&self) -> u64 {
        self.waiting_frames + u64::from(self.staged_frames)
    }

    /// Bytes that the kernel has not taken, without those shared with a room's history.
    pub fn own_bytes(&self) -> usize {
        self.waiting_bytes - self.replay_bytes
    }

    /// Bytes shared with a room's history that the kernel has not taken.
    pub fn replay_bytes(&self) -> usize {
        self.replay_bytes
    }

    /// Bytes waiting behind the segment that is being written. This is what the limit is about: one message
    /// that is larger than the limit by itself may still go out.
    pub fn behind_bytes(&self) -> usize {
        let first = self
            .waiting
            .front()
            .map_or(0, |segment| if segment.replay { 0 } else { segment.bytes.len() - self.begun });
        self.own_bytes() - first
    }

    /// Since when the oldest frame has been waiting, or the last byte of a replay left; none when nothing waits.
    pub fn stuck_since_ms(&self) -> Option<u64> {
        let first = self.waiting.front()?;
        Some(if first.replay { first.since_ms.max(self.progress_ms) } else { first.since_ms })
    }

    /// When the kernel last took a byte of what waits, or when it first refused it; none when nothing waits.
    pub fn idle_since_ms(&self) -> Option<u64> {
        self.waiting.front().map(|first| first.since_ms.max(self.progress_ms))
    }

    /// When the kernel last took bytes that had waited; 0 when none ever had to.
    pub fn progress_ms(&self) -> u64 {
        self.progress_ms
    }

    /// Lets the age of everything that waits begin now.
    pub fn renew(&mut self, now_ms: u64) {
        for segment in &mut self.waiting {
            segment.since_ms = now_ms;
        }
    }

    /// Marks the end of what is on its way; [`Sent::marks`] tells when it has left. Returns whether anything
    /// is on its way.
    pub fn mark(&mut self, now_ms: u64) -> bool {
        self.keep_staged(now_ms);
        match self.waiting.back_mut() {
            Some(last) => last.marks += 1,
            None => return false,
        }
        true
    }

    /// What `find` makes of the first frame that it knows, among those that have not left whole. Looks at all of
    /// them: for questions that are asked seldom.
    pub fn find_unsent<T>(&self, mut find: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let mut left = self.begun;
        let segments = self.waiting.iter().map(|segment| &segment.bytes[..]).chain([&self.staged[..]]);
        for mut bytes in segments {
            while let Some(length) = frame_len(bytes).filter(|length| *length <= bytes.len()) {
                let (frame, rest) = bytes.split_at(length);
                bytes = rest;
                // Of the first segment some frames have left.
                if length <= left {
                    left -= length;
                    continue;
                }
                left = 0;
                let found = find(payload_of(frame));
                if found.is_some() {
                    return found;
                }
            }
            left = 0;
        }
        None
    }

    /// Adds frames to this turn's. `buffer` gives an empty buffer when there is none yet.
    pub fn stage(&mut self, frames: &[u8], count: u32, buffer: impl FnOnce() -> Vec<u8>) {
        if self.staged.capacity() == 0 {
            self.staged = buffer();
        }
        self.staged.extend_from_slice(frames);
        self.staged_frames += count;
    }

    /// Adds frames that are shared with a room's history.
    pub fn stage_replay(&mut self, frames: impl IntoIterator<Item = Bytes>, now_ms: u64) {
        self.keep_staged(now_ms);
        for bytes in frames {
            self.replay_bytes += bytes.len();
            self.push(Segment { bytes, frames: 1, replay: true, marks: 0, since_ms: now_ms });
        }
    }

    /// Writes a room's batch straight to the socket, if nothing is in its way; else says no. What the kernel
    /// refuses is kept: `shared` makes the bytes of the batch that all slow members share.
    pub fn write_through(
        &mut self,
        sink: &impl Sink,
        batch: &[u8],
        count: u32,
        now_ms: u64,
        shared: impl FnOnce() -> Bytes,
    ) -> io::Result<Option<Sent>> {
        if !self.is_empty() {
            return Ok(None);
        }
        let written = match sink.try_write(batch) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) => return Err(e),
        };
        if written == batch.len() {
            return Ok(Some(Sent { frames: count.into(), bytes: written as u64, writes: 1, marks: 0 }));
        }
        self.blocked = true;
        self.progress_ms = now_ms;
        self.push(Segment { bytes: shared(), frames: count, replay: false, marks: 0, since_ms: now_ms });
        self.begun = written;
        self.waiting_bytes -= written;
        Ok(Some(Sent { frames: 0, bytes: written as u64, writes: 1, marks: 0 }))
    }

    /// Writes what is on its way, as far as the kernel takes it. The buffer of this turn is given back to
    /// `spare` when it is empty.
    pub fn flush(&mut self, sink: &impl Sink, now_ms: u64, spare: &mut Vec<Vec<u8>>) -> io::Result<Sent> {
        let mut sent = Sent::default();
        if self.waiting.is_empty() && !self.staged.is_empty() {
            self.write_staged(sink, now_ms, &mut sent)?;
        } else {
            self.keep_staged(now_ms);
        }
        let buffer = std::mem::take(&mut self.staged);
        if buffer.capacity() > 0 && buffer.capacity() <= SPARE_BYTES_MAX && spare.len() < SPARES_MAX {
            spare.push(buffer);
        }
        while !self.waiting.is_empty() && !self.blocked {
            self.write_waiting(sink, now_ms, &mut sent)?;
        }
        Ok(sent)
    }

    /// The kernel takes bytes again.
    pub fn unblock(&mut self) {
        self.blocked = false;
    }

    fn write_staged(&mut self, sink: &impl Sink, now_ms: u64, sent: &mut Sent) -> io::Result<()> {
        sent.writes += 1;
        let written = match sink.try_write(&self.staged) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) => return Err(e),
        };
        sent.bytes += written as u64;
        if written == self.staged.len() {
            sent.frames += u64::from(self.staged_frames);
            self.staged.clear();
            self.staged_frames = 0;
            return Ok(());
        }
        self.blocked = true;
        self.progress_ms = now_ms;
        self.keep_staged(now_ms);
        self.begun = written;
        self.waiting_bytes -= written;
        Ok(())
    }

    fn write_waiting(&mut self, sink: &impl Sink, now_ms: u64, sent: &mut Sent) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut n = 0;
        for (slice, segment) in slices.iter_mut().zip(&self.waiting) {
            *slice = IoSlice::new(if n == 0 { &segment.bytes[self.begun..] } else { &segment.bytes });
            n += 1;
        }
        sent.writes += 1;
        let written = match sink.try_write_vectored(&slices[..n]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.blocked = true;
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        sent.bytes += written as u64;
        self.advance(written, now_ms, sent);
        self.progress_ms = now_ms;
        Ok(())
    }

    /// Takes written bytes off the front.
    fn advance(&mut self, mut written: usize, now_ms: u64, sent: &mut Sent) {
        let (mut frames, mut replayed) = (0, false);
        while let Some(first) = self.waiting.front() {
            let rest = first.bytes.len() - self.begun;
            let gone = rest.min(written);
            written -= gone;
            self.waiting_bytes -= gone;
            if first.replay {
                self.replay_bytes -= gone;
            }
            if gone < rest {
                self.begun += gone;
                break;
            }
            frames += u64::from(first.frames);
            sent.marks += first.marks;
            replayed |= first.replay;
            self.waiting.pop_front();
            self.begun = 0;
        }
        self.waiting_frames -= frames;
        sent.frames += frames;
        // What stood behind a replay could not leave before it; its reader has not been slow so long.
        if replayed && self.replay_bytes == 0 {
            self.renew(now_ms);
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to_fit();
        }
    }

    fn keep_staged(&mut self, now_ms: u64) {
        if self.staged.is_empty() {
            return;
        }
        let buffer = std::mem::take(&mut self.staged);
        // A buffer that was used before may be much larger than what waits in it now.
        let bytes = match buffer.capacity() > 2 * buffer.len() {
            true => Bytes::copy_from_slice(&buffer),
            false => Bytes::from(buffer),
        };
        let frames = std::mem::take(&mut self.staged_frames);
        self.push(Segment { bytes, frames, replay: false, marks: 0, since_ms: now_ms });
    }

    fn push(&mut self, segment: Segment) {
        self.waiting_bytes += segment.bytes.len();
        self.waiting_frames += u64::from(segment.frames);
        self.waiting.push_back(segment);
    }

    /// Throws away all that has not begun to leave, so that a last word can follow without breaking the
    /// framing.
    pub fn cut(&mut self) -> Cut {
        let mut cut = Cut { sent: 0, dropped: std::mem::take(&mut self.staged_frames).into() };
        self.staged = Vec::new();
        let first = self.waiting.pop_front();
        cut.dropped += self.waiting.drain(..).map(|segment| u64::from(segment.frames)).sum::<u64>();
        (self.waiting_bytes, self.replay_bytes, self.waiting_frames) = (0, 0, 0);
        let Some(first) = first else {
            return cut;
        };
        // Of the first segment, the frame that has begun to leave must go out whole.
        let (mut start, mut end, mut frames) = (0, 0, 0);
        while end < self.begun {
            start = end;
            end += frame_len(&first.bytes[start..]).expect("a segment holds whole frames of our own");
            frames += 1;
        }
        cut.dropped += u64::from(first.frames - frames);
        if end == self.begun {
            self.begun = 0;
            cut.sent = frames.into();
            return cut;
        }
        cut.sent = u64::from(frames) - 1;
        self.waiting_bytes = end - self.begun;
        self.replay_bytes = if first.replay { self.waiting_bytes } else { 0 };
        self.waiting_frames = 1;
        self.begun -= start;
        let bytes = first.bytes.slice(start..end);
        self.waiting.push_back(Segment { bytes, frames: 1, marks: 0, ..first });
        cut
    }
}

/// What became of the frames of an outbox that was cut.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Frames that had left whole without being counted yet.
    pub sent: u64,
    /// Frames thrown away.
    pub dropped: u64,
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::protocols::websocket::frame::{Opcode, encode_frame};

    /// A socket that takes `room` bytes and then says not now.
    #[derive(Default)]
    struct Pipe {
        room: Cell<usize>,
        got: RefCell<Vec<u8>>,
    }

    impl Sink for Pipe {
        fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room.get());
            if n == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room.set(self.room.get() - n);
            self.got.borrow_mut().extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            self.try_write(&all)
        }
    }

    fn frame(text: &str) -> Bytes {
        let mut out = bytes::BytesMut::new();
        encode_frame(&mut out, Opcode::Text, text.as_bytes());
        out.freeze()
    }

    fn pipe(room: usize) -> Pipe {
        Pipe { room: Cell::new(room), ..Pipe::default() }
    }

    #[test]
    fn frames_leave_in_order_however_little_the_kernel_takes() {
        for room in 1..40 {
            let (mut outbox, sink, mut spare) = (Outbox::default(), pipe(room), Vec::new());
            let frames = ["one", "two", "three", "four", "five"].map(frame);
            let mut sent = 0;
            let through = outbox.write_through(&sink, &frames[0], 1, 0, || frames[0].clone()).unwrap();
            sent += through.unwrap().frames;
            outbox.stage(&frames[1], 1, Vec::new);
            outbox.stage_replay([frames[2].clone(), frames[3].clone()], 0);
            outbox.stage(&frames[4], 1, Vec::new);
            while !outbox.is_empty() {
                sent += outbox.flush(&sink, 0, &mut spare).unwrap().frames;
                outbox.unblock();
                sink.room.set(room);
            }
            assert_eq!(*sink.got.borrow(), frames.concat());
            assert_eq!((sent, outbox.frames(), outbox.own_bytes()), (5, 0, 0), "room {room}");
        }
    }

    #[test]
    fn a_cut_keeps_the_framing_whole_and_counts_every_frame() {
        let all = ["one", "two", "three"].map(frame).concat();
        for room in 0..all.len() {
            let (mut outbox, sink, mut spare) = (Outbox::default(), pipe(room), Vec::new());
            outbox.stage(&all, 3, Vec::new);
            outbox.flush(&sink, 0, &mut spare).unwrap();
            outbox.stage(&frame("later"), 1, Vec::new);
            let cut = outbox.cut();
            outbox.stage(&frame("bye"), 1, Vec::new);
            outbox.unblock();
            sink.room.set(usize::MAX);
            let sent = outbox.flush(&sink, 0, &mut spare).unwrap();
            assert_eq!(cut.sent + sent.frames + cut.dropped, 5, "room {room}");
            let (got, mut at, mut whole) = (sink.got.borrow(), 0, 0);
            while at < got.len() {
                at += frame_len(&got[at..]).expect("whole frames only");
                whole += 1;
            }
            assert_eq!(whole, cut.sent + sent.frames, "room {room}");
            assert!(got.ends_with(&frame("bye")));
        }
    }

    #[test]
    fn what_is_shared_with_a_history_is_not_held_against_the_reader() {
        let (mut outbox, sink, mut spare) = (Outbox::default(), pipe(0), Vec::new());
        outbox.stage_replay([frame("old"), frame("older")], 5);
        outbox.flush(&sink, 5, &mut spare).unwrap();
        assert_eq!(outbox.own_bytes(), 0);
        outbox.stage(&frame("new"), 1, Vec::new);
        outbox.flush(&sink, 9, &mut spare).unwrap();
        assert_eq!(outbox.own_bytes(), frame("new").len());
        assert_eq!(outbox.stuck_since_ms(), Some(5));
    }

    #[test]
    fn what_has_not_left_whole_is_found_in_order() {
        let words = ["one", "two", "three", "four", "five"];
        let frames = words.map(frame);
        let all: usize = frames.iter().map(Bytes::len).sum();
        for room in 0..all {
            let (mut outbox, sink, mut spare) = (Outbox::default(), pipe(room), Vec::new());
            outbox.stage(&frames[..3].concat(), 3, Vec::new);
            outbox.flush(&sink, 0, &mut spare).unwrap();
            outbox.stage_replay([frames[3].clone()], 0);
            outbox.stage(&frames[4], 1, Vec::new);
            outbox.unblock();
            if room > frames[..3].concat().len() {
                outbox.flush(&sink, 0, &mut spare).unwrap();
            }
            let mut seen = Vec::new();
            let nothing: Option<()> = outbox.find_unsent(|line| {
                seen.push(String::from_utf8(line.to_vec()).unwrap());
                None
            });
            assert_eq!(nothing, None);
            let mut end = 0;
            let left = frames.iter().take_while(|frame| {
                end += frame.len();
                end <= sink.got.borrow().len()
            });
            assert_eq!(seen, words[left.count()..], "{room} bytes have left");
            let five = outbox.find_unsent(|line| (line == b"five").then_some(5));
            assert_eq!(five, Some(5));
        }
    }
}

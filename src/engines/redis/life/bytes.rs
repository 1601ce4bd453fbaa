//! Numbers and texts as bytes: big-endian, texts with their length before them. Used by the frames and notes of
//! this folder. Reading checks everything and reserves no memory for what a length only claims.

/// Why bytes cannot be read: which part of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable(pub &'static str);

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "its {} cannot be read", self.0)
    }
}

impl std::error::Error for Unreadable {}

/// Appends a text of at most 255 bytes; names and ids have at most 128.
pub(super) fn put_name(name: &str, out: &mut Vec<u8>) {
    out.push(u8::try_from(name.len()).expect("a name has at most 128 bytes"));
    out.extend_from_slice(name.as_bytes());
}

/// Appends a text of any length.
pub(super) fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(text.len()).expect("no text here has 4 GiB").to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// What is left to read.
pub(super) struct Left<'a>(pub(super) &'a [u8]);

impl<'a> Left<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Unreadable(what))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self, what: &'static str) -> Result<u8, Unreadable> {
        Ok(self.take(1, what)?[0])
    }

    pub(super) fn flag(&mut self, what: &'static str) -> Result<bool, Unreadable> {
        match self.byte(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Unreadable(what)),
        }
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, Unreadable> {
        Ok(u16::from_be_bytes(self.take(2, what)?.try_into().expect("two bytes were taken")))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, Unreadable> {
        Ok(u32::from_be_bytes(self.take(4, what)?.try_into().expect("four bytes were taken")))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, Unreadable> {
        Ok(u64::from_be_bytes(self.take(8, what)?.try_into().expect("eight bytes were taken")))
    }

    /// What [`put_name`] wrote.
    pub(super) fn name(&mut self, what: &'static str) -> Result<&'a str, Unreadable> {
        let length = self.byte(what)?.into();
        std::str::from_utf8(self.take(length, what)?).map_err(|_| Unreadable(what))
    }

    /// Bytes with four bytes of length before them.
    pub(super) fn long(&mut self, what: &'static str) -> Result<&'a [u8], Unreadable> {
        let length = self.u32(what)? as usize;
        self.take(length, what)
    }

    /// What [`put_text`] wrote.
    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a str, Unreadable> {
        std::str::from_utf8(self.long(what)?).map_err(|_| Unreadable(what))
    }
}

//! XDR (RFC 4506), as far as the protocol needs it: numbers and byte strings, read from a call that may be cut off or lie
//! about its lengths, and written to a reply. Nothing is ever allocated by a length that a call claims.

/// What is left of a call.
pub(super) struct Call<'a>(pub &'a [u8]);

/// A call that ends before what it should hold, or holds what cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbage;

impl<'a> Call<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Garbage> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Garbage)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Garbage> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Garbage> {
        Ok(u64::from(self.u32()?) << 32 | u64::from(self.u32()?))
    }

    /// A byte string of at most `most` bytes, and what fills it up to a multiple of four.
    pub(super) fn bytes(&mut self, most: usize) -> Result<&'a [u8], Garbage> {
        let len = self.u32()? as usize;
        if len > most {
            return Err(Garbage);
        }
        let bytes = self.take(len)?;
        self.take(len.next_multiple_of(4) - len)?;
        Ok(bytes)
    }
}

/// A reply that is being written.
pub(super) struct Reply<'a>(pub &'a mut Vec<u8>);

impl Reply<'_> {
    pub(super) fn u32(&mut self, number: u32) -> &mut Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn u64(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn bool(&mut self, flag: bool) -> &mut Self {
        self.u32(flag.into())
    }

    /// A byte string. Ours are short.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
        self.fill(bytes.len())
    }

    /// What fills a byte string of `len` bytes up to a multiple of four.
    pub(super) fn fill(&mut self, len: usize) -> &mut Self {
        self.0.resize(self.0.len() + len.next_multiple_of(4) - len, 0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_what_lies_is_not() {
        let mut bytes = Vec::new();
        Reply(&mut bytes).u32(7).u64(1 << 40).bytes(b"abcde").bool(true);
        assert_eq!(bytes.len(), 4 + 8 + 4 + 8 + 4);
        let mut call = Call(&bytes);
        assert_eq!((call.u32(), call.u64()), (Ok(7), Ok(1 << 40)));
        assert_eq!((call.bytes(5), call.u32()), (Ok(&b"abcde"[..]), Ok(1)));
        assert_eq!(call.u32(), Err(Garbage));
        assert_eq!(Call(&bytes[12..]).bytes(4), Err(Garbage));
        assert_eq!(Call(&[0, 0, 0, 5, 1, 2, 3, 4, 5]).bytes(100), Err(Garbage));
        assert_eq!(Call(&[0xff, 0xff, 0xff, 0xff]).bytes(usize::MAX), Err(Garbage));
    }
}

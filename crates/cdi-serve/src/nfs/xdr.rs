//! The subset of XDR (RFC 4506) that the protocol needs: numbers and byte strings, read from a call that may be
//! truncated or have false lengths, and written to a reply. Memory is never allocated by a length that a call claims.

/// The unread rest of a call.
pub(super) struct Call<'a>(pub &'a [u8]);

/// A call that is truncated or has invalid values.
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

    /// Reads a byte string of at most `max` bytes, and its padding to a multiple of four.
    pub(super) fn bytes(&mut self, max: usize) -> Result<&'a [u8], Garbage> {
        let len = self.u32()? as usize;
        if len > max {
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

    /// Writes a byte string. Ours are short.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
        self.pad(bytes.len())
    }

    /// Writes the padding of a byte string of `len` bytes to a multiple of four.
    pub(super) fn pad(&mut self, len: usize) -> &mut Self {
        self.0.resize(self.0.len() + len.next_multiple_of(4) - len, 0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_values_are_read_back_and_false_lengths_are_rejected() {
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

//! A passphrase: it is shown nowhere, and wiped from memory when it is no longer needed.

use std::fmt;

use zeroize::Zeroizing;

/// The passphrase of an encrypted image, as bytes. No text shows it, not even for debugging.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// The maximum length in bytes that programs need to accept.
    pub const MAX: usize = 4096;

    /// Creates a passphrase of exactly these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Passphrase {
        Passphrase(Zeroizing::new(bytes.into()))
    }

    /// Creates the passphrase that a file or another program gives. It ends before the first NUL byte, as for
    /// `hdiutil -stdinpass`, where a line break before it counts; without a NUL byte, one line break at the end does not
    /// count, as editors and `echo` write it.
    pub fn from_text(text: &[u8]) -> Passphrase {
        let end = text.iter().position(|b| *b == 0);
        let line = text.strip_suffix(b"\n").map_or(text, |line| line.strip_suffix(b"\r").unwrap_or(line));
        Passphrase::new(end.map_or(line, |end| &text[..end]))
    }

    /// Returns whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns its bytes, for a cipher only.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_ends_as_hdiutil_and_editors_end_it() {
        let bytes = |text: &[u8]| Passphrase::from_text(text).bytes().to_vec();
        for text in [&b"a b"[..], b"a b\n", b"a b\r\n", b"a b\0", b"a b\0rest\n"] {
            assert_eq!(bytes(text), b"a b");
        }
        assert_eq!(bytes(b"a\n\n"), b"a\n");
        assert_eq!(bytes(b"a\n\0"), b"a\n", "before a NUL byte, a line break counts");
        assert_eq!(bytes(b"\n"), b"");
    }

    #[test]
    fn a_passphrase_is_shown_nowhere() {
        assert_eq!(format!("{:?}", Some(Passphrase::new("secret"))), "Some(Passphrase(..))");
    }
}

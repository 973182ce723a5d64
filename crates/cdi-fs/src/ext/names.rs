//! Reads the entries of a block of a directory; of a damaged one, what can be read.
//!
//! Source: Linux, Documentation/filesystems/ext4/directory.rst and `struct ext4_dir_entry_2` in fs/ext4/ext4.h.

use std::cmp::Ordering;
use std::fmt::Write as _;

use super::superblock::{Superblock, incompat};
use crate::bytes::{le16, le32};
use crate::file_system::Kind;

/// The size of an entry without its name.
const HEAD: usize = 8;

/// An entry with a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub inode: u32,
    pub name: &'a [u8],
    pub kind: Option<Kind>,
}

/// What was found in a piece of a block.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    /// The entries.
    pub certain: Vec<Entry<'a>>,
    /// Entries after something that was not understood: some may be what is left of deleted ones.
    pub doubtful: Vec<Entry<'a>>,
    /// Whether something was not understood.
    pub strange: bool,
}

/// What entries look like on a volume.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// Whether entries have the type of what they name.
    typed: bool,
    /// The number of inodes.
    inodes: u32,
}

impl Rules {
    pub(super) fn new(sb: &Superblock) -> Rules {
        Rules { typed: sb.incompat & incompat::FILETYPE != 0, inodes: sb.inodes }
    }

    /// Parses the entry at the start of `bytes`. Returns its length, and the entry if it is one with a name. None if it makes no
    /// sense; then nothing is known of what follows.
    fn entry<'a>(&self, bytes: &'a [u8], block: usize) -> Option<(usize, Option<Entry<'a>>)> {
        let (inode, stored) = (le32(bytes, 0)?, usize::from(le16(bytes, 4)?));
        let len = match stored {
            0 | 0xffff if block >= 65536 => block,
            _ if block >= 65536 => stored & 0xfffc | (stored & 3) << 16,
            _ => stored,
        };
        let (name_len, kind) = (usize::from(*bytes.get(6)?), *bytes.get(7)?);
        if len < HEAD || len % 4 != 0 {
            return None;
        }
        if inode == 0 {
            return Some((len, None));
        }
        let kind_known = if self.typed { kind & 0xf <= 7 } else { kind == 0 };
        let name = bytes.get(HEAD..HEAD + name_len)?;
        let valid = inode <= self.inodes && kind_known && name_len > 0 && HEAD + name_len <= len;
        if !valid || name.contains(&0) && name_len < 16 {
            return None;
        }
        let kind = match kind & 0xf {
            _ if !self.typed => None,
            1 => Some(Kind::File),
            2 => Some(Kind::Directory),
            3..=6 => Some(Kind::Other),
            7 => Some(Kind::Link),
            _ => None,
        };
        Some((len, Some(Entry { inode, name, kind })))
    }

    /// Reads entries one after the other from `from`. Returns them, and where the first is that makes no sense or does not end
    /// before the end of `bytes`; the length of `bytes` if there is none.
    fn chain<'a>(&self, bytes: &'a [u8], from: usize, block: usize) -> (Vec<Entry<'a>>, usize) {
        let (mut found, mut at) = (Vec::new(), from);
        while at < bytes.len() {
            match self.entry(&bytes[at..], block) {
                Some((len, entry)) if at + len <= bytes.len() => {
                    found.extend(entry);
                    at += len;
                }
                _ => break,
            }
        }
        (found, at)
    }

    /// Reads the entries of a block, or of the readable piece of it at `start`.
    pub(super) fn piece<'a>(&self, bytes: &'a [u8], start: usize, block: usize) -> Piece<'a> {
        let last = start + bytes.len() == block;
        let mut piece = Piece::default();
        let mut at = 0;
        if start == 0 {
            (piece.certain, at) = self.chain(bytes, 0, block);
            if at >= bytes.len() {
                return piece;
            }
            if !last {
                // The last entry of the piece extends into what cannot be read; its name may be here.
                piece.certain.extend(self.cut(bytes, at, block));
                return piece;
            }
            at += 4;
        }
        piece.strange = true;
        // Entries have no marks: those are taken that follow each other exactly up to the end.
        at = at.next_multiple_of(4);
        if let Some(start) = self.first_that_fits(bytes, at, block, last) {
            let (rest, end) = self.chain(bytes, start, block);
            piece.doubtful = rest;
            piece.doubtful.extend(if last { None } else { self.cut(bytes, end, block) });
        }
        piece
    }

    /// Returns where the first entry from `from` on begins that others follow exactly up to the end; if the piece is not the
    /// `last` of its block, one that ends after it. Looks from the end backwards, at each place once.
    fn first_that_fits(&self, bytes: &[u8], from: usize, block: usize, last: bool) -> Option<usize> {
        // For each place, the number of entries from there to the end, if they fit.
        let mut fits: Vec<Option<u16>> = vec![None; bytes.len() / 4 + 1];
        let mut found = None;
        for at in (from..bytes.len()).step_by(4).rev() {
            let Some((len, entry)) = self.entry(&bytes[at..], block) else { continue };
            let after = match (at + len).cmp(&bytes.len()) {
                Ordering::Less => fits[(at + len) / 4],
                Ordering::Equal => Some(0),
                Ordering::Greater => (!last).then_some(0),
            };
            fits[at / 4] = after.map(|count| count + u16::from(entry.is_some()));
            let least = if last { 1 } else { 2 };
            if fits[at / 4].is_some_and(|count| count >= least) {
                found = Some(at);
            }
        }
        found
    }

    /// Returns the entry that begins in `bytes` at `at` and ends after them, if its name does not.
    fn cut<'a>(&self, bytes: &'a [u8], at: usize, block: usize) -> Option<Entry<'a>> {
        self.entry(bytes.get(at..)?, block)?.1
    }
}

/// Returns a name as text. Names of encrypted directories are shown in hexadecimal: they are no text.
pub(super) fn text(name: &[u8], encrypted: bool) -> String {
    if !encrypted {
        // Only damage makes these: no name has them, and they must not become a path.
        return String::from_utf8_lossy(name).replace(['/', '\0'], "\u{fffd}");
    }
    name.iter().fold(String::with_capacity(name.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { typed: true, inodes: 1000 };

    fn entry(inode: u32, name: &str, len: u16) -> Vec<u8> {
        let mut bytes = inode.to_le_bytes().to_vec();
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&[u8::try_from(name.len()).unwrap(), 1]);
        bytes.extend_from_slice(name.as_bytes());
        bytes.resize(usize::from(len), 0);
        bytes
    }

    fn block() -> Vec<u8> {
        let mut bytes = Vec::new();
        for n in 0..63 {
            bytes.extend(entry(n + 11, &format!("name{n}"), 16));
        }
        bytes.extend(entry(99, "last", 16));
        bytes
    }

    fn counts(bytes: &[u8], start: usize) -> (usize, usize, bool) {
        let piece = RULES.piece(bytes, start, 1024);
        (piece.certain.len(), piece.doubtful.len(), piece.strange)
    }

    #[test]
    fn whole_blocks_have_all_entries() {
        assert_eq!(counts(&block(), 0), (64, 0, false));
        assert_eq!(RULES.piece(&block(), 0, 1024).certain[63].name, b"last");
    }

    #[test]
    fn entries_on_both_sides_of_a_bad_sector_are_found() {
        let bytes = block();
        assert_eq!(counts(&bytes[..512], 0), (32, 0, false));
        assert_eq!(counts(&bytes[512..], 512), (0, 32, true));
        assert_eq!(counts(&bytes[520..], 520), (0, 31, true));
    }

    #[test]
    fn after_an_entry_that_makes_no_sense_the_rest_is_found() {
        let mut bytes = block();
        bytes[160..170].fill(0xff);
        assert_eq!(counts(&bytes, 0), (10, 53, true));
        assert_eq!(counts(&[0xa5; 1024], 0), (0, 0, true));
        assert_eq!(counts(&[], 0), (0, 0, false));
    }

    #[test]
    fn names_that_are_no_text_are_shown() {
        assert_eq!(text(b"a\xff", false), "a\u{fffd}");
        assert_eq!(text(b"../a\0", false), "..\u{fffd}a\u{fffd}");
        assert_eq!(text(b"a\xff", true), "61ff");
    }
}

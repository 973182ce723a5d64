//! Long texts that are generated while they are read, from any offset, and never held in memory as a whole.

use std::io::{self, Write};

/// Where a text is written: to memory, or nowhere if only its length is needed.
pub trait Out {
    /// Adds text as it is.
    fn text(&mut self, text: &str);
    /// Adds a number in decimal.
    fn number(&mut self, n: u64);
    /// Adds a number in hexadecimal, with at least eight digits.
    fn hex(&mut self, n: u64);
}

impl Out for Vec<u8> {
    fn text(&mut self, text: &str) {
        self.extend_from_slice(text.as_bytes());
    }
    fn number(&mut self, n: u64) {
        // Writing to memory never fails.
        let _ = write!(self, "{n}");
    }
    fn hex(&mut self, n: u64) {
        let _ = write!(self, "{n:08X}");
    }
}

/// Counts the bytes of a text.
struct Length(u64);

impl Out for Length {
    fn text(&mut self, text: &str) {
        self.0 += text.len() as u64;
    }
    fn number(&mut self, n: u64) {
        self.0 += u64::from(n.checked_ilog10().unwrap_or(0)) + 1;
    }
    fn hex(&mut self, n: u64) {
        self.0 += (u64::from(n.checked_ilog(16).unwrap_or(0)) + 1).max(8);
    }
}

/// A text that lists many items, one after the other.
pub trait Listing {
    /// Returns the number of items.
    fn len(&self) -> usize;
    /// Returns whether there are no items.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Adds the text before the items.
    fn begin(&self, out: &mut impl Out);
    /// Adds item number `at`, possibly together with some of the following ones. Returns the number of the next item.
    fn item(&self, at: usize, out: &mut impl Out) -> usize;
    /// Adds the text after the items.
    fn end(&self, out: &mut impl Out);
}

/// Adds a part of a text: its beginning (0), an item (from 1 on), or its end. Returns the number of the next part.
fn part(listing: &impl Listing, number: usize, out: &mut impl Out) -> Option<usize> {
    let end = listing.len() + 1;
    if number == 0 {
        listing.begin(out);
        Some(1)
    } else if number < end {
        Some((listing.item(number - 1, out) + 1).clamp(number + 1, end))
    } else {
        listing.end(out);
        None
    }
}

/// The amount of text between two index entries, and the amount written at once, in bytes.
const STEP: u64 = 64 << 10;

/// The size of a text and the offsets of some of its parts.
pub struct Index {
    /// The offset of a part, and its number.
    places: Vec<(u64, usize)>,
    size: u64,
}

impl Index {
    /// Generates a text once to measure it.
    pub fn of(listing: &impl Listing) -> Index {
        let (mut length, mut places) = (Length(0), vec![(0, 0)]);
        let (mut number, mut last) = (0, 0);
        while let Some(next) = part(listing, number, &mut length) {
            number = next;
            if length.0 >= last + STEP {
                last = length.0;
                places.push((last, number));
            }
        }
        Index { places, size: length.0 }
    }

    /// Returns the length of the text in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buf` with the text from `offset` on. Returns false if the text ends before `buf` is full.
    pub fn read(&self, listing: &impl Listing, offset: u64, buf: &mut [u8]) -> bool {
        let place = self.places.partition_point(|(at, _)| *at <= offset).saturating_sub(1);
        let (mut at, number) = self.places[place];
        let (mut number, mut filled) = (Some(number), 0);
        let mut text = Vec::new();
        while filled < buf.len() {
            let Some(this) = number else { return false };
            text.clear();
            number = part(listing, this, &mut text);
            // Skip the text before `offset`.
            let from = usize::try_from((offset + filled as u64).saturating_sub(at)).unwrap_or(usize::MAX);
            at += text.len() as u64;
            if let Some(text) = text.get(from..) {
                let len = text.len().min(buf.len() - filled);
                buf[filled..filled + len].copy_from_slice(&text[..len]);
                filled += len;
            }
        }
        true
    }
}

/// Writes the whole text to `to`.
pub fn write(listing: &impl Listing, to: &mut dyn Write) -> io::Result<()> {
    let (mut text, mut number) = (Vec::new(), Some(0));
    while let Some(this) = number {
        number = part(listing, this, &mut text);
        if text.len() as u64 >= STEP || number.is_none() {
            to.write_all(&text)?;
            text.clear();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Numbers(usize);

    impl Listing for Numbers {
        fn len(&self) -> usize {
            self.0
        }
        fn begin(&self, out: &mut impl Out) {
            out.text("begin\n");
        }
        fn item(&self, at: usize, out: &mut impl Out) -> usize {
            out.number(at as u64);
            out.text(" ");
            out.hex((at as u64).pow(3));
            out.text("\n");
            at + 1 + at % 3
        }
        fn end(&self, out: &mut impl Out) {
            out.text("end");
        }
    }

    #[test]
    fn a_partial_read_gives_the_same_bytes_as_the_whole_text() {
        for count in [0, 1, 2, 50_000] {
            let listing = Numbers(count);
            let mut whole = Vec::new();
            write(&listing, &mut whole).unwrap();
            let index = Index::of(&listing);
            assert_eq!(index.size(), whole.len() as u64);
            for (offset, len) in (0..2000).map(|i| (i * 7919 % whole.len(), i * 31 % 70_000)) {
                let len = len.min(whole.len() - offset);
                let mut buf = vec![0; len];
                assert!(index.read(&listing, offset as u64, &mut buf));
                assert!(buf == whole[offset..offset + len], "{count}: {offset}+{len}");
            }
            assert!(!index.read(&listing, index.size(), &mut [0]));
        }
        let index = Index::of(&Numbers(50_000));
        assert!((5..=index.size() / STEP + 1).contains(&(index.places.len() as u64)));
    }
}

//! Raw images in pieces: which file names are pieces of one disk, and in which order.
//!
//! A piece's name has a counter at its end (`disk.001`, `disk_001`, `disk.aa`, `xaa`), or before an extension
//! (`disk_001.img`). Facts: FTK Imager, dc3dd and X-Ways count `.001` … `.999`, `.1000`; dcfldd and guymager begin at
//! `.000`; GNU split counts in letters, with `-d` in decimal and with `-x` in hexadecimal digits, and where it runs out of
//! two it goes on with more of them: `yz`, `zaaa`; `89`, `9000`; `ef`, `f000`.

use std::path::{Path, PathBuf};

use super::FileNo;
use super::fields::{le32, le64};
use super::input::Input;
use crate::error::Error;
use crate::units::SECTOR;

/// The names that raw images have, but for counters.
pub(super) const RAW_SUFFIXES: &[&str] = &[
    "raw", "img", "dd", "ima", "image", "bin", "iso", "dsk", "hdd", "000", "001", "0000", "0001", "00001",
    "aa", "aaa",
];

/// The symbols that a counter is made of, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Symbols {
    Decimal,
    Hexadecimal,
    Letters,
}

impl Symbols {
    fn all(self) -> &'static [u8] {
        match self {
            Symbols::Decimal => b"0123456789",
            Symbols::Hexadecimal => b"0123456789abcdef",
            Symbols::Letters => b"abcdefghijklmnopqrstuvwxyz",
        }
    }

    /// Returns the counters that can follow `counter`: the plain successor, and the one by which GNU split goes on
    /// before the first symbol becomes the last one.
    fn successors(self, counter: &str) -> Vec<String> {
        let symbols = self.all();
        let (first, last) = (symbols[0], symbols[symbols.len() - 1]);
        let mut found = Vec::new();
        let mut digits = counter.as_bytes().to_vec();
        let mut carry = true;
        for digit in digits.iter_mut().rev() {
            match symbols.iter().position(|s| s == digit) {
                Some(n) if n + 1 < symbols.len() => {
                    (*digit, carry) = (symbols[n + 1], false);
                    break;
                }
                _ => *digit = first,
            }
        }
        if carry && self == Symbols::Decimal {
            digits.insert(0, b'1');
            carry = false;
        }
        if !carry {
            found.extend(String::from_utf8(digits));
        }
        // GNU split: some last symbols, and one more digit than these, plus one; the first of them is never the last.
        let bytes = counter.as_bytes();
        let lasts = bytes.iter().take_while(|b| **b == last).count();
        let rest = &bytes[lasts..];
        let full = rest.len() == lasts + 2
            && rest[0] == symbols[symbols.len() - 2]
            && rest[1..].iter().all(|b| *b == last);
        if full {
            let mut widened = vec![last; lasts + 1];
            widened.resize(2 * lasts + 4, first);
            found.extend(String::from_utf8(widened));
        }
        found
    }

    /// Whether every byte of a counter is one of these.
    fn make(self, counter: &str) -> bool {
        counter.bytes().all(|b| self.all().contains(&b))
    }
}

/// A file name, taken apart around its counter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Numbered {
    before: String,
    counter: String,
    after: String,
}

impl Numbered {
    fn name(&self) -> String {
        format!("{}{}{}", self.before, self.counter, self.after)
    }

    fn with(&self, counter: String) -> Numbered {
        Numbered { counter, ..self.clone() }
    }

    /// Returns the ways in which a name can be that of a piece, the likeliest first.
    fn all(name: &str) -> Vec<Numbered> {
        let numbered = |at: usize, end: usize| Numbered {
            before: name[..at].into(),
            counter: name[at..end].into(),
            after: name[end..].into(),
        };
        let digits_to = |end: usize| end - name[..end].bytes().rev().take_while(u8::is_ascii_digit).count();
        let mut found = Vec::new();
        let at = digits_to(name.len());
        if at < name.len() && at > 0 && name[..at].ends_with(['.', '_', '-', 'x']) {
            found.push(numbered(at, name.len()));
        }
        // In letters, or in digits that are not all decimal.
        let dot = name.rfind('.').map_or(0, |dot| dot + 1);
        if dot > 0 && dot < name.len() {
            found.push(numbered(dot, name.len()));
        } else {
            // `xaa`: there is no telling where the counter begins but by its first value, of two letters or three.
            for len in [2, 3] {
                let Some(at) = name.len().checked_sub(len).filter(|at| *at > 0 && name.is_char_boundary(*at))
                else {
                    continue;
                };
                if name[at..].bytes().all(|b| b.is_ascii_lowercase()) {
                    found.push(numbered(at, name.len()));
                }
            }
        }
        // Before an extension.
        if let Some((stem, extension)) = name.rsplit_once('.')
            && RAW_SUFFIXES[..9].contains(&extension.to_ascii_lowercase().as_str())
        {
            let at = digits_to(stem.len());
            // `disk-0.raw`, `disk-1.raw` are what virtual machines call disks of their own.
            if stem.len() - at > 2 && at > 0 && stem[..at].ends_with(['.', '_', '-']) {
                found.push(numbered(at, stem.len()));
            }
        }
        found.retain(|n| n.counter.is_ascii());
        found.dedup();
        found
    }

    /// Returns what the counter counts in if it is a first one: zeros, or zeros and a one, or `aa`.
    fn first_of(&self) -> Option<Symbols> {
        let zeros = self.counter.trim_start_matches('0');
        let letters = (2..=5).contains(&self.counter.len()) && self.counter.bytes().all(|b| b == b'a');
        match zeros {
            "" | "1" if !self.counter.is_empty() => Some(Symbols::Decimal),
            _ if letters => Some(Symbols::Letters),
            _ => None,
        }
    }

    /// Whether the name alone says that the file is a piece: `disk_001.img` and `disk.1` may be disks of their own.
    fn is_sure(&self) -> bool {
        self.after.is_empty() && self.counter.len() > 1
    }
}

fn beside(input: &Input, name: &str) -> Result<Option<FileNo>, Error> {
    input.beside(Path::new(name))
}

/// A disk in pieces.
struct Series {
    /// The name of the first one, taken apart.
    first: Numbered,
    symbols: Symbols,
    /// The names of the others, in order, with their files.
    others: Vec<(String, FileNo)>,
}

/// Finds the pieces that follow the file of `input`, if its name is that of a first one and there is a second one.
fn series(input: &Input) -> Result<Option<Series>, Error> {
    let Some(name) = input.path().file_name().and_then(|n| n.to_str()) else { return Ok(None) };
    for first in Numbered::all(name) {
        let Some(symbols) = first.first_of() else { continue };
        let mut found: Option<Series> = None;
        // In hexadecimal digits only if something there is: a decimal counter looks the same up to its tenth.
        let orders =
            if symbols == Symbols::Decimal { &[Symbols::Hexadecimal, symbols][..] } else { &[symbols] };
        for symbols in orders {
            let others = followers(input, &first, *symbols)?;
            let hexadecimal = *symbols == Symbols::Hexadecimal;
            if others.is_empty()
                || (hexadecimal && !others.iter().any(|(name, _)| is_hexadecimal(&first, name)))
            {
                continue;
            }
            found = Some(Series { first: first.clone(), symbols: *symbols, others });
            break;
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn is_hexadecimal(first: &Numbered, name: &str) -> bool {
    let counter = name.strip_prefix(&first.before).and_then(|rest| rest.strip_suffix(&first.after));
    counter.is_some_and(|counter| counter.bytes().any(|b| b.is_ascii_lowercase()))
}

/// The files that follow `first`, one after the other.
fn followers(input: &Input, first: &Numbered, symbols: Symbols) -> Result<Vec<(String, FileNo)>, Error> {
    let mut others: Vec<(String, FileNo)> = Vec::new();
    let mut counter = first.counter.clone();
    'next: loop {
        for next in symbols.successors(&counter) {
            let name = first.with(next.clone()).name();
            if let Some(file) = beside(input, &name)? {
                others.push((name, file));
                counter = next;
                continue 'next;
            }
        }
        return Ok(others);
    }
}

/// Whether the name of the image's file is that of a first piece: it says that, or another piece lies next to it.
pub(super) fn is_first(input: &Input) -> Result<bool, Error> {
    Ok(!input.is_device() && !input.is_folder() && series(input)?.is_some())
}

/// Finds the files of the disk: the one that was named and, if that is a first piece, those that follow it. Gives where
/// each ends on the disk, in bytes. Pieces that are missing, or not of the same size, are an error, and so is a piece that
/// is not the first one.
pub(super) fn find(input: &Input) -> Result<Vec<(u64, FileNo)>, Error> {
    let alone = vec![(input.len(), Input::MAIN)];
    if input.is_device() || input.is_folder() {
        return Ok(alone);
    }
    let Some(series) = series(input)? else {
        refuse_later_piece(input)?;
        refuse_hole(input, None)?;
        return Ok(alone);
    };
    refuse_hole(input, Some(&series))?;
    let piece = input.len();
    let mut parts = alone;
    let mut end = piece;
    for (i, (name, file)) in series.others.iter().enumerate() {
        let len = input.len_of(*file);
        let last = i + 1 == series.others.len();
        if (len != piece && !last) || len > piece {
            let what = format!("its piece '{name}' has {len} bytes, and the first one has {piece}");
            return Err(Error::bad_image(what).hint(
                "all pieces but the last one are of one size: is one of them cut off, or of another disk?",
            ));
        }
        end = end
            .checked_add(len)
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or_else(|| Error::bad_image("the pieces together are longer than a disk can be"))?;
        parts.push((end, *file));
    }
    if !series.first.is_sure() && !are_pieces(input, &parts) {
        let name = series.first.name();
        let other = &series.others[0].0;
        let what = format!("'{other}' lies next to it: these may be disks of their own, or one in pieces");
        let plain = series.first.before.trim_end_matches(['.', '_', '-']);
        return Err(Error::bad_image(what).hint(format!(
            "as a disk of its own: ln -s {name} {plain}-alone.raw; as one in pieces, link them as {plain}.001, {plain}.002, …"
        )));
    }
    Ok(parts)
}

/// Whether files whose names do not say it for sure are pieces of one disk: the partition table of the first one goes on
/// past its end, or there are three of them or more, of which only the last one is shorter and none begins like a disk.
fn are_pieces(input: &Input, parts: &[(u64, FileNo)]) -> bool {
    let start = |file, len| input.bytes_of(file, 0, len, "the first sectors").unwrap_or_default();
    if let Some(end) = partitions_end(&start(Input::MAIN, 1024)) {
        return end > input.len();
    }
    let begins_like_a_disk = |file: FileNo| {
        start(file, 512).get(510..) == Some(&[0x55, 0xAA])
            // ext2 to ext4, ISO 9660.
            || input.bytes_of(file, 0x438, 2, "a superblock").is_ok_and(|b| b == [0x53, 0xEF])
            || input.bytes_of(file, 0x8001, 5, "a volume descriptor").is_ok_and(|b| b == b"CD001")
    };
    let shorter = parts.last().is_some_and(|(_, file)| input.len_of(*file) < input.len());
    parts.len() > 2 && shorter && !parts[1..].iter().any(|(_, file)| begins_like_a_disk(*file))
}

/// Returns where the partitions end that the first two sectors of a disk tell of, in bytes: a GPT's last sector, or the end
/// of an MBR's last partition.
fn partitions_end(start: &[u8]) -> Option<u64> {
    if start.get(510..512)? != [0x55, 0xAA] {
        return None;
    }
    if start.get(512..520) == Some(b"EFI PART".as_slice()) && start.len() >= 552 {
        return le64(start, 544).checked_add(1)?.checked_mul(SECTOR.into());
    }
    let ends = start[446..510].chunks_exact(16).filter(|entry| entry[4] != 0);
    let ends = ends.map(|entry| (u64::from(le32(entry, 8)) + u64::from(le32(entry, 12))) * u64::from(SECTOR));
    ends.max()
}

/// Refuses a piece in the middle, by its name: it would be taken for a disk.
fn refuse_later_piece(input: &Input) -> Result<(), Error> {
    let Some(name) = input.path().file_name().and_then(|n| n.to_str()) else { return Ok(()) };
    for numbered in Numbered::all(name) {
        let count = numbered.counter.len();
        let firsts = ["0".repeat(count), format!("{:0>count$}", 1), "a".repeat(count.min(3))];
        for first in firsts.into_iter().map(|counter| numbered.with(counter)) {
            let (is_first, sure) = (first.counter == numbered.counter, first.is_sure());
            if is_first || !sure || first.first_of().is_none_or(|s| !s.make(&numbered.counter)) {
                continue;
            }
            if let Some(file) = beside(input, &first.name())?
                && input.len_of(file) >= input.len()
            {
                let what = format!("is one piece of a disk whose first one is '{}'", first.name());
                return Err(Error::bad_image(what).hint("name the first piece: the others are found by it"));
            }
        }
    }
    Ok(())
}

/// Refuses a disk of which a later piece is there and an earlier one is not.
fn refuse_hole(input: &Input, series: Option<&Series>) -> Result<(), Error> {
    let Some(name) = input.path().file_name().and_then(|n| n.to_str()) else { return Ok(()) };
    let known: Vec<(Numbered, Symbols, &str)> = match series {
        Some(s) => {
            let last = s.others.last().map_or(name, |(name, _)| name);
            vec![(s.first.clone(), s.symbols, last)]
        }
        None => Numbered::all(name)
            .into_iter()
            .filter(Numbered::is_sure)
            .filter_map(|first| Some((first.clone(), first.first_of()?, name)))
            .collect(),
    };
    for (first, symbols, last) in known {
        let counter_of = |name: &str| {
            let counter = name.strip_prefix(&first.before)?.strip_suffix(&first.after)?;
            let width = first.counter.len();
            let fits = counter.len() == width
                || (symbols == Symbols::Decimal && counter.len() > width && !counter.starts_with('0'))
                || (counter.len() > width && counter.starts_with('z'));
            (fits && symbols.make(counter)).then(|| (counter.len(), counter.to_owned()))
        };
        let Some(last) = counter_of(last) else { continue };
        let names = input.names(Path::new("."))?.unwrap_or_default();
        let mut later: Vec<_> = names.iter().filter_map(|name| Some((counter_of(name)?, name))).collect();
        later.retain(|(counter, _)| *counter > last);
        later.sort();
        for (_, later) in later {
            // A file of another kind of that name, a directory, is none of the disk's.
            let Ok(Some(file)) = beside(input, later) else { continue };
            let len = input.len_of(file);
            if len == 0 || len > input.len() {
                continue;
            }
            let missing = symbols.successors(&last.1).into_iter().next().unwrap_or_default();
            let what =
                format!("its piece '{}' is missing, and '{later}' is there", first.with(missing).name());
            return Err(Error::bad_image(what).hint("put all pieces of the disk into one directory"));
        }
    }
    Ok(())
}

/// Returns what the files next to a raw image are called after: its name without counter and extension.
pub(super) fn stem(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let pieces = Numbered::all(name);
    let first = pieces.iter().find(|n| n.is_sure() && n.first_of().is_some());
    let stem = match first {
        Some(first) => first.before.trim_end_matches(['.', '_', '-']),
        None => Path::new(name).file_stem()?.to_str()?,
    };
    (!stem.is_empty()).then(|| PathBuf::from(stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_as_the_programs_count() {
        let next = |s: Symbols, counter| s.successors(counter).join(" ");
        use Symbols::*;
        assert_eq!(next(Decimal, "001"), "002");
        assert_eq!(next(Decimal, "999"), "1000");
        assert_eq!(next(Decimal, "9"), "10");
        assert_eq!(next(Decimal, "89"), "90 9000");
        assert_eq!(next(Decimal, "9899"), "9900 990000");
        assert_eq!(next(Letters, "az"), "ba");
        assert_eq!(next(Letters, "yz"), "za zaaa");
        assert_eq!(next(Letters, "zyzz"), "zzaa zzaaaa");
        assert_eq!(next(Letters, "zz"), "");
        assert_eq!(next(Hexadecimal, "09"), "0a");
        assert_eq!(next(Hexadecimal, "ef"), "f0 f000");
    }

    #[test]
    fn names_are_taken_apart_around_their_counter() {
        let firsts = |name: &str| {
            let found = Numbered::all(name).into_iter().filter(|n| n.first_of().is_some());
            found.map(|n| format!("{}|{}|{}", n.before, n.counter, n.after)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(firsts("disk.001"), "disk.|001|");
        assert_eq!(firsts("disk_001"), "disk_|001|");
        assert_eq!(firsts("disk.img.aa"), "disk.img.|aa|");
        assert_eq!(firsts("xaa"), "x|aa|");
        assert_eq!(firsts("x00"), "x|00|");
        assert_eq!(firsts("disk_001.img"), "disk_|001|.img");
        assert_eq!(firsts("disk.002"), "");
        assert_eq!(firsts("disk.raw"), "");
        assert_eq!(stem(Path::new("/x/disk.001")), Some("disk".into()));
        assert_eq!(stem(Path::new("/x/disk.img.aa")), Some("disk.img".into()));
        assert_eq!(stem(Path::new("/x/disk.raw")), Some("disk".into()));
    }
}

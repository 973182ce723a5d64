//! Raw images in pieces: which file names are pieces of one disk, and in which order.
//!
//! A piece's name has a counter at its end (`disk.001`, `disk_001`, `disk.aa`, `xaa`), or before an extension
//! (`disk_001.img`). Metadata: FTK Imager, dc3dd and X-Ways count `.001` … `.999`, `.1000`; dcfldd and guymager begin at
//! `.000`; GNU split counts in letters, with `-d` in decimal and with `-x` in hexadecimal digits, and where it runs out of
//! two it goes on with more of them: `yz`, `zaaa`; `89`, `9000`; `ef`, `f000`.

mod disk_end;
mod names;

use std::path::{Path, PathBuf};

use cdi_base::error::Error;
use cdi_base::units::index;
use disk_end::disk_end;
use names::{Numbered, Strength, Symbols};

use super::Input;
use crate::extent::FileNo;

/// The names that raw images have, but for counters.
pub(crate) const RAW_SUFFIXES: &[&str] = &[
    "raw", "img", "dd", "ima", "image", "bin", "iso", "dsk", "hdd", "000", "001", "0000", "0001", "00001",
    "aa", "aaa",
];

fn sibling(input: &Input, name: &str) -> Result<Option<FileNo>, Error> {
    input.sibling(Path::new(name))
}

fn file_name(input: &Input) -> Option<&str> {
    input.path().file_name()?.to_str()
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
    let Some(name) = file_name(input) else { return Ok(None) };
    for first in Numbered::all(name) {
        let Some(symbols) = first.first_of() else { continue };
        let symbols = if symbols == Symbols::Decimal && has_hexadecimal(input, &first)? {
            Symbols::Hexadecimal
        } else {
            symbols
        };
        let others = followers(input, &first, symbols)?;
        if !others.is_empty() {
            return Ok(Some(Series { first, symbols, others }));
        }
    }
    Ok(None)
}

/// Whether a file lies there that is called like a piece, with a counter in hexadecimal digits: up to the tenth piece there is
/// no other way to tell.
fn has_hexadecimal(input: &Input, first: &Numbered) -> Result<bool, Error> {
    if first.counter.len() < 2 || first.strength() == Strength::Weak {
        return Ok(false);
    }
    let names = input.names(Path::new("."))?.unwrap_or_default();
    let is_one = |counter: &str| {
        counter.len() == first.counter.len()
            && Symbols::Hexadecimal.make(counter)
            && counter.bytes().any(|b| b.is_ascii_digit())
            && counter.bytes().any(|b| b.is_ascii_lowercase())
    };
    Ok(names.iter().any(|name| first.counter_of(name).is_some_and(is_one)))
}

/// The files that follow `first`, one after the other.
fn followers(input: &Input, first: &Numbered, symbols: Symbols) -> Result<Vec<(String, FileNo)>, Error> {
    let mut others: Vec<(String, FileNo)> = Vec::new();
    let mut counter = first.counter.clone();
    'next: loop {
        for next in symbols.successors(&counter) {
            let name = first.with(next.clone()).name();
            if let Some(file) = sibling(input, &name)? {
                others.push((name, file));
                counter = next;
                continue 'next;
            }
        }
        return Ok(others);
    }
}

/// Whether the name of the image's file is that of a first piece, and another piece lies next to it.
pub(crate) fn is_first(input: &Input) -> Result<bool, Error> {
    if input.is_device() || input.is_folder() {
        return Ok(false);
    }
    Ok(series(input)?.is_some_and(|series| series.first.strength() != Strength::Weak))
}

/// The name of a file next to the image that is called like it but for a counter: it may be a piece, or have pieces.
pub(crate) fn neighbour(input: &Input) -> Option<String> {
    let name = file_name(input).filter(|_| !input.is_device() && !input.is_folder())?;
    let names = input.names(Path::new(".")).ok()??;
    for numbered in Numbered::all(name) {
        let like = |other: &&String| {
            let counter = numbered.counter_of(other).unwrap_or_default();
            let kind = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
            *other != name
                && counter.len() == numbered.counter.len()
                && kind(counter) == kind(&numbered.counter)
        };
        if let Some(other) = names.iter().filter(like).min() {
            return Some(other.clone());
        }
    }
    None
}

/// Finds the files of the disk: the one that was named and, if that is a first piece, those that follow it. Gives where
/// each ends on the disk, in bytes. Pieces that are missing, or not of the same size, are an error, and so is a piece that
/// is not the first one.
pub(crate) fn find(input: &Input) -> Result<Vec<(u64, FileNo)>, Error> {
    let alone = vec![(input.len(), Input::MAIN)];
    if input.is_device() || input.is_folder() {
        return Ok(alone);
    }
    refuse_later_piece(input)?;
    let Some(series) = series(input)? else {
        refuse_link(input)?;
        refuse_hole(input, None)?;
        return Ok(alone);
    };
    let says = what_they_say(input, &series);
    match series.first.strength() {
        Strength::Weak if says != Some(true) => return Ok(alone),
        Strength::Sure if says == Some(false) => return Err(open_question(&series)),
        Strength::Likely if says != Some(true) => return Err(open_question(&series)),
        _ => {}
    }
    refuse_hole(input, Some(&series))?;
    let piece = input.len();
    let mut parts = alone;
    let mut end = piece;
    for (i, (name, file)) in series.others.iter().enumerate() {
        let len = input.len_of(*file);
        let last = i + 1 == series.others.len();
        if (len != piece && !last) || len > piece || len == 0 {
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
    Ok(parts)
}

/// The error for files that may be pieces of one disk, or disks of their own: neither is guessed.
fn open_question(series: &Series) -> Error {
    let name = series.first.name();
    let other = &series.others[0].0;
    let plain = series.first.before.trim_end_matches(['.', '_', '-']);
    let what = format!("'{other}' lies next to it: these may be disks of their own, or one in pieces");
    Error::bad_image(what).hint(format!(
        "as a disk of its own: ln -s {name} {plain}-alone.raw; as one in pieces, link them as {plain}-all.001, \
         {plain}-all.002, …"
    ))
}

/// Nobody has so many disks of one size with names of a series, in one directory.
const MANY: usize = 7;

/// Whether what is in the files says that they are pieces of one disk, or that they are not. They are if the first one's
/// partition table or file system goes on past its end, and are not if that ends within it. Without either, they are if there
/// are three of them or more, of which only the last one is shorter, or very many, and none but the first begins like a disk.
fn what_they_say(input: &Input, series: &Series) -> Option<bool> {
    let begins_like_a_disk = |file: FileNo| {
        let start = |at, len| input.bytes_of(file, at, len, "the first sectors").unwrap_or_default();
        start(510, 2) == [0x55, 0xAA] || start(0x438, 2) == [0x53, 0xEF] || start(0x8001, 5) == b"CD001"
    };
    let others = series.others.iter().map(|(_, file)| *file);
    let another = others.clone().any(begins_like_a_disk);
    let start = input.bytes(0, index(input.len().min(2048)), "the first sectors").unwrap_or_default();
    match disk_end(&start) {
        Some(end) if end > input.len() => return Some(true),
        // What lies past the last partition is only free space, unless another disk begins there.
        Some(_) if another || series.first.strength() != Strength::Sure => return Some(false),
        _ => {}
    }
    let lens: Vec<u64> = others.map(|file| input.len_of(file)).collect();
    let shorter = lens.last().is_some_and(|last| *last < input.len());
    (!another && ((lens.len() > 1 && shorter) || lens.len() >= MANY)).then_some(true)
}

/// Refuses a piece in the middle, by its name: it would be taken for a disk.
fn refuse_later_piece(input: &Input) -> Result<(), Error> {
    let Some(name) = file_name(input) else { return Ok(()) };
    for numbered in Numbered::all(name).into_iter().filter(|n| n.strength() == Strength::Sure) {
        let count = numbered.counter.len();
        let firsts = ["0".repeat(count), format!("{:0>count$}", 1), "a".repeat(count), "A".repeat(count)];
        for first in firsts.into_iter().map(|counter| numbered.with(counter)) {
            let is_earlier = first.counter < numbered.counter;
            let symbols = first.first_of().filter(|s| s.make(&numbered.counter));
            if is_earlier && symbols.is_some() && sibling(input, &first.name())?.is_some() {
                let what = format!("is one piece of a disk whose first one is '{}'", first.name());
                return Err(Error::bad_image(what).hint("name the first piece: the others are found by it"));
            }
        }
    }
    Ok(())
}

/// Refuses a link to the first piece of a disk: the others do not lie next to the link.
fn refuse_link(input: &Input) -> Result<(), Error> {
    let is_link = input.path().symlink_metadata().is_ok_and(|meta| meta.is_symlink());
    let Some(path) = is_link.then(|| input.path().canonicalize().ok()).flatten() else { return Ok(()) };
    let named_first = |name: &str| {
        Numbered::all(name).into_iter().find(|n| n.first_of().is_some() && n.strength() == Strength::Sure)
    };
    let (Some(link), Some(file)) = (file_name(input), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(());
    };
    // One that is called otherwise stands for the file alone.
    let (Some(_), Some(first)) = (named_first(link), named_first(file)) else { return Ok(()) };
    let symbols = first.first_of().unwrap_or(Symbols::Decimal);
    let next = symbols.successors(&first.counter).into_iter().map(|next| first.with(next).name());
    if next.into_iter().any(|next| path.with_file_name(next).exists()) {
        let what = format!("is a link to the first piece of a disk, {}", path.display());
        return Err(Error::bad_image(what).hint("name that: the others lie next to it"));
    }
    Ok(())
}

/// Refuses a disk of which a later piece is there and an earlier one is not.
fn refuse_hole(input: &Input, series: Option<&Series>) -> Result<(), Error> {
    let Some(name) = file_name(input) else { return Ok(()) };
    let count = series.map_or(0, |s| s.others.len()) as u64;
    let known: Vec<(Numbered, Symbols, &str)> = match series {
        Some(s) => {
            let last = s.others.last().map_or(name, |(name, _)| name);
            vec![(s.first.clone(), s.symbols, last)]
        }
        None => Numbered::all(name)
            .into_iter()
            .filter(|n| n.strength() == Strength::Sure)
            .filter_map(|first| Some((first.clone(), first.first_of()?, name)))
            .collect(),
    };
    for (first, symbols, last) in known {
        let width = first.counter.len();
        let wide = symbols.all()[symbols.all().len() - 1];
        let counter_of = |name: &str| {
            let counter = first.counter_of(name)?;
            let longer = match symbols {
                Symbols::Decimal => !counter.starts_with('0'),
                _ => counter.bytes().next() == Some(wide),
            };
            let fits = counter.len() == width || (counter.len() > width && longer);
            (fits && symbols.make(counter)).then(|| (counter.len(), counter.to_owned()))
        };
        let Some(last) = counter_of(last) else { continue };
        let names = input.names(Path::new("."))?.unwrap_or_default();
        let mut later: Vec<_> = names.iter().filter_map(|name| Some((counter_of(name)?, name))).collect();
        later.retain(|(counter, _)| *counter > last);
        later.sort();
        for (_, later) in later {
            // A file of another kind of that name, a directory, is none of the disk's.
            let Ok(Some(file)) = sibling(input, later) else { continue };
            let len = input.len_of(file);
            if len == 0 || (len > input.len() && first.strength() != Strength::Sure) {
                continue;
            }
            // Extensions are letters, too: `disk.log` is a piece only if it is as long as one, or not far away.
            let ordinals =
                symbols.ordinal(&last.1).zip(symbols.ordinal(first.counter_of(later).unwrap_or_default()));
            let far = ordinals.is_some_and(|(a, b)| b.saturating_sub(a) > 2 * count + 16);
            if matches!(symbols, Symbols::Letters | Symbols::Capitals) && far && len != input.len() {
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
pub(crate) fn stem(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let pieces = Numbered::all(name);
    let separated = |n: &&Numbered| n.before.ends_with(['.', '_', '-']);
    let first = pieces
        .iter()
        .filter(separated)
        .find(|n| n.after.is_empty() && n.strength() != Strength::Weak && n.first_of().is_some());
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
    fn what_lies_next_to_a_disk_is_called_after_it() {
        assert_eq!(stem(Path::new("/x/disk.001")), Some("disk".into()));
        assert_eq!(stem(Path::new("/x/disk.img.aa")), Some("disk.img".into()));
        assert_eq!(stem(Path::new("/x/disk.raw")), Some("disk".into()));
        assert_eq!(stem(Path::new("/x/disk1.raw")), Some("disk1".into()));
    }
}

//! Raw images split into pieces: which files are pieces of one disk, and in which order.
//!
//! A piece's name has a counter at its end (`disk.001`, `disk_001`, `disk.aa`, `xaa`), or before an extension
//! (`disk_001.img`). Conventions: FTK Imager, dc3dd and X-Ways count `.001` … `.999`, `.1000`; dcfldd and guymager
//! begin at `.000`; GNU split counts in letters, with `-d` in decimal and with `-x` in hexadecimal digits, and
//! continues with longer counters when it runs out of two: `yz`, `zaaa`; `89`, `9000`; `ef`, `f000`.

pub(crate) mod disk_end;
mod missing;
mod names;

use std::path::{Path, PathBuf};

use cdi_base::error::Error;
use cdi_base::units::index;
use disk_end::disk_end;
use missing::refuse_missing_piece;
use names::{Numbered, Strength, Symbols};

use super::Input;
use crate::extent::FileNo;
use crate::text::command::new_name;

/// The file name suffixes of raw images, apart from counters.
pub(crate) const RAW_SUFFIXES: &[&str] = &[
    "raw", "img", "dd", "ima", "image", "bin", "iso", "dsk", "hdd", "000", "001", "0000", "0001", "00001",
    "aa", "aaa",
];

fn sibling(input: &Input, name: &str) -> Result<Option<FileNo>, Error> {
    input.sibling(Path::new(name))
}

/// How many pieces are looked for where files cannot be listed: a server may have an answer for every name.
const UNLISTED: usize = 4096;

fn file_name(input: &Input) -> Option<&str> {
    input.path().file_name()?.to_str()
}

/// A disk split into pieces.
struct Series {
    /// The name of the first piece, split around its counter.
    first: Numbered,
    symbols: Symbols,
    /// The names of the other pieces, in order, with their files.
    others: Vec<(String, FileNo)>,
}

/// Finds the pieces that follow the file of `input`, if its name is that of a first piece and there is a second one.
fn series(input: &Input) -> Result<Option<Series>, Error> {
    let Some(name) = file_name(input) else { return Ok(None) };
    for first in Numbered::all(name) {
        let Some(symbols) = first.symbols_if_first() else { continue };
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

/// Returns whether there is a file that is named like a piece, with a counter in hexadecimal digits: up to the tenth
/// piece, hexadecimal cannot be distinguished from decimal in any other way.
fn has_hexadecimal(input: &Input, first: &Numbered) -> Result<bool, Error> {
    if first.counter.len() < 2 || first.strength() == Strength::Weak {
        return Ok(false);
    }
    let names = input.names(Path::new("."))?.unwrap_or_default();
    let is_one = |counter: &str| {
        counter.len() == first.counter.len()
            && Symbols::Hexadecimal.contains(counter)
            && counter.bytes().any(|b| b.is_ascii_digit())
            && counter.bytes().any(|b| b.is_ascii_lowercase())
    };
    Ok(names.iter().any(|name| first.counter_of(name).is_some_and(is_one)))
}

const ONE_FILE: &str = "download the pieces, and open the first of them";

/// Returns the consecutive files that follow `first`.
fn followers(input: &Input, first: &Numbered, symbols: Symbols) -> Result<Vec<(String, FileNo)>, Error> {
    let mut others: Vec<(String, FileNo)> = Vec::new();
    let mut counter = first.counter.clone();
    let mut is_listed = false;
    'next: loop {
        for next in symbols.successors(&counter) {
            let name = first.with(next.clone()).name();
            if let Some(file) = sibling(input, &name)? {
                others.push((name, file));
                counter = next;
                if others.len() >= UNLISTED && !is_listed {
                    is_listed = input.names(Path::new("."))?.is_some();
                    if !is_listed {
                        let what = format!(
                            "more than {UNLISTED} pieces: the server, which does not list files, may have an answer for \
                             every name"
                        );
                        return Err(Error::failed(what).hint(ONE_FILE));
                    }
                }
                continue 'next;
            }
            if first.strength() != Strength::Weak {
                input.refuse_denied(Path::new(&name))?;
            }
        }
        return Ok(others);
    }
}

/// Returns whether the name of the image's file is that of a first piece, and another piece is next to it.
pub(crate) fn is_first(input: &Input) -> Result<bool, Error> {
    if !input.is_plain_file() {
        return Ok(false);
    }
    Ok(series(input)?.is_some_and(|series| series.first.strength() != Strength::Weak))
}

/// Returns the name of a file next to the image whose name differs from the image's only in a counter: they may be
/// pieces of one disk.
pub(crate) fn neighbour(input: &Input) -> Option<String> {
    let name = file_name(input).filter(|_| input.is_plain_file())?;
    let names = input.names(Path::new(".")).ok()??;
    for numbered in Numbered::all(name) {
        let like = |other: &&String| {
            let counter = numbered.counter_of(other).unwrap_or_default();
            *other != name
                && counter.len() == numbered.counter.len()
                && may_count_on(counter, &numbered.counter)
        };
        let is_file = |other: &&String| input.path().with_file_name(other).is_file();
        if let Some(other) = names.iter().filter(like).filter(is_file).min() {
            return Some(other.clone());
        }
    }
    None
}

/// Suffixes of files that are next to images, and are no counters.
const NOT_COUNTERS: &[&str] = &[
    "bak", "bin", "bmp", "bz2", "cfg", "conf", "csv", "dd", "dmg", "doc", "docx", "gif", "gz", "hdd", "hds",
    "html", "img", "iso", "jpeg", "jpg", "json", "log", "lst", "lz", "lz4", "map", "md", "md5", "mf", "nfo",
    "old", "ova", "ovf", "par", "pdf", "png", "pvm", "py", "qed", "raw", "rar", "rtf", "sfv", "sh", "sha",
    "sig", "sum", "svg", "tar", "tgz", "tif", "toml", "tsv", "txt", "vhd", "vhdx", "vdi", "vma", "vmdk",
    "xls", "xml", "xz", "yaml", "yml", "zip", "zst",
];

/// Returns whether two texts may be counters of one series: they consist of the same symbols, and neither is the suffix
/// of another kind of file.
fn may_count_on(one: &str, other: &str) -> bool {
    use Symbols::{Capitals, Decimal, Hexadecimal, Letters};
    let kinds = [Decimal, Hexadecimal, Letters, Capitals];
    let suffix = |text: &str| NOT_COUNTERS.contains(&text.to_ascii_lowercase().as_str());
    !suffix(one)
        && !suffix(other)
        && kinds.iter().any(|symbols| symbols.contains(one) && symbols.contains(other))
}

/// Returns the hint to join the pieces of one `whole`, for a file that is not an image by itself and has the neighbour
/// `other`.
pub(crate) fn join_hint(input: &Input, whole: &str, other: &str) -> String {
    let joined = new_name(input.path(), "joined", if whole == "disk" { ".raw" } else { "" });
    format!("if it and '{other}' are pieces of one {whole}, join all of them, in order: cat … > {joined}")
}

/// Finds the files of the disk: the given file and, if that is a first piece, those that follow it. Returns where each
/// ends on the disk, in bytes. It is an error if pieces are missing or not of the same size, or if the given file is a
/// piece other than the first.
pub(crate) fn find(input: &Input) -> Result<Vec<(u64, FileNo)>, Error> {
    let alone = vec![(input.len(), Input::MAIN)];
    if !input.is_plain_file() {
        return Ok(alone);
    }
    refuse_unreadable_name(input)?;
    refuse_later_piece(input)?;
    let Some(series) = series(input)? else {
        refuse_link(input)?;
        refuse_missing_piece(input, None)?;
        return Ok(alone);
    };
    let by_contents = pieces_by_contents(input, &series);
    match series.first.strength() {
        Strength::Weak if by_contents != Some(true) => return Ok(alone),
        Strength::Sure if by_contents == Some(false) => return Err(ambiguous(&series)),
        Strength::Likely if by_contents != Some(true) => return Err(ambiguous(&series)),
        _ => {}
    }
    refuse_missing_piece(input, Some(&series))?;
    let piece = input.len();
    let mut parts = alone;
    let mut end = piece;
    for (i, (name, file)) in series.others.iter().enumerate() {
        let len = input.len_of(*file);
        let last = i + 1 == series.others.len();
        if (len != piece && !last) || len > piece || len == 0 {
            let what = format!("piece '{name}' has {len} bytes, but the first piece has {piece}");
            return Err(Error::bad_image(what).hint(
                "all pieces except the last must have the same size: check whether one is truncated or of another disk",
            ));
        }
        end = end.checked_add(len).filter(|end| i64::try_from(*end).is_ok()).ok_or_else(|| {
            Error::bad_image("the total size of the pieces exceeds the maximum size of a disk")
        })?;
        parts.push((end, *file));
    }
    Ok(parts)
}

/// Returns the error for files that may be pieces of one disk or separate disks: the program does not guess.
fn ambiguous(series: &Series) -> Error {
    let name = series.first.name();
    let other = &series.others[0].0;
    let plain = series.first.before.trim_end_matches(['.', '_', '-']);
    let what = format!("'{other}' is next to it: these may be separate disks, or pieces of one disk");
    Error::bad_image(what).hint(format!(
        "to open it as a separate disk: ln -s {name} {plain}-alone.raw; for pieces of one disk, link them as \
         {plain}-all.001, {plain}-all.002, …"
    ))
}

/// At least this many files of one size with consecutive names are unlikely to be separate disks.
const MANY_PIECES: usize = 7;

/// Returns whether the files are pieces of one disk according to their contents, if that can be determined. They are if
/// the partition table or file system in the first one extends past its end, and are not if it ends within the first
/// one. Without either, they are if there are at least three files of which only the last is shorter, or very many
/// files, and none but the first begins like a disk.
fn pieces_by_contents(input: &Input, series: &Series) -> Option<bool> {
    let others = series.others.iter().map(|(_, file)| *file);
    let another = others.clone().any(|file| begins_like_a_disk(input, file));
    let start = input.bytes(0, index(input.len().min(2048)), "the first sectors").unwrap_or_default();
    match disk_end(&start) {
        Some(end) if end > input.len() => return Some(true),
        // The space past the last partition is just free space, unless another disk begins there.
        Some(_) if another || series.first.strength() != Strength::Sure => return Some(false),
        _ => {}
    }
    let lens: Vec<u64> = others.map(|file| input.len_of(file)).collect();
    let shorter = lens.last().is_some_and(|last| *last < input.len());
    (!another && ((lens.len() > 1 && shorter) || lens.len() >= MANY_PIECES)).then_some(true)
}

/// Returns whether one of the image's files begins with a partition table or a common file system.
pub(crate) fn begins_like_a_disk(input: &Input, file: FileNo) -> bool {
    // MBR, GPT, NTFS and FAT; ext; ISO 9660; XFS; LUKS; LVM; APFS; HFS+; F2FS; btrfs; swap.
    const SIGNS: [(u64, &[u8]); 12] = [
        (510, &[0x55, 0xAA]),
        (0x438, &[0x53, 0xEF]),
        (0x8001, b"CD001"),
        (0, b"XFSB"),
        (0, b"LUKS\xBA\xBE"),
        (512, b"LABELONE"),
        (32, b"NXSB"),
        (1024, b"H+\0\x04"),
        (1024, b"HX\0\x05"),
        (1024, &[0x10, 0x20, 0xF5, 0xF2]),
        (0x1_0040, b"_BHRfS_M"),
        (4086, b"SWAPSPACE2"),
    ];
    let is = |(at, sign): &(u64, &[u8])| {
        input.bytes_of(file, *at, sign.len(), "the first sectors").is_ok_and(|b| b == *sign)
    };
    SIGNS.iter().any(is)
}

/// Refuses a piece whose name is not UTF-8, because those of the others are not found.
fn refuse_unreadable_name(input: &Input) -> Result<(), Error> {
    let Some(name) = input.path().file_name().filter(|name| name.to_str().is_none()) else { return Ok(()) };
    let name = name.to_string_lossy();
    if Numbered::all(&name).iter().any(|numbered| numbered.strength() == Strength::Sure) {
        let what = "the name is that of a piece of a disk, but not UTF-8: the other pieces are not found";
        return Err(Error::bad_image(what).hint("rename the pieces, or link them under other names"));
    }
    Ok(())
}

/// Refuses a later piece, by its name: it would be mistaken for a whole disk.
pub(crate) fn refuse_later_piece(input: &Input) -> Result<(), Error> {
    let Some(name) = file_name(input) else { return Ok(()) };
    for numbered in Numbered::all(name).into_iter().filter(|n| n.strength() == Strength::Sure) {
        let count = numbered.counter.len();
        let firsts = ["0".repeat(count), format!("{:0>count$}", 1), "a".repeat(count), "A".repeat(count)];
        for first in firsts.into_iter().map(|counter| numbered.with(counter)) {
            let is_earlier = first.counter < numbered.counter;
            let symbols = first.symbols_if_first().filter(|s| s.contains(&numbered.counter));
            if is_earlier && symbols.is_some() && sibling(input, &first.name())?.is_some() {
                let what = format!("not the first piece of the disk: that is '{}'", first.name());
                return Err(
                    Error::bad_image(what).hint("open the first piece; the others are found automatically")
                );
            }
        }
    }
    Ok(())
}

/// Refuses a link to the first piece of a disk: the other pieces are not next to the link.
fn refuse_link(input: &Input) -> Result<(), Error> {
    let is_link = input.path().symlink_metadata().is_ok_and(|meta| meta.is_symlink());
    let Some(path) = is_link.then(|| input.path().canonicalize().ok()).flatten() else { return Ok(()) };
    let named_first = |name: &str| {
        Numbered::all(name)
            .into_iter()
            .find(|n| n.symbols_if_first().is_some() && n.strength() == Strength::Sure)
    };
    let (Some(link), Some(file)) = (file_name(input), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(());
    };
    // A link with another kind of name refers to the file alone.
    let (Some(_), Some(first)) = (named_first(link), named_first(file)) else { return Ok(()) };
    let symbols = first.symbols_if_first().unwrap_or(Symbols::Decimal);
    let next = symbols.successors(&first.counter).into_iter().map(|next| first.with(next).name());
    if next.into_iter().any(|next| path.with_file_name(next).exists()) {
        let what = format!("symbolic link to the first piece of a disk, {}", path.display());
        return Err(Error::bad_image(what).hint("open that file instead: the other pieces are next to it"));
    }
    Ok(())
}

/// Returns the stem after which the files next to a raw image are named: its name without counter and extension.
pub(crate) fn stem(path: &Path) -> Option<PathBuf> {
    let Some(name) = path.file_name()?.to_str() else { return path.file_stem().map(PathBuf::from) };
    let pieces = Numbered::all(name);
    let separated = |n: &&Numbered| n.before.ends_with(['.', '_', '-']);
    let first = pieces
        .iter()
        .filter(separated)
        .find(|n| n.after.is_empty() && n.strength() != Strength::Weak && n.symbols_if_first().is_some());
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
    fn the_stem_has_no_counter_and_extension() {
        assert_eq!(stem(Path::new("/x/disk.001")), Some("disk".into()));
        assert_eq!(stem(Path::new("/x/disk.img.aa")), Some("disk.img".into()));
        assert_eq!(stem(Path::new("/x/disk.raw")), Some("disk".into()));
        assert_eq!(stem(Path::new("/x/disk1.raw")), Some("disk1".into()));
    }
}

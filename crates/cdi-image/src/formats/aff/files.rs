//! The files of an AFF image: one, the files of an AFD, or an AFM and its raw files.

use std::ops::Range;
use std::path::PathBuf;

use cdi_base::error::Error;
use cdi_base::units::plural;

use super::MAGIC;
use super::gathered::Gathered;
use super::segments::{Damage, walk};
use crate::bytes::flaw;
use crate::details::ImageDetails;
use crate::extent::{Extent, FileNo, Origin};
use crate::input::Input;

/// Maximum number of files of an AFD, and of raw files: as many as there are names.
const MAX_AFD: u32 = 1000;
const MAX_RAW: u64 = 1000 + 26 * 36 * 36;

/// Reads the segments of all files of the image. What is damaged or missing is noted in `details`.
pub(super) fn gather(input: &Input, details: &mut ImageDetails) -> Result<Gathered, Error> {
    let mut gathered = Gathered::default();
    read(input, Input::MAIN, &mut gathered, details)?;
    if gathered.file_type.as_deref() != Some("AFD") {
        refuse_later_file(input, &gathered)?;
        return Ok(gathered);
    }
    let mut missing = Vec::new();
    for number in 1..MAX_AFD {
        let name = afd_name(number);
        let Some(file) = input.sibling(name.as_ref())? else {
            missing.push(name);
            continue;
        };
        if !missing.is_empty() {
            details.incomplete = true;
            let count = plural(missing.len() as u64, "file");
            details.warnings.push(format!("{count} missing before '{name}', the first is '{}'", missing[0]));
            missing.clear();
        }
        if input.bytes_of(file, 0, MAGIC.len(), "the header")? != MAGIC {
            return flaw(0, "not an AFF image").map_err(|e: Error| e.at(&input.path_of(file)));
        }
        read(input, file, &mut gathered, details)?;
    }
    Ok(gathered)
}

/// Reads the segments of a file.
fn read(
    input: &Input,
    file: FileNo,
    gathered: &mut Gathered,
    details: &mut ImageDetails,
) -> Result<(), Error> {
    let damage = walk(input, file, &mut |segment| gathered.segment(input, &segment));
    if let Some(damage) = damage.map_err(|e| e.at(&input.path_of(file)))? {
        note_damage(input, file, &damage, details);
    }
    Ok(())
}

/// Returns the name of a file of an AFD.
fn afd_name(number: u32) -> String {
    format!("file_{number:03}.aff")
}

/// Refuses a file of an AFD that is not the first.
fn refuse_later_file(input: &Input, gathered: &Gathered) -> Result<(), Error> {
    let name = input.name().file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = name.strip_prefix("file_").and_then(|rest| rest.strip_suffix(".aff")?.parse::<u32>().ok());
    let is_later = number.is_some_and(|number| number > 0 && afd_name(number) == name);
    let starts_later = gathered.pages.iter().all(|page| page.number > 0);
    if is_later && starts_later && input.sibling(afd_name(0).as_ref())?.is_some() {
        let error = Error::bad_image("one of several files of an AFD image");
        return Err(error.hint(format!("open the first one, '{}', or the directory", afd_name(0))));
    }
    Ok(())
}

fn note_damage(input: &Input, file: FileNo, damage: &Damage, details: &mut ImageDetails) {
    let Range { start, end } = damage.file;
    details.incomplete = true;
    let which = match file {
        Input::MAIN => String::new(),
        file => format!("{}: ", input.path_of(file).display()),
    };
    details.warnings.push(format!(
        "{which}the segments between byte {start} and byte {end} of the file are damaged or missing ({})",
        damage.error.what
    ));
}

/// The raw files of an AFM, which have the disk's data.
pub(super) struct RawFiles {
    /// In order; None if one is missing.
    files: Vec<Option<FileNo>>,
    /// How much of the disk is in each, in bytes; the last one may have less.
    each: u64,
}

impl RawFiles {
    /// Finds the files next to the image, the first of which has the image's name and this suffix. Each has `pages`
    /// pages, or everything is in one.
    pub(super) fn find(
        input: &Input,
        suffix: &str,
        pages: Option<u64>,
        page_size: u64,
        size: u64,
    ) -> Result<RawFiles, Error> {
        let is_plain = !suffix.is_empty() && suffix.bytes().all(|b| b.is_ascii_alphanumeric());
        let each = match pages {
            None | Some(0) => Some(size),
            Some(pages) => pages.checked_mul(page_size).map(|each| each.min(size)),
        };
        let count = each.map_or(u64::MAX, |each| size.div_ceil(each));
        let (true, Some(each), 1..=MAX_RAW) = (is_plain, each, count) else {
            return flaw(0, format!("invalid description of raw files: '{suffix}', {count} files"));
        };
        if count > 1 && suffix != "000" {
            return flaw(
                0,
                format!("raw files whose names end with '.{suffix}', and so on, are not supported"),
            );
        }
        let name = |number| {
            let suffix = if number == 0 { suffix.to_owned() } else { raw_suffix(number) };
            input.name().with_extension(suffix).file_name().map(PathBuf::from).unwrap_or_default()
        };
        let files: Result<Vec<_>, Error> = (0..count).map(|number| input.sibling(&name(number))).collect();
        let files = files?;
        if files.iter().all(Option::is_none) {
            let what = format!("'{}', which contains the disk, is missing", name(0).display());
            return Err(Error::bad_image(what).hint("an AFM has the metadata of an image only"));
        }
        Ok(RawFiles { files, each })
    }

    /// Returns the parts of the disk, of `size` bytes, that are not in the files.
    pub(super) fn missing(&self, input: &Input, size: u64) -> Vec<Range<u64>> {
        let part = |(number, file): (usize, &Option<FileNo>)| {
            let start = number as u64 * self.each;
            let end = size.min(start + self.each);
            let len = file.map_or(0, |file| input.len_of(file));
            end.min(start.saturating_add(len))..end
        };
        self.files.iter().enumerate().map(part).filter(|range| range.start < range.end).collect()
    }

    /// Returns the extent at `offset` of the disk of `size` bytes.
    pub(super) fn map(&self, input: &Input, offset: u64, size: u64) -> Extent {
        let number = offset / self.each;
        let start = number * self.each;
        let end = size.min(start + self.each);
        let file = usize::try_from(number).ok().and_then(|number| *self.files.get(number)?);
        let stop = file.map_or(start, |file| end.min(start.saturating_add(input.len_of(file))));
        match file.filter(|_| offset < stop) {
            Some(file) => Extent { disk: offset..stop, origin: Origin::Stored { file, at: offset - start } },
            None => Extent { disk: offset..end, origin: Origin::Unread },
        }
    }
}

/// Returns the suffix of a raw file: 000 to 999, then A00 to ZZZ, in which digits come before letters.
fn raw_suffix(number: u64) -> String {
    let Some(n) = number.checked_sub(1000) else { return format!("{number:03}") };
    let digit = |n: u64| char::from_digit((n % 36) as u32, 36).unwrap_or('0').to_ascii_uppercase();
    [digit(10 + n / 1296), digit(n / 36), digit(n)].iter().collect()
}

#[cfg(test)]
mod tests {
    use super::{MAX_RAW, raw_suffix};

    #[test]
    fn raw_files_are_named_as_afflib_names_them() {
        let names = [0, 7, 999, 1000, 1009, 1010, 1036, 2296, MAX_RAW - 1].map(raw_suffix);
        assert_eq!(names, ["000", "007", "999", "A00", "A09", "A0A", "A10", "B00", "ZZZ"]);
    }
}

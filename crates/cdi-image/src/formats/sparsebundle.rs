//! Apple's sparse bundles: a directory with a property list and the disk split into bands, one file each.
//!
//! Sources: bundles by hdiutil and Time Machine. `Info.plist` contains the size of the disk and of a band; band n is
//! the file `bands/HEX`. Missing bands, and the missing end of a short one, are zeros. If the bundle is encrypted,
//! `token` is the header of an encrypted image (`encrcdsa/mod.rs`), and so is each band.

use cdi_base::workers::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::{SECTOR, index};

use super::chain::zeros;
use super::encrcdsa::{self, Unlocked};
use super::property_list;
use crate::bytes::flaw;
use crate::details::ImageDetails;
use crate::extent::{Extent, FileNo, Origin};
use crate::image::{CheckCancelled, Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;

/// Sparse bundles.
pub const FORMAT: Format = Format {
    name: "sparsebundle",
    summary: "Apple's sparse bundles: directories with the disk in bands",
    integrity: "none: the format has no checksums, so damage cannot be detected",
    suffixes: &["sparsebundle"],
    probe: |input| input.list() == Some("Info.plist"),
    open,
};

/// Maximum length of a property list in bytes.
const MAX_LEN: u64 = 1 << 20;

struct Bundle {
    input: Arc<Input>,
    size: u64,
    band: u64,
    /// The numbers of the bands that exist, in order.
    present: Vec<u64>,
    /// The bands opened so far.
    opened: Mutex<HashMap<u64, FileNo>>,
    /// The keys, if the bundle is encrypted.
    unlocked: Option<Unlocked>,
    details: ImageDetails,
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let mut warnings = Vec::new();
    if input.is_copy() {
        warnings.push("Info.plist is missing; its copy, Info.bckup, was used".into());
    }
    let list = match list(&input, Input::MAIN) {
        Ok(list) => list,
        // If one is damaged, the other may be intact.
        Err(e) => {
            let copy =
                if input.is_copy() { None } else { input.sibling("Info.bckup".as_ref()).ok().flatten() };
            let copied = copy.and_then(|copy| list(&input, copy).ok());
            warnings.push(format!("Info.plist is unusable ({}); its copy, Info.bckup, was used", e.what));
            copied.ok_or(e)?
        }
    };
    let number = |key: &str| list.get(key).and_then(|v| v.as_unsigned_integer()).unwrap_or(0);
    let (size, band) = (number("size"), number("band-size"));
    if size == 0 || i64::try_from(size).is_err() {
        return flaw(0, format!("invalid disk size: {size} bytes"));
    }
    if band == 0 || band % u64::from(SECTOR) != 0 || i64::try_from(band).is_err() {
        return flaw(0, format!("invalid band size: {band} bytes"));
    }
    let token = input.sibling("token".as_ref())?.filter(|token| encrcdsa::is_encrypted(&input, *token));
    let unlocked =
        token.map(|token| Unlocked::of_file(&input, token, options.passphrase.as_ref())).transpose()?;
    if let Some(block) = unlocked.as_ref().map(|u| u64::from(u.block())).filter(|block| band % block != 0) {
        return flaw(0, format!("bands of {band} bytes do not consist of encrypted blocks of {block} bytes"));
    }
    let Some(names) = input.names("bands".as_ref())? else {
        return Err(Error::bad_image("incomplete sparse bundle: the directory 'bands' is missing"));
    };
    let mut present: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    present.sort_unstable();
    present.dedup();
    let inside = present.partition_point(|n| *n < size.div_ceil(band));
    let past_end = present.len() - inside;
    present.truncate(inside);
    if past_end > 0 {
        warnings.push(format!("ignoring bands past the end of the disk: {past_end}"));
    }
    if present.is_empty() {
        warnings.push("there are no bands: the whole disk is zeros".into());
    }
    let metadata = Metadata {
        size_bytes: size,
        logical_sector_bytes: options.sector_size.unwrap_or(SECTOR),
        ..Metadata::default()
    };
    Ok(Box::new(Bundle {
        input,
        size,
        band,
        present,
        opened: Mutex::default(),
        unlocked,
        details: ImageDetails { metadata, warnings, ..ImageDetails::default() },
    }))
}

/// Reads the property list of a sparse bundle.
fn list(input: &Input, file: FileNo) -> Result<property_list::Dictionary, Error> {
    let len = input.len_of(file);
    if len > MAX_LEN {
        return flaw(0, "too long for a property list");
    }
    let text = input.bytes_of(file, 0, index(len), "the property list")?;
    let list = property_list::read(&text).or_else(|e| flaw(0, e))?;
    let list = list.into_dictionary().unwrap_or_default();
    let kind = list.get("diskimage-bundle-type").and_then(|v| v.as_string()).unwrap_or_default();
    if kind != "com.apple.diskimage.sparsebundle" {
        return flaw(0, format!("not a sparse bundle: its type is '{kind}'"));
    }
    Ok(list)
}

/// Returns the number of the band of this name: hexadecimal, as written by `format!("{n:x}")`.
fn number_of(name: &str) -> Option<u64> {
    // Upper case counts as a band as well: that it is later not found by its name is an error, instead of zeros.
    u64::from_str_radix(name, 16).ok().filter(|n| format!("{n:x}").eq_ignore_ascii_case(name))
}

impl Bundle {
    fn file(&self, band: u64) -> Result<FileNo, ReadError> {
        let lock = || lock(&self.opened);
        if let Some(file) = lock().get(&band) {
            return Ok(*file);
        }
        let name = format!("{band:x}");
        let found = self.input.sibling_in("bands", name.as_ref()).ok().flatten().and_then(|file| {
            let Some(unlocked) = &self.unlocked else { return Some(file) };
            unlocked.band(&self.input, file, &self.input.path_of(file)).ok()
        });
        // The file existed when the bundle was opened.
        let file = found.ok_or(ReadError::Unmapped { offset: band * self.band })?;
        Ok(*lock().entry(band).or_insert(file))
    }
}

impl Image for Bundle {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let band = offset / self.band;
        let next = self.present.partition_point(|n| *n < band);
        if self.present.get(next) != Some(&band) {
            let end = self.present.get(next).map_or(self.size, |n| (n * self.band).min(self.size));
            return Ok(zeros(offset, end));
        }
        let file = self.file(band)?;
        let start = band * self.band;
        let end = self.size.min(start + self.band);
        let data_end = end.min(start.saturating_add(self.input.len_of(file)));
        if offset >= data_end {
            return Ok(zeros(offset, end));
        }
        Ok(Extent { disk: offset..data_end, origin: Origin::Stored { file, at: offset - start } })
    }

    fn check(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        for band in &self.present {
            match self.file(*band) {
                Ok(file) if self.input.len_of(file) > self.band => {
                    let what = format!("band {band:x} is longer than the band size");
                    report(Flaw::at(self.band, what), "nothing: the excess is ignored");
                }
                Ok(_) => {}
                Err(e) => report(Flaw::at(0, format!("band {band:x}: {e}")), "the disk data in this band"),
            }
            check_cancelled()?;
        }
        Ok(())
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}

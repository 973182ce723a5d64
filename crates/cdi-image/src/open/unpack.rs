//! Images that are compressed as a whole are unpacked before their format is looked for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_base::units::index;

use super::{FORMATS, choose, crashed, named_by, with_article};
use crate::extent::FileNo;
use crate::formats::raw;
use crate::image::{Image, OpenOptions};
use crate::input::{Input, pieces};
use crate::packed::{self, PACKINGS, Packing};
use crate::part::with_details;

/// Returns the image with the unpacked contents of its main file in place of a packed one.
pub(super) fn unpacked(input: Input, options: &OpenOptions) -> Result<Input, Error> {
    // A format whose magic is elsewhere may begin with packed data.
    if input.is_directory() || FORMATS.iter().any(|format| (format.probe)(&input)) {
        return Ok(input);
    }
    let start = input.bytes(0, index(input.len().min(16)), "the header")?;
    let Some(packing) = Packing::of(&start) else { return Ok(input) };
    let inner = packed::inner_name(input.path());
    let named = named_by(input.path()).filter(|format| by_packing(format.name).is_none());
    match (options.format.as_deref(), &inner, named) {
        (Some(name), ..) if by_packing(name).is_some_and(|other| other != packing) => {
            let what = format!(
                "not {} file: it begins like {} file",
                with_article(name),
                with_article(packing.name())
            );
            return Err(Error::bad_image(what).hint(Advice::NameFormat(vec![packing.name()])));
        }
        (Some(name), ..) if by_packing(name).is_some() => {}
        (Some(name), Some(_), _) if name != raw::FORMAT.name => {}
        // The bytes themselves are what is meant.
        (Some(_), ..) => return Ok(input),
        (None, Some(_), _) => {}
        (None, None, None) if !input.is_device() => {}
        // The contents of a raw disk must not choose how it is read.
        (None, None, named) => {
            let named = named.unwrap_or(&raw::FORMAT).name;
            let what =
                format!("its name says {named}, but it begins like {} file", with_article(packing.name()));
            return Err(Error::bad_image(what).hint(Advice::NameFormat(vec![named, packing.name()])));
        }
    }
    let files: Vec<FileNo> = pieces::find(&input)?.into_iter().map(|(_, file)| file).collect();
    let name = inner.unwrap_or_else(|| input.path().to_owned());
    let head = packed::head(&input.joined(&files), packing)
        .map_err(|e| Error::io("cannot read", input.path(), e))?;
    // What it is not worth to make the index for is refused first.
    choose(&input.within(Arc::new(head), &name)?, options).map_err(|mut e| {
        // What is in it may be a raw disk; with `--format raw`, the file itself would be one.
        for advice in e.advice.iter_mut().filter(|advice| matches!(advice, Advice::ListFormats)) {
            *advice = Advice::NameFormat(vec![packing.name()]);
        }
        e
    })?;
    let indexes = options.indexes.as_deref();
    let source = catch_unwind(AssertUnwindSafe(|| packed::unpack(&input, &files, packing, indexes)));
    let source = source.unwrap_or_else(|_| Err(crashed(packing.name())))?;
    input.within(Arc::new(source), &name)
}

/// Returns the packing whose raw disks this format is.
fn by_packing(format: &str) -> Option<Packing> {
    PACKINGS.into_iter().find(|packing| packing.name() == format)
}

/// Adds what is known about the packed file in which an image is, unless its format has done that. Where on the disk the
/// damage is, is not known; reads of what could not be unpacked, or may be wrong, fail ([`Input::refuse_suspect`]).
pub(super) fn with_damage(image: Box<dyn Image>, input: &Input) -> Box<dyn Image> {
    let Some(packed) = input.packed().filter(|_| image.details().packed.is_empty()) else { return image };
    let mut details = image.details().clone();
    details.add_damage(packed, image.size(), |_| Vec::new());
    details.incomplete |= !packed.lost.is_empty();
    with_details(image, details)
}

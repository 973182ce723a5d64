//! Chains of images: a difference, and what lies below it.

use std::path::Path;

use super::input::Input;
use super::{Extent, FileNo, Origin, Packed};
use crate::error::Error;

/// How many parents a disk may have, one behind the other.
const DEEPEST: usize = 16;

/// One more than `depth`, if a chain may be so deep. A chain that comes back to itself ends here.
pub(super) fn deeper(depth: usize) -> Result<usize, Error> {
    if depth < DEEPEST {
        return Ok(depth + 1);
    }
    Err(Error::bad_image(format!("more than {DEEPEST} parents, one behind the other, are not read")))
}

/// The parent that a difference tells of. Windows tells the whole path; only its last part can lie beside the image.
pub(super) fn parent(input: &Input, told: &str) -> Result<FileNo, Error> {
    let name = told.rsplit(['\\', '/']).next().unwrap_or_default();
    input.beside(Path::new(name))?.ok_or_else(|| {
        Error::bad_image(format!("this is the difference to '{told}', which is not there"))
            .hint(format!("put '{name}' beside the image, or name its folder: --allow-parent DIR"))
    })
}

/// The part of an extent from `offset` to `end`.
pub(super) fn cut(extent: Extent, offset: u64, end: u64) -> Extent {
    let by = offset.saturating_sub(extent.disk.start);
    let origin = match extent.origin {
        Origin::Packed(p) => {
            Origin::Packed(Packed { skip: p.skip.saturating_add(u32::try_from(by).unwrap_or(u32::MAX)), ..p })
        }
        Origin::Stored { file, at } => Origin::Stored { file, at: at + by },
        other => other,
    };
    Extent { disk: extent.disk.start.max(offset)..extent.disk.end.min(end), origin }
}

/// Zeros from `offset` to `end`.
pub(super) fn zeros(offset: u64, end: u64) -> Extent {
    Extent { disk: offset..end, origin: Origin::Fill([0; 8]) }
}

//! VMware disk images (`.vmdk`): sparse, stream optimised, flat, split into several extent files, with parents.
//!
//! Sources: "Virtual Disk Format 5.0" (VMware, 2011), qemu's reader, and images by qemu-img and VMware. All numbers are
//! little-endian, and count sectors of 512 bytes. A text (the descriptor), in a file of its own or embedded in a sparse
//! file, lists the extents.

mod descriptor;
mod sparse;

use std::path::Path;
use std::sync::Arc;

use cdi_base::error::{Error, ReadError};
use cdi_base::units::{SECTOR, index};
use descriptor::{Descriptor, Kind, Line, Name, PROBE_LEN};
use sparse::Sparse;

use super::chain::{self, Chain, Found, Layer as _, next_depth, zeros};
use crate::bytes::flaw;
use crate::details::ImageDetails;
use crate::extent::{Extent, FileNo, Origin};
use crate::image::{Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;

/// VMware's images.
pub const FORMAT: Format = Format {
    name: "vmdk",
    summary: "VMware's VMDK: sparse, stream optimised, flat, split, ESX's COWD and SEsparse, with parents",
    integrity: "zlib checksums of each grain in stream optimised images; none otherwise",
    suffixes: &["vmdk"],
    probe: |input| {
        let begins = |what: &[u8]| input.bytes(0, what.len(), "the header").is_ok_and(|b| b == what);
        begins(sparse::HOSTED)
            || begins(sparse::COWD)
            || input.bytes(0, PROBE_LEN, "the header").is_ok_and(|b| descriptor::is_descriptor(&b))
    },
    open,
};

/// Maximum length of a descriptor in bytes.
const MAX_LEN: u64 = 2 << 20;

/// One disk of a chain.
pub(super) struct Layer {
    /// The extents, each with its end offset on the disk in bytes and the location of its data.
    extents: Vec<(u64, Place)>,
    content: Option<u32>,
    kind: String,
    parent: Option<Box<Layer>>,
}

enum Place {
    Flat { file: FileNo, at: u64 },
    Zeros,
    Sparse(Sparse),
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let mut warnings = Vec::new();
    let top = open_layer(&input, Input::MAIN, 0, &mut warnings)?;
    let mut metadata = Metadata {
        size_bytes: top.size(),
        logical_sector_bytes: options.sector_size.unwrap_or(SECTOR),
        ..Metadata::default()
    };
    metadata.more.insert("vmdk_type".into(), top.kind.clone().into());
    Ok(Box::new(Chain {
        input,
        top,
        details: ImageDetails { metadata, warnings, ..ImageDetails::default() },
    }))
}

pub(super) fn open_layer(
    input: &Input,
    file: FileNo,
    depth: usize,
    warnings: &mut Vec<String>,
) -> Result<Layer, Error> {
    let is_text =
        input.bytes_of(file, 0, PROBE_LEN, "the header").is_ok_and(|b| descriptor::is_descriptor(&b));
    let own = if is_text { None } else { Some(Sparse::open(input, file)?) };
    let (at, len) = match &own {
        None => (0, input.len_of(file)),
        Some(sparse) => sparse.descriptor.ok_or_else(extent_only)?,
    };
    if len > MAX_LEN {
        return flaw(at, format!("the descriptor is too long ({len} bytes)"));
    }
    let text = input.bytes_of(file, at, index(len), "the descriptor")?;
    let text = text.split(|b| *b == 0).next().unwrap_or_default();
    let descriptor = descriptor::parse(text).or_else(|e| flaw(at, e))?;
    let Descriptor { extents: lines, content, parent, kind } = descriptor;
    let mut own = own;
    let mut extents: Vec<(u64, Place)> = Vec::new();
    let mut end = 0u64;
    for line in &lines {
        // The first extent of a file with an embedded descriptor is that file itself, even if it was renamed.
        let place = match own.take() {
            Some(sparse) if line.kind == Kind::Sparse => Place::Sparse(sparse),
            _ => place(input, line)?,
        };
        if let Place::Sparse(sparse) = &place
            && sparse.len < line.len
        {
            let what = format!("the extent '{}' has {} bytes instead of {}", line.file, sparse.len, line.len);
            return Err(Error::bad_image(what));
        }
        end = end
            .checked_add(line.len)
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or_else(|| Error::bad_image("the total size of the extents is too large"))?;
        extents.push((end, place));
    }
    if end == 0 {
        // qemu-img leaves space for a descriptor in the extents of split disks.
        if own.is_some() {
            return Err(extent_only());
        }
        return flaw(at, "the descriptor lists no extents");
    }
    let parent = match parent {
        None => None,
        Some((content, name)) => {
            let file = find(input, &name, "parent of this differencing image")?;
            let path = input.path_of(file);
            let parent = open_layer(input, file, next_depth(depth)?, warnings).map_err(|e| e.at(&path))?;
            if parent.content != Some(content) {
                let what = format!(
                    "the parent '{name}' was modified after this differencing image was created: its CID does not match"
                );
                return Err(Error::bad_image(what));
            }
            warnings.push(format!("differencing image: blocks not in it are read from {}", path.display()));
            Some(Box::new(parent))
        }
    };
    Ok(Layer { extents, content, kind, parent })
}

fn extent_only() -> Error {
    Error::bad_image("this is one extent of a disk and contains no descriptor")
        .hint("open the disk's descriptor instead: the .vmdk without -s001, -flat etc. in its name")
}

/// Finds the file of this name; `what` describes its role in errors.
fn find(input: &Input, name: &Name, what: &str) -> Result<FileNo, Error> {
    let mut refused = None;
    for path in name.paths() {
        match chain::find(input, path) {
            Ok(Some(file)) => return Ok(file),
            Ok(None) => {}
            Err(e) => refused = refused.or(Some(e)),
        }
    }
    Err(refused.unwrap_or_else(|| chain::missing(what, Path::new(&name.to_string()))))
}

/// Locates the data of an extent.
fn place(input: &Input, line: &Line) -> Result<Place, Error> {
    if line.kind == Kind::Zero {
        return Ok(Place::Zeros);
    }
    let file = find(input, &line.file, "extent")?;
    if line.kind == Kind::Sparse {
        return Sparse::open(input, file).map(Place::Sparse).map_err(|e| e.at(&input.path_of(file)));
    }
    if line.at.checked_add(line.len).is_none_or(|end| end > input.len_of(file)) {
        let what = format!(
            "the extent '{}' has {} bytes, which is too short for {} bytes at offset {}",
            line.file,
            input.len_of(file),
            line.len,
            line.at
        );
        return Err(Error::bad_image(what));
    }
    Ok(Place::Flat { file, at: line.at })
}

impl chain::Layer for Layer {
    fn size(&self) -> u64 {
        self.extents.last().map_or(0, |(end, _)| *end)
    }

    fn parent(&self) -> Option<&dyn chain::Layer> {
        Some(&**self.parent.as_ref()?)
    }

    fn find(&self, input: &Input, offset: u64, end: u64) -> Result<Found, ReadError> {
        let n = self.extents.partition_point(|(end, _)| *end <= offset);
        let (stop, place) = self.extents.get(n).ok_or(ReadError::Unmapped { offset })?;
        let start = n.checked_sub(1).map_or(0, |before| self.extents[before].0);
        let end = end.min(*stop);
        Ok(match place {
            Place::Zeros => Found::Here(zeros(offset, end)),
            Place::Flat { file, at } => {
                let at = at + (offset - start);
                Found::Here(Extent { disk: offset..end, origin: Origin::Stored { file: *file, at } })
            }
            Place::Sparse(sparse) => match sparse.map(input, offset - start, end - start)? {
                (Some(e), _) => {
                    let disk = e.disk.start + start..e.disk.end + start;
                    Found::Here(Extent { disk, ..e }.cut(offset, end))
                }
                (None, stop) => Found::Below(offset..stop + start),
            },
        })
    }
}

//! What disk images are: a format says *where* the bytes of the disk are, and nothing else.
//!
//! A format is one file with a `pub const FORMAT` and one line in [`FORMATS`]. It never reads for a caller and
//! never decompresses; [`crate::disk`] does both, for all formats, in one loop.

pub mod about;
pub mod aff4;
pub mod bad;
mod badblocks;
mod below;
pub mod cdi;
pub mod cells;
mod chain;
pub mod changing;
pub mod chd;
pub mod claims;
pub mod codec;
mod containers;
pub mod dmg;
pub mod ewf;
pub mod ewf2;
pub mod facts;
mod fields;
pub mod iboredimg;
pub mod input;
mod lines;
pub mod listing;
pub mod mapfile;
mod parts;
mod pieces;
mod properties;
pub mod qcow2;
pub mod raw;
pub mod sparsebundle;
pub mod sparseimage;
mod superclone;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
pub mod zstd_seekable;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Flaw, ReadError};
use about::About;
use bad::BadBlocks;
use claims::Claim;
use codec::{Codec, Sum};
use facts::Facts;
use input::{Input, ReadAt};

/// A disk image's index, opened. It knows where the bytes of the disk are.
pub trait Image: Send + Sync {
    /// The size of the disk in bytes. Never 0.
    fn size(&self) -> u64;

    /// The run of disk bytes around `offset` (which must be less than [`Image::size`]) and where it comes from.
    fn map(&self, offset: u64) -> Result<Extent, ReadError>;

    /// What was found out at opening.
    fn about(&self) -> &About;

    /// What could not be read of the disk when the image was made, and what was not tried.
    fn bad(&self) -> &BadBlocks {
        &self.about().bad
    }

    /// What is known about the disk and about how the image was made.
    fn facts(&self) -> &Facts {
        &self.about().facts
    }

    /// What the user should know about this file, though it could be opened.
    fn remarks(&self) -> &[String] {
        &self.about().remarks
    }

    /// The hashes that the image holds of its disk, as far as the format has any.
    fn claims(&self) -> &[Claim] {
        &self.about().claims
    }

    /// Whether some of its files are missing or cut off: what it says of the disk may not be all.
    fn is_incomplete(&self) -> bool {
        self.about().incomplete || !self.lost().is_empty()
    }

    /// What its maker had read of the disk, and the files that are here do not hold: ranges in bytes, in order.
    fn lost(&self) -> &[Range<u64>] {
        &self.about().lost
    }

    /// Reads what of its index readers will want, if it keeps that and has not read it at opening. Errors are left to
    /// them.
    fn warm(&self) {}

    /// Gives what happened while the image was made, in that order: lines of JSON. `go_on` is called often. An error of
    /// either ends it.
    fn events(&self, _each: &mut Each<'_>, _go_on: &mut GoOn<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// Reads every structure of the format that reading the disk does not touch, and reports what does not add
    /// up: (where in the file, what is wrong, what it costs). The disk's data is checked by the caller. `go_on` is called
    /// often, and its error ends it.
    fn check(&self, _report: &mut dyn FnMut(Flaw, &str), _go_on: &mut GoOn<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// Takes a line of text, or ends what gives it with an error.
pub type Each<'a> = dyn FnMut(&str) -> Result<(), Error> + 'a;

/// An error when a long work is to end, because the user interrupts it.
pub type GoOn<'a> = dyn FnMut() -> Result<(), Error> + 'a;

/// A run of bytes of the disk that come from one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The bytes of the disk, by offset. Never empty.
    pub disk: Range<u64>,
    /// Where they come from.
    pub origin: Origin,
}

/// Which of an image's files, in the order in which [`Input`] holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileNo(pub u32);

/// Where the bytes of an [`Extent`] come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The image holds no bytes for it. The bad-block map says why; if it does not, the image is damaged.
    Unread,
    /// These eight bytes over and over, the first at every multiple of 8 of the disk's offset.
    Fill([u8; 8]),
    /// As they are in the file, from `at` on.
    Stored {
        /// The file that holds them.
        file: FileNo,
        /// The offset in the file of the extent's first byte.
        at: u64,
    },
    /// In a packed chunk of the file.
    Packed(Packed),
}

/// A packed chunk, and where in it an extent begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Packed {
    /// The file that holds the chunk.
    pub file: FileNo,
    /// The offset of the chunk in the file.
    pub at: u64,
    /// The length of the chunk in the file.
    pub len: u32,
    /// How many unpacked bytes come before the extent's first byte.
    pub skip: u32,
    /// The length of the chunk when it is unpacked.
    pub unpacked: u32,
    /// How it is packed.
    pub codec: Codec,
    /// The checksum of the chunk as it lies in the file.
    pub sum: Sum,
}

impl Origin {
    /// Whether these are zeros that need not be stored anywhere.
    pub fn is_zero(&self) -> bool {
        *self == Origin::Fill([0; 8])
    }
}

/// No packed chunk of any format may be longer than this when it is unpacked.
pub const LONGEST_CHUNK: u32 = 16 << 20;

/// A format: how it is recognised and how it is opened.
pub struct Format {
    /// Its name, as `--format` takes it.
    pub name: &'static str,
    /// What it is, in a line.
    pub summary: &'static str,
    /// Which integrity it offers, for `info` and `formats`.
    pub integrity: &'static str,
    /// Suffixes (without the dot) that say a file without a magic is this format.
    pub suffixes: &'static [&'static str],
    /// Whether a file is this format, by its magic alone.
    pub probe: fn(&Input) -> bool,
    /// Reads the index.
    pub open: Open,
}

/// Reads an image's index.
pub type Open = fn(Arc<Input>, &OpenOptions) -> Result<Box<dyn Image>, Error>;

/// What the user says about an image that he opens.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The format, if he says so.
    pub format: Option<String>,
    /// The map that says which blocks of a raw image are what.
    pub mapfile: Mapfile,
    /// A list that says which blocks of a raw image are bad, and how long a block is, in bytes.
    pub badblocks: Option<(std::path::PathBuf, u64)>,
    /// The disk's logical sector size in bytes, where the image does not say.
    pub sector_size: Option<u32>,
    /// Folders besides the image's own in which its other files may lie.
    pub allowed: Vec<std::path::PathBuf>,
}

/// Which map says what the blocks of a raw image are: ddrescue's mapfile, or HDDSuperClone's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Mapfile {
    /// One that lies next to the image and is called after it, if there is one.
    #[default]
    Beside,
    /// None, whatever lies next to it.
    None,
    /// This one.
    File(std::path::PathBuf),
}

/// Every format that can be read.
pub const FORMATS: &[&Format] = &[
    &cdi::FORMAT,
    &aff4::FORMAT,
    &chd::FORMAT,
    &dmg::FORMAT,
    &ewf::FORMAT,
    &ewf2::FORMAT,
    &iboredimg::FORMAT,
    &qcow2::FORMAT,
    &sparsebundle::FORMAT,
    &sparseimage::FORMAT,
    &vdi::FORMAT,
    &vhd::FORMAT,
    &vhdx::FORMAT,
    &vmdk::FORMAT,
    &zstd_seekable::FORMAT,
    &raw::FORMAT,
];

/// An image, opened: its index, its files, and the format it turned out to be.
pub struct Opened {
    /// The index.
    pub image: Box<dyn Image>,
    /// The files.
    pub input: Arc<Input>,
    /// The format.
    pub format: &'static Format,
}

/// Opens the image at `path`.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Opened, Error> {
    open_input(Input::open(path)?, options)
}

/// Opens the image that is read through `source`, as if it lay at `path`. Tests use it to make reads fail.
pub fn open_source(source: Box<dyn ReadAt>, path: &Path, options: &OpenOptions) -> Result<Opened, Error> {
    open_input(Input::new(source, path)?, options)
}

fn open_input(mut input: Input, options: &OpenOptions) -> Result<Opened, Error> {
    let path = input.path().to_owned();
    input.allow(&options.allowed)?;
    let format = choose(&input, options).map_err(|e| e.at(&path))?;
    let mapfile = matches!(options.mapfile, Mapfile::File(_));
    let given = [("--mapfile", mapfile), ("--badblocks", options.badblocks.is_some())];
    if let Some((name, _)) = given.iter().find(|(_, given)| *given && format.name != raw::FORMAT.name) {
        return Err(
            Error::usage(format!("{name} is for raw images; this is a {} image", format.name)).at(&path)
        );
    }
    let input = Arc::new(input);
    let image = (format.open)(Arc::clone(&input), options).map_err(|e| e.at(&path))?;
    Ok(Opened { image, input, format })
}

/// Chooses the format: what the user says, else by the magic. A file without a magic is raw only if its name says so, and a
/// file whose name says raw but which begins like an image is refused: anybody who controls what is on a raw disk must not
/// choose the parser.
fn choose(input: &Input, options: &OpenOptions) -> Result<&'static Format, Error> {
    if let Some(name) = &options.format {
        return FORMATS.iter().copied().find(|f| f.name == *name).ok_or_else(|| {
            let names: Vec<_> = FORMATS.iter().map(|f| f.name).collect();
            Error::usage(format!("there is no format '{name}' (there are: {})", names.join(", ")))
        });
    }
    let named = match named_by(input.path()) {
        None if pieces::is_first(input)? => Some(&raw::FORMAT),
        named => named,
    };
    let magic = FORMATS.iter().copied().find(|f| (f.probe)(input));
    match (magic, named) {
        (Some(magic), Some(named)) if magic.name != named.name => Err(Error::bad_image(format!(
            "its name says {}, but it begins like a {} image",
            named.name, magic.name
        ))
        .hint(format!("say which it is: --format {} or --format {}", named.name, magic.name))),
        // Nor must what is on a device.
        (Some(magic), None) if input.is_device() => {
            Err(Error::bad_image(format!("is a device that begins like a {} image", magic.name)).hint(
                format!("say which it is: --format raw for the device itself, or --format {}", magic.name),
            ))
        }
        (Some(format), _) => Ok(format),
        (None, named) => {
            let raw = named.is_some_and(|f| f.name == raw::FORMAT.name);
            if let Some(error) = containers::recognised(input, raw) {
                return Err(error);
            }
            let listed = matches!(options.mapfile, Mapfile::File(_)) || options.badblocks.is_some();
            match named {
                Some(format) => Ok(format),
                None if input.is_device() || listed => Ok(&raw::FORMAT),
                None => {
                    let error = Error::bad_image("not an image of any format that is known here");
                    Err(match pieces::neighbour(input) {
                        // What is one of several must not be taken for all.
                        Some(other) => error.hint(format!(
                            "if it and '{other}' are pieces of one disk, join them, in order, into one file: cat … > disk.raw"
                        )),
                        None => error.hint(
                            "'cdi formats' lists the formats; for a raw image without a telling name, say --format raw",
                        ),
                    })
                }
            }
        }
    }
}

/// Returns the format that a file's name says it is, by its suffix.
pub fn named_by(path: &Path) -> Option<&'static Format> {
    let suffix = path.extension().and_then(|s| s.to_str())?.to_ascii_lowercase();
    FORMATS.iter().copied().find(|f| f.suffixes.contains(&suffix.as_str()))
}

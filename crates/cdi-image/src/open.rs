//! Opens an image: the list of formats, and the detection of the format of a file.

#[cfg(feature = "packed")]
mod unpack;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdi_base::advice::Advice;
use cdi_base::error::Error;

use crate::cdimg;
use crate::disk::{BadPolicy, Disk, Options};
use crate::formats::*;
use crate::image::{Format, Image, Mapfile, OpenOptions, Opened};
use crate::input::pieces::{self, join_hint};
use crate::input::{Input, ReadAt, RemoteCache};
use crate::passphrase::Passphrase;

/// Every format that can be read.
pub const FORMATS: &[&Format] = &[
    &cdimg::FORMAT,
    #[cfg(feature = "aff")]
    &aff::FORMAT,
    #[cfg(feature = "aff4")]
    &aff4::FORMAT,
    &android_sparse::FORMAT,
    #[cfg(feature = "apple")]
    &asif::FORMAT,
    #[cfg(feature = "chd")]
    &chd::FORMAT,
    #[cfg(feature = "packed")]
    &clonezilla::FORMAT,
    #[cfg(feature = "apple")]
    &dmg::FORMAT,
    #[cfg(feature = "ewf")]
    &ewf::FORMAT,
    #[cfg(feature = "ewf")]
    &ewf2::FORMAT,
    &iboredimg::FORMAT,
    &partclone::FORMAT,
    #[cfg(feature = "vm")]
    &parallels::FORMAT,
    #[cfg(feature = "vm")]
    &qcow::FORMAT,
    #[cfg(feature = "vm")]
    &qcow2::FORMAT,
    #[cfg(feature = "vm")]
    &qed::FORMAT,
    #[cfg(feature = "apple")]
    &sparsebundle::FORMAT,
    #[cfg(feature = "apple")]
    &sparseimage::FORMAT,
    #[cfg(feature = "vm")]
    &vdi::FORMAT,
    #[cfg(feature = "vm")]
    &vhd::FORMAT,
    #[cfg(feature = "vm")]
    &vhdx::FORMAT,
    #[cfg(feature = "vm")]
    &vma::FORMAT,
    #[cfg(feature = "vm")]
    &vmdk::FORMAT,
    &zstd_seekable::FORMAT,
    // It has next to no magic number, so the others come first.
    #[cfg(feature = "apple")]
    &diskcopy::FORMAT,
    // It may be in another file that it is one.
    #[cfg(feature = "apple")]
    &ndif::FORMAT,
    #[cfg(feature = "packed")]
    &raw::PACKED[0],
    #[cfg(feature = "packed")]
    &raw::PACKED[1],
    #[cfg(feature = "packed")]
    &raw::PACKED[2],
    #[cfg(feature = "packed")]
    &raw::PACKED[3],
    &raw::FORMAT,
];

/// The formats of which an internal snapshot can be opened.
const WITH_SNAPSHOTS: &[&str] = &["parallels", "qcow2"];
/// The formats that may hold several disks.
const WITH_MEMBERS: &[&str] = &["clonezilla", "vma"];

/// The options for opening a disk: format, map, and how reads are answered. Created by [`Disk::options`].
#[derive(Debug, Clone, Default)]
pub struct DiskOptions {
    open: OpenOptions,
    reads: Options,
    part: Option<Range<u64>>,
}

impl Disk {
    /// Opens the image at `path` in any supported format, with its other files and the mapfile next to it, if there
    /// are any.
    ///
    /// # Errors
    ///
    /// An [`Error`] that names the file: [`Kind::BadImage`](cdi_base::error::Kind::BadImage) if it is not an image
    /// that can be read, [`Kind::Failed`](cdi_base::error::Kind::Failed) if it cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Disk, Error> {
        Disk::options().open(path)
    }

    /// Returns the default options, to be changed before a disk is opened.
    pub fn options() -> DiskOptions {
        DiskOptions::default()
    }
}

impl DiskOptions {
    /// Sets the format, for images without a magic number or with an ambiguous one. The names are in [`FORMATS`].
    pub fn format(mut self, name: impl Into<String>) -> DiskOptions {
        self.open.format = Some(name.into());
        self
    }

    /// Sets the mapfile of a raw image. None: no mapfile, even if there is one next to the image.
    pub fn mapfile(mut self, path: Option<&Path>) -> DiskOptions {
        self.open.mapfile = path.map_or(Mapfile::None, |path| Mapfile::File(path.to_owned()));
        self
    }

    /// Sets the list of bad blocks of a raw image, as written by badblocks(8), and its block size in bytes.
    pub fn badblocks(mut self, path: impl Into<PathBuf>, block_size: u64) -> DiskOptions {
        self.open.badblocks = Some((path.into(), block_size));
        self
    }

    /// Sets the logical sector size in bytes, for images that do not record it.
    pub fn sector_size(mut self, bytes: u32) -> DiskOptions {
        self.open.sector_size = Some(bytes);
        self
    }

    /// Also allows parents and extents of the image to be read from this directory. By default only files next to the
    /// image are read.
    pub fn allow_directory(mut self, dir: impl Into<PathBuf>) -> DiskOptions {
        self.open.allowed.push(dir.into());
        self
    }

    /// Opens this internal snapshot, by its name or identifier, in place of the disk as it is now. An error for formats
    /// without snapshots.
    pub fn snapshot(mut self, name: impl Into<String>) -> DiskOptions {
        self.open.snapshot = Some(name.into());
        self
    }

    /// Opens this disk, by its name, of an image that holds several. An error for formats that hold one disk.
    pub fn member(mut self, name: impl Into<String>) -> DiskOptions {
        self.open.member = Some(name.into());
        self
    }

    /// Sets the passphrase of an encrypted image; it is not used for other images.
    pub fn passphrase(mut self, passphrase: Passphrase) -> DiskOptions {
        self.open.passphrase = Some(passphrase);
        self
    }

    /// Keeps what is fetched of a remote image in this directory, up to this number of bytes, also for later.
    pub fn remote_cache(mut self, dir: impl Into<PathBuf>, bytes: u64) -> DiskOptions {
        self.open.remote_cache = Some(RemoteCache { dir: dir.into(), bytes });
        self
    }

    /// Sets what a read of a bad sector returns; an error by default.
    pub fn bad_sectors(mut self, policy: BadPolicy) -> DiskOptions {
        self.reads.bad = policy;
        self
    }

    /// Sets whether reads of suspect sectors return the stored bytes. By default they fail like those of bad sectors.
    pub fn read_suspect(mut self, read: bool) -> DiskOptions {
        self.reads.read_suspect = read;
        self
    }

    /// Sets the maximum memory for decompressed chunks, in bytes; 64 MiB by default.
    pub fn cache(mut self, bytes: usize) -> DiskOptions {
        self.reads.cache = bytes;
        self
    }

    /// Restricts the disk to this range, in bytes, which becomes a disk of its own.
    pub fn part(mut self, range: Range<u64>) -> DiskOptions {
        self.part = Some(range);
        self
    }

    /// Opens the image at `path`. Returns the same errors as [`Disk::open`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<Disk, Error> {
        let opened = open(path.as_ref(), &self.open)?;
        let opened = match self.part {
            Some(range) => opened.part(range)?,
            None => opened,
        };
        Ok(Disk::new(opened, self.reads))
    }
}

/// Opens the image at `path`.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Opened, Error> {
    open_input(Input::open_cached(path, options.remote_cache.as_ref())?, options)
}

/// Opens the image that is read through `source`, as if it were at `path`. Tests use it to make reads fail.
pub fn open_source(source: Box<dyn ReadAt>, path: &Path, options: &OpenOptions) -> Result<Opened, Error> {
    open_input(Input::new(source, path)?, options)
}

/// Returns what a file is that begins like this, if it is not a raw disk: the name of a format, or of a packing.
pub fn begins_like(start: Vec<u8>) -> Option<&'static str> {
    #[cfg(feature = "packed")]
    if let Some(packing) = crate::packed::Packing::of(&start) {
        return Some(packing.name());
    }
    let input = Input::new(Box::new(start), Path::new("-")).ok()?;
    FORMATS.iter().find(|format| (format.probe)(&input)).map(|format| format.name)
}

fn open_input(mut input: Input, options: &OpenOptions) -> Result<Opened, Error> {
    let path = input.path().to_owned();
    input.allow(&options.allowed)?;
    let input =
        if is_beheaded(&input) { input } else { opened_up(input, options).map_err(|e| e.at(&path))? };
    let format = choose(&input, options).map_err(|e| e.at(&path))?;
    // A raw disk that is packed has a format of its own, by its packing.
    let format = match input.packed() {
        Some(packed) if format.name == raw::FORMAT.name => by_name(packed.packing).unwrap_or(format),
        _ => format,
    };
    let mapfile = matches!(options.mapfile, Mapfile::File(_));
    let given = [("a mapfile", mapfile), ("a list of bad blocks", options.badblocks.is_some())];
    if let Some((list, _)) = given.iter().find(|(_, given)| *given && !is_raw(format)) {
        return Err(Error::usage(format!(
            "{list} is for raw images; this is {} image",
            with_article(format.name)
        ))
        .at(&path));
    }
    let chosen = [
        ("a snapshot", options.snapshot.is_some(), WITH_SNAPSHOTS),
        ("one of several disks", options.member.is_some(), WITH_MEMBERS),
    ];
    if let Some((what, ..)) = chosen.iter().find(|(_, given, can)| *given && !can.contains(&format.name)) {
        let why = format!("{what} cannot be chosen: {} images hold one disk", format.name);
        return Err(Error::usage(why).at(&path));
    }
    // Formats that know nothing of packed files must not read what may be wrong.
    if !is_raw(format) && format.name != partclone::FORMAT.name {
        input.refuse_suspect();
    }
    let input = if format.name == cdimg::FORMAT.name {
        cdimg::parity::with_parity(input, cdimg::parity::Purpose::Read).map_err(|e| e.at(&path))?
    } else {
        input
    };
    let input = Arc::new(input);
    let image = guarded(format, &input, options).map_err(|e| e.at(&path))?;
    #[cfg(feature = "packed")]
    let image = unpack::with_damage(image, &input);
    Ok(Opened { image, input, format })
}

/// Returns what is in a file that is encrypted, or compressed as a whole.
#[cfg_attr(not(any(feature = "apple", feature = "packed")), allow(unused_variables))]
fn opened_up(input: Input, options: &OpenOptions) -> Result<Input, Error> {
    #[cfg(feature = "apple")]
    let input = encrcdsa::decrypted(input, options)?;
    #[cfg(feature = "packed")]
    let input = unpack::unpacked(input, options)?;
    Ok(input)
}

/// Returns whether this is an image in our own format of which the start cannot be read: it has copies of what is there.
fn is_beheaded(input: &Input) -> bool {
    !input.is_remote()
        && input.bytes(0, 1, "the header").is_err()
        && ((cdimg::FORMAT.probe)(input)
            || named_by(input.name()).is_some_and(|format| format.name == cdimg::FORMAT.name))
}

/// Returns whether a format is that of raw disks, packed or not.
fn is_raw(format: &Format) -> bool {
    [raw::FORMAT.name, zstd_seekable::FORMAT.name].contains(&format.name)
        || raw::PACKED.iter().any(|packed| packed.name == format.name)
}

fn by_name(name: &str) -> Option<&'static Format> {
    FORMATS.iter().copied().find(|format| format.name == name)
}

fn crashed(name: &str) -> Error {
    Error::bad_image(format!("the reader of {name} images crashed on this file: this is a bug"))
}

/// Reads the index of the image. Converts a panic of the parser to an error.
fn guarded(format: &Format, input: &Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let open = AssertUnwindSafe(|| (format.open)(Arc::clone(input), options));
    catch_unwind(open).unwrap_or_else(|_| Err(crashed(format.name)))
}

/// Chooses the format: the one that the user named, or else by the magic. A file without a magic is raw only if its
/// name says so, and a file whose name says raw but which begins like an image is refused: anyone who controls the
/// contents of a raw disk must not be able to choose the parser.
fn choose(input: &Input, options: &OpenOptions) -> Result<&'static Format, Error> {
    if let Some(name) = &options.format {
        return by_name(name).ok_or_else(|| {
            let names: Vec<_> = FORMATS.iter().map(|f| f.name).collect();
            let by_suffix = named_by(Path::new(&format!("x.{}", name.trim_start_matches('.'))));
            let meant = by_suffix.map_or(String::new(), |f| format!(": did you mean '{}'?", f.name));
            Error::usage(format!("unknown format '{name}'{meant} (known formats: {})", names.join(", ")))
        });
    }
    let named = match named_by(input.name()) {
        // A directory is never raw.
        _ if input.is_directory() => None,
        None if pieces::is_first(input)? => Some(&raw::FORMAT),
        named => named,
    };
    let magic = FORMATS.iter().copied().find(|f| (f.probe)(input));
    match (magic, named) {
        (Some(magic), Some(named)) if magic.name != named.name => Err(Error::bad_image(format!(
            "its name says {}, but it begins like {} image",
            named.name,
            with_article(magic.name)
        ))
        .hint(Advice::NameFormat(vec![named.name, magic.name]))),
        // The contents of a device must not choose the parser either.
        (Some(magic), None) if input.is_device() => {
            Err(Error::bad_image(format!("is a device that begins like {} image", with_article(magic.name)))
                .hint(Advice::NameFormat(vec!["raw", magic.name])))
        }
        (Some(format), _) => Ok(format),
        (None, named) => {
            let raw = named.is_some_and(|f| f.name == raw::FORMAT.name);
            if let Some(error) = unsupported::recognise(input, raw) {
                return Err(error);
            }
            let listed = matches!(options.mapfile, Mapfile::File(_)) || options.badblocks.is_some();
            match named {
                Some(format) => Ok(format),
                None if input.is_device() || listed => Ok(&raw::FORMAT),
                // `dd if=/dev/sda | gzip > sda.gz`: the name says no more.
                None if !input.is_plain_file() && pieces::begins_like_a_disk(input, Input::MAIN) => {
                    Ok(&raw::FORMAT)
                }
                None => {
                    pieces::refuse_later_piece(input)?;
                    let error = Error::bad_image("not an image in a known format");
                    Err(match pieces::neighbour(input) {
                        // One of several pieces must not be mistaken for the whole disk.
                        Some(other) => error.hint(join_hint(input, "disk", &other)),
                        None => error.hint(Advice::ListFormats),
                    })
                }
            }
        }
    }
}

/// Returns the name of a format with its indefinite article.
fn with_article(name: &str) -> String {
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {name}")
}

/// Returns the format that the suffix of a file's name stands for.
pub fn named_by(path: &Path) -> Option<&'static Format> {
    let suffix = path.extension().and_then(|s| s.to_str())?.to_ascii_lowercase();
    FORMATS.iter().copied().find(|f| f.suffixes.contains(&suffix.as_str()))
}

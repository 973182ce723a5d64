//! Opens a packed file: with the index that was kept, or with a new one.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_base::printable::quoted;
use cdi_base::units::{human, index};
use xxhash_rust::xxh3::xxh3_64;

use super::build::{Builder, Stop};
use super::index::{HEADER, Index, Stamp, read_exact};
use super::{Packing, Unpacked, bzip2, gzip, lz4, xz, zstd};
use crate::extent::FileNo;
use crate::indexes::{IndexFile, Indexes, index_name};
use crate::input::{Input, ReadAt};
use crate::text::command::new_name;

/// All packings.
pub const PACKINGS: [Packing; 5] = [Packing::Gzip, Packing::Xz, Packing::Zstd, Packing::Bzip2, Packing::Lz4];

/// How much of both ends of a packed file identifies it, in bytes.
const ENDS: u64 = 64 << 10;
/// How much of the unpacked bytes is looked at before the index is made, in bytes.
const HEAD: u64 = 1 << 20;

/// Returns the name of what is in a packed file with this name: without the suffix of the packing, and without the
/// counter of a piece that is after it. Returns None if the name does not say that it is packed.
pub fn inner_name(path: &Path) -> Option<PathBuf> {
    let suffix = |path: &Path| path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    let is_packed = |path: &Path| {
        let found = suffix(path)?;
        PACKINGS
            .iter()
            .any(|packing| packing.suffixes().contains(&found.as_str()))
            .then(|| path.with_extension(""))
    };
    is_packed(path).or_else(|| is_packed(&path.with_extension("")).filter(|_| suffix(path).is_some()))
}

/// Returns the first unpacked bytes of `source`, at most 1 MiB, as far as they can be decompressed.
pub fn head(source: &Arc<dyn ReadAt>, packing: Packing) -> Result<Vec<u8>, io::Error> {
    let mut head = Vec::new();
    let mut reader = match packing {
        Packing::Gzip => gzip::reader(source, 0, gzip::AT_HEADER, &[])?,
        Packing::Xz => xz::whole(source)?,
        Packing::Zstd => zstd::reader(source, 0, 0, &[])?,
        Packing::Bzip2 => bzip2::whole(source)?,
        Packing::Lz4 => lz4::whole(source)?,
    };
    match reader.by_ref().take(HEAD).read_to_end(&mut head) {
        Err(e) if e.raw_os_error().is_some() => Err(e),
        _ => Ok(head),
    }
}

/// Opens the packed file that `files` of the image are, one after the other.
pub fn unpack(
    input: &Input,
    files: &[FileNo],
    packing: Packing,
    indexes: Option<&dyn Indexes>,
) -> Result<Unpacked, Error> {
    let path = input.path_of(files.first().copied().unwrap_or(Input::MAIN));
    let source = input.joined(files);
    let failed = |e| Error::io("cannot read", &path, e);
    let stamp = stamp(input, files, &*source).map_err(failed)?;
    let mut warnings = Vec::new();
    let found = match kept(input, &path, &stamp, packing, indexes, &mut warnings) {
        Some(found) => found,
        None => {
            let paths: Vec<_> = files.iter().map(|file| input.path_of(*file)).collect();
            make(&paths, &source, packing, stamp, indexes)?
        }
    };
    // What follows is not what a tape or a block of a device is filled up with.
    if found.trailing > 0 && found.cut {
        warnings.push(format!(
            "{} after the {} data are not part of it: if they were, the data is damaged there",
            human(found.trailing),
            packing.name()
        ));
    }
    if found.cut {
        warnings.push(format!(
            "the {} data is damaged or ends too early: {} could be decompressed, what comes after it is lost",
            packing.name(),
            human(found.size)
        ));
    }
    let bytes = |ranges: &[std::ops::Range<u64>]| ranges.iter().map(|r| r.end - r.start).sum::<u64>();
    for (ranges, what) in [
        (found.lost(), "cannot be decompressed"),
        (found.suspect.clone(), "are suspect: the checksum of what was decompressed is wrong"),
    ] {
        if !ranges.is_empty() {
            warnings.push(format!("{} of the {} data {what}", human(bytes(&ranges)), packing.name()));
        }
    }
    Ok(Unpacked::new(source, found, &path, warnings))
}

fn stamp(input: &Input, files: &[FileNo], source: &dyn ReadAt) -> io::Result<Stamp> {
    let len = source.len()?;
    let mut times = Vec::new();
    for file in files {
        let time = input.modified_of(*file).and_then(|time: SystemTime| time.duration_since(UNIX_EPOCH).ok());
        times.extend(time.map_or(0, |time| time.as_nanos()).to_le_bytes());
        times.extend(input.len_of(*file).to_le_bytes());
    }
    let mut ends = vec![0; index(len.min(ENDS))];
    read_exact(source, &mut ends, 0)?;
    let first = xxh3_64(&ends);
    let last = len - ends.len() as u64;
    read_exact(source, &mut ends, last)?;
    Ok(Stamp { len, times: xxh3_64(&times), ends: first ^ xxh3_64(&ends).rotate_left(1) })
}

/// Returns the index that was kept, next to the file or elsewhere, if it is of this version of the file.
fn kept(
    input: &Input,
    path: &Path,
    stamp: &Stamp,
    packing: Packing,
    indexes: Option<&dyn Indexes>,
    warnings: &mut Vec<String>,
) -> Option<Index> {
    let name = index_name(path);
    let is_this = |found: &Index| found.packing == packing && found.stamp == *stamp;
    let next_to = input.sibling(Path::new(name.file_name()?)).ok().flatten();
    if let Some(file) = next_to {
        match Index::read(input.joined(&[file])) {
            Some(found) if is_this(&found) => return Some(found),
            Some(_) => warnings
                .push(format!("{} belongs to another version of the file, and is ignored", name.display())),
            None => warnings.push(format!("{} is not a valid index, and is ignored", name.display())),
        }
    }
    let file = indexes?.find(path)?;
    Index::read(Arc::new(file)).filter(is_this)
}

/// Makes the index of a packed file. If there is no room for it where it would be kept, it is not kept.
fn make(
    paths: &[PathBuf],
    source: &Arc<dyn ReadAt>,
    packing: Packing,
    stamp: Stamp,
    indexes: Option<&dyn Indexes>,
) -> Result<Index, Error> {
    let path = paths.first().map_or(Path::new(""), PathBuf::as_path);
    let into = |store| make_in(store, paths, source, packing, stamp, indexes);
    let cannot_write = |e| Error::failed("cannot write the index of a compressed image").because(e);
    if let Some(store) = indexes.map_or(Ok(None), |indexes| indexes.create(path))? {
        match into(store) {
            Ok(made) => return Ok(made),
            Err(Failed::Other(e)) => return Err(e),
            Err(Failed::Write(e)) if indexes.is_some_and(Indexes::must_keep) => return Err(cannot_write(e)),
            Err(Failed::Write(e)) => log::warn!("{}", cannot_write(e)),
        }
    }
    into(Box::new(Unnamed(unnamed_file()?))).map_err(|e| match e {
        Failed::Other(e) => e,
        Failed::Write(e) => cannot_write(e).at(&std::env::temp_dir()),
    })
}

/// Why an index was not made.
enum Failed {
    /// It could not be written.
    Write(io::Error),
    /// Any other reason.
    Other(Error),
}

impl From<Error> for Failed {
    fn from(e: Error) -> Failed {
        Failed::Other(e)
    }
}

/// Makes the index in `store`.
fn make_in(
    store: Box<dyn IndexFile>,
    paths: &[PathBuf],
    source: &Arc<dyn ReadAt>,
    packing: Packing,
    stamp: Stamp,
    indexes: Option<&dyn Indexes>,
) -> Result<Index, Failed> {
    let start = Instant::now();
    let path = paths.first().map_or(Path::new(""), PathBuf::as_path);
    let mut file = store.file();
    file.seek(SeekFrom::Start(HEADER as u64)).map_err(Failed::Write)?;
    let mut out = BufWriter::new(file);
    let progress =
        |at: u64| indexes.map_or(Ok(()), |indexes| indexes.progress(path, at.min(stamp.len), stamp.len));
    let mut builder = Builder::new(&mut out, HEADER as u64, &progress);
    let scanned = packing.scan(source, &mut builder);
    let Builder { spans, suspect, size, mut cut, trailing, is_checked, .. } = builder;
    // Zeros fill up the last block of a tape or of a device; anything else is there because of damage.
    cut |= !is_zeros(&**source, stamp.len - trailing.min(stamp.len)..stamp.len)
        .map_err(|e| Error::io("cannot read", path, e))?;
    let table = HEADER as u64
        + spans.iter().filter_map(|span| span.point).map(|p| u64::from(p.window.1)).sum::<u64>();
    match scanned {
        Ok(()) => {}
        Err(Stop::Error(e)) => return Err(e.into()),
        Err(Stop::Write(e)) => return Err(Failed::Write(e)),
        Err(Stop::Io(e)) if e.kind() == io::ErrorKind::OutOfMemory => {
            let what = format!(
                "the {} data needs more memory to be decompressed than is used for that",
                packing.name()
            );
            // Its own limit of memory is another one.
            let program = if packing == Packing::Zstd { "zstd --long=31" } else { packing.name() };
            return Err(no_points(paths, program, &what).into());
        }
        Err(Stop::Io(e)) => return Err(Error::io("cannot read", path, e).into()),
        Err(Stop::NoPoints) => {
            let what =
                format!("the {} data has no restart points: random access is not possible", packing.name());
            return Err(no_points(paths, packing.name(), &what).into());
        }
    }
    if size == 0 {
        let what =
            if cut { "the data is damaged or incomplete from the start" } else { "there is nothing in it" };
        return Err(Error::bad_image(format!("{} file: {what}", packing.name())).at(path).into());
    }
    let mut index = Index {
        packing,
        stamp,
        size,
        cut,
        is_checked,
        trailing,
        spans,
        suspect,
        windows: Arc::new(Vec::new()),
    };
    let header = index.write_table(&mut out, table).map_err(Failed::Write)?;
    let mut file = out.into_inner().map_err(|e| Failed::Write(e.into_error()))?;
    file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&header)).map_err(Failed::Write)?;
    index.windows = Arc::new(file.try_clone().map_err(Failed::Write)?);
    progress(stamp.len)?;
    store.keep(start.elapsed(), path)?;
    Ok(index)
}

/// Returns whether these bytes of a file are zeros.
fn is_zeros(source: &dyn ReadAt, range: std::ops::Range<u64>) -> io::Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    let mut at = range.start;
    while at < range.end {
        let len = index((range.end - at).min(buffer.len() as u64));
        read_exact(source, &mut buffer[..len], at)?;
        if buffer[..len].iter().any(|b| *b != 0) {
            return Ok(false);
        }
        at += len as u64;
    }
    Ok(true)
}

/// Returns the error for a file that can only be decompressed as a whole, by `program`; `paths` are its pieces.
fn no_points(paths: &[PathBuf], program: &str, what: &str) -> Error {
    let Some(path) = paths.first() else { return Error::bad_image(what) };
    let inner = inner_name(path).unwrap_or_else(|| path.with_extension("raw"));
    let shown = |path: &Path| quoted(&path.display().to_string());
    // Nothing may be overwritten by doing what the hint says.
    let out = match inner.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => shown(&inner),
        _ => {
            let suffix = inner.extension().map_or(String::new(), |suffix| format!(".{}", suffix.display()));
            new_name(&inner, "plain", &suffix)
        }
    };
    let all = paths.iter().map(|path| shown(path)).collect::<Vec<_>>().join(" ");
    let command = match paths.len() {
        1 => format!("{program} -dc {all}"),
        _ => format!("cat {all} | {program} -dc"),
    };
    let mut error = Error::bad_image(what).at(path).hint(format!("decompress it: {command} > {out}"));
    // Only of a raw disk is that the disk itself.
    if inner.extension().is_some_and(|suffix| ["raw", "img", "dd"].iter().any(|raw| suffix == *raw)) {
        error.advice.push(Advice::ConvertStream(command));
    }
    error
}

/// An index that is not kept.
struct Unnamed(File);

impl IndexFile for Unnamed {
    fn file(&self) -> &File {
        &self.0
    }

    fn keep(self: Box<Self>, _: std::time::Duration, _: &Path) -> Result<(), Error> {
        Ok(())
    }
}

/// Creates a file without a name, in the directory for temporary files.
fn unnamed_file() -> Result<File, Error> {
    let dir = std::env::temp_dir();
    let failed = |e| Error::io("cannot create a temporary file in", &dir, e);
    for n in 0..100u32 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        let path = dir.join(format!(".cdi-index-{}-{now}-{n}", std::process::id()));
        match File::options().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path).map_err(failed)?;
                return Ok(file);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Err(failed(io::ErrorKind::AlreadyExists.into()))
}

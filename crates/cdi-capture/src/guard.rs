//! Protects files that must never be overwritten, even with `--force`: input files, and unfinished images.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Kind};
use cdi_image::badmap::{BadBlocks, BadRange, Status, load, mapfile};
use cdi_image::cdimg;
use cdi_image::cdimg::layout::STATE_ACQUIRING;
use cdi_image::disk::Disk;
use cdi_image::formats::raw;
use cdi_image::image::{Format, Image};
use cdi_image::input::{Input, is_remote};
use cdi_image::open::{FORMATS, named_by};
use cdi_system::output_file::OutputFile;
use cdi_system::{Layer, layers_below};

/// The existing files that may be overwritten.
#[derive(Debug, Clone, Copy, Default)]
pub struct Over {
    /// Existing files in general.
    pub force: bool,
    /// Also unfinished images of disks.
    pub discard_unfinished: bool,
}

/// The single check for all commands that write a file whose name the user gave.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    over: Over,
    files: Vec<Protected>,
    /// Protected directories, and whether they are mounted.
    directories: Vec<(PathBuf, bool)>,
    /// Whether the output is a mapfile, which may replace another one.
    writes_map: bool,
}

/// A file that must not be overwritten.
#[derive(Debug, Clone)]
struct Protected {
    /// Its device and inode numbers.
    id: (u64, u64),
    /// The reason, in a few words.
    why: String,
    /// Whether it may be overwritten once it is unmounted.
    mounted: bool,
}

impl Guard {
    /// Creates a guard that allows what `over` says, and protects no files yet.
    pub fn new(over: Over) -> Guard {
        Guard { over, ..Guard::default() }
    }

    /// Returns the same guard for the output of a mapfile.
    pub fn for_map(&self) -> Guard {
        Guard { writes_map: true, ..self.clone() }
    }

    /// Protects an open file, such as stdin.
    pub fn protect_file(&mut self, file: &fs::File, why: &str) {
        if let Ok(meta) = file.metadata() {
            self.add((meta.dev(), meta.ino()), why);
        }
    }

    /// Returns an error if an open file, such as stdout, is a protected file.
    pub fn check_file(&self, file: &fs::File, name: &str) -> Result<(), Error> {
        let Ok(meta) = file.metadata() else { return Ok(()) };
        self.check_id((meta.dev(), meta.ino()), Path::new(name))
    }

    fn check_id(&self, id: (u64, u64), out: &Path) -> Result<(), Error> {
        let Some(Protected { why, mounted, .. }) = self.files.iter().find(|file| file.id == id) else {
            return Ok(());
        };
        let what = format!("{why}; it cannot be overwritten");
        Err(if *mounted {
            Error::new(Kind::Busy, what).at(out).hint(Advice::Unmount)
        } else {
            Error::usage(what).at(out)
        })
    }

    /// Returns an error if a device must not be overwritten because it is stored on a protected file or an unfinished
    /// image.
    pub fn check_device(&self, out: &Path) -> Result<(), Error> {
        for layer in layers_below(out) {
            // Only the backing file itself is written, not what it is stored on.
            if let Layer::File { id, path } = layer {
                return self.check_id(id, out).and_then(|()| self.refuse_unfinished(&path, out));
            }
        }
        Ok(())
    }

    /// Protects the file at `path` and, if it is a block device, the files that it is stored on. `why` describes the
    /// file: "is the image that is read".
    pub fn protect(&mut self, path: &Path, why: &str) {
        let Ok(meta) = fs::metadata(path) else { return };
        self.add((meta.dev(), meta.ino()), why);
        if meta.is_dir() {
            self.directories.extend(path.canonicalize().map(|dir| (dir, false)));
        }
        if meta.file_type().is_block_device() {
            for layer in layers_below(path) {
                if let Layer::File { id, .. } = layer {
                    self.add(id, &format!("is a backing file of {}, which is read", path.display()));
                }
            }
        }
    }

    /// Protects a file of an image that is mounted at `mountpoint`.
    pub fn protect_mounted(&mut self, path: &Path, mountpoint: &Path) {
        let before = (self.files.len(), self.directories.len());
        self.protect(path, &format!("is mounted at {}", mountpoint.display()));
        self.files[before.0..].iter_mut().for_each(|file| file.mounted = true);
        self.directories[before.1..].iter_mut().for_each(|(_, mounted)| *mounted = true);
    }

    fn add(&mut self, id: (u64, u64), why: &str) {
        self.files.push(Protected { id, why: why.to_owned(), mounted: false });
    }

    /// Protects all files of an input image.
    pub fn protect_input(&mut self, input: &Input) {
        for path in input.paths() {
            self.protect(&path, "is a file that is read");
        }
    }

    /// Checks whether a file may be written at `out`. Returns [`Kind::Busy`] if the existing file must not be lost, and
    /// [`Kind::Usage`] if it is an input file.
    pub fn check(&self, out: &Path) -> Result<(), Error> {
        if is_remote(out) {
            return Err(Error::usage("writing to another system is not supported").at(out).hint(
                "write a local file, and copy it there: with 'aws s3 cp' or 'rclone copyto', for example",
            ));
        }
        // A new file must not get into the directory of an image either.
        let resolved = out.canonicalize().or_else(|e| match out.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.canonicalize(),
            Some(_) => Path::new(".").canonicalize(),
            None => Err(e),
        });
        let inside = |(dir, _): &&(PathBuf, bool)| resolved.as_ref().is_ok_and(|path| path.starts_with(dir));
        match self.directories.iter().find(inside) {
            Some((_, true)) => {
                let error =
                    Error::new(Kind::Busy, "is part of an image that is mounted; it cannot be overwritten");
                return Err(error.at(out).hint(Advice::Unmount));
            }
            Some(_) => {
                return Err(
                    Error::usage("is part of the image that is read; it cannot be overwritten").at(out)
                );
            }
            None => {}
        }
        let Ok(meta) = fs::metadata(out) else { return Ok(()) };
        self.check_id((meta.dev(), meta.ino()), out)?;
        if !meta.is_file() {
            return Ok(());
        }
        if !self.writes_map && self.over.force && load::read(out).is_ok() {
            let error = Error::new(Kind::Busy, "is a mapfile or a list of bad blocks").at(out);
            return Err(error
                .hint("it may be the only record of a disk's bad sectors; to replace it, remove it first"));
        }
        self.refuse_unfinished(out, out)
    }

    /// Creates the output file for `out`, if it may be written.
    pub fn create(&self, out: &Path) -> Result<(OutputFile, fs::File), Error> {
        self.check(out)?;
        OutputFile::create(out, self.over.force || self.over.discard_unfinished)
    }

    /// Creates the file `out`, if it may be written, with the contents that `write` produces.
    pub fn write(
        &self,
        out: &Path,
        write: impl FnOnce(&mut fs::File) -> io::Result<()>,
    ) -> Result<(), Error> {
        let (output, mut file) = self.create(out)?;
        let written = write(&mut file).and_then(|()| file.sync_all());
        written.map_err(|e| Error::io("cannot write", out, e))?;
        output.finish()
    }

    fn refuse_unfinished(&self, path: &Path, out: &Path) -> Result<(), Error> {
        let (what, advice) = match state_of(path) {
            _ if self.over.discard_unfinished => return Ok(()),
            State::Other => return Ok(()),
            State::Unfinished => ("is an unfinished disk image", Advice::Continue),
            State::Damaged => ("is a .cdimg image that cannot be opened", Advice::Repair),
        };
        Err(Error::new(Kind::Busy, what)
            .at(out)
            .hint("nothing was changed")
            .then(advice)
            .then(Advice::DiscardUnfinished))
    }

    /// Checks whether existing files may be overwritten.
    pub fn forces(&self) -> bool {
        self.over.force || self.over.discard_unfinished
    }
}

/// The state of a file that might be overwritten.
enum State {
    /// An unfinished image of a disk, or one with parts that were not tried completely.
    Unfinished,
    /// A `.cdimg` that cannot be opened, so that it may be unfinished.
    Damaged,
    /// Anything else.
    Other,
}

fn state_of(path: &Path) -> State {
    let has_untried = |map: &BadBlocks| map.ranges().iter().any(|r| r.status < Status::Bad);
    let Ok(input) = Input::open(path) else { return State::Other };
    if (cdimg::FORMAT.probe)(&input) {
        return match cdimg::reader::open(input.into()) {
            Ok(image) if has_untried(image.bad()) || image.superblock().state == STATE_ACQUIRING => {
                State::Unfinished
            }
            Ok(_) => State::Other,
            Err(_) => State::Damaged,
        };
    }
    // A raw image may be left unfinished by another program. Files that cdi extracted can be extracted again.
    let Some(map) = raw::adjacent_map(path).filter(|map| !is_written_by_cdi(map)) else {
        return State::Other;
    };
    let size = input.len();
    let unfinished = load::read(&map).is_ok_and(|listed| {
        let size = listed.end().at_least().max(size);
        has_untried(&listed.map(size, 1).0)
    });
    if unfinished { State::Unfinished } else { State::Other }
}

/// Checks whether a mapfile was written by cdi.
fn is_written_by_cdi(map: &Path) -> bool {
    let mut start = Vec::new();
    let read = fs::File::open(map).and_then(|file| file.take(256).read_to_end(&mut start));
    read.is_ok() && mapfile::is_written_by_cdi(&start)
}

/// Returns an error if the mapfile of an extracted raw file would overwrite a mapfile of another program.
pub fn refuse_foreign_map(out: &Path) -> Result<(), Error> {
    if load::read(out).is_err() || is_written_by_cdi(out) {
        return Ok(());
    }
    let error = Error::new(Kind::Busy, "is a mapfile written by another program").at(out);
    Err(error.hint("choose another output name; nothing was changed"))
}

/// Returns an error if the suffix of an output name belongs to a different format than the one to be written: no
/// command could open the file.
pub fn refuse_other_name(out: &Path, format: &'static Format) -> Result<(), Error> {
    match named_by(out) {
        Some(named) if named.name != format.name => {
            let suffix = out.extension().unwrap_or_default().display();
            let what = format!(
                "the suffix .{suffix} means {}, but the file would be a {} image",
                named.name, format.name
            );
            let suffix = format.suffixes[0];
            let better = out.with_extension(suffix);
            let name = if better.exists() {
                format!("a name that ends in .{suffix}")
            } else {
                format!("the name {}", better.display())
            };
            Err(Error::usage(what).at(out).hint(format!("use {name}; nothing was written")))
        }
        _ => Ok(()),
    }
}

/// Returns an error if a text, `what`, would be written over an image, or under the name of one.
pub fn refuse_image(out: &Path, what: &str) -> Result<(), Error> {
    let named = named_by(out).map(|format| format.name);
    let is = || Input::open(out).ok().and_then(|input| FORMATS.iter().find(|format| (format.probe)(&input)));
    let Some(format) = named.or_else(|| is().map(|format| format.name)) else { return Ok(()) };
    let what = format!("is the name of a {format} image, or such an image; {what} is not written there");
    Err(Error::usage(what).at(out).hint("use another name; nothing was written"))
}

/// Returns an error if the map of `disk` would overwrite a mapfile with more information: it may be the only record
/// of a disk that is dead by now. A mapfile written by cdi may be overwritten by an image that knows more by now.
pub fn refuse_lesser_map(out: &Path, disk: &Disk) -> Result<(), Error> {
    let Ok(old) = load::read(out) else { return Ok(()) };
    let knows = disk.format().name != raw::FORMAT.name || !disk.bad().is_empty();
    let may_finish = knows && is_written_by_cdi(out);
    // The map of the disk has no information about anything past its end.
    let end = old.end().at_least().max(disk.size());
    let past = BadRange::new(disk.size()..end, Status::NonTried);
    let map = BadBlocks::from_unsorted(disk.bad().ranges().iter().copied().chain([past]));
    let (old, _) = old.map(end, 1);
    if mapfile::has_less_information(&map, &old, may_finish) {
        let error = Error::new(Kind::Busy, "is a mapfile with more information than the new one").at(out);
        return Err(error.hint("choose another output name, or move this file away; nothing was changed"));
    }
    Ok(())
}

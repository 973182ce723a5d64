//! What a command must never write over, whatever `--force` says: the files that it reads, and images that are not finished.

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
use cdi_image::input::Input;
use cdi_image::open::named_by;
use cdi_system::output_file::OutputFile;
use cdi_system::{Layer, layers_below};

/// What may be written over.
#[derive(Debug, Clone, Copy, Default)]
pub struct Over {
    /// Files that are there already.
    pub force: bool,
    /// Images of disks that are not finished, too.
    pub discard_unfinished: bool,
}

/// The one check of all verbs that write a file under a name that the user gave.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    over: Over,
    /// Device and inode of what is not to be written over, and why in a few words.
    files: Vec<((u64, u64), String)>,
    directories: Vec<PathBuf>,
    /// Whether it is a mapfile that is written: it may take the place of another one.
    writes_map: bool,
}

impl Guard {
    /// Allows what `over` says, and protects nothing yet.
    pub fn new(over: Over) -> Guard {
        Guard { over, ..Guard::default() }
    }

    /// The same guard, for a mapfile that is written.
    pub fn for_map(&self) -> Guard {
        Guard { writes_map: true, ..self.clone() }
    }

    /// Protects a file that is open, such as stdin.
    pub fn protect_file(&mut self, file: &fs::File, why: &str) {
        if let Ok(meta) = file.metadata() {
            self.files.push(((meta.dev(), meta.ino()), why.to_owned()));
        }
    }

    /// An error if an open file, such as stdout, is one that is read.
    pub fn check_file(&self, file: &fs::File, name: &str) -> Result<(), Error> {
        let Ok(meta) = file.metadata() else { return Ok(()) };
        self.check_id((meta.dev(), meta.ino()), Path::new(name))
    }

    fn check_id(&self, id: (u64, u64), out: &Path) -> Result<(), Error> {
        match self.files.iter().find(|(read, _)| *read == id) {
            Some((_, why)) => Err(Error::usage(format!("{why}; it is not written over")).at(out)),
            None => Ok(()),
        }
    }

    /// Says whether a device may be written over: whether nothing that is protected, or not finished, lies below it.
    pub fn check_device(&self, out: &Path) -> Result<(), Error> {
        for layer in layers_below(out) {
            // What lies below the file that a loop device shows is not written over.
            if let Layer::File { id, path } = layer {
                return self.check_id(id, out).and_then(|()| self.refuse_unfinished(&path, out));
            }
        }
        Ok(())
    }

    /// Protects the file at `path`, and the files that lie below it if it is a block device or on one. `why` says what it is:
    /// "is the image that is read".
    pub fn protect(&mut self, path: &Path, why: &str) {
        let Ok(meta) = fs::metadata(path) else { return };
        self.files.push(((meta.dev(), meta.ino()), why.to_owned()));
        if meta.is_dir() {
            self.directories.extend(path.canonicalize());
        }
        if meta.file_type().is_block_device() {
            for layer in layers_below(path) {
                if let Layer::File { id, .. } = layer {
                    self.files.push((id, format!("lies behind {}, which is read", path.display())));
                }
            }
        }
    }

    /// Protects all files of an image that is read.
    pub fn protect_input(&mut self, input: &Input) {
        for path in input.paths() {
            self.protect(&path, "is a file that is read");
        }
    }

    /// Says whether a file may be written at `out`. [`Kind::Busy`] if something is there, [`Kind::Usage`] if it is read.
    pub fn check(&self, out: &Path) -> Result<(), Error> {
        if let Ok(resolved) = out.canonicalize()
            && self.directories.iter().any(|dir| resolved.starts_with(dir))
        {
            return Err(Error::usage("lies in the image that is read; it is not written over").at(out));
        }
        let Ok(meta) = fs::metadata(out) else { return Ok(()) };
        self.check_id((meta.dev(), meta.ino()), out)?;
        if !meta.is_file() {
            return Ok(());
        }
        if !self.writes_map && self.over.force && load::read(out).is_ok() {
            let error = Error::new(Kind::Busy, "is a map of bad blocks").at(out);
            return Err(error.hint("it may be all that is known of a disk: remove it if you mean it"));
        }
        self.refuse_unfinished(out, out)
    }

    /// Begins the file that is to be at `out`, if it may be written.
    pub fn create(&self, out: &Path) -> Result<(OutputFile, fs::File), Error> {
        self.check(out)?;
        OutputFile::create(out, self.over.force || self.over.discard_unfinished)
    }

    /// Makes a file at `out` whose contents `write` writes, if it may be written.
    pub fn write(
        &self,
        out: &Path,
        write: impl FnOnce(&mut fs::File) -> io::Result<()>,
    ) -> Result<(), Error> {
        let (output, mut file) = self.create(out)?;
        let written = write(&mut file).and_then(|()| file.sync_all());
        written.map_err(|e| Error::io("cannot be written", out, e))?;
        output.finish()
    }

    fn refuse_unfinished(&self, path: &Path, out: &Path) -> Result<(), Error> {
        let (what, advice) = match state_of(path) {
            _ if self.over.discard_unfinished => return Ok(()),
            State::Other => return Ok(()),
            State::Unfinished => ("is an image of a disk that is not finished", Advice::Resume(None)),
            State::Damaged => ("is a .cdimg that cannot be opened", Advice::Repair),
        };
        Err(Error::new(Kind::Busy, what)
            .at(out)
            .hint("nothing was changed")
            .then(advice)
            .then(Advice::DiscardUnfinished))
    }

    /// Whether files that are there already may be written over.
    pub fn forces(&self) -> bool {
        self.over.force || self.over.discard_unfinished
    }
}

/// What a file is that might be written over.
enum State {
    /// An image of a disk that was begun and not finished, or has parts of the disk that were not all tried.
    Unfinished,
    /// A `.cdimg` that cannot be opened: nobody knows whether it is finished.
    Damaged,
    /// Anything else.
    Other,
}

fn state_of(path: &Path) -> State {
    let left = |map: &BadBlocks| map.ranges().iter().any(|r| r.status < Status::Bad);
    let Ok(input) = Input::open(path) else { return State::Other };
    if (cdimg::FORMAT.probe)(&input) {
        return match cdimg::reader::open(input.into()) {
            Ok(image) if left(image.bad()) || image.superblock().state == STATE_ACQUIRING => {
                State::Unfinished
            }
            Ok(_) => State::Other,
            Err(_) => State::Damaged,
        };
    }
    // A raw image that another program has not finished. What was extracted here can be extracted again.
    let Some(map) = raw::adjacent_map(path).filter(|map| !is_made_here(map)) else { return State::Other };
    let size = input.len();
    let unfinished = load::read(&map).is_ok_and(|listed| {
        let size = listed.end().at_least().max(size);
        left(&listed.map(size, 1).0)
    });
    if unfinished { State::Unfinished } else { State::Other }
}

/// Whether a mapfile was written by this program.
fn is_made_here(map: &Path) -> bool {
    let mut start = Vec::new();
    let read = fs::File::open(map).and_then(|file| file.take(256).read_to_end(&mut start));
    read.is_ok() && mapfile::is_made_here(&start)
}

/// Refuses to write the map of a raw file that is extracted over a mapfile that another program has written.
pub fn refuse_foreign_map(out: &Path) -> Result<(), Error> {
    if load::read(out).is_err() || is_made_here(out) {
        return Ok(());
    }
    let error = Error::new(Kind::Busy, "is a mapfile of another program's").at(out);
    Err(error.hint("extract under another name; nothing was changed"))
}

/// Refuses a name that says another format than the one that would be written: no verb could open the file.
pub fn refuse_other_name(out: &Path, format: &'static Format) -> Result<(), Error> {
    match named_by(out) {
        Some(named) if named.name != format.name => {
            let suffix = out.extension().unwrap_or_default().display();
            let what =
                format!("its name (.{suffix}) says {}, and it would be a {} image", named.name, format.name);
            let better = out.with_extension(format.suffixes[0]);
            Err(Error::usage(what).at(out).hint(format!("call it {}; nothing was written", better.display())))
        }
        _ => Ok(()),
    }
}

/// Refuses to write the map of `disk` over a mapfile that says more of it: it may be all that is known of a disk that is dead
/// by now. One that was written here may be written over by an image that knows more by now.
pub fn refuse_lesser_map(out: &Path, disk: &Disk) -> Result<(), Error> {
    let Ok(old) = load::read(out) else { return Ok(()) };
    let knows = disk.format().name != raw::FORMAT.name || !disk.bad().is_empty();
    let may_finish = knows && is_made_here(out);
    // Of what lies past the end of the disk, its map says nothing.
    let end = old.end().at_least().max(disk.size());
    let past = BadRange::new(disk.size()..end, Status::NonTried);
    let map = BadBlocks::from_unsorted(disk.bad().ranges().iter().copied().chain([past]));
    let (old, _) = old.map(end, 1);
    if mapfile::says_less(&map, &old, may_finish) {
        let error =
            Error::new(Kind::Busy, "is a mapfile that says more than the one that would be written").at(out);
        return Err(error.hint("write it under another name, or move this one away; nothing was changed"));
    }
    Ok(())
}

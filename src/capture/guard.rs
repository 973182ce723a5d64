//! What a command must never write over, whatever `--force` says: the files that it reads, and images that are not finished.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::error::{Error, Kind};
use crate::image::bad::Status;
use crate::image::cdi::{self, layout::STATE_ACQUIRING};
use crate::image::input::Input;
use crate::image::mapfile::{self, Listed};
use crate::image::{Format, Image, named_by, raw};
use crate::system::{Layer, layers_below};

/// What may be written over.
#[derive(Debug, Clone, Copy, Default)]
pub struct Over {
    /// Files that are there already.
    pub force: bool,
    /// Images of disks that are not finished, too.
    pub discard_unfinished: bool,
}

/// The one check of all verbs that write a file under a name that the user gave.
#[derive(Debug, Default)]
pub struct Guard {
    over: Over,
    /// Device and inode of what is not to be written over, and why in a few words.
    files: Vec<((u64, u64), String)>,
    directories: Vec<PathBuf>,
}

impl Guard {
    /// Allows what `over` says, and protects nothing yet.
    pub fn new(over: Over) -> Guard {
        Guard { over, ..Guard::default() }
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
        if let Some((_, why)) = self.files.iter().find(|(id, _)| *id == (meta.dev(), meta.ino())) {
            return Err(Error::usage(format!("{why}; it is not written over")).at(out));
        }
        if !self.over.discard_unfinished && meta.is_file() && is_unfinished(out) {
            return Err(Error::new(Kind::Busy, "is an image of a disk that is not finished, or damaged")
                .at(out)
                .hint("'cdi create --resume' finishes it; --discard-unfinished throws it away; nothing was changed"));
        }
        Ok(())
    }

    /// Whether files that are there already may be written over.
    pub fn forces(&self) -> bool {
        self.over.force || self.over.discard_unfinished
    }
}

/// Whether there is a `.cdimg` at `path` that was begun and not finished, or has parts of the disk that were not all tried. One
/// that cannot be opened counts: nobody knows.
fn is_unfinished(path: &Path) -> bool {
    let Ok(input) = Input::open(path) else { return false };
    if !(cdi::FORMAT.probe)(&input) {
        return false;
    }
    cdi::read::open(input.into()).map_or(true, |image| {
        let left = image.bad().ranges().iter().any(|r| r.status < Status::Bad);
        left || image.superblock().state == STATE_ACQUIRING
    })
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
    let Ok(old) = Listed::read(out) else { return Ok(()) };
    let mut start = Vec::new();
    let read = fs::File::open(out).and_then(|file| file.take(256).read_to_end(&mut start));
    let knows = disk.format().name != raw::FORMAT.name || !disk.bad().is_empty();
    let may_finish = knows && read.is_ok() && mapfile::is_made_here(&start);
    let (old, _) = old.map(disk.size(), 1);
    if mapfile::says_less(disk.bad(), &old, may_finish) {
        let error =
            Error::new(Kind::Busy, "is a mapfile that says more than the one that would be written").at(out);
        return Err(error.hint("write it under another name, or move this one away; nothing was changed"));
    }
    Ok(())
}

//! `cdi extract IMAGE /dev/sdX --force`: the disk back on a disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Copied, Missing, cannot_be_written, copy_all};
use crate::cli::Extract;
use crate::disk::Disk;
use crate::error::{Error, Kind};
use crate::image::input::ReadAt;
use crate::system::{Layer, layers_below, mountinfo};
use crate::ui::Ui;
use crate::units::human;

/// Writes the disk onto the device `args.out`, which must be large enough, not be in use, and not be where the image lies.
/// What is missing is what `--bad` says; without it, what the image's files hold there, or zeros.
pub(super) fn restore(args: &Extract, disk: &Disk, ui: &Ui) -> Result<Copied, Error> {
    let out = &args.out;
    if !args.over.force {
        return Err(Error::new(Kind::Busy, "is a device")
            .at(out)
            .hint("--force writes the disk onto it, over all that is there; nothing was changed"));
    }
    for path in disk.input().paths() {
        let lies_there = |layer: &Layer| layers_below(out).first() == Some(layer);
        if path == *out || layers_below(&path).iter().any(lies_there) {
            let what = format!("'{}' is read, and lies on this device", path.display());
            return Err(Error::usage(what).at(out));
        }
    }
    refuse_mounted(out)?;
    let file = open(out)?;
    let size = ReadAt::len(&file).map_err(|e| Error::io("cannot be measured", out, e))?;
    if size < disk.size() {
        let what = format!("has {size} bytes, and the disk has {}", disk.size());
        return Err(Error::usage(what).at(out).hint("nothing was written"));
    }
    if size > disk.size() {
        ui.remark(format!("the last {} of the device stay as they are", human(size - disk.size())));
    }
    let copied = copy_all(args, disk, &file, Missing::WrittenOver, &mut || Ok(()), ui)?;
    file.sync_all().map_err(|e| cannot_be_written(out, e))?;
    Ok(Copied { lost: copied.lost, took: copied.took, mapfile: None })
}

/// Refuses a device that a file system which is mounted lies on.
fn refuse_mounted(out: &Path) -> Result<(), Error> {
    let Some(own) = layers_below(out).into_iter().next() else { return Ok(()) };
    for mount in mountinfo()? {
        if mount.source.starts_with("/dev/") && layers_below(Path::new(&mount.source)).contains(&own) {
            let what = format!("is in use: mounted at {}", mount.mountpoint.display());
            return Err(Error::new(Kind::Busy, what).at(out).hint("unmount it; nothing was written"));
        }
    }
    Ok(())
}

/// Opens a device for writing that nobody else uses.
fn open(out: &Path) -> Result<File, Error> {
    let alone = nix::fcntl::OFlag::O_EXCL.bits();
    File::options().read(true).write(true).custom_flags(alone).open(out).map_err(|e| {
        let busy = e.kind() == io::ErrorKind::ResourceBusy;
        let error = Error::io("cannot be opened for writing", out, e);
        if busy {
            error.hint("it is in use: mounted, or part of something; nothing was written")
        } else {
            error
        }
    })
}

//! Checks before anything is written. Refuses an image on the disk to be imaged, a raw image that has a map, and
//! resuming with another disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_capture::rescue::source::Source;
use cdi_image::cdimg::reader::CdiImage;
use cdi_image::formats::raw;
use cdi_image::image::{Image, Mapfile, OpenOptions};
use cdi_image::open::open;
use cdi_system::{Layer, layers_below};

use crate::cli::Create;
use crate::ui::Ui;

/// Refuses an image on the disk being read: it would be read too, and a disk that loses data must not be written to.
pub(super) fn refuse_own_disk(args: &Create, ui: &Ui) -> Result<(), Error> {
    // The disk: a device and, if a file is behind it, that file; or a file.
    let mut own = Vec::new();
    if is_device(&args.source) {
        for layer in layers_below(&args.source) {
            let last = matches!(layer, Layer::File { .. });
            own.push(layer);
            if last {
                break;
            }
        }
    } else if let Ok(meta) = fs::metadata(&args.source) {
        own.push(Layer::File { id: (meta.dev(), meta.ino()), path: args.source.clone() });
    }
    // The directory where the image is, or will be.
    let image = args.image.canonicalize().unwrap_or_else(|_| args.image.clone());
    let dir = image.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let below = layers_below(dir);
    let same = |a: &Layer, b: &Layer| match (a, b) {
        (Layer::File { id: a, .. }, Layer::File { id: b, .. }) => a == b,
        (a, b) => a == b,
    };
    let shares = |layer: &Layer| below.iter().any(|other| same(layer, other));
    let is_file = |layer: &&Layer| matches!(layer, Layer::File { .. });
    if own.first().is_some_and(shares) || own.iter().filter(is_file).any(shares) {
        let what = format!("its directory is on {}, the disk to be imaged", args.source.display());
        return Err(Error::usage(what).at(&args.image).hint("put the image on another disk"));
    }
    if own.iter().any(shares) {
        ui.warning(format!(
            "the image is on another partition of the drive that holds {}",
            args.source.display()
        ));
    }
    Ok(())
}

/// Checks whether `path` is a block or character device.
pub(super) fn is_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let kind = fs::metadata(path).map(|m| m.file_type());
    kind.is_ok_and(|k| k.is_block_device() || k.is_char_device())
}

/// Refuses a raw image that has a map: its bytes alone are not the disk.
pub(super) fn refuse_raw_image(args: &Create) -> Result<(), Error> {
    if is_device(&args.source) || args.open.mapfile() != Mapfile::Adjacent {
        return Ok(());
    }
    match raw::adjacent_map(&args.source) {
        Some(map) => {
            let what = format!(
                "has a mapfile next to it ({}): it is an image, not a disk to be imaged",
                map.display()
            );
            let hint = "to convert it with its map, name a new image and leave out the options for a failing disk \
                (--mapfile none would store as good data what the file has in place of unreadable sectors)";
            Err(Error::usage(what).at(&args.source).hint(hint))
        }
        None => Ok(()),
    }
}

/// Refuses an image of another format, if the user has not said that its own bytes are meant: `--mount` and the like are for
/// disks.
pub(super) fn refuse_other_image(args: &Create) -> Result<(), Error> {
    if args.rescue.rescue || args.open.format.is_some() || is_device(&args.source) {
        return Ok(());
    }
    match open(&args.source, &OpenOptions { mapfile: Mapfile::None, ..OpenOptions::default() }) {
        Ok(opened) if opened.format.name != raw::FORMAT.name => {
            let what =
                format!("is a {} image: options for reading a failing disk do not apply", opened.format.name);
            let hint = "to convert it, leave them out; with --rescue, the file itself is read like a disk";
            Err(Error::usage(what).at(&args.source).hint(hint))
        }
        Err(e) if e.advice.contains(&Advice::Passphrase) => {
            let hint = "to convert it, leave out the options for reading a failing disk; with --rescue, the file \
                itself is read like a disk";
            Err(Error::usage("is an encrypted image").at(&args.source).hint(hint))
        }
        _ => Ok(()),
    }
}

/// Refuses to resume with a disk other than the one that the image was made from.
pub(super) fn same_disk(image: &CdiImage, source: &Source, force: bool) -> Result<(), Error> {
    let (metadata, known) = (image.metadata(), source.metadata());
    let size = image.size();
    let sector = image.superblock().logical_sector.get();
    let differ = |a: &Option<String>, b: &Option<String>| matches!((a, b), (Some(a), Some(b)) if a != b);
    let what = if size != known.size {
        format!("has {} bytes, but the image is of a disk of {size}", known.size)
    } else if differ(&metadata.serial, &known.serial) {
        let serial = |s: &Option<String>| s.clone().unwrap_or_default();
        format!(
            "has serial number {}, but the image is of a disk with serial number {}",
            serial(&known.serial),
            serial(&metadata.serial)
        )
    } else if differ(&metadata.model, &known.model) && (metadata.serial.is_none() || known.serial.is_none()) {
        let model = |m: &Option<String>| m.clone().unwrap_or_default();
        format!("is a {}, but the image is of a {}", model(&known.model), model(&metadata.model))
    } else if !sector.is_multiple_of(known.logical) {
        format!("has sectors of {} bytes, but the image is of a disk with sectors of {sector}", known.logical)
    } else {
        return Ok(());
    };
    if force {
        return Ok(());
    }
    Err(Error::usage(what).at(source.path()).hint(if size != known.size {
        "is one of them a partition? if it is the same disk, and its adapter reports another size, use --force"
    } else {
        "if it is the same disk after all, use --force"
    }))
}

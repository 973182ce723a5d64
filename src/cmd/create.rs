//! `cdi create SOURCE IMAGE`: converts an image, or the bytes of a disk on stdin. A disk that may be failing is read by
//! imaging.rs.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cdi_base::error::Error;
use cdi_base::printable::quoted;
use cdi_base::units::{SECTOR, human};
use cdi_base::workers;
use cdi_capture::convert;
use cdi_capture::guard::{Guard, Over, refuse_other_name};
use cdi_capture::options::{Made, Options};
use cdi_capture::protect::describe;
use cdi_image::cdimg;
use cdi_image::codec::Codec;
use cdi_image::image::Mapfile;
use cdi_image::input::is_remote;
use cdi_image::metadata::Metadata;
use cdi_image::open::begins_like;
use cdi_image::packed::PACKINGS;
use cdi_image::stored_hashes::HashKind;
use cdi_serve::texts;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use super::{
    End, Interrupt, command_line, guard, hash_lines, hashes_match, imaging, open_disk, plain_reads, protect,
    protect_mounted, worker_process,
};
use crate::cli;
use crate::cli::{Create, Rescue};
use crate::ui::Ui;

pub(super) fn run(args: &Create, ui: &Ui) -> Result<End, Error> {
    let codec = Codec::from(args.write.codec);
    let (levels, default) = codec.levels();
    let level = args.write.level.unwrap_or(default);
    if !levels.contains(&level) {
        let what = match codec.name() {
            name if levels.end() == levels.start() => {
                format!("--level {level} does not apply to --codec {name}")
            }
            name => format!("--level must be {} to {} for {name}", levels.start(), levels.end()),
        };
        return Err(Error::usage(what));
    }
    let mut options = Options {
        codec,
        level,
        chunk: args.write.chunk,
        physical_sector: args.write.physical_sector_size,
        metadata: Metadata {
            model: args.write.model.clone(),
            serial: args.write.serial.clone(),
            notes: args.write.notes.clone(),
            ..Metadata::default()
        },
        threads: workers::cores(),
        hash: !args.write.no_hash,
        hashes: args.write.hash.iter().map(|name| (*name).into()).collect(),
        command: command_line(),
        reproducible: reproducible(args)?,
    };
    refuse_other_name(&args.image, &cdimg::FORMAT)?;
    if args.image.as_os_str() == "-" {
        return Err(Error::usage("cannot write an image to stdout: it is not written sequentially"));
    }
    if args.source.as_os_str() == "-" {
        return from_stdin(args, options, ui);
    }
    if imaging::applies(args) {
        if args.write.reproducible {
            let what = "--reproducible only applies to images of files: a failing disk is read differently each time";
            return Err(Error::usage(what));
        }
        return worker_process::run(ui, |interrupt| {
            if imaging::stays(args) {
                // What is shown stays when the terminal is closed.
                let _ = nix::unistd::setsid();
            }
            let (result, seen) = imaging::run(args, options, interrupt, ui);
            (result, move || seen.wait())
        });
    }
    let image = cli::Image { image: args.source.clone(), open: args.open.clone() };
    let source = open_disk(&image, plain_reads(), ui)?;
    let sector = u64::from(source.sector());
    if source.size() % sector != 0 {
        ui.warning(format!(
            "the size of {} bytes is not a multiple of the sector size {sector}: the last sector is short",
            source.size()
        ));
    }
    let mut known = source.metadata().clone();
    // The new image gets hashes of its own. They differ if data was lost since.
    known.take_hashes();
    let given = options.metadata;
    options.metadata = Metadata {
        model: given.model.or(known.model),
        serial: given.serial.or(known.serial),
        source: Some(source_name(args)),
        notes: known.notes.into_iter().chain(given.notes).collect(),
        more: known.more,
        ..Metadata::default()
    };
    options.physical_sector =
        options.physical_sector.or(Some(known.physical_sector_bytes).filter(|b| *b != 0));

    let interrupt = Interrupt::new()?;
    let over = Over { force: args.force, discard_unfinished: args.discard_unfinished };
    let (mut target, file) = guard(over, &image, Some(&source)).create(&args.image)?;
    let mut progress = ui.progress("imaging", source.size());
    let copy = protect::copy(&file, &args.image)?;
    let mut made = convert::create(&source, Box::new(file), &args.image, &options, &mut |bytes| {
        progress.advance(bytes);
        target.check()?;
        interrupt.check()
    })?;
    let took = progress.finish();
    protect::add_if_wanted(&copy, args, &mut made, &mut || interrupt.check(), ui)?;
    target.finish()?;

    let end = print_result(args, source.size(), &made, &took, ui);
    made.not_as_sealed.iter().for_each(|what| ui.warning(format!("{}: {what}", args.source.display())));
    let wrong = made.checked.iter().filter(|c| !c.matches()).inspect(|c| ui.warning(c)).count() > 0;
    Ok(if wrong || !made.not_as_sealed.is_empty() || source.image().is_incomplete() {
        End::DataMissing
    } else {
        end
    })
}

/// Returns the name of the source to store: its path, or only its file name in a reproducible image.
fn source_name(args: &Create) -> String {
    let path = match args.source.file_name() {
        Some(name) if args.write.reproducible => name.into(),
        _ if is_remote(&args.source) => args.source.clone(),
        _ => std::path::absolute(&args.source).unwrap_or_else(|_| args.source.clone()),
    };
    path.display().to_string()
}

/// Returns the time to store in a reproducible image, Some(None) if it is to have none, and None if the image is not
/// to be reproducible.
fn reproducible(args: &Create) -> Result<Option<Option<SystemTime>>, Error> {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().filter(|_| args.write.reproducible);
    let time = epoch.map(|text| {
        let seconds = text.parse().ok().map(Duration::from_secs);
        seconds
            .and_then(|seconds| UNIX_EPOCH.checked_add(seconds))
            .ok_or_else(|| Error::usage(format!("SOURCE_DATE_EPOCH is not a number of seconds: '{text}'")))
    });
    Ok(args.write.reproducible.then_some(time.transpose()?))
}

/// Runs `cdi create - IMAGE`: another program supplies the disk, from its first byte to its last.
fn from_stdin(args: &Create, mut options: Options, ui: &Ui) -> Result<End, Error> {
    let how = &args.open;
    let raw = how.format.as_deref().is_none_or(|format| format == "raw");
    let plain = Rescue::default();
    let passphrase = how.passphrase_file.is_some() || how.passphrase_fd.is_some();
    if !raw
        || matches!(how.mapfile(), Mapfile::File(_))
        || how.badblocks.is_some()
        || args.rescue != plain
        || passphrase
    {
        let what = "stdin ('-') is read as a raw disk, from start to end: options for opening an image or reading a disk do not apply";
        return Err(Error::usage(what));
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(Error::usage("stdin is a terminal: redirect it from a disk, a file or a pipe"));
    }
    options.metadata.source = Some("stdin".into());
    let interrupt = Interrupt::new()?;
    let mut guard = Guard::new(Over { force: args.force, discard_unfinished: args.discard_unfinished });
    protect_mounted(&mut guard);
    let file_in = stdin.as_fd().try_clone_to_owned().map(File::from);
    let file_in = file_in.map_err(|e| Error::failed("cannot read stdin").because(e))?;
    guard.protect_file(&file_in, "is stdin");
    let mut source = Pipe { file: file_in, ended: Arc::clone(&interrupt.0) };
    let mut start = Vec::new();
    source.by_ref().take(START).read_to_end(&mut start).map_err(|e| match interrupt.check() {
        Err(interrupted) => interrupted,
        Ok(()) => Error::failed("cannot read stdin").because(e),
    })?;
    if let Some(name) = begins_like(start.clone()).filter(|_| how.format.is_none()) {
        return Err(not_a_disk(name, args));
    }
    let source = io::Cursor::new(start).chain(source);
    let (mut target, file) = guard.create(&args.image)?;
    let mut progress = ui.progress("imaging", 0);
    let sector = how.sector_size.unwrap_or(SECTOR);
    let copy = protect::copy(&file, &args.image)?;
    let mut step = |bytes| {
        progress.advance(bytes);
        target.check()?;
        interrupt.check()
    };
    let mut made =
        convert::create_from_stream(source, sector, Box::new(file), &args.image, &options, &mut step)?;
    let took = progress.finish();
    protect::add_if_wanted(&copy, args, &mut made, &mut || interrupt.check(), ui)?;
    target.finish()?;
    let size = made.metadata.size_bytes;
    if size % u64::from(sector) != 0 {
        ui.warning(format!(
            "the size of {size} bytes is not a multiple of the sector size {sector}: the last sector is short"
        ));
    }
    Ok(print_result(args, size, &made, &took, ui))
}

/// How much of stdin shows what it is, in bytes.
const START: u64 = 64 << 10;

/// Returns the error for a file on stdin that is not a disk, but an image of one.
fn not_a_disk(name: &str, args: &Create) -> Error {
    let image = quoted(&args.image.display().to_string());
    let what = format!("stdin begins like a file in the format {name}: it is not the disk itself");
    let hint = if PACKINGS.iter().any(|packing| packing.name() == name) {
        format!("decompress it: … | {name} -dc | cdi create - {image}")
    } else {
        format!("give the file itself: cdi create FILE {image}")
    };
    Error::bad_image(what).hint(format!("{hint}; with --format raw, its bytes are taken for those of a disk"))
}

/// The output of another program. It may be slow to come, and the user may interrupt in the meantime.
struct Pipe {
    file: File,
    ended: Arc<AtomicBool>,
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut wanted = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            // Wait for a tenth of a second at most, then check for an interrupt.
            match poll(&mut wanted, PollTimeout::from(100u8)) {
                Ok(0) | Err(Errno::EINTR) if self.ended.load(Ordering::Relaxed) => {
                    return Err(io::Error::other("interrupted"));
                }
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return self.file.read(buf),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Prints what was written. Returns how the command ends.
fn print_result(args: &Create, size: u64, made: &Made, took: &str, ui: &Ui) -> End {
    ui.json(&json!({
        "image": args.image.display().to_string(),
        "size_bytes": size,
        "image_bytes": made.image_bytes,
        "parity": made.parity.as_ref().map(texts::parity),
        "compressed_bytes": made.compressed_bytes,
        "shared_bytes": made.shared_bytes,
        "fill_bytes": made.fill_bytes,
        "missing_bytes": made.missing_bytes,
        "failed_bytes": made.failed_bytes,
        "metadata": made.metadata,
        "hashes_match": hashes_match(&made.checked),
    }));
    let share = made.image_bytes as f64 * 100.0 / size as f64;
    let parity = made.parity.map_or_else(String::new, |parity| format!(", with {}", describe(&parity)));
    ui.message(format!(
        "{}: {} of disk in {} ({share:.1} %){parity}, {took}",
        args.image.display(),
        human(size),
        human(made.image_bytes)
    ));
    if !ui.json {
        stored_hash_lines(&made.metadata, args, ui);
    }
    if made.failed_bytes > 0 {
        let bytes = human(made.failed_bytes);
        ui.warning(format!("{bytes} of the source could not be read and are missing from the image"));
    }
    if made.missing_bytes == 0 {
        return End::Done;
    }
    ui.message(format!("{} of the disk are missing; see 'cdi map --bad'", human(made.missing_bytes)));
    End::DataMissing
}

/// Prints the hashes that the user asked for, as they are in the image.
pub(super) fn stored_hash_lines(metadata: &Metadata, args: &Create, ui: &Ui) {
    let wanted: Vec<HashKind> = args.write.hash.iter().map(|name| (*name).into()).collect();
    hash_lines(&metadata.clone().take_hashes(), &wanted, &|line| ui.data(line));
}

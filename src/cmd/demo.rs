//! `cdi demo`: demonstrates imaging and attaching on a sample that it creates: a small failing disk with a real file
//! system.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cdi_base::error::{Error, Kind};
use cdi_base::units::index;
use cdi_base::workers;
use cdi_capture::convert;
use cdi_capture::guard::{Guard, Over};
use cdi_capture::options::{DEFAULT_CHUNK, Options as CaptureOptions};
use cdi_image::codec::Codec;
use cdi_image::disk::Options;
use cdi_image::metadata::Metadata;
use cdi_serve::tree::DISK_NAME;
use serde_json::{Value, json};

use super::{End, Interrupt, mount, open_disk};
use crate::cli::{Access, Bad, Demo, DeviceArgs, ErrnoName, OpenArgs, PartArgs, Reads, Suspect};
use crate::mount::daemon;
use crate::ui::Ui;
use crate::{attach, cli};

const DISK_BYTES: u64 = 8 << 20;
const SECTOR: u64 = 512;
/// A letter that is readable, and a photo with the bad sector in it.
const FILES: [(&str, usize); 2] = [("LETTER.TXT", 6 << 10), ("PHOTO.RAW", 3 << 20)];

pub(super) fn run(args: &Demo, ui: &Ui) -> Result<End, Error> {
    let interrupt = Interrupt::new()?;
    let scratch = Scratch::new(args.keep.as_deref())?;
    let result = show(&scratch.dir, &interrupt, ui);
    if args.keep.is_some() {
        ui.message(format!("the sample is in {}", scratch.dir.display()));
    }
    let report = result?;
    ui.json(&report);
    Ok(End::Done)
}

fn show(dir: &Path, interrupt: &Interrupt, ui: &Ui) -> Result<Value, Error> {
    let print = |line: String| {
        if !ui.json && !ui.quiet {
            ui.data(line);
        }
    };
    let [raw, map, image] = ["disk.raw", "disk.map", "disk.cdimg"].map(|name| dir.join(name));
    let bad_sector = make_disk(&raw)?;
    let mapfile = format!(
        "# a failing disk: one sector in the middle of {}\n0x0 + 1\n0x0 0x{:X} +\n0x{:X} 0x{SECTOR:X} -\n0x{:X} 0x{:X} +\n",
        FILES[1].0,
        bad_sector * SECTOR,
        bad_sector * SECTOR,
        (bad_sector + 1) * SECTOR,
        DISK_BYTES - (bad_sector + 1) * SECTOR
    );
    fs::write(&map, mapfile).map_err(|e| Error::io("cannot write", &map, e))?;
    print(format!(
        "1. created an 8 MiB disk with a FAT file system, and a mapfile with one bad sector, {bad_sector}"
    ));

    let how = OpenArgs { mapfile: Some(map), ..OpenArgs::default() };
    let source = open_disk(&cli::Image { image: raw, open: how }, super::plain_reads(), ui)?;
    let metadata =
        Metadata { serial: Some("DEMO-1".into()), source: Some("cdi demo".into()), ..Metadata::default() };
    let (codec, threads) = (Codec::Zstd, workers::cores());
    let options = CaptureOptions {
        codec,
        level: codec.levels().1,
        chunk: DEFAULT_CHUNK,
        physical_sector: None,
        metadata,
        threads,
        hash: true,
        hashes: Vec::new(),
        command: super::command_line(),
        reproducible: None,
    };
    let (target, file) = Guard::new(Over { force: true, ..Over::default() }).create(&image)?;
    let made = convert::create(&source, Box::new(file), &image, &options, &mut |_| interrupt.check())?;
    target.finish()?;
    print(format!("2. imaged it to {} ({} bytes)", image.display(), made.image_bytes));

    let reads = Reads { bad: Bad::Error, suspect: Suspect::Error, cache: Options::default().cache };
    let access = Access { errno: ErrnoName::Io, allow_other: false, files: false, via: None };
    // Without permission to create a block device, the mounted directory shows the same. On macOS every user may.
    let may = cfg!(target_os = "macos") || nix::unistd::geteuid().is_root();
    let device = (may && attach::candidates(None).is_ok()).then(DeviceArgs::default);
    let image = cli::Image { image, open: OpenArgs::default() };
    let mut up = daemon::start(
        mount::plan(
            &mount::Shown {
                image: &image,
                part: &PartArgs::default(),
                reads: &reads,
                access: &access,
                desktop: mount::UNSEEN,
            },
            mount::Where::InRuntimeDir,
            device.as_ref(),
            ui,
        )?
        .0,
    )?;
    let seen = read_sample(&up.record.mountpoint, up.record.device.as_deref(), bad_sector, &print);
    let cleaned = up.tear_down(true);
    interrupt.check()?;
    let report = seen?;
    cleaned?;
    print("6. detached and unmounted".into());
    Ok(report)
}

/// Creates the disk. Returns the number of a sector in the middle of the photo.
fn make_disk(path: &Path) -> Result<u64, Error> {
    let failed = |e| Error::io("cannot create", path, e);
    let file = File::create_new(path).map_err(failed)?;
    let disk = || File::options().read(true).write(true).open(path);
    file.set_len(DISK_BYTES).map_err(failed)?;
    let label = fatfs::FormatVolumeOptions::new().volume_label(*b"CDI DEMO   ");
    fatfs::format_volume(disk().map_err(failed)?, label).map_err(failed)?;
    let volume = fatfs::FileSystem::new(disk().map_err(failed)?, fatfs::FsOptions::new()).map_err(failed)?;
    for (name, len) in FILES {
        volume
            .root_dir()
            .create_file(name)
            .and_then(|mut f| f.write_all(&contents(name, len)))
            .map_err(failed)?;
    }
    volume.unmount().map_err(failed)?;
    // On a new file system the photo is contiguous: find its start by its first bytes.
    let bytes = fs::read(path).map_err(failed)?;
    let first = &contents(FILES[1].0, FILES[1].1)[..index(SECTOR)];
    let start = bytes.chunks(index(SECTOR)).position(|sector| sector == first).unwrap_or(0) as u64;
    Ok(start + FILES[1].1 as u64 / SECTOR / 2 + 1)
}

/// Returns the contents of a file: numbered lines with its name.
fn contents(name: &str, len: usize) -> Vec<u8> {
    (0..)
        .flat_map(|line: usize| format!("{name} line {line:06} of what must not be lost\n").into_bytes())
        .take(len)
        .collect()
}

/// Reads the presented disk as a user would. Returns the results as JSON.
fn read_sample(
    dir: &Path,
    device: Option<&Path>,
    bad_sector: u64,
    print: &dyn Fn(String),
) -> Result<Value, Error> {
    let disk = device.map_or_else(|| dir.join(DISK_NAME), Path::to_owned);
    match device {
        Some(device) => print(format!("3. attached it as {}", device.display())),
        None => print("3. mounted it (a block device needs root)".into()),
    }
    print(format!("   directory {} contains {}", dir.display(), names(dir).join(", ")));

    let failed = |e| Error::io("cannot read", &disk, e);
    let open = || File::open(&disk).map_err(failed);
    let volume = fatfs::FileSystem::new(ReadOnly(open()?), fatfs::FsOptions::new()).map_err(failed)?;
    let read = |name: &str| -> std::io::Result<(u64, Option<std::io::Error>)> {
        let mut file = volume.root_dir().open_file(name)?;
        let (mut buf, mut done) = ([0; index(SECTOR)], 0);
        loop {
            match file.read(&mut buf) {
                Ok(0) => return Ok((done, None)),
                Ok(n) => done += n as u64,
                Err(e) => return Ok((done, Some(e))),
            }
        }
    };
    let (good, error) = read(FILES[0].0).map_err(failed)?;
    if let Some(e) = error {
        return Err(failed(e));
    }
    print(format!("4. read {} completely: {good} bytes", FILES[0].0));
    let (before, error) = read(FILES[1].0).map_err(failed)?;
    let Some(error) = error else {
        return Err(Error::failed("the bad sector could be read: this is a bug").at(&disk));
    };
    print(format!(
        "   read {} up to byte {before} of {}, where the bad sector is: {error}",
        FILES[1].0, FILES[1].1
    ));

    let bad = dir.join("badblocks.json");
    let text = fs::read_to_string(&bad).map_err(|e| Error::io("cannot read", &bad, e))?;
    let map: Value =
        serde_json::from_str(&text).map_err(|e| Error::failed("not valid JSON").at(&bad).because(e))?;
    print(format!("5. badblocks.json lists {}", map["ranges"]));
    if map["ranges"][0]["first_sector"] != json!(bad_sector) {
        return Err(Error::failed("does not list the bad sector: this is a bug").at(&bad));
    }
    Ok(json!({
        "mountpoint": dir.display().to_string(), "device": device.map(|d| d.display().to_string()), "bad_sector": bad_sector,
        "good_file_bytes": good, "failing_file_bytes_before_error": before, "error": error.to_string(),
        "ranges": map["ranges"],
    }))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// A file that cannot be written, for the file system library, which requires a writable type.
struct ReadOnly(File);

impl Read for ReadOnly {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for ReadOnly {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::io::Seek for ReadOnly {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        std::io::Seek::seek(&mut self.0, to)
    }
}

/// A directory for the sample, removed at the end unless the user wants to keep it.
struct Scratch {
    dir: PathBuf,
    keep: bool,
}

impl Scratch {
    fn new(keep: Option<&Path>) -> Result<Scratch, Error> {
        let dir = keep.map_or_else(
            || {
                let nanos =
                    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
                std::env::temp_dir().join(format!("cdi-demo-{}-{nanos}", std::process::id()))
            },
            Path::to_owned,
        );
        fs::create_dir(&dir).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::new(Kind::Busy, "file exists").at(&dir).hint("use a name that does not exist yet")
            }
            _ => Error::io("cannot create", &dir, e),
        })?;
        Ok(Scratch { dir, keep: keep.is_some() })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

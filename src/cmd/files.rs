//! `cdi files IMAGE`: lists the files of a disk that are damaged, and copies what can be saved.

mod copy;
mod list;
mod report;
mod sector;
mod sums;

use cdi_base::error::Error;
use cdi_base::readable::Readable;
use cdi_base::units::{human, plural};
use cdi_fs::catalogue::Catalogue;
use cdi_fs::catalogue::builder::Room;
use cdi_fs::file_system::FileSystem;
use cdi_fs::pattern::Patterns;
use cdi_fs::recognize::Recognized;
use cdi_fs::volume::Volume;
use cdi_fs::volumes::{Layout, Part, layout};
use cdi_image::disk::{Disk, Options};

use super::{End, Interrupt, open_disk};
use crate::cli::Files;
use crate::ui::Ui;

pub(super) fn run(args: &Files, ui: &Ui) -> Result<End, Error> {
    let patterns = Patterns::parse(args.patterns.iter().map(String::as_str)).map_err(Error::usage)?;
    // Bytes that are suspect do not make a file whole.
    let disk = open_disk(&args.image, Options::default(), ui)?;
    let interrupt = Interrupt::of(disk.input())?;
    let mut layout = layout(&disk);
    interrupt.check()?;
    let table = table_damage(&disk, &layout);
    if let Some(damage) = &table {
        ui.warning(damage);
    }
    let found = layout.parts.iter().filter(|p| p.number.is_none() && p.range.start > 0).count();
    if found > 0 {
        let found = plural(found as u64, "file system");
        ui.warning(format!("{found} found that no partition table lists; there may be others"));
    }
    if layout.left > 0 {
        ui.warning(format!("the last {} of the disk were not looked at", human(layout.left)));
    }
    if let Some(number) = args.partition {
        layout.parts.retain(|p| p.number == Some(number));
        if layout.parts.is_empty() {
            return Err(Error::usage(format!("there is no partition {number}")).at(&args.image.image));
        }
    }
    let tables = match &mut layout.table {
        Ok(Some(table)) => std::mem::take(&mut table.structures),
        _ => Vec::new(),
    };
    let left = layout.left;
    let volumes = scan(&disk, layout, &interrupt, ui)?;
    interrupt.check()?;
    let rest = match args.partition {
        Some(_) => Rest { table: None, bad: missing_in_unlisted(&disk, &volumes), left: 0 },
        None => Rest { table, bad: missing_elsewhere(&disk, &volumes), left },
    };
    if let Some(dir) = &args.copy {
        return copy::copy(&disk, &volumes, args, (dir, &rest), &patterns, &interrupt, ui);
    }
    if let Some(sector) = args.sector {
        return sector::tell(&disk, &tables, &volumes, sector, ui);
    }
    list::list(&disk, &volumes, &rest, args, &patterns, ui)
}

/// What is known of the disk outside of the volumes whose files are listed.
pub(super) struct Rest {
    /// Why the partition table may not be all that it was.
    pub table: Option<String>,
    /// How many bytes of the rest of the disk are missing; of a partition if only that is looked at.
    pub bad: u64,
    /// How many bytes were not looked at for partitions that no table lists.
    pub left: u64,
}

impl Rest {
    /// Returns whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.table.is_none() && self.bad == 0 && self.left == 0
    }

    /// Returns what is missing, in words.
    pub fn texts(&self) -> Vec<String> {
        let bytes = |bytes: u64, what: &str| (bytes > 0).then(|| format!("{} {what}", human(bytes)));
        let bad = bytes(self.bad, "outside of these file systems are missing");
        let left = bytes(self.left, "of the disk were not looked at for partitions that no table lists");
        self.table.clone().into_iter().chain(bad).chain(left).collect()
    }
}

/// Says what is wrong with the partition table.
fn table_damage(disk: &Disk, layout: &Layout) -> Option<String> {
    match &layout.table {
        Err(e) => Some(format!("the partition table cannot be read: {e}")),
        Ok(None) => None,
        Ok(Some(table)) => {
            let damaged = list::structure_texts(&table.structures, &Volume::new(disk, 0..Disk::size(disk)));
            (!damaged.is_empty()).then(|| damaged.join("; "))
        }
    }
}

/// Returns how many bytes are missing in volumes whose files are not listed.
fn missing_in_unlisted(disk: &Disk, volumes: &[Found]) -> u64 {
    let unlisted =
        volumes.iter().filter(|v| v.catalogue.is_none()).flat_map(|v| disk.missing(v.part.range.clone()));
    unlisted.map(|m| m.range.end - m.range.start).sum()
}

/// Returns how many bytes are missing outside of the volumes whose files are listed.
fn missing_elsewhere(disk: &Disk, volumes: &[Found]) -> u64 {
    let all: u64 = disk.missing(0..Disk::size(disk)).iter().map(|m| m.range.end - m.range.start).sum();
    let listed =
        volumes.iter().filter(|v| v.catalogue.is_some()).flat_map(|v| disk.missing(v.part.range.clone()));
    all.saturating_sub(listed.map(|m| m.range.end - m.range.start).sum())
}

/// A volume whose files were listed.
pub(super) struct Found {
    /// What it is called in paths.
    pub title: String,
    pub part: Part,
    /// None if there is no file system whose files can be listed.
    pub catalogue: Option<Catalogue>,
}

impl Found {
    /// Returns whether there can be no files of which nothing is known.
    pub fn hides_nothing(&self, disk: &Disk) -> bool {
        list::hidden(disk, self).is_empty()
    }

    /// Returns the file system, if its files can be listed.
    pub fn file_system(&self) -> Option<&dyn FileSystem> {
        match &self.part.contents {
            Recognized::Files(found) => Some(&**found),
            _ => None,
        }
    }
}

/// Scans every volume of a disk.
fn scan(disk: &Disk, layout: Layout, interrupt: &Interrupt, ui: &Ui) -> Result<Vec<Found>, Error> {
    let mut volumes = Vec::new();
    // All of them are kept; a table may have many partitions, and the same one many times.
    let mut room = Room::default();
    for part in layout.parts {
        let catalogue = match &part.contents {
            Recognized::Files(found) => {
                let mut progress = ui.counting("scanning", "records", found.expected().unwrap_or(0));
                let mut before = 0;
                let catalogue = Catalogue::scan_within(room, &**found, &part.volume(disk), &mut |seen| {
                    progress.advance(seen - before);
                    before = seen;
                    interrupt.check().is_ok()
                });
                progress.finish();
                room = room.without(&catalogue);
                Some(catalogue)
            }
            _ => None,
        };
        interrupt.check()?;
        volumes.push(Found { title: part.title(), part, catalogue });
    }
    Ok(volumes)
}

//! Finds out, from an image in the making, what to read next.

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use cdi_base::error::{Error, ReadError};
use cdi_base::readable::{Missing, Readable};
use cdi_base::workers::lock;
use cdi_fs::catalogue::Catalogue;
use cdi_fs::file_system::{Child, Damage, Data, FileSystem, Kind, Record, Structure, Visitor};
use cdi_fs::loss::Loss;
use cdi_fs::partitions::{self, Scheme};
use cdi_fs::recognize::Recognized;
use cdi_fs::volume::Volume;
use cdi_fs::volumes::layout;
use cdi_image::badmap::Status;
use cdi_image::disk::{self, BadPolicy, Disk};
use cdi_image::image::OpenOptions;
use cdi_image::open;

use super::ranges::Ranges;
use super::{FileCount, First};

/// The memory for decompressed chunks, in bytes.
const CACHE: usize = 32 << 20;
/// What is read of the start of the disk and of each partition before file systems are looked for, in bytes: one whose first
/// structure was not read yet would ask for all copies of it.
const START: u64 = 128 << 10;
/// The same for their ends, where NTFS and HFS+ have copies.
const END: u64 = 4 << 10;
/// The size of the copy of a GUID partition table at the end of the disk, in bytes: 33 sectors, or 6 of 4 KiB.
const GPT_COPY: u64 = 24 << 10;

/// How an image in the making is scanned.
pub(super) struct Scan<'a> {
    /// The image. What was read must be in the file.
    pub(super) path: &'a Path,
    /// What of the disk may be read.
    pub(super) domain: &'a [Range<u64>],
    /// The unit of what is wanted, in bytes.
    pub(super) grain: u64,
    /// Whether areas are trimmed and scraped: if not, those that wait for it will not be read.
    pub(super) trim: bool,
    pub(super) scrape: bool,
    /// Ends the scan early.
    pub(super) stop: &'a AtomicBool,
}

/// What a scan found.
pub(super) struct Survey {
    /// Metadata that was asked for and is not read yet.
    pub(super) wanted: Ranges,
    /// The ranges of what was looked for, if that is not the metadata.
    pub(super) ranges: Ranges,
    /// The names of the file systems.
    pub(super) file_systems: Vec<&'static str>,
    /// The files that are there.
    pub(super) files: FileCount,
}

impl Scan<'_> {
    /// Scans the image for `first`.
    pub(super) fn survey(&self, first: &First) -> Result<Survey, Error> {
        let opened = open::open(self.path, &OpenOptions::default())?;
        let options = disk::Options { bad: BadPolicy::Error, read_suspect: true, cache: CACHE };
        let disk = Disk::new(opened, options);
        let wanted = Mutex::new(Ranges::new(self.grain));
        let asked = Asked { disk: &disk, scan: self, wanted };
        let mut survey = Survey {
            wanted: Ranges::new(self.grain),
            ranges: Ranges::new(self.grain),
            file_systems: Vec::new(),
            files: FileCount::default(),
        };
        if !matches!(first, First::Metadata) || !asked.wants_starts() {
            self.look(&asked, first, &mut survey);
        }
        survey.wanted = asked.wanted.into_inner().unwrap_or_else(|e| e.into_inner());
        Ok(survey)
    }

    fn look(&self, asked: &Asked<'_>, first: &First, survey: &mut Survey) {
        for part in layout(asked).parts {
            let volume = part.volume(asked);
            let Recognized::Files(found) = &part.contents else {
                if matches!(first, First::Used) {
                    survey.ranges.add(part.range);
                }
                continue;
            };
            let title = part.title();
            survey.file_systems.push(found.name());
            let used = match first {
                First::Metadata => {
                    found.free(&volume, &mut |_| {});
                    None
                }
                First::Used => {
                    add_used(&**found, &volume, &mut survey.ranges);
                    Some(&mut survey.ranges)
                }
                First::Files { patterns, .. } => {
                    let matches = |path: &str| patterns.matches(&title, path);
                    self.add_files(&**found, &volume, &matches, &mut survey.ranges);
                    None
                }
            };
            let mut look = Look { volume, asked, used, stop: self.stop, files: &mut survey.files };
            found.scan(&volume, &mut look);
        }
    }

    /// Adds the contents of the files whose paths match.
    fn add_files(
        &self,
        found: &dyn FileSystem,
        volume: &Volume<'_>,
        matches: &dyn Fn(&str) -> bool,
        to: &mut Ranges,
    ) {
        let goes_on = || !self.stop.load(Ordering::Relaxed);
        let catalogue = Catalogue::scan(found, volume, &mut |_| goes_on());
        for entry in catalogue.entries().iter().filter(|e| !e.internal).take_while(|_| goes_on()) {
            let Some(handle) = entry.handle else { continue };
            if !catalogue.paths(entry.number).iter().any(|path| matches(&path.text)) {
                continue;
            }
            if let Ok(record) = found.record(volume, handle) {
                each_run(&record, volume, &mut |run| to.add(run));
            }
        }
    }
}

/// Adds everything that the bitmap does not call free.
fn add_used(found: &dyn FileSystem, volume: &Volume<'_>, to: &mut Ranges) {
    let mut at = 0;
    found.free(volume, &mut |free| {
        to.add(volume.on_disk(at)..volume.on_disk(free.start.min(volume.size())));
        at = at.max(free.end).min(volume.size());
    });
    to.add(volume.on_disk(at)..volume.on_disk(volume.size()));
}

/// Calls `found` with each range of the disk that has contents of a record.
fn each_run(record: &Record, volume: &Volume<'_>, found: &mut dyn FnMut(Range<u64>)) {
    let streams = record.streams.iter().map(|(_, data)| data);
    for data in std::iter::once(&record.data).chain(streams) {
        for run in data.place.runs().iter().filter(|run| !run.unwritten) {
            let Some(start) = run.volume else { continue };
            let end = start.saturating_add(run.len).min(volume.size());
            if start < end {
                found(volume.on_disk(start)..volume.on_disk(end));
            }
        }
    }
}

/// A disk that remembers what was asked for and is not read yet.
struct Asked<'a> {
    disk: &'a Disk,
    scan: &'a Scan<'a>,
    wanted: Mutex<Ranges>,
}

impl Asked<'_> {
    /// Adds what can still be read of `range`.
    fn want(&self, range: Range<u64>) {
        let Scan { trim, scrape, domain, .. } = *self.scan;
        let readable = |status| match status {
            Status::NonTried => true,
            Status::NonTrimmed => trim,
            Status::NonScraped => scrape,
            _ => false,
        };
        if range.is_empty() {
            return;
        }
        let mut wanted = lock(&self.wanted);
        for area in self.disk.bad().touching(range.clone()).iter().filter(|area| readable(area.status)) {
            let (start, end) = (area.start.max(range.start), area.end.min(range.end));
            let first = domain.partition_point(|part| part.end <= start);
            for part in domain[first..].iter().take_while(|part| part.start < end) {
                wanted.add(start.max(part.start)..end.min(part.end));
            }
        }
    }

    /// Asks for what shows which file systems there are. Returns whether some of it is not read yet.
    fn wants_starts(&self) -> bool {
        let any = || !lock(&self.wanted).get().is_empty();
        let size = Readable::size(self.disk);
        let end = |range: &Range<u64>, len: u64| range.end.saturating_sub(len).max(range.start)..range.end;
        self.want(0..START.min(size));
        if any() {
            return true;
        }
        let table = partitions::table(self).ok().flatten();
        if table.as_ref().is_some_and(|table| table.scheme == Scheme::Gpt) {
            self.want(end(&(0..size), GPT_COPY));
        }
        let partitions = table.map_or_else(Vec::new, |table| table.partitions);
        let mut volumes: Vec<Range<u64>> =
            partitions.iter().map(|p| p.start..p.start.saturating_add(p.size).min(size)).collect();
        if volumes.is_empty() {
            volumes.push(0..size);
        }
        for volume in volumes {
            self.want(volume.start..volume.end.min(volume.start.saturating_add(START)));
            self.want(end(&volume, END));
        }
        any()
    }
}

impl Readable for Asked<'_> {
    fn size(&self) -> u64 {
        Readable::size(self.disk)
    }

    fn sector(&self) -> u32 {
        Readable::sector(self.disk)
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        self.disk.read(buffer, at).inspect_err(|_| self.want(at..at.saturating_add(buffer.len() as u64)))
    }

    fn missing(&self, range: Range<u64>) -> Vec<Missing> {
        self.disk.missing(range)
    }
}

/// Counts the files of a volume, and asks for its directories.
struct Look<'a> {
    volume: Volume<'a>,
    asked: &'a Asked<'a>,
    /// Where the runs of all records are added: the bitmap is not the truth.
    used: Option<&'a mut Ranges>,
    stop: &'a AtomicBool,
    files: &'a mut FileCount,
}

impl Look<'_> {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn is_whole(&self, record: &Record) -> bool {
        let whole = |data: &Data| Loss::of(data, &self.volume).is_empty();
        record.damage.is_none() && whole(&record.data) && record.streams.iter().all(|(_, data)| whole(data))
    }
}

impl Visitor for Look<'_> {
    fn record(&mut self, record: Record) -> bool {
        if record.kind == Kind::File && !record.internal {
            self.files.whole += u64::from(self.is_whole(&record));
            self.files.known += 1;
        }
        if record.kind == Kind::Directory {
            each_run(&record, &self.volume, &mut |run| self.asked.want(run));
        }
        if let Some(used) = &mut self.used {
            each_run(&record, &self.volume, &mut |run| used.add(run));
        }
        self.goes_on()
    }

    fn child(&mut self, _: Child) -> bool {
        self.goes_on()
    }

    fn lost_record(&mut self, _: u64, _: Range<u64>, used: Option<bool>, _: Damage) -> bool {
        self.files.unreadable_records += u64::from(used != Some(false));
        self.goes_on()
    }

    fn structure(&mut self, _: Structure) -> bool {
        self.goes_on()
    }
}

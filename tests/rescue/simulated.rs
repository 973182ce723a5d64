//! A drive in memory, for tests of the imaging without the program: it may name the sectors that fail, hang, and be slow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cdi_base::error::Error;
use cdi_capture::options::{Options, new_image};
use cdi_capture::rescue::first::Order;
use cdi_capture::rescue::live::LiveDisk;
use cdi_capture::rescue::passes::RescuePlan;
use cdi_capture::rescue::progress::View;
use cdi_capture::rescue::source::{SimulatedSense, Source};
use cdi_capture::rescue::{Ended, Limits, Task, Update, rescue};
use cdi_image::cdimg::writer::Writer;
use cdi_image::codec::Codec;
use cdi_image::input::ReadAt;
use cdi_image::metadata::Metadata;
use cdi_system::sense::Sense;

use crate::common::Lab;

/// What a drive says about a failed read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    Nothing,
    /// Which sector was the first that failed.
    Right,
    /// That it was the first of the read.
    AlwaysTheFirst,
    /// That it was one before the right one, now and then.
    OneBefore,
}

/// The drive.
#[derive(Clone)]
pub struct Simulated(pub Arc<Inside>);

pub struct Inside {
    pub bytes: Vec<u8>,
    /// Sectors.
    pub bad: BTreeSet<u64>,
    pub says: Says,
    /// How long a read takes; and one of these sectors, if it is read.
    pub takes: Duration,
    pub hangs: Range<u64>,
    pub hang: Duration,
    pub reads: Mutex<Reads>,
}

#[derive(Default)]
pub struct Reads {
    pub failed: u64,
    /// By sector, how often a read of it succeeded.
    pub good: BTreeMap<u64, u32>,
    /// Every read, in order.
    pub order: Vec<Range<u64>>,
}

impl Simulated {
    pub fn new(bytes: &[u8], bad: impl IntoIterator<Item = u64>) -> Simulated {
        Simulated(Arc::new(Inside {
            bytes: bytes.to_vec(),
            bad: bad.into_iter().collect(),
            says: Says::Nothing,
            takes: Duration::ZERO,
            hangs: 0..0,
            hang: Duration::ZERO,
            reads: Mutex::default(),
        }))
    }

    /// Changes what the drive is like, before it is read.
    pub fn with(mut self, change: impl FnOnce(&mut Inside)) -> Simulated {
        change(Arc::get_mut(&mut self.0).unwrap());
        self
    }

    pub fn failed(&self) -> u64 {
        self.0.reads.lock().unwrap().failed
    }

    pub fn order(&self) -> Vec<Range<u64>> {
        self.0.reads.lock().unwrap().order.clone()
    }
}

impl ReadAt for Simulated {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let inside = &*self.0;
        let end = (at + buf.len() as u64).min(inside.bytes.len() as u64);
        let sectors = at / 512..end.div_ceil(512);
        inside.reads.lock().unwrap().order.push(at..end);
        let hangs = sectors.start < inside.hangs.end && inside.hangs.start < sectors.end;
        std::thread::sleep(if hangs { inside.hang } else { inside.takes });
        let mut reads = inside.reads.lock().unwrap();
        if let Some(bad) = inside.bad.range(sectors.clone()).next() {
            reads.failed += 1;
            let sector = match inside.says {
                Says::Nothing => return Err(io::Error::from_raw_os_error(5)),
                Says::Right => *bad,
                Says::AlwaysTheFirst => sectors.start,
                Says::OneBefore if reads.failed.is_multiple_of(5) => bad.saturating_sub(1).max(sectors.start),
                Says::OneBefore => *bad,
            };
            let sense = Sense { key: 3, asc: 0x11, ascq: 0, sector: Some(sector) };
            return Err(io::Error::other(SimulatedSense(sense)));
        }
        for sector in sectors {
            *reads.good.entry(sector).or_default() += 1;
        }
        let (from, to) = (usize::try_from(at).unwrap(), usize::try_from(end).unwrap());
        buf[..to - from].copy_from_slice(&inside.bytes[from..to]);
        Ok(to - from)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.bytes.len() as u64)
    }
}

/// Begins an image of a drive of `size` bytes.
pub fn begin(file: File, path: &Path, size: u64) -> Writer {
    let metadata = Metadata {
        size_bytes: size,
        logical_sector_bytes: 512,
        physical_sector_bytes: 512,
        ..Metadata::default()
    };
    let new = new_image(size, 32 << 10, 512, 512).unwrap();
    Writer::create(Box::new(file), path, &new, metadata).unwrap()
}

/// An image in the making.
pub struct Making {
    source: Arc<Source>,
    writer: Writer,
    path: std::path::PathBuf,
    pub live: Arc<LiveDisk>,
}

impl Making {
    pub fn new(lab: &Lab, name: &str, drive: &Simulated) -> Making {
        let path = lab.path(name);
        lab.write("drive", "");
        let source = Arc::new(Source::simulated(Box::new(drive.clone()), &lab.path("drive"), 512).unwrap());
        let size = drive.0.bytes.len() as u64;
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let reader = file.try_clone().unwrap();
        let mut writer = begin(file, &path, size);
        let live = Arc::new(LiveDisk::new(&mut writer, Box::new(reader), &path, 512).unwrap());
        Making { source, writer, path, live }
    }

    /// Images the drive; `shown` while it is read by others.
    pub fn run(self, shown: bool, watch: &mut dyn FnMut(&View) -> Result<(), Error>) -> Ended {
        let size = self.writer.geometry().disk_size;
        let task = Task {
            plan: RescuePlan::whole(size, 512),
            order: Order::default(),
            limits: Limits::default(),
            live: shown.then(|| Arc::clone(&self.live)),
            notes: None,
        };
        let path: &Path = &self.path;
        rescue(&self.source, self.writer, path, &options(), task, &mut |update| match update {
            Update::Reading(view) => watch(view),
            Update::Hashing(_) => Ok(()),
        })
        .unwrap()
    }
}

fn options() -> Options {
    Options {
        codec: Codec::Zstd,
        level: 1,
        chunk: 32 << 10,
        physical_sector: None,
        metadata: Metadata::default(),
        threads: 2,
        hash: false,
        hashes: Vec::new(),
        command: Vec::new(),
        reproducible: None,
    }
}

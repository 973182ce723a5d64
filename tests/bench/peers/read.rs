//! What is read, and how it is timed.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::disk::Disk;

/// What is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workload {
    /// The whole disk from its start, 1 MiB at a time.
    Sequential,
    /// 4 KiB at random places that hold something, one after the other.
    Random4k,
    /// 64 KiB at random places that hold something, by four readers at once.
    Random64kBy4,
}

/// How it is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Buffered,
    Direct,
}

impl Access {
    pub fn name(self) -> &'static str {
        if self == Access::Buffered { "buffered" } else { "O_DIRECT" }
    }
}

impl Workload {
    pub const ALL: [Workload; 3] = [Workload::Sequential, Workload::Random4k, Workload::Random64kBy4];

    pub fn name(self) -> &'static str {
        match self {
            Workload::Sequential => "sequential 1 MiB",
            Workload::Random4k => "random 4 KiB",
            Workload::Random64kBy4 => "random 64 KiB × 4",
        }
    }

    /// What its rate is told in.
    pub fn unit(self) -> &'static str {
        if self == Workload::Random4k { "reads/s" } else { "MB/s" }
    }

    /// Bytes a read, readers, reads of each.
    fn shape(self) -> (usize, usize, usize) {
        match self {
            Workload::Sequential => (1 << 20, 1, (Disk::SIZE >> 20) as usize),
            Workload::Random4k => (4 << 10, 1, 20_000),
            Workload::Random64kBy4 => (64 << 10, 4, 4_000),
        }
    }
}

/// What came of it.
pub struct Measured {
    workload: Workload,
    seconds: f64,
    /// Of each read, sorted.
    times: Vec<Duration>,
}

impl Measured {
    pub fn rate(&self) -> f64 {
        let reads = self.times.len() as f64 / self.seconds;
        if self.workload == Workload::Random4k { reads } else { reads * self.workload.shape().0 as f64 / 1e6 }
    }

    /// In microseconds.
    pub fn p99(&self) -> f64 {
        self.times[self.times.len() * 99 / 100].as_secs_f64() * 1e6
    }
}

/// Reads `path`, which shows `disk`. None where it cannot be opened for that access.
pub fn run(path: &Path, disk: &Disk, workload: Workload, access: Access, round: u64) -> Option<Measured> {
    let (len, readers, reads) = workload.shape();
    let mut options = File::options();
    options.read(true);
    if access == Access::Direct {
        options.custom_flags(nix::fcntl::OFlag::O_DIRECT.bits());
    }
    let file = options.open(path).ok()?;
    if access == Access::Direct && file.read_at(aligned(&mut vec![0; 8192], 4096), 0).is_err() {
        return None;
    }
    let all = Mutex::new(Vec::new());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for reader in 0..readers {
            let (file, all) = (&file, &all);
            scope.spawn(move || {
                let mut buf = vec![0; len + 4096];
                let buf = aligned(&mut buf, len);
                let mut random = Random::new(round * 100 + reader as u64 + 1);
                let mut times = Vec::with_capacity(reads);
                for n in 0..reads as u64 {
                    let at = match workload {
                        Workload::Sequential => n * len as u64,
                        _ => random.place(disk, len as u64),
                    };
                    let start = Instant::now();
                    file.read_exact_at(buf, at).unwrap_or_else(|e| panic!("{} at {at}: {e}", path.display()));
                    times.push(start.elapsed());
                }
                all.lock().unwrap().extend(times);
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    let mut times = all.into_inner().unwrap();
    times.sort();
    Some(Measured { workload, seconds, times })
}

fn aligned(bytes: &mut [u8], len: usize) -> &mut [u8] {
    let from = bytes.as_ptr().align_offset(4096);
    &mut bytes[from..from + len]
}

/// Marsaglia's xorshift64: the same places for everybody.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..10).for_each(|_| _ = random.next());
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A place for `len` bytes, a multiple of 4 KiB, whose first byte holds something.
    fn place(&mut self, disk: &Disk, len: u64) -> u64 {
        let mut nth = self.next() % disk.used();
        for run in &disk.data {
            let size = run.end - run.start;
            if nth < size {
                return ((run.start + nth) / 4096 * 4096).min(Disk::SIZE - len);
            }
            nth -= size;
        }
        unreachable!("it is less than all of it")
    }
}

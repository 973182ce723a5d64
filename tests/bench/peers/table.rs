//! What was measured, and its tables.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::disk::Disk;
use crate::read::{Access, Workload};
use crate::system::{MAKERS, SYSTEMS};

/// One measurement of a read.
#[derive(Clone, Copy)]
pub struct Cell {
    pub rate: f64,
    /// Microseconds.
    pub p99: f64,
    /// Seconds of all processors.
    pub cpu: f64,
    /// The daemon's peak, MiB.
    pub memory: Option<f64>,
}

/// Several of the same.
#[derive(Default, Clone)]
pub struct Runs(Vec<f64>);

impl Runs {
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// How an image was made.
#[derive(Default)]
pub struct Made {
    pub seconds: Runs,
    cpu: Runs,
    bytes: u64,
}

#[derive(Default)]
struct Reads {
    rate: Runs,
    p99: Runs,
    cpu: Runs,
    memory: Runs,
}

/// All of it.
pub struct Results {
    disk: String,
    made: BTreeMap<&'static str, Made>,
    reads: BTreeMap<(&'static str, &'static str, &'static str), Reads>,
    missing: Vec<(&'static str, &'static str)>,
}

/// Whether it is cdi.
pub fn is_ours(system: &str) -> bool {
    system.starts_with("cdi")
}

/// Whether it is a peer: neither cdi nor the raw file, which is not an image.
fn is_peer(system: &str) -> bool {
    !is_ours(system) && system != "plain file"
}

impl Results {
    pub fn new(disk: &Disk) -> Results {
        let size = disk.path.metadata().unwrap().len();
        let disk = format!("{} MiB, of which {} contain data", size >> 20, disk.used() >> 20);
        Results { disk, made: BTreeMap::new(), reads: BTreeMap::new(), missing: Vec::new() }
    }

    pub fn missing(&mut self, name: &'static str, program: &'static str) {
        eprintln!("{name} is left out: there is no {program}");
        self.missing.push((name, program));
    }

    pub fn made(&self, name: &str) -> Option<&Made> {
        self.made.get(name)
    }

    pub fn add_made(&mut self, name: &'static str, seconds: f64, cpu: f64, bytes: u64) {
        let made = self.made.entry(name).or_default();
        made.seconds.0.push(seconds);
        made.cpu.0.push(cpu);
        made.bytes = bytes;
    }

    pub fn add(&mut self, name: &'static str, workload: Workload, access: Access, cell: Option<Cell>) {
        let Some(cell) = cell else { return };
        let reads = self.reads.entry((name, workload.name(), access.name())).or_default();
        reads.rate.0.push(cell.rate);
        reads.p99.0.push(cell.p99);
        reads.cpu.0.push(cell.cpu);
        reads.memory.0.extend(cell.memory);
    }

    /// The median rate of each system that was measured so, in the order of [`SYSTEMS`].
    pub fn rates(&self, workload: Workload, access: Access) -> Vec<(&'static str, f64)> {
        let rate =
            |name| Some((name, self.reads.get(&(name, workload.name(), access.name()))?.rate.median()));
        SYSTEMS.iter().filter_map(|s| rate(s.name)).collect()
    }

    fn best(&self, workload: Workload, is_one: fn(&str) -> bool) -> Option<(&'static str, f64)> {
        let all = [Access::Buffered, Access::Direct].into_iter().flat_map(|a| self.rates(workload, a));
        all.filter(|(name, _)| is_one(name)).max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Everything, as Markdown.
    pub fn tables(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "The disk: {}.", self.disk);
        for (name, program) in &self.missing {
            let _ = writeln!(out, "Left out: {name} (no {program}).");
        }
        if !self.made.is_empty() {
            let _ = writeln!(out, "\n| created by | seconds | CPU s | MiB |\n|---|---:|---:|---:|");
            for name in MAKERS.iter().map(|m| m.name) {
                if let Some(made) = self.made.get(name) {
                    let (seconds, cpu) = (made.seconds.median(), made.cpu.median());
                    let _ = writeln!(out, "| {name} | {seconds:.1} | {cpu:.1} | {} |", made.bytes >> 20);
                }
            }
        }
        let was_read = |w: &Workload| self.reads.keys().any(|(_, workload, _)| *workload == w.name());
        for workload in Workload::ALL.into_iter().filter(was_read) {
            let unit = workload.unit();
            let _ = writeln!(out, "\n{}, cold caches:\n", workload.name());
            let _ = write!(out, "| | buffered {unit} | p99 µs | CPU s | MiB ");
            let _ = writeln!(out, "| O_DIRECT {unit} | p99 µs | CPU s | MiB |\n|---{}|", "|---:".repeat(8));
            for name in SYSTEMS.iter().map(|s| s.name) {
                let cells = [Access::Buffered, Access::Direct].map(|a| self.cells(name, workload, a));
                if cells.iter().any(Option::is_some) {
                    let cells = cells.map(|c| c.unwrap_or_else(|| "– | – | – | –".into()));
                    let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
                }
            }
        }
        out + &self.ratios()
    }

    fn cells(&self, name: &'static str, workload: Workload, access: Access) -> Option<String> {
        let reads = self.reads.get(&(name, workload.name(), access.name()))?;
        let memory =
            if reads.memory.0.is_empty() { "–".into() } else { format!("{:.0}", reads.memory.median()) };
        let (rate, p99, cpu) = (reads.rate.median(), reads.p99.median(), reads.cpu.median());
        Some(format!("{rate:.0} | {p99:.0} | {cpu:.1} | {memory}"))
    }

    /// cdi next to the best of its peers, and next to itself.
    fn ratios(&self) -> String {
        let mut out = "\n| ratio | |\n|---|---:|\n".to_owned();
        let mut row = |what: String, ratio: f64| {
            let _ = writeln!(out, "| {what} | {ratio:.2} |");
        };
        for workload in Workload::ALL {
            for access in [Access::Buffered, Access::Direct] {
                let rates = self.rates(workload, access);
                let (what, how) = (workload.name(), access.name());
                let rate = |name: &str| rates.iter().find(|(n, _)| *n == name).map(|(_, rate)| *rate);
                for (name, rate) in rates.iter().filter(|(name, _)| is_ours(name)) {
                    if let Some((peer, best)) = self.best(workload, is_peer) {
                        row(format!("{what}, {name} {how} : the fastest peer's best ({peer})"), rate / best);
                    }
                }
                if let (Some(ours), Some(plain)) = (rate("cdi disk.raw"), rate("plain file")) {
                    row(format!("{what}, cdi disk.raw : plain file, {how}"), ours / plain);
                }
                if let (Some(device), Some(file)) = (rate("cdi device"), rate("cdi disk.raw")) {
                    row(format!("{what}, cdi device : cdi disk.raw, {how}"), device / file);
                }
            }
        }
        let p99 = |name, access: Access| {
            Some(self.reads.get(&(name, Workload::Random4k.name(), access.name()))?.p99.median())
        };
        for access in [Access::Buffered, Access::Direct] {
            let peers = ["qemu zlib", "qemu zstd", "ewfmount", "xmount", "squashfuse zstd", "zffmount"];
            let best = peers
                .into_iter()
                .filter_map(|n| Some((n, p99(n, access)?)))
                .min_by(|a, b| a.1.total_cmp(&b.1));
            if let (Some(ours), Some((peer, best))) = (p99("cdi disk.raw", access), best) {
                let how = access.name();
                row(
                    format!("random 4 KiB, p99, {how}: cdi disk.raw : the best in user space ({peer})"),
                    ours / best,
                );
            }
        }
        let made = |name| self.made.get(name);
        if let (Some(ours), Some(qemu)) = (made("cdi"), made("qemu-img zstd")) {
            row(
                "creating, seconds: cdi : qemu-img zstd".into(),
                ours.seconds.median() / qemu.seconds.median(),
            );
        }
        for peer in ["qemu-img zstd", "zstd -3 -T2", "ddrescue"] {
            if let (Some(ours), Some(theirs)) = (made("cdi --rescue"), made(peer)) {
                let ratio = ours.seconds.median() / theirs.seconds.median();
                row(format!("creating, seconds: cdi --rescue : {peer}"), ratio);
            }
        }
        if let (Some(ours), Some(zstd)) = (made("cdi"), made("zstd -3 -T2")) {
            row("creating, seconds: cdi : zstd -3 -T2".into(), ours.seconds.median() / zstd.seconds.median());
            row("size: cdi : zstd -3".into(), ours.bytes as f64 / zstd.bytes as f64);
        }
        out
    }
}

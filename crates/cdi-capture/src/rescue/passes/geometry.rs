//! Tests of the passes on drives with dead heads, and on others: how many reads fail.

use std::ops::Range;
use std::time::Duration;

use cdi_image::badmap::{BadBlocks, BadRange, Reason, Status};

use super::*;

const GIB: u64 = 1 << 30;

/// A drive whose heads take turns, with bands whose lengths change from zone to zone.
#[derive(Debug, Clone)]
struct Drive {
    size: u64,
    /// The bands of dead heads, in order.
    bad: Vec<Range<u64>>,
}

#[derive(Debug, Clone, Copy)]
struct Geometry {
    heads: u64,
    dead: &'static [u64],
    band: u64,
    serpentine: bool,
    /// By how much bands become shorter from the first to the last zone, in percent, in 16 zones.
    shrink: u64,
}

impl Drive {
    fn with(size: u64, g: Geometry) -> Drive {
        let mut bad: Vec<Range<u64>> = Vec::new();
        let (mut at, mut n) = (0, 0);
        while at < size {
            let zone = at * 16 / size;
            // In whole sectors, not in whole clusters.
            let band = (g.band - g.band * g.shrink / 100 * zone / 16) / 512 * 512;
            let turn = n % g.heads;
            let head = if g.serpentine && n / g.heads % 2 == 1 { g.heads - 1 - turn } else { turn };
            let end = (at + band).min(size);
            if g.dead.contains(&head) {
                match bad.last_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => bad.push(at..end),
                }
            }
            (at, n) = (end, n + 1);
        }
        Drive { size, bad }
    }

    fn fails(&self, range: &Range<u64>) -> bool {
        let first = self.bad.partition_point(|bad| bad.end <= range.start);
        self.bad.get(first).is_some_and(|bad| bad.start < range.end)
    }

    fn plan(&self) -> RescuePlan {
        RescuePlan::whole(self.size, 512)
    }

    /// Runs the passes. Returns the number of failed reads until nothing that can be read is left, and in all; at most `most`.
    fn failed_reads(&self, most: u64) -> (Option<u64>, u64, Next) {
        let plan = self.plan();
        let all = BadBlocks::from_unsorted([BadRange::new(0..self.size, Status::NonTried)]);
        let mut passes = Passes::new(plan, &all);
        let dead: u64 = self.bad.iter().map(|bad| bad.end - bad.start).sum();
        let (mut failed, mut all_read) = (0, None);
        while failed < most {
            let read = match passes.next_read() {
                Next::Read(read) => read,
                end => return (all_read, failed, end),
            };
            let fails = self.fails(&read.range);
            failed += u64::from(fails);
            let good = if fails { 0 } else { read.range.end - read.range.start };
            let reason = fails.then_some(Reason::errno(5));
            passes.got(&read, &Outcome { good, reason, took: Duration::ZERO, ..Outcome::default() });
            if all_read.is_none() && passes.areas().left() == dead {
                all_read = Some(failed);
            }
        }
        (all_read, failed, Next::Finished)
    }
}

/// The heads of drives, and those of them that are dead.
const HEADS: [(u64, &[u64]); 7] =
    [(4, &[1]), (4, &[0]), (2, &[0]), (8, &[3]), (8, &[2, 5]), (4, &[0, 2]), (6, &[1, 2])];

/// Bands of 8 MiB to 4 GiB on a disk of 1,000 GiB (less for small ones): a few failed reads each, until nothing is left but what
/// nobody can read; and then the end, without reading on into it. With `CDI_LONG` all of them.
#[test]
fn a_dead_head_costs_at_most_four_failed_reads_a_band() {
    let long = std::env::var_os("CDI_LONG").is_some();
    let one = |n: usize, heads: u64, dead: &'static [u64]| {
        for serpentine in [true, false] {
            for (m, band) in
                [8 << 20, 32 << 20, 128 << 20, 512 << 20, 2560 << 20, 4 * GIB].into_iter().enumerate()
            {
                if !long && (m < 2 || !(n + m + usize::from(serpentine)).is_multiple_of(3)) {
                    continue;
                }
                let g = Geometry { heads, dead, band, serpentine, shrink: 40 };
                // Of small bands, 250 of each head are enough.
                let drive = Drive::with((1000 * GIB).min(band * heads * 250), g);
                let bands = drive.bad.len() as u64;
                let (all, failed, end) = drive.failed_reads(bands * 6 + 100);
                let after = all.map(|all| failed - all);
                assert_eq!(end, Next::Finished, "{g:?}");
                assert!(after.is_some_and(|after| after <= bands), "{g:?}: {failed} failed reads, {all:?}");
                // The first ones cost more, which shows if there are few of them.
                assert!(failed <= bands * 4 + 25, "{g:?}: {failed} failed reads for {bands} bands");
            }
        }
    };
    std::thread::scope(|scope| {
        for half in [0, 1] {
            let some = HEADS.into_iter().enumerate().filter(move |(n, _)| n % 2 == half);
            scope.spawn(|| some.for_each(|(n, (heads, dead))| one(n, heads, dead)));
        }
    });
}

/// Numbers that seem to be random.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// The start of a sector within so many bytes.
    fn sector(&mut self, limit: u64) -> u64 {
        self.below(limit / 512) * 512
    }
}

/// A drive with `count` bad areas, of which `area` says the start and the number of sectors.
fn damaged(random: &mut Random, size: u64, count: u64, area: fn(&mut Random) -> (u64, u64)) -> Drive {
    let areas = (0..count).map(|_| area(random)).map(|(start, len)| start..(start + len * 512).min(size));
    let mut areas: Vec<Range<u64>> = areas.collect();
    areas.sort_by_key(|range| range.start);
    let mut bad: Vec<Range<u64>> = Vec::new();
    for range in areas {
        match bad.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => bad.push(range),
        }
    }
    Drive { size, bad }
}

/// Drives without a dead head: a name, and the drive.
fn others() -> [(&'static str, Drive); 6] {
    let r = &mut Random(0x9E37_79B9_7F4A_7C15);
    let (small, large) = (20 * GIB, 1000 * GIB);
    [
        ("scattered", damaged(r, small, 3000, |r| (r.sector(20 * GIB), 1 + r.below(8)))),
        ("scattered, large disk", damaged(r, large, 3000, |r| (r.sector(1000 * GIB), 1 + r.below(8)))),
        ("scratches", damaged(r, small, 30, |r| (r.sector(20 * GIB), 1 + r.below(40_000)))),
        ("scratches, large disk", damaged(r, large, 30, |r| (r.sector(1000 * GIB), 1 + r.below(200_000)))),
        ("bad tail", damaged(r, small, 4000, |r| (19 * GIB + r.sector(GIB), 1 + r.below(64)))),
        (
            "clusters",
            damaged(r, small, 2000, |r| ((1 + r.below(9)) * 2 * GIB + r.sector(64 << 20), 1 + r.below(16))),
        ),
    ]
}

/// Not more than the passes of ddrescue 1.27 needed, which were used before (with `CDI_LONG`; they take a minute).
#[test]
fn other_damage_costs_no_more_failed_reads_than_before() {
    let before = [
        (16_508, 16_694),
        (15_596, 16_575),
        (4600, 611_324),
        (21_791, 2_841_663),
        (131_867, 131_873),
        (18_562, 18_590),
    ];
    for ((name, drive), (all_before, in_all)) in others().into_iter().zip(before) {
        if in_all > 100_000 && std::env::var_os("CDI_LONG").is_none() {
            continue;
        }
        let (all, failed, end) = drive.failed_reads(u64::MAX);
        assert_eq!(end, Next::Finished);
        let all = all.unwrap();
        // Where each bad sector is read alone, all is read a little before the end: when, is chance.
        assert!(all <= all_before + all_before / 15, "{name}: {all} and {all_before}");
        assert!(failed <= in_all + in_all / 200, "{name}: {failed} and {in_all}");
    }
}

/// A head that reads slowly is read last, and all of it.
#[test]
fn a_slow_head_is_read_last() {
    let g = Geometry { heads: 4, dead: &[1], band: 512 << 20, serpentine: true, shrink: 10 };
    let drive = Drive::with(100 * GIB, g);
    let bands = drive.bad.len() as u64;
    let slow: u64 = drive.bad.iter().map(|bad| bad.end - bad.start).sum();
    let plan = drive.plan();
    let all = BadBlocks::from_unsorted([BadRange::new(0..drive.size, Status::NonTried)]);
    let mut passes = Passes::new(plan, &all);
    let (mut slow_reads, mut slow_bytes, mut before) = (0, 0, None);
    while let Next::Read(read) = passes.next_read() {
        let is_slow = drive.fails(&read.range);
        let took = Duration::from_millis(if is_slow { 3000 } else { 8 });
        slow_reads += u64::from(is_slow);
        slow_bytes += if is_slow { read.range.end - read.range.start } else { 0 };
        passes.got(
            &read,
            &Outcome { good: read.range.end - read.range.start, reason: None, took, ..Outcome::default() },
        );
        if before.is_none() && passes.areas().left() + slow_bytes <= slow + bands * MAX {
            before = Some(slow_reads);
        }
    }
    assert!(passes.areas().is_empty() && passes.dead_head().is_none());
    let before = before.unwrap();
    assert!(before <= bands * 6, "{before} slow reads for {bands} bands before the rest was read");
}

//! Tests of the passes on a simulated drive.

#![allow(clippy::single_range_in_vec_init)]

use std::collections::BTreeMap;

use cdi_image::badmap::Reason;

use super::*;

const SECTOR: u64 = 512;

fn plan(sectors: u64) -> RescuePlan {
    RescuePlan::whole(sectors * SECTOR, SECTOR)
}

fn untried(plan: &RescuePlan) -> BadBlocks {
    BadBlocks::from_unsorted([BadRange::new(0..plan.size, Status::NonTried)])
}

/// A disk with bad sectors, which counts the reads of each sector and logs all reads with their pass.
struct Drive {
    bad: Vec<bool>,
    tries: Vec<u32>,
    order: Vec<(Pass, Range<u64>)>,
    /// The duration of a read that touches a sector, in milliseconds, by sector.
    slow: BTreeMap<u64, u64>,
}

impl Drive {
    fn new(sectors: u64, bad: &[Range<u64>]) -> Drive {
        let is_bad = |s: &u64| bad.iter().any(|b| b.contains(s));
        let bad = (0..sectors).map(|s| is_bad(&s)).collect();
        Drive {
            bad,
            tries: vec![0; usize::try_from(sectors).unwrap()],
            order: Vec::new(),
            slow: BTreeMap::new(),
        }
    }

    fn read(&mut self, pass: Pass, read: &Read) -> Outcome {
        let sectors = usize::try_from(read.range.start / SECTOR).unwrap()
            ..usize::try_from(read.range.end.div_ceil(SECTOR)).unwrap();
        assert!(!sectors.is_empty());
        if read.why != Why::Check {
            self.tries[sectors.clone()].iter_mut().for_each(|t| *t += 1);
            self.order.push((pass, read.range.clone()));
        }
        let fails = self.bad[sectors.clone()].iter().any(|b| *b);
        let slow = self.slow.range(sectors.start as u64..sectors.end as u64).map(|(_, ms)| *ms).max();
        let took =
            Duration::from_micros(slow.map_or((read.range.end - read.range.start) / 100, |ms| ms * 1000));
        let good = if fails { 0 } else { read.range.end - read.range.start };
        Outcome { good, reason: fails.then_some(Reason::errno(5)), took, ..Outcome::default() }
    }

    fn run(&mut self, passes: &mut Passes) -> Next {
        for _ in 0..10_000_000 {
            match passes.next_read() {
                Next::Read(read) => {
                    let outcome = self.read(passes.pass().0, &read);
                    passes.got(&read, &outcome);
                }
                end => return end,
            }
        }
        panic!("no end");
    }

    fn assert_bad_sectors_found(&self, passes: &Passes) {
        for (sector, bad) in self.bad.iter().enumerate() {
            let status = passes.areas().around(sector as u64 * SECTOR).map(|a| a.status);
            assert_eq!(status, bad.then_some(Status::Bad), "sector {sector}");
        }
    }
}

fn random_ranges(seed: u64, sectors: u64) -> Vec<Range<u64>> {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let count = next(20);
    (0..count)
        .map(|_| {
            let (start, max_len) = (next(sectors), [1, 3, 40, 700][usize::try_from(next(4)).unwrap()]);
            start..(start + 1 + next(max_len)).min(sectors)
        })
        .collect()
}

#[test]
fn each_sector_is_tried_at_most_twice_and_all_good_ones_are_read() {
    for seed in 0..300 {
        let sectors = 1 + seed * 977 % 70_000;
        let mut plan = plan(sectors);
        if seed % 3 == 1 {
            plan.direction = Direction::Backwards;
        }
        let mut drive = Drive::new(sectors, &random_ranges(seed, sectors));
        let mut passes = Passes::new(plan.clone(), &untried(&plan));
        assert_eq!(drive.run(&mut passes), Next::Finished);
        drive.assert_bad_sectors_found(&passes);
        for (sector, tries) in drive.tries.iter().enumerate() {
            assert!((1..=2).contains(tries), "seed {seed}: sector {sector} was tried {tries} times");
        }
    }
}

#[test]
fn a_failure_loses_its_physical_sector_until_it_is_retried() {
    let mut plan = RescuePlan { unit: 4096, ..plan(80_000) };
    let mut drive = Drive::new(80_000, &[5003..5004, 20_000..20_100]);
    let mut passes = Passes::new(plan.clone(), &untried(&plan));
    drive.run(&mut passes);
    let areas: Vec<_> = passes.areas().iter().map(|a| (a.start / 512, a.end / 512, a.tries)).collect();
    assert_eq!(areas, [(5000, 5008, 2), (20_000, 20_104, 2)]);
    plan.retries = Some(1);
    let mut drive = Drive::new(80_000, &[5003..5004, 20_000..20_100]);
    let mut passes = Passes::new(plan.clone(), &untried(&plan));
    drive.run(&mut passes);
    drive.assert_bad_sectors_found(&passes);
    assert!(passes.areas().iter().all(|a| a.tries == 3));
}

#[test]
fn good_areas_are_read_before_bad_ones_are_scraped() {
    let mut drive = Drive::new(400_000, &[100_000..110_000, 300_000..300_001]);
    let plan = plan(400_000);
    let mut passes = Passes::new(plan.clone(), &untried(&plan));
    drive.run(&mut passes);
    let copied: u64 = drive
        .order
        .iter()
        .filter(|(pass, _)| matches!(pass, Pass::Copying(_) | Pass::Sweeping))
        .map(|(_, r)| r.end - r.start)
        .sum();
    assert_eq!(copied, 400_000 * 512);
    // The first pass reads only a few times within the bad area of 5 MB.
    let inside = |r: &Range<u64>| r.start < 110_000 * 512 && r.end > 100_000 * 512;
    let reads = drive.order.iter().filter(|(pass, r)| *pass == Pass::Copying(1) && inside(r)).count();
    assert!((1..20).contains(&reads), "{reads} reads");
    drive.assert_bad_sectors_found(&passes);
}

#[test]
fn slow_areas_are_left_for_later() {
    let mut drive = Drive::new(4_000_000, &[]);
    // Half a minute of reading, then an area in which every read takes more than a second.
    drive.slow = (3_000_000..3_100_000).map(|s| (s, 1100)).collect();
    let plan = plan(4_000_000);
    let mut passes = Passes::new(plan.clone(), &untried(&plan));
    for ms in drive.slow.values_mut().take(1) {
        *ms = 31_000;
    }
    drive.run(&mut passes);
    assert!(passes.areas().is_empty());
    let slow = |r: &Range<u64>| r.start >= 3_000_000 * 512 && r.start < 3_100_000 * 512;
    let first = drive.order.iter().filter(|(pass, r)| *pass == Pass::Copying(1) && slow(r)).count();
    let rest = drive.order.iter().filter(|(_, r)| slow(r)).count();
    assert!(first < rest / 2, "{first} of {rest}");
    let after = drive.order.iter().position(|(_, r)| r.start >= 3_100_000 * 512).unwrap();
    let last = drive.order.iter().rposition(|(_, r)| slow(r)).unwrap();
    assert!(after < last);
}

#[test]
fn retries_are_counted_and_alternate() {
    let plan = RescuePlan { retries: Some(3), ..plan(1000) };
    let mut drive = Drive::new(1000, &[400..410]);
    let mut passes = Passes::new(plan.clone(), &untried(&plan));
    drive.run(&mut passes);
    assert!(drive.tries[400..410].iter().all(|t| *t == 5), "{:?}", &drive.tries[400..410]);
    assert_eq!(passes.areas().iter().map(|a| a.tries).collect::<Vec<_>>(), [5]);
    let retried: Vec<u64> = drive
        .order
        .iter()
        .filter(|(pass, _)| matches!(pass, Pass::Retrying(_)))
        .map(|(_, r)| r.start / 512)
        .collect();
    assert_eq!((retried[0], retried[9], retried[10], retried[19], retried[20]), (400, 409, 409, 400, 400));
}

#[test]
fn a_dying_drive_is_distinguished_from_bad_sectors() {
    let plan = plan(400_000);
    let mut drive = Drive::new(400_000, &[10_000..10_300]);
    let mut passes = Passes::new(plan.clone(), &untried(&plan));
    for _ in 0..300 {
        let Next::Read(read) = passes.next_read() else { panic!() };
        let outcome = drive.read(passes.pass().0, &read);
        passes.got(&read, &outcome);
    }
    let before: Vec<BadRange> = passes.areas().iter().copied().collect();
    assert!(passes.areas().bytes(Status::NonTried) > 0 || passes.areas().left() > 0);
    drive.bad.fill(true);
    assert_eq!(drive.run(&mut passes), Next::Dead);
    // No area has changed its status.
    let after: Vec<BadRange> = passes.areas().iter().copied().collect();
    assert_eq!(before, after);
    assert_eq!(passes.next_read(), Next::Dead);
}

#[test]
fn a_drive_that_is_dead_when_imaging_resumes_is_detected() {
    let plan = plan(40_000);
    // An earlier run has read only a small part at the end.
    let map = BadBlocks::from_unsorted([BadRange::new(0..39_000 * 512, Status::NonTried)]);
    let mut drive = Drive::new(40_000, &[0..40_000]);
    let mut passes = Passes::new(plan, &map);
    assert_eq!(drive.run(&mut passes), Next::Dead);
    assert_eq!(passes.areas().bytes(Status::NonTried), 39_000 * 512);
    assert!(drive.tries.iter().map(|t| u64::from(*t)).sum::<u64>() < 16 * 128 + 1);
}

#[test]
fn the_last_errors_of_a_dead_drive_are_reverted_at_any_end() {
    let plan = plan(40_000);
    let mut drive = Drive::new(40_000, &[20_000..40_000]);
    let mut passes = Passes::new(plan.clone(), &untried(&plan));
    // Stop after the third error.
    while passes.areas().bytes(Status::NonTrimmed) < 3 * CLUSTER {
        let Next::Read(read) = passes.next_read() else { panic!() };
        let outcome = drive.read(passes.pass().0, &read);
        passes.got(&read, &outcome);
    }
    drive.bad.fill(true);
    assert!(passes.settle());
    assert_eq!(drive.run(&mut passes), Next::Dead);
    assert_eq!(passes.areas().bytes(Status::NonTrimmed), 0);
    assert!(!passes.settle());
}

#[test]
fn sectors_read_before_an_error_stay_finished() {
    let plan = RescuePlan { unit: 4096, ..plan(4000) };
    let mut passes = Passes::new(plan.clone(), &untried(&plan));
    let mut dead = false;
    for _ in 0..10_000 {
        let Next::Read(read) = passes.next_read() else { break };
        // The first sector of each read succeeds and the rest fails; later everything fails.
        let good = if dead { 0 } else { SECTOR.min(read.range.end - read.range.start) };
        let whole = good == read.range.end - read.range.start;
        let reason = (!whole).then_some(Reason::errno(5));
        let before = passes.areas().left();
        passes.got(&read, &Outcome { good, reason, took: Duration::ZERO, ..Outcome::default() });
        assert!(passes.areas().left() <= before);
        dead |= passes.pass().0 == Pass::Scraping;
    }
    let left = passes.areas().left();
    assert_eq!(passes.next_read(), Next::Dead);
    assert_eq!(passes.areas().left(), left, "finished sectors became unfinished");
}

#[test]
fn an_interrupted_run_is_resumed() {
    for stop in [1, 10, 100, 1000, 2000] {
        let plan = plan(50_000);
        let mut drive = Drive::new(50_000, &random_ranges(stop, 50_000));
        let mut map = untried(&plan);
        loop {
            let mut passes = Passes::new(plan.clone(), &map);
            let mut end = None;
            for _ in 0..stop {
                match passes.next_read() {
                    Next::Read(read) => {
                        let outcome = drive.read(passes.pass().0, &read);
                        passes.got(&read, &outcome);
                    }
                    other => end = Some(other),
                }
            }
            map = BadBlocks::from_unsorted(passes.areas().iter().copied());
            if end.is_some() {
                drive.assert_bad_sectors_found(&passes);
                break;
            }
        }
        assert!(drive.tries.iter().all(|t| (1..=2).contains(t)), "stop {stop}");
    }
}

#[test]
fn only_the_domain_is_read() {
    let plan = RescuePlan { domain: vec![512 * 10..512 * 20, 512 * 1000..512 * 30_000], ..plan(50_000) };
    let mut drive = Drive::new(50_000, std::slice::from_ref(&(1500..1502)));
    let mut passes = Passes::new(plan.clone(), &untried(&plan));
    drive.run(&mut passes);
    for (sector, tries) in drive.tries.iter().enumerate() {
        let wanted = (10..20).contains(&sector) || (1000..30_000).contains(&sector);
        assert_eq!(*tries > 0, wanted, "sector {sector}");
    }
}

#[test]
fn parts_of_the_domain_come_first_and_no_sector_is_tried_more_often() {
    for seed in 0..200 {
        let sectors = 1 + seed * 977 % 70_000;
        let mut plan = plan(sectors);
        if seed % 3 == 1 {
            plan.direction = Direction::Backwards;
        }
        let bad = random_ranges(seed, sectors);
        let mut drive = Drive::new(sectors, &bad);
        let mut passes = Passes::new(plan.clone(), &untried(&plan));
        // Some reads in order, then parts of the disk, then the rest.
        for _ in 0..seed % 5 {
            let Next::Read(read) = passes.next_read() else { break };
            let outcome = drive.read(passes.pass().0, &read);
            passes.got(&read, &outcome);
        }
        let position = passes.position();
        for part in 0..3 {
            let mut ranges = random_ranges(seed * 31 + part + 1, sectors);
            ranges.sort_by_key(|r| r.start);
            let mut domain: Vec<Range<u64>> = Vec::new();
            for range in ranges {
                let (start, end) = (range.start * SECTOR, range.end * SECTOR);
                match domain.last_mut() {
                    Some(last) if last.end >= start => last.end = last.end.max(end),
                    _ => domain.push(start..end),
                }
            }
            while passes.settle() {
                let Next::Read(read) = passes.next_read() else { break };
                let outcome = drive.read(passes.pass().0, &read);
                passes.got(&read, &outcome);
            }
            let before = drive.order.len();
            passes.begin_part(&domain, Some(0));
            assert_eq!(drive.run(&mut passes), Next::Finished);
            let inside = |r: &Range<u64>| domain.iter().any(|d| d.start <= r.start && r.end <= d.end);
            assert!(drive.order[before..].iter().all(|(_, read)| inside(read)), "seed {seed}");
            assert!(passes.areas().iter().all(|area| area.status == Status::Bad));
        }
        passes.continue_at(&position);
        assert_eq!(drive.run(&mut passes), Next::Finished);
        drive.assert_bad_sectors_found(&passes);
        assert!(drive.tries.iter().all(|tries| (1..=2).contains(tries)), "seed {seed}");
    }
}

#[test]
fn a_drive_that_fails_every_read_has_no_bad_sectors() {
    let plan = plan(40_000_000);
    let mut passes = Passes::new(plan.clone(), &untried(&plan));
    let (mut reads, mut end) = (0, None);
    while end.is_none() {
        match passes.next_read() {
            Next::Read(read) => {
                reads += 1;
                passes.got(
                    &read,
                    &Outcome {
                        good: 0,
                        reason: Some(Reason::errno(5)),
                        took: Duration::ZERO,
                        ..Outcome::default()
                    },
                );
            }
            other => end = Some(other),
        }
    }
    assert_eq!(end, Some(Next::Unreadable));
    assert!(reads < 1000, "{reads} reads");
    assert_eq!(passes.areas().bytes(Status::NonTried), plan.size);
}

/// Reads for programs, at any time and place, and drives that name the sectors that fail: at the end, exactly the bad sectors are
/// bad, nothing else is left, and no sector fails often.
#[test]
fn demands_and_named_sectors_leave_the_same_map() {
    let mut random = 11u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) % below
    };
    for seed in 0..2000 {
        let sectors = 4000 + next(40_000);
        let unit = [512, 4096][usize::try_from(next(2)).unwrap()];
        let in_unit = unit / SECTOR;
        let sectors = if next(3) == 0 { sectors } else { sectors / in_unit * in_unit };
        let mut bad = std::collections::BTreeSet::new();
        for _ in 0..next(12) {
            let most = [1, 3, 400][usize::try_from(next(3)).unwrap()];
            let (first, count) = (next(sectors), 1 + next(most));
            // Of a physical sector, nothing can be read if one logical sector is bad.
            for sector in first..(first + count).min(sectors) {
                bad.extend(sector / in_unit * in_unit..((sector / in_unit + 1) * in_unit).min(sectors));
            }
        }
        let (names, demands) = (next(3), next(4));
        let retries = u32::try_from(next(3)).unwrap();
        let plan = RescuePlan {
            unit,
            retries: Some(retries),
            direction: if next(3) == 0 { Direction::Backwards } else { Direction::Forwards },
            ..plan(sectors)
        };
        let mut passes = Passes::new(plan.clone(), &untried(&plan));
        let mut failed = std::collections::BTreeMap::<u64, u32>::new();
        let mut steps = 0u64;
        loop {
            steps += 1;
            assert!(steps < 400_000, "seed {seed} does not end");
            let demand = demands > 0 && next(2 + 20 * (demands - 1)) == 0;
            let read = if demand {
                let first = next(sectors.div_ceil(in_unit)) * in_unit;
                let end = (first + in_unit * (1 + next(200))).min(sectors);
                let range = first * SECTOR..end * SECTOR;
                let at = range.start + next(range.end - range.start) / SECTOR * SECTOR;
                match passes.demanded(at, &range) {
                    Demanded::Read(read) => {
                        assert!(read.contains(&at) && range.start <= read.start && read.end <= range.end);
                        Some(Read { range: read, why: Why::Demand })
                    }
                    Demanded::Held => {
                        assert!(!bad.contains(&(at / SECTOR)), "seed {seed}");
                        None
                    }
                    Demanded::Failed { .. } => None,
                }
            } else {
                match passes.next_read() {
                    Next::Read(read) => Some(read),
                    Next::Finished => break,
                    // Of a disk that is bad from its start on.
                    Next::Dead | Next::Unreadable => break,
                }
            };
            let Some(read) = read else { continue };
            let (start, end) = (read.range.start / SECTOR, read.range.end / SECTOR);
            let first = bad.range(start..end).next().copied();
            let located =
                first.is_some() && names > 0 && (names == 1 || next(4) > 0) && end - start > in_unit;
            let good = match first {
                None => read.range.end - read.range.start,
                Some(first) if located => (first - start) * SECTOR,
                Some(_) => 0,
            };
            if first.is_some() && end - start <= in_unit {
                *failed.entry(start).or_default() += 1;
            }
            let reason = first.map(|_| Reason::errno(5));
            passes.got(&read, &Outcome { good, reason, located, took: Duration::ZERO });
            passes.changes();
        }
        if passes.pass().0 != Pass::Finished {
            continue;
        }
        let left: std::collections::BTreeSet<u64> =
            passes.all_areas().flat_map(|area| area.start / SECTOR..area.end / SECTOR).collect();
        assert_eq!(left, bad, "seed {seed}: {} and {} sectors", left.len(), bad.len());
        assert!(passes.all_areas().all(|area| area.status == Status::Bad), "seed {seed}");
        let most = failed.values().max().copied().unwrap_or(0);
        // Alone once, and in each retry pass; logical sectors of a physical one are retried alone.
        assert!(
            most <= 2 + retries * u32::try_from(in_unit).unwrap(),
            "seed {seed}: {most}, {retries} retries"
        );
    }
}

/// A drive that fails every read, however many programs read it: nothing is bad.
#[test]
fn a_drive_that_reads_nothing_has_no_bad_sectors_for_demands() {
    for demands in [0, 1, 10, 30, 1000] {
        for later in [false, true] {
            let plan = plan(131_072);
            let mut passes = Passes::new(plan.clone(), &untried(&plan));
            if later {
                assert!(passes.begin_part(&[0..128 << 10, 1 << 20..2 << 20], Some(0)));
            }
            let (mut random, mut reads) = (1u64, 0u64);
            let end = loop {
                let mut read = match passes.next_read() {
                    Next::Read(read) => read,
                    Next::Finished if later && passes.bytes(Status::NonTried) > 0 => {
                        passes.begin_part(&[0..plan.size], Some(0));
                        continue;
                    }
                    end => break end,
                };
                for _ in 0..=demands {
                    reads += 1;
                    passes.got(&read, &Outcome { reason: Some(Reason::errno(5)), ..Outcome::default() });
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let at = (random >> 33) % 131_072 * SECTOR;
                    match passes.demanded(at, &(at..at + SECTOR)) {
                        Demanded::Read(range) => read = Read { range, why: Why::Demand },
                        _ => break,
                    }
                }
            };
            assert_eq!(end, Next::Unreadable, "{demands} {later}");
            assert!(reads < 2000, "{reads}");
            assert_eq!(passes.bytes(Status::NonTried), plan.size);
        }
    }
}

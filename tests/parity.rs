//! Parity: what is lost of an image within its limit comes back bit for bit, what is lost beyond it is an error, and nothing
//! is ever wrong.

mod independent;
mod making;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cdi_image::cdimg::parity::layout::{BLOCK, DESCRIPTION_LEN, DESCRIPTION_MAGIC, Description};
use cdi_image::disk::{Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::input::ReadAt;
use cdi_image::open::open_source;
use xxhash_rust::xxh3::xxh3_64;

use crate::common::{Lab, Random, Test, disk, peak_memory, seeds};
use crate::formats::cdimg::{compare, open};

const BLOCK_LEN: usize = BLOCK as usize;

/// The tests, by module.
pub const MODULES: &[&[Test]] = &[TESTS, independent::TESTS, making::TESTS];

/// An image with parity in a lab, its bytes, and those of its disk.
fn protected(size: u64, parity: &str, options: &[&str]) -> (Lab, Vec<u8>, Vec<u8>) {
    let lab = Lab::new();
    let truth = disk(size);
    lab.write("disk.raw", &truth);
    lab.cdi(["create", "disk.raw", "disk.cdimg", "--parity", parity].iter().chain(options)).ends(0);
    let image = lab.read("disk.cdimg");
    (lab, truth, image)
}

/// Destroys `bytes` bytes in aligned runs of which each is one of `lengths` long, from byte `from` on.
fn lose(image: &mut [u8], from: usize, bytes: usize, lengths: &[usize], random: &mut Random) {
    let mut lost = vec![false; image.len().div_ceil(BLOCK_LEN)];
    let mut left = bytes / BLOCK_LEN;
    while left > 0 {
        let run = (lengths[random.below(lengths.len() as u64) as usize] / BLOCK_LEN).min(left);
        let first = from / BLOCK_LEN;
        let at = first + random.below((lost.len() - first - run + 1) as u64) as usize;
        if lost[at..at + run].iter().any(|is| *is) {
            continue;
        }
        lost[at..at + run].fill(true);
        left -= run;
        let end = ((at + run) * BLOCK_LEN).min(image.len());
        let part = &mut image[at * BLOCK_LEN..end];
        match random.below(2) {
            0 => part.fill(0),
            _ => part.iter_mut().for_each(|b| *b = random.next() as u8),
        }
    }
}

/// Asserts that every byte of the disk can be read, and returns it.
fn whole(image: Vec<u8>, truth: &[u8], what: &str) -> Disk {
    let disk = open(image).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(disk.size(), truth.len() as u64, "{what}");
    let mut buf = vec![0; 1 << 20];
    for at in (0..truth.len()).step_by(buf.len()) {
        let buf = &mut buf[..(1 << 20).min(truth.len() - at)];
        disk.read_at(buf, at as u64).unwrap_or_else(|e| panic!("{what}: disk byte {at}: {e}"));
        assert!(buf == &truth[at..at + buf.len()], "{what}: wrong bytes at {at}");
    }
    disk
}

/// How many damaged places a check reports.
fn errors(disk: &Disk) -> usize {
    let mut count = 0;
    disk.image().check(&mut |_, _| count += 1, &mut || Ok(())).unwrap();
    count
}

/// The offsets of all descriptions in an image.
fn descriptions(image: &[u8]) -> Vec<usize> {
    let places = (0..image.len().saturating_sub(DESCRIPTION_LEN)).step_by(8);
    places.filter(|at| image[*at..].starts_with(&DESCRIPTION_MAGIC)).collect()
}

/// A file of which some blocks cannot be read.
struct Failing {
    bytes: Vec<u8>,
    bad: Vec<bool>,
}

impl ReadAt for Failing {
    fn read_at(&self, buf: &mut [u8], at: u64) -> std::io::Result<usize> {
        let n = self.bytes.read_at(buf, at)?;
        let touched = at as usize / BLOCK_LEN..(at as usize + n).div_ceil(BLOCK_LEN);
        if self.bad[touched].contains(&true) {
            return Err(std::io::Error::from_raw_os_error(5));
        }
        Ok(n)
    }
    fn len(&self) -> std::io::Result<u64> {
        ReadAt::len(&self.bytes)
    }
}

/// A file that cannot be read for a while.
struct Flaky {
    bytes: Vec<u8>,
    is_failing: Arc<AtomicBool>,
}

impl ReadAt for Flaky {
    fn read_at(&self, buf: &mut [u8], at: u64) -> std::io::Result<usize> {
        if self.is_failing.load(Ordering::SeqCst) {
            return Err(std::io::Error::from_raw_os_error(5));
        }
        self.bytes.read_at(buf, at)
    }
    fn len(&self) -> std::io::Result<u64> {
        ReadAt::len(&self.bytes)
    }
}

tests!(
    fn four_percent_lost_in_runs_of_any_length_come_back() {
        const K: usize = 1 << 10;
        const M: usize = 1 << 20;
        let (lab, truth, image) = protected(104 << 20, "5%", &["--codec", "none"]);
        let mut mixed: Vec<usize> = Vec::new();
        // As many bytes in runs of each length.
        [4 * K, 16 * K, 64 * K, 256 * K].iter().for_each(|len| mixed.extend(vec![*len; 256 * K / len]));
        let all = image.len() / 100 * 4;
        for (n, lengths) in [vec![4 * K], vec![64 * K], vec![M], vec![4 * M], mixed].into_iter().enumerate() {
            let mut bytes = image.clone();
            // The second and the third time also where the superblocks are.
            let from = if n % 2 == 1 { 0 } else { 128 * K };
            lose(&mut bytes, from, all, &lengths, &mut Random::new(n as u64 + 1));
            let what = format!("runs of {} KiB", lengths[0] / K);
            let disk = whole(bytes.clone(), &truth, &what);
            assert!(disk.stats().restored_bytes > all as u64 / 2, "{what}: {:?}", disk.stats());
            if lengths.len() == 1 && lengths[0] != 4 * K {
                continue;
            }
            lab.write("damaged.cdimg", &bytes);
            let verified = lab.cdi(["verify", "--json", "damaged.cdimg"]).ends(4).json();
            assert!(verified["ok"] == false && verified["lost_bytes"] == 0, "{verified}");
            let ran = lab.cdi(["repair", "damaged.cdimg", "new.cdimg", "--force", "--json"]).ends(0).json();
            assert!(ran["restored_bytes"].as_u64() > Some(all as u64 / 2), "{ran}");
            assert_eq!((&ran["damaged_records"], &ran["gap_bytes"]), (&0.into(), &0.into()), "{ran}");
            assert!(lab.read("damaged.cdimg") == bytes, "the damaged image was changed");
            same_contents(&lab, "disk.cdimg", "new.cdimg");
            lab.cdi(["verify", "new.cdimg"]).ends(0);
            // It has parity of its own.
            let info = lab.cdi(["info", "--json", "new.cdimg"]).ends(0).json();
            assert_eq!(info["parity"]["percent"], 5.0);
        }
    }

    fn a_truncated_image_with_parity_is_whole() {
        let (lab, truth, image) = protected(40 << 20, "5%", &["--codec", "none"]);
        for (cut, lost) in
            [(1, 0), (600, 0), (4096, 0), (image.len() / 100 * 4, 0), (image.len() / 50, image.len() / 100)]
        {
            let mut bytes = image[..image.len() - cut].to_vec();
            lose(&mut bytes, 128 << 10, lost, &[4096], &mut Random::new(9));
            let disk = whole(bytes.clone(), &truth, &format!("cut off by {cut}"));
            assert!(disk.image().warnings()[0].contains("before parity was added"));
            assert!(errors(&disk) > 0);
            lab.write("damaged.cdimg", &bytes);
            let ran = lab.cdi(["repair", "damaged.cdimg", "new.cdimg", "--force", "--json"]).ends(0).json();
            assert_eq!((&ran["damaged_records"], &ran["cut_off_bytes"]), (&0.into(), &0.into()), "{ran}");
            same_contents(&lab, "disk.cdimg", "new.cdimg");
        }
        // Without any parity left, what is left is right.
        let bytes = image[..image.len() / 100 * 90].to_vec();
        assert!(open(bytes).is_err());
    }

    fn superblocks_index_map_metadata_and_parity_may_be_lost() {
        let lab = Lab::new();
        let truth = lab.image(8192, 512, &[(1000, 3), (5000, 200)]);
        lab.cdi(["protect", "disk.cdimg", "--parity", "20%"]).ends(0);
        let image = lab.read("disk.cdimg");
        let (held, info) = (8192 - 203, lab.cdi(["info", "--json", "disk.cdimg"]).ends(0).json());
        let check = |bytes: Vec<u8>, what: &str| {
            let disk = open(bytes.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(compare(&disk, &truth, what), held, "{what}");
            assert!(errors(&disk) > 0, "{what}: no error");
            lab.write("damaged.cdimg", &bytes);
            let now = lab.cdi(["info", "--json", "damaged.cdimg"]).ends(0).json();
            assert_eq!((&now["metadata"], &now["blocks"]), (&info["metadata"], &info["blocks"]), "{what}");
            lab.cdi(["repair", "damaged.cdimg", "new.cdimg", "--force"]).ends(0);
            same_contents(&lab, "disk.cdimg", "new.cdimg");
        };
        let described = Description::parse(&image[*descriptions(&image).last().unwrap()..]).unwrap();
        let end = described.end.get() as usize;
        // Both superblocks, with and without the end of the file.
        let mut bytes = image.clone();
        bytes[..128 << 10].fill(0);
        check(bytes.clone(), "without superblocks");
        let len = bytes.len();
        bytes[len - 5000..].fill(0);
        check(bytes, "without superblocks and end");
        // The newest superblock and the end.
        let mut bytes = image.clone();
        bytes[(described.superblock.generation.get() as usize + 1) % 2 * 65536..][..512].fill(7);
        bytes[len - 5000..].fill(0);
        check(bytes, "without the newest superblock and the end");
        // The last 32 KiB before the parity have the index, the map and the metadata.
        let mut bytes = image.clone();
        bytes[end - (32 << 10)..end].fill(1);
        check(bytes, "without index, map and metadata");
        // Each block, alone.
        for at in (128 << 10..image.len()).step_by(BLOCK_LEN) {
            let mut bytes = image.clone();
            let stop = (at + BLOCK_LEN).min(image.len());
            bytes[at..stop].iter_mut().for_each(|b| *b ^= 0x55);
            let disk = open(bytes).unwrap();
            if (at / BLOCK_LEN).is_multiple_of(4) {
                assert_eq!(compare(&disk, &truth, "one block"), held, "block at {at}");
            }
            assert!(errors(&disk) > 0, "damage at {at} was not noticed");
        }
        // All of the parity.
        let mut bytes = image.clone();
        bytes[end..].fill(0);
        assert_eq!(compare(&open(bytes).unwrap(), &truth, "without parity"), held);
    }

    fn each_of_several_spans_is_restored() {
        let (_lab, truth, image) = protected(136 << 20, "100%", &["--codec", "none"]);
        let described = Description::parse(&image[*descriptions(&image).last().unwrap()..]).unwrap();
        assert_eq!((described.spans(), described.span(0).groups), (2, 2));
        let mut bytes = image;
        let lost = bytes.len() / 4;
        lose(&mut bytes, 128 << 10, lost, &[4096, 65536, 1 << 20], &mut Random::new(6));
        whole(bytes, &truth, "two spans");
    }

    fn what_cannot_be_read_is_restored() {
        let (_lab, truth, image) = protected(8 << 20, "10%", &[]);
        let random = &mut Random::new(3);
        let mut bad: Vec<bool> =
            (0..image.len().div_ceil(BLOCK_LEN)).map(|_| random.below(20) == 0).collect();
        bad[0] = true;
        let source = Failing { bytes: image, bad };
        let opened = open_source(Box::new(source), Path::new("x.cdimg"), &OpenOptions::default()).unwrap();
        let disk = Disk::new(opened, Options::default());
        let mut buf = vec![0; truth.len()];
        disk.read_at(&mut buf, 0).unwrap();
        assert!(buf == truth && disk.stats().restored_bytes > 0);
    }

    fn superblocks_that_cannot_be_read_are_restored() {
        let (_lab, truth, image) = protected(2 << 20, "10%", &[]);
        let mut bad = vec![false; image.len().div_ceil(BLOCK_LEN)];
        let last = bad.len() - 1;
        [0, 16, last].into_iter().for_each(|block| bad[block] = true);
        let source = Failing { bytes: image, bad };
        let opened = open_source(Box::new(source), Path::new("x.cdimg"), &OpenOptions::default()).unwrap();
        assert_eq!(
            compare(&Disk::new(opened, Options::default()), &truth, "beheaded"),
            truth.len() as u64 / 512
        );
    }

    /// A medium that fails for a moment costs no more than the reads of that moment.
    fn a_failed_read_is_not_remembered() {
        let (_lab, truth, mut image) = protected(8 << 20, "5%", &[]);
        lose(&mut image, 200 << 10, 60 << 10, &[4096], &mut Random::new(8));
        let is_failing = Arc::new(AtomicBool::new(false));
        let source = Flaky { bytes: image, is_failing: Arc::clone(&is_failing) };
        let opened = open_source(Box::new(source), Path::new("x.cdimg"), &OpenOptions::default()).unwrap();
        let disk = Disk::new(opened, Options { cache: 1 << 20, ..Options::default() });
        is_failing.store(true, Ordering::SeqCst);
        let good = compare(&disk, &truth, "while it fails");
        assert!(good < truth.len() as u64 / 512, "{good}");
        is_failing.store(false, Ordering::SeqCst);
        assert_eq!(compare(&disk, &truth, "afterwards"), truth.len() as u64 / 512);
        assert!(disk.stats().restored_bytes > 0);
    }

    fn what_a_killed_writer_leaves_hides_no_parity() {
        let (lab, truth, mut image) = protected(4 << 20, "5%", &[]);
        let len = image.len() as u64;
        image[300_000..305_000].fill(7);
        lab.write("disk.cdimg", &image);
        File::options().write(true).open(lab.path("disk.cdimg")).unwrap().set_len(len + (100 << 20)).unwrap();
        lab.cdi(["extract", "disk.cdimg", "out.raw"]).ends(0);
        assert!(lab.read("out.raw") == truth);
    }

    fn more_than_parity_bears_is_an_error_and_never_wrong() {
        let (lab, truth, image) = protected(16 << 20, "3%", &[]);
        let start = Instant::now();
        // Where the index is hit, nothing is left to be read.
        let (bytes, good) = (5..15)
            .map(|seed| {
                let mut bytes = image.clone();
                lose(&mut bytes, 128 << 10, image.len() / 10, &[4096, 65536], &mut Random::new(seed));
                let good = compare(&open(bytes.clone()).unwrap(), &truth, "too much lost");
                (bytes, good)
            })
            .find(|(_, good)| *good > 0)
            .unwrap();
        assert!(good < truth.len() as u64 / 512, "{good}");
        // A group that is hopeless is not tried again and again.
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
        lab.write("damaged.cdimg", &bytes);
        let ran = lab.cdi(["verify", "damaged.cdimg"]).ends(4);
        assert!(ran.out.contains("more is damaged than parity can restore"), "{}", ran.out);
        lab.cdi(["repair", "damaged.cdimg", "new.cdimg"]).ends(4);
        let repaired = compare(&open(lab.read("new.cdimg")).unwrap(), &truth, "repaired");
        assert!(repaired >= good, "{repaired} of {good}");
    }

    fn ten_thousand_damages_are_restored_or_an_error() {
        let lab = Lab::new();
        let truth = lab.image(600, 512, &[(100, 3)]);
        lab.cdi(["protect", "disk.cdimg", "--parity", "20%"]).ends(0);
        let image = lab.read("disk.cdimg");
        let before = peak_memory(std::process::id());
        let (image, truth) = (&image, &truth);
        let all = seeds(10_000);
        let middle = all.start.midpoint(all.end);
        std::thread::scope(|scope| {
            for half in [all.start..middle, middle..all.end] {
                scope.spawn(move || half.for_each(|seed| damaged(image, truth, seed)));
            }
        });
        let grown = peak_memory(std::process::id()).saturating_sub(before);
        assert!(grown < 256 << 10, "{grown} KiB of memory more than before");
    }

    fn hostile_parity_never_gives_a_wrong_byte() {
        let (_lab, truth, image) = protected(1 << 20, "50%", &[]);
        let truth = &truth;
        let places = descriptions(&image);
        let last = *places.last().unwrap();
        let described = Description::parse(&image[last..]).unwrap();
        // Every field of every description, with corrected checksums; something is damaged.
        for field in (8..DESCRIPTION_LEN - 8).filter(|f| *f < 200 || f % 64 == 0) {
            for value in [0u8, 1, 0x7F, 0x80, 0xFF] {
                let mut bytes = image.clone();
                for at in &places {
                    bytes[at + field] = value;
                    // The superblock in it has a checksum of its own.
                    let sum = xxh3_64(&bytes[at + 32..at + 32 + 504]).to_le_bytes();
                    bytes[at + 32 + 504..][..8].copy_from_slice(&sum);
                    let sum = xxh3_64(&bytes[*at..at + DESCRIPTION_LEN - 8]).to_le_bytes();
                    bytes[at + DESCRIPTION_LEN - 8..][..8].copy_from_slice(&sum);
                }
                bytes[140_000..141_000].fill(9);
                if field % 2 == 0 {
                    bytes[..131_072].fill(0);
                }
                let start = Instant::now();
                if let Ok(disk) = open(bytes)
                    && disk.size() == truth.len() as u64
                {
                    compare(&disk, truth, &format!("byte {field} = {value}"));
                    disk.image().check(&mut |_, _| {}, &mut || Ok(())).unwrap();
                }
                assert!(start.elapsed() < Duration::from_secs(20), "byte {field} = {value} takes long");
            }
        }
        // Recovery blocks that restore other bytes than there were, with corrected checksums in all copies.
        let mut bytes = image.clone();
        let span = described.span(0);
        for n in 0..span.recovery_blocks() {
            let at = described.slot_at(span.recovery_slot(n % span.groups, n / span.groups)) as usize;
            bytes[at..at + BLOCK_LEN].iter_mut().for_each(|b| *b ^= 0x11);
            let number = (span.blocks + n) as usize;
            let sum = xxh3_64(&bytes[at..at + BLOCK_LEN]);
            set_sum(&mut bytes, &described, number, sum);
        }
        bytes[140_000..141_000].fill(9);
        let before = compare(&open(bytes.clone()).unwrap(), truth, "changed recovery blocks");
        assert!(before < truth.len() as u64 / 512);
        // And with the checksums of what they restore, as far as those are known: still an error.
        for number in 0..span.blocks as usize {
            set_sum(&mut bytes, &described, number, 0);
        }
        compare(&open(bytes).unwrap(), truth, "changed checksums");
    }

    fn the_parity_of_an_image_in_an_image_is_not_mistaken_for_its_own() {
        let (lab, _, image) = protected(1 << 20, "30%", &[]);
        // Its descriptions are at multiples of 4,096 of the outer file, too.
        for shift in [0usize, 4096 - 64] {
            lab.write("nested.raw", [vec![0; 65536 + shift], image.clone()].concat());
            lab.cdi([
                "create",
                "--format",
                "raw",
                "nested.raw",
                "outer.cdimg",
                "-f",
                "--codec",
                "none",
                "--parity",
                "10%",
            ])
            .ends(0);
            let truth = lab.read("nested.raw");
            let mut outer = lab.read("outer.cdimg");
            outer[..131_072].fill(0);
            whole(outer.clone(), &truth, "without superblocks");
            outer.truncate(outer.len() - 10_000);
            whole(outer, &truth, "without superblocks and end");
        }
    }

    #[needs(Fuse)]
    fn a_mounted_image_restores_what_is_read() {
        let (lab, truth, image) = protected(16 << 20, "5%", &[]);
        let mut bytes = image;
        let lost = bytes.len() / 25;
        lose(&mut bytes, 128 << 10, lost, &[4096, 65536], &mut Random::new(8));
        lab.write("disk.cdimg", &bytes);
        let place = lab.cdi(["mount", "disk.cdimg"]).ends(0).out;
        let raw = Path::new(place.trim()).join("disk.raw");
        assert!(std::fs::read(&raw).unwrap() == truth);
        let stats = lab.cdi(["stats", "--json"]).ends(0).json();
        assert!(stats["stats"][0]["restored_bytes"].as_u64() > Some(0), "{stats}");
        assert_eq!(
            (&stats["stats"][0]["read_errors"], &stats["stats"][0]["chunks_damaged"]),
            (&0.into(), &0.into())
        );
        assert!(lab.cdi(["stats"]).ends(0).out.contains("restored"));
        let log = std::fs::read_dir(lab.path("run")).unwrap().flatten().map(|e| e.path());
        let logs: Vec<String> = log
            .filter(|p| p.extension().is_some_and(|x| x == "log"))
            .map(|p| std::fs::read_to_string(p).unwrap())
            .collect();
        assert!(logs.concat().contains("restored from parity"), "{logs:?}");
        // No two processes change an image that is in use.
        let ran = lab.cdi(["protect", "disk.cdimg", "--parity", "6%"]).ends(5);
        assert!(ran.err.contains("is mounted"), "{}", ran.err);
        lab.cdi(["unmount", place.trim()]).ends(0);
        assert!(lab.read("disk.cdimg") == bytes, "a reader changed the file");
    }
);

/// Sets the checksum of block `number` of the only span in all copies.
fn set_sum(bytes: &mut [u8], described: &Description, number: usize, sum: u64) {
    let span = described.span(0);
    for copy in 0..3 {
        let at = described.slot_at(span.sums_slot(copy, number as u64 / 509)) as usize;
        bytes[at + number % 509 * 8..][..8].copy_from_slice(&sum.to_le_bytes());
        let seal = xxh3_64(&bytes[at..at + BLOCK_LEN - 8]).to_le_bytes();
        bytes[at + BLOCK_LEN - 8..][..8].copy_from_slice(&seal);
    }
}

/// Compares bytes, map and metadata of the disks in two images.
fn same_contents(lab: &Lab, old: &str, new: &str) {
    let of = |image: &str| {
        let info = lab.cdi(["info", "--json", image]).ends(0).json();
        let code = if info["metadata"]["size_bytes"] == info["blocks"]["finished"]["bytes"] { 0 } else { 4 };
        let map = lab.cdi(["map", "--bad", "--json", image]).ends(0).json();
        lab.cdi(["extract", image, "extracted.raw", "--force"]);
        let bytes = xxh3_64(&lab.read("extracted.raw"));
        (info["metadata"].clone(), info["blocks"].clone(), map["ranges"].clone(), bytes, code)
    };
    assert_eq!(of(old), of(new), "{new}");
}

/// Damage of one to four kinds. If it is little, everything must be there.
fn damaged(image: &[u8], truth: &[u8], seed: u64) {
    let random = &mut Random::new(seed);
    let what = format!("CDI_SEED={seed}");
    let mut bytes = image.to_vec();
    let mut touched = std::collections::BTreeSet::new();
    for _ in 0..=random.below(3) {
        let len = bytes.len() as u64;
        let at = random.below(len) as usize;
        let end = (at + 1 + random.below(9000) as usize).min(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at..end].fill(0),
            2 => bytes[at..end].iter_mut().for_each(|b| *b = random.next() as u8),
            3 => {
                // A part of the file where another one belongs.
                let from = random.below(len - (end - at) as u64 + 1) as usize;
                bytes.copy_within(from..from + (end - at), at);
            }
            4 if random.below(4) == 0 => bytes.truncate(at.max(bytes.len() * 9 / 10)),
            _ => bytes[at] = 0xFF,
        }
        touched.extend(at / BLOCK_LEN..end.div_ceil(BLOCK_LEN));
        touched.extend(bytes.len() / BLOCK_LEN..image.len().div_ceil(BLOCK_LEN));
    }
    let start = Instant::now();
    let opened = open(bytes);
    let good = opened.as_ref().map_or(0, |disk| compare(disk, truth, &what));
    if touched.len() <= 4 {
        assert_eq!(good, 597, "{what}: {:?}", opened.err());
    } else if let Ok(disk) = opened
        && seed.is_multiple_of(8)
    {
        errors(&disk);
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{what}: took {:?}", start.elapsed());
}

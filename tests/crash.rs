//! What a crash leaves: every prefix of the writer's writes, with what was not synced dropped, torn or reordered in
//! pieces of 512 bytes. Whatever is left opens, gives no wrong byte, has all from before the last checkpoint, and can
//! be gone on with. And what damage leaves: cut off, zeroed, flipped; read as it is, and repaired.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cdi_image::badmap::{BadRange, Reason, Status};
use cdi_image::cdimg::index::Geometry;
use cdi_image::cdimg::writer::{NewImage, Store, Writer};
use cdi_image::codec::{Codec, Compressor};
use cdi_image::disk::{Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::input::Input;
use cdi_image::metadata::Metadata;
use cdi_image::open::open_source;

use crate::common::{Lab, Random, disk, mapfile};

const SECTOR: usize = 512;
const SECTORS: usize = 300;
const CHUNK: u32 = 4096;

#[derive(Clone)]
enum Op {
    Write(u64, Vec<u8>),
    Cut(u64),
    Sync,
}

/// A file, and all that was done to it.
#[derive(Clone, Default)]
struct Logged {
    bytes: Arc<Mutex<Vec<u8>>>,
    ops: Arc<Mutex<Vec<Op>>>,
}

impl Logged {
    fn of(bytes: Vec<u8>) -> Logged {
        Logged { bytes: Arc::new(Mutex::new(bytes)), ops: Arc::default() }
    }

    fn done(&self) -> usize {
        self.ops.lock().unwrap().len()
    }
}

fn write_at(bytes: &mut Vec<u8>, at: u64, new: &[u8]) {
    let end = at as usize + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at as usize..end].copy_from_slice(new);
}

impl Store for Logged {
    fn write_all_at(&mut self, new: &[u8], at: u64) -> std::io::Result<()> {
        self.ops.lock().unwrap().push(Op::Write(at, new.to_vec()));
        write_at(&mut self.bytes.lock().unwrap(), at, new);
        Ok(())
    }
    fn read_exact_at(&self, out: &mut [u8], at: u64) -> std::io::Result<()> {
        let all = self.bytes.lock().unwrap();
        let from = all.get(at as usize..at as usize + out.len());
        out.copy_from_slice(from.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
    fn sync(&mut self) -> std::io::Result<()> {
        self.ops.lock().unwrap().push(Op::Sync);
        Ok(())
    }
    fn cut(&mut self, len: u64) -> std::io::Result<()> {
        self.ops.lock().unwrap().push(Op::Cut(len));
        self.bytes.lock().unwrap().truncate(len as usize);
        Ok(())
    }
}

/// After how many operations which sectors were safe.
type Safe = Vec<(usize, Vec<bool>)>;

/// Does what a capture does, in a random order: runs, statuses, the map told, checkpoints.
fn capture(
    writer: &mut Writer,
    truth: &[u8],
    random: &mut Random,
    store: &Logged,
    safe: &mut Safe,
    steps: u64,
) {
    let mut done = safe.last().map_or_else(|| vec![false; SECTORS], |(_, done)| done.clone());
    for _ in 0..steps {
        let first = random.below(SECTORS as u64) as usize;
        let chunk = CHUNK as usize / SECTOR;
        let most = (chunk - first % chunk).min(SECTORS - first) as u64;
        let count = 1 + random.below(most) as usize;
        let (start, end) = (first * SECTOR, (first + count) * SECTOR);
        match random.below(8) {
            0..=4 => {
                let compressed =
                    Compressor::new(Codec::Zstd, 3).unwrap().compress(&truth[start..end]).unwrap();
                let (codec, bytes) = compressed.unwrap_or((Codec::Stored, truth[start..end].to_vec()));
                writer.put_data(start as u64, (end - start) as u32, codec, &bytes).unwrap();
                done[first..first + count].fill(true);
            }
            5 => {
                // What is read once is not called bad again.
                if done[first..first + count].iter().all(|d| !d) {
                    let bad = BadRange::new(start as u64..end as u64, Status::Bad);
                    writer.set_status(BadRange { tries: 1, reason: Some(Reason::errno(5)), ..bad }).unwrap();
                    writer.write_map_update(start as u64..end as u64).unwrap();
                }
            }
            6 => {
                writer.note(&serde_json::json!({ "event": "test", "first": first }));
                writer.write_out().unwrap();
            }
            _ => {
                writer.checkpoint().unwrap();
                safe.push((store.done(), done.clone()));
            }
        }
    }
}

/// What may be on the disk after a crash when `ops` were done to a file of `before`.
fn left(before: &[u8], ops: &[Op], random: &mut Random, how: u64) -> Vec<u8> {
    let synced = ops.iter().rposition(|op| matches!(op, Op::Sync)).map_or(0, |at| at + 1);
    let mut bytes = before.to_vec();
    for op in &ops[..synced] {
        match op {
            Op::Write(at, new) => write_at(&mut bytes, *at, new),
            Op::Cut(len) => bytes.truncate(*len as usize),
            Op::Sync => {}
        }
    }
    // The rest in pieces, of which some get there.
    let mut pieces: Vec<(u64, Option<&[u8]>)> = Vec::new();
    for op in &ops[synced..] {
        match op {
            Op::Write(at, new) => {
                let mut from = 0;
                while from < new.len() {
                    let here = at + from as u64;
                    let len = (SECTOR - here as usize % SECTOR).min(new.len() - from);
                    pieces.push((here, Some(&new[from..from + len])));
                    from += len;
                }
            }
            Op::Cut(len) => pieces.push((*len, None)),
            Op::Sync => {}
        }
    }
    // All, none, all but one, only one, or any.
    let n = pieces.len() as u64;
    let lucky = random.below(n.max(1));
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    if how >= 4 {
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i as u64 + 1) as usize);
        }
    }
    for i in order {
        let gets_there = match how {
            0 => true,
            1 => false,
            2 => i as u64 != lucky,
            3 => i as u64 == lucky,
            _ => random.below(3) > 0,
        };
        if !gets_there {
            continue;
        }
        match pieces[i] {
            (at, Some(piece)) => {
                // Superblocks are written whole by any disk; other pieces may be torn.
                let torn = how >= 5 && piece.len() == SECTOR && at >= 131_072 && random.below(8) == 0;
                let len = if torn { random.below(512) as usize } else { piece.len() };
                write_at(&mut bytes, at, &piece[..len]);
            }
            (len, None) => bytes.truncate(len as usize),
        }
    }
    bytes
}

fn open(bytes: Vec<u8>) -> Result<Disk, cdi_base::error::Error> {
    let opened = open_source(Box::new(bytes), Path::new("crash.cdimg"), &OpenOptions::default())?;
    Ok(Disk::new(opened, Options { cache: 1 << 20, ..Options::default() }))
}

/// No byte is wrong, and what was safe is there. How many sectors are.
fn check(bytes: Vec<u8>, truth: &[u8], safe: &[bool], what: &str) -> usize {
    let disk = open(bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut there = 0;
    for (sector, safe) in safe.iter().enumerate() {
        let mut buf = [0; SECTOR];
        match disk.read_at(&mut buf, (sector * SECTOR) as u64) {
            Ok(()) => {
                assert!(buf == truth[sector * SECTOR..][..SECTOR], "{what}: sector {sector} is wrong");
                there += 1;
            }
            Err(e) => assert!(!safe, "{what}: sector {sector} is lost: {e}"),
        }
    }
    there
}

tests!(
    fn whatever_a_crash_leaves_opens_and_is_right() {
        let truth = disk((SECTORS * SECTOR) as u64);
        let new = NewImage {
            geometry: Geometry { disk_size: truth.len() as u64, chunk_size: CHUNK },
            logical_sector: 512,
            physical_sector: 512,
            uuid: [5; 16],
            salt: 77,
        };
        let metadata = Metadata { size_bytes: truth.len() as u64, ..Metadata::default() };
        for seed in 0..12 {
            let random = &mut Random::new(seed);
            let store = Logged::default();
            let path = Path::new("crash.cdimg");
            let mut writer = Writer::create(Box::new(store.clone()), path, &new, metadata.clone()).unwrap();
            let begun = store.done();
            let mut safe: Safe = vec![(begun, vec![false; SECTORS])];
            capture(&mut writer, &truth, random, &store, &mut safe, 60);
            if seed % 2 == 0 {
                writer.finish().unwrap();
            } else {
                writer.leave().unwrap();
            }
            let ops = store.ops.lock().unwrap().clone();
            for end in begun..=ops.len() {
                let (_, kept) = safe.iter().rfind(|(at, _)| *at <= end).unwrap();
                for how in 0..10 {
                    let what = format!("seed {seed}, after {end} operations, {how}");
                    let bytes = left(&[], &ops[..end], random, how);
                    check(bytes.clone(), &truth, kept, &what);
                    // Gone on with, and crashed again while that begins.
                    if how >= 4 {
                        continued(bytes, &truth, kept, random, &what);
                    }
                }
            }
        }
    }

    fn cut_off_anywhere_it_is_right_or_an_error() {
        let (_lab, truth, image) = image();
        let random = &mut Random::new(1);
        let mut at = 131_072;
        let mut ends = Vec::new();
        while at + 64 <= image.len() {
            let stored = u32::from_le_bytes(image[at + 40..at + 44].try_into().unwrap()) as usize;
            at = (at + 64 + stored).next_multiple_of(8);
            ends.extend([at, at - 1, at + 1]);
        }
        ends.extend((0..60).map(|_| random.below(image.len() as u64) as usize));
        for end in ends.into_iter().filter(|end| *end < image.len()) {
            given(image[..end].to_vec(), &truth, &format!("cut off at {end}"));
        }
        for (from, to) in [(0, 65_536), (image.len() - 65_536, image.len())] {
            let mut bytes = image.clone();
            bytes[from..to].fill(0);
            given(bytes, &truth, "zeroed");
        }
    }

    fn ten_thousand_flips_are_right_or_an_error() {
        let (_lab, truth, image) = image();
        let wrong = |seed: u64| {
            let random = &mut Random::new(seed);
            let mut bytes = image.clone();
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
            // Where the flip is, and at some other places.
            let Ok(disk) = open(bytes) else { return };
            for _ in 0..4 {
                let sector = random.below(8192 - 64) as usize;
                let mut buf = vec![0; 64 * SECTOR];
                if disk.read_at(&mut buf, (sector * SECTOR) as u64).is_ok() {
                    assert!(
                        buf == truth[sector * SECTOR..][..64 * SECTOR],
                        "CDI_SEED={seed}: sector {sector}"
                    );
                }
            }
        };
        std::thread::scope(|scope| {
            let wrong = &wrong;
            scope.spawn(move || (0..5000).for_each(wrong));
            scope.spawn(move || (5000..10_000).for_each(wrong));
        });
        // Of some every sector.
        for seed in 20_000..20_100 {
            let random = &mut Random::new(seed);
            let mut bytes = image.clone();
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
            given(bytes, &truth, &format!("flip {seed}"));
        }
    }

    fn repair_saves_what_is_left() {
        let (lab, truth, image) = image();
        let all = given(image.clone(), &truth, "whole").unwrap();
        assert_eq!(all, 8192 - 203);
        let repair = |bytes: &[u8], code: i32| {
            lab.write("broken.cdimg", bytes);
            let ran = lab
                .cdi(["repair", "broken.cdimg", "out.cdimg", "--discard-unfinished", "--json"])
                .ends(code)
                .json();
            assert!(fs::read(lab.path("broken.cdimg")).unwrap() == bytes, "the original was changed");
            let out = fs::read(lab.path("out.cdimg")).unwrap();
            let given = given(out, &truth, "repaired").unwrap();
            lab.cdi(["verify", "out.cdimg"]).ends(0);
            (ran, given)
        };
        // Cut off: what the rest of the file held is there.
        for percent in [99, 50] {
            let (ran, got) = repair(&image[..image.len() * percent / 100], 4);
            assert!(got < all && lost_of(&ran) >= (all - got) * SECTOR, "{ran}");
        }
        // Without a head all is.
        let mut bytes = image.clone();
        bytes[..131_072].fill(0);
        let (ran, got) = repair(&bytes, 0);
        assert_eq!((ran["lost_bytes"].as_u64(), got), (Some(0), all));
        let last = bytes.len() - 65_536;
        bytes[last..].fill(0);
        assert!(repair(&bytes, 4).1 > 0);
        // What is sound is the same afterwards.
        let (ran, got) = repair(&image, 0);
        assert_eq!((ran["damaged_records"].as_u64(), got), (Some(0), all));
        // A damaged chunk is lost, by name.
        let mut bytes = image.clone();
        bytes[140_000] ^= 1;
        let (ran, got) = repair(&bytes, 4);
        assert_eq!(ran["lost_bytes"].as_u64(), Some(((all - got) * SECTOR) as u64));
        assert!(ran["lost_bytes"].as_u64().unwrap() <= 16_384);
        let lost = &ran["lost"][0];
        let bad = lab.cdi(["map", "--bad", "--json", "out.cdimg"]).ends(0).json();
        let ranges = bad["ranges"].as_array().unwrap();
        let untried = ranges.iter().find(|r| r["status"] == "non-tried").unwrap();
        assert_eq!(
            (&untried["offset_bytes"], &untried["length_bytes"]),
            (&lost["offset_bytes"], &lost["length_bytes"])
        );
        // With the disk, what was lost is read again.
        lab.cdi(["create", "disk.raw", "out.cdimg", "--resume", "--mapfile", "none"]).ends(4);
        assert_eq!(given(fs::read(lab.path("out.cdimg")).unwrap(), &truth, "resumed"), Some(all));
        // An image within an image is not mistaken for it.
        lab.write("nested.raw", &image);
        lab.cdi(["create", "--format", "raw", "nested.raw", "outer.cdimg", "--codec", "none"]).ends(0);
        let mut outer = fs::read(lab.path("outer.cdimg")).unwrap();
        outer[..131_072].fill(0);
        lab.write("broken.cdimg", &outer);
        lab.cdi(["repair", "broken.cdimg", "out.cdimg", "--discard-unfinished"]).ends(0);
        lab.cdi(["extract", "out.cdimg", "nested.out"]).ends(0);
        assert!(fs::read(lab.path("nested.out")).unwrap() == image);
        // What is no image is not repaired, and nothing is left of the attempt.
        lab.write("nothing", vec![7; 300_000]);
        lab.cdi(["repair", "nothing", "none.cdimg"]).ends(3);
        assert!(!lab.path("none.cdimg").exists());
        lab.cdi(["repair", "disk.cdimg", "disk.cdimg", "--force"]).ends(2);
        // Random damage: no wrong byte comes out, and repair says no less than it lost.
        for seed in 0..40 {
            let random = &mut Random::new(seed);
            let mut bytes = image.clone();
            for _ in 0..=random.below(20) {
                let at = 131_072 + random.below(bytes.len() as u64 - 131_072) as usize;
                let end = (at + 1 + random.below(3000) as usize).min(bytes.len());
                bytes[at..end].iter_mut().for_each(|b| *b = random.next() as u8);
            }
            lab.write("broken.cdimg", &bytes);
            let ran = lab.cdi(["repair", "broken.cdimg", "out.cdimg", "--discard-unfinished", "--json"]);
            if ran.code == 3 {
                continue;
            }
            let lost = lost_of(&ran.json());
            let got =
                given(fs::read(lab.path("out.cdimg")).unwrap(), &truth, &format!("seed {seed}")).unwrap();
            assert!(
                got * SECTOR + lost >= all * SECTOR,
                "seed {seed}: {got} sectors, {lost} bytes lost, of {all}"
            );
        }
    }

    /// An image whose last records are not committed, and the first of them is damaged: whoever would write it anew without
    /// the others refuses; going on with it, and repairing it, keep them.
    fn what_lies_behind_damage_is_not_thrown_away() {
        let lab = Lab::new();
        let truth = disk((SECTORS * SECTOR) as u64);
        lab.write("disk.raw", &truth);
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg", "--size", "4k", "--chunk", "4k"]).ends(4);
        let path = lab.path("a.cdimg");
        let input = Arc::new(Input::open(&path).unwrap());
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        let (mut writer, _) = Writer::resume(Box::new(file), &input, &path).unwrap();
        let damage_at = writer.end() as usize + 70;
        for chunk in 1..4u64 {
            let at = chunk * u64::from(CHUNK);
            let bytes = &truth[at as usize..][..CHUNK as usize];
            writer.put_data(at, CHUNK, Codec::Stored, bytes).unwrap();
        }
        writer.write_out().unwrap();
        drop(writer);
        let mut bytes = fs::read(&path).unwrap();
        bytes[damage_at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let ran = lab.cdi(["compact", "a.cdimg"]).ends(3);
        assert!(ran.err.contains("cdi repair"), "{}", ran.err);
        assert!(fs::read(&path).unwrap() == bytes, "a refusal changes nothing");
        lab.cdi(["repair", "a.cdimg", "b.cdimg"]).ends(4);
        let three = 3 * CHUNK as usize / SECTOR;
        assert_eq!(given(fs::read(lab.path("b.cdimg")).unwrap(), &truth, "repaired"), Some(three));
        lab.cdi(["create", "disk.raw", "a.cdimg", "--resume", "--size", "4k"]).ends(4);
        assert_eq!(given(fs::read(&path).unwrap(), &truth, "resumed"), Some(three));
        lab.cdi(["create", "disk.raw", "a.cdimg", "--resume"]).ends(0);
        assert_eq!(given(fs::read(&path).unwrap(), &truth, "whole"), Some(SECTORS));
    }

    /// Of a disk that is alike everywhere, a file of 99 % holds 99 %.
    fn repair_saves_99_of_100() {
        let lab = Lab::new();
        let mut truth = disk(16 << 20);
        let random = &mut Random::new(3);
        truth.chunks_mut(2).for_each(|pair| pair[0] = random.next() as u8);
        lab.write("disk.raw", &truth);
        lab.cdi(["create", "disk.raw", "disk.cdimg"]).ends(0);
        let image = fs::read(lab.path("disk.cdimg")).unwrap();
        let cut = &image[..image.len() * 99 / 100];
        assert_eq!(given(cut.to_vec(), &truth, "cut off"), None, "its index is gone");
        lab.write("cut.cdimg", cut);
        lab.cdi(["repair", "cut.cdimg", "out.cdimg"]).ends(4);
        let got = given(fs::read(lab.path("out.cdimg")).unwrap(), &truth, "repaired").unwrap();
        let all = truth.len() / SECTOR;
        assert!(got * 100 >= all * 99 && got < all, "{got} of {all}");
    }
);

fn continued(bytes: Vec<u8>, truth: &[u8], kept: &[bool], random: &mut Random, what: &str) {
    let path = Path::new("crash.cdimg");
    let store = Logged::of(bytes.clone());
    let input = Arc::new(Input::new(Box::new(bytes.clone()), path).unwrap());
    let (mut writer, _) =
        Writer::resume(Box::new(store.clone()), &input, path).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut safe: Safe = vec![(0, kept.to_vec()), (store.done(), kept.to_vec())];
    capture(&mut writer, truth, random, &store, &mut safe, 6);
    drop(writer);
    let ops = store.ops.lock().unwrap().clone();
    let end = random.below(ops.len() as u64 + 1) as usize;
    let (_, kept) = safe.iter().rfind(|(at, _)| *at <= end).unwrap();
    let how = random.below(10);
    let what = format!("{what}; gone on, after {end} of {} operations, {how}", ops.len());
    check(left(&bytes, &ops[..end], random, how), truth, kept, &what);
}

/// A disk of 4 MiB with bad sectors, and its image.
fn image() -> (Lab, Vec<u8>, Vec<u8>) {
    let lab = Lab::new();
    let truth = disk(4 << 20);
    lab.write("disk.raw", &truth);
    lab.write("disk.map", mapfile(8192, 512, &[(1000, 3), (5000, 200)]));
    lab.cdi(["create", "disk.raw", "disk.cdimg", "--mapfile", "disk.map", "--chunk", "16k"]).ends(4);
    let image = fs::read(lab.path("disk.cdimg")).unwrap();
    (lab, truth, image)
}

/// How many sectors an image gives; wrong ones are a failure.
fn given(bytes: Vec<u8>, truth: &[u8], what: &str) -> Option<usize> {
    let disk = open(bytes).ok()?;
    Some(crate::formats::cdimg::compare(&disk, truth, what) as usize)
}

/// What a repair says is lost, or may be.
fn lost_of(ran: &serde_json::Value) -> usize {
    let maybe = if ran["uncertain"] == true { ran["untried_bytes"].as_u64().unwrap() } else { 0 };
    (ran["lost_bytes"].as_u64().unwrap() + maybe) as usize
}

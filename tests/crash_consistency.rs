//! After a crash an image opens, has no wrong byte and everything from before the last checkpoint, and can be resumed: tried
//! with every prefix of the writer's writes, with unsynced data dropped, torn or reordered in pieces of 512 bytes.

use std::path::Path;
use std::sync::{Arc, Mutex};

use cdi_image::badmap::{BadRange, Reason, Status};
use cdi_image::cdimg::index::Geometry;
use cdi_image::cdimg::writer::{NewImage, Store, Writer};
use cdi_image::codec::{Codec, Compressor};
use cdi_image::input::Input;
use cdi_image::metadata::Metadata;

use crate::common::{Random, disk};
use crate::formats::cdimg::open;

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

/// Does what imaging does, in a random order: data, statuses, map updates, checkpoints.
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
                // A sector that was read is never recorded as bad later.
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

/// Returns one of the states that a crash after `ops` on a file `before` may leave.
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

/// Asserts that no byte is wrong and that safe sectors are there. Returns how many sectors are.
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

tests!(
    fn after_any_crash_an_image_opens_and_has_no_wrong_byte() {
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
                    // Resumed, and crashed again soon after.
                    if how >= 4 {
                        continued(bytes, &truth, kept, random, &what);
                    }
                }
            }
        }
    }
);

//! Random images, written by the writer and read by the disk, compared with a plain vector of bytes.

use std::path::Path;
use std::sync::{Arc, Mutex};

use cdi_base::error::ReadError;
use cdi_image::badmap::{BadRange, Reason, Status};
use cdi_image::cdimg::index::Geometry;
use cdi_image::cdimg::layout::{RECORDS_AT, RawEntry};
use cdi_image::cdimg::writer::{NewImage, Store, Writer};
use cdi_image::codec::{Codec, Compressor};
use cdi_image::disk::{BadPolicy, Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::metadata::Metadata;
use cdi_image::open::open_source;

use crate::common::Random;

/// A file in memory, whose writes and syncs fail from the `fail_at`th on.
#[derive(Clone, Default)]
pub struct Memory {
    pub bytes: Arc<Mutex<Vec<u8>>>,
    pub calls: Arc<Mutex<u64>>,
    pub fail_at: Option<u64>,
}

impl Memory {
    fn call(&self) -> std::io::Result<()> {
        let mut calls = self.calls.lock().unwrap();
        *calls += 1;
        if self.fail_at.is_some_and(|n| *calls >= n) {
            Err(std::io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }
}

impl Store for Memory {
    fn write_all_at(&mut self, bytes: &[u8], at: u64) -> std::io::Result<()> {
        self.call()?;
        let mut all = self.bytes.lock().unwrap();
        let end = at as usize + bytes.len();
        if all.len() < end {
            all.resize(end, 0);
        }
        all[at as usize..end].copy_from_slice(bytes);
        Ok(())
    }
    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
        let all = self.bytes.lock().unwrap();
        let from =
            all.get(at as usize..at as usize + bytes.len()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(from);
        Ok(())
    }
    fn sync(&mut self) -> std::io::Result<()> {
        self.call()
    }
    fn cut(&mut self, len: u64) -> std::io::Result<()> {
        self.call()?;
        self.bytes.lock().unwrap().truncate(len as usize);
        Ok(())
    }
}

/// A disk as it should read: bytes, and the status of each sector.
pub struct Truth {
    pub bytes: Vec<u8>,
    pub status: Vec<Status>,
    /// Everything that each sector ever was, for files that were cut off somewhere.
    pub versions: Vec<Vec<Vec<u8>>>,
    /// The bytes before the records, with the superblocks, after each step.
    pub heads: Vec<Vec<u8>>,
}

const SECTOR: usize = 512;

impl Truth {
    /// `data` is put at `start`.
    fn put(&mut self, start: usize, data: &[u8]) {
        self.bytes[start..start + data.len()].copy_from_slice(data);
        for (i, sector) in data.chunks(SECTOR).enumerate() {
            // Bytes that are put again do not take a suspicion away.
            if self.status[start / SECTOR + i] != Status::Suspect {
                self.status[start / SECTOR + i] = Status::Finished;
            }
            self.versions[start / SECTOR + i].push(sector.to_vec());
        }
    }

    /// Returns the expected result of a read.
    pub fn read(&self, offset: usize, len: usize) -> Result<&[u8], u64> {
        let sectors = offset / SECTOR..(offset + len).div_ceil(SECTOR);
        match sectors.clone().find(|s| self.status[*s] != Status::Finished) {
            Some(bad) => Err(bad as u64),
            None => Ok(&self.bytes[offset..offset + len]),
        }
    }
}

/// Writes a random image into `store`. Returns its expected contents, up to an error, and the result.
pub fn write(seed: u64, store: Memory, finish: bool) -> (Truth, Result<(), cdi_base::error::Error>) {
    let random = &mut Random::new(seed);
    let chunk = 4096u32 << random.below(4);
    let size = 1 + random.below(40 * u64::from(chunk));
    let sectors = (size as usize).div_ceil(SECTOR);
    let mut truth = Truth {
        bytes: vec![0; size as usize],
        status: vec![Status::NonTried; sectors],
        versions: vec![vec![]; sectors],
        heads: Vec::new(),
    };
    let metadata = Metadata { size_bytes: size, ..Metadata::default() };
    let new = NewImage {
        geometry: Geometry { disk_size: size, chunk_size: chunk },
        logical_sector: 512,
        physical_sector: 512,
        uuid: [7; 16],
        salt: seed + 1,
    };
    let bytes = std::sync::Arc::clone(&store.bytes);
    let result = (|| {
        let mut writer = Writer::create(Box::new(store), Path::new("model.cdimg"), &new, metadata)?;
        let mut known: Vec<(Vec<u8>, RawEntry)> = Vec::new();
        for _ in 0..random.below(120) {
            truth.heads.push(bytes.lock().unwrap()[..RECORDS_AT as usize].to_vec());
            let first = random.below(sectors as u64) as usize;
            let start = first * SECTOR;
            let chunk_end = (start as u64 / u64::from(chunk) + 1) * u64::from(chunk);
            let most = (chunk_end.min(size) as usize - start).div_ceil(SECTOR) as u64;
            let count = (1 + random.below(most)) as usize;
            let end = (start + count * SECTOR).min(size as usize);
            let range = start as u64..end as u64;
            match random.below(10) {
                0..=4 => {
                    let kinds = random.below(3);
                    let data: Vec<u8> = (start..end)
                        .map(|i| if kinds == 0 { random.next() as u8 } else { (i / 64) as u8 ^ kinds as u8 })
                        .collect();
                    let codec =
                        [Codec::Zstd, Codec::Lz4, Codec::Deflate, Codec::Stored][random.below(4) as usize];
                    let compressed =
                        Compressor::new(codec, codec.levels().1).unwrap().compress(&data).unwrap();
                    let (codec, compressed) = compressed.unwrap_or((Codec::Stored, data.clone()));
                    let entry = writer.put_data(range.start, data.len() as u32, codec, &compressed)?;
                    truth.put(start, &data);
                    known.push((data, entry));
                }
                5 => {
                    // The same bytes as some earlier run that fits here.
                    let fits = known.iter().find(|(d, _)| {
                        d.len() <= end - start && (d.len() % SECTOR == 0 || start + d.len() == size as usize)
                    });
                    if let Some((data, entry)) = fits {
                        writer.put_same(range.start, data.len() as u32, *entry)?;
                        truth.put(start, data);
                    }
                }
                6 => {
                    // A fill may go over many chunks.
                    let count = 1 + random.below((sectors - first) as u64) as usize;
                    let end = (start + count * SECTOR).min(size as usize);
                    let pattern = if random.below(2) == 0 { [0; 8] } else { random.next().to_le_bytes() };
                    writer.put_fill(start as u64..end as u64, pattern)?;
                    let data: Vec<u8> = (0..end - start).map(|i| pattern[i % 8]).collect();
                    truth.put(start, &data);
                }
                7 | 8 => {
                    let status = Status::LISTED[random.below(5) as usize];
                    // Statuses count from the next checkpoint on.
                    writer.set_status(BadRange {
                        reason: Some(Reason::errno(5)),
                        tries: 2,
                        ..BadRange::new(range, status)
                    })?;
                    truth.status[first..first + count].fill(status);
                    writer.checkpoint()?;
                }
                _ => writer.checkpoint()?,
            }
        }
        if finish {
            writer.finish()?;
        } else {
            writer.checkpoint()?;
        }
        Ok(())
    })();
    (truth, result)
}

fn open(bytes: Vec<u8>) -> Result<Disk, cdi_base::error::Error> {
    let opened = open_source(Box::new(bytes), Path::new("model.cdimg"), &OpenOptions::default())?;
    Ok(Disk::new(opened, Options { bad: BadPolicy::Error, cache: 1 << 20, ..Options::default() }))
}

/// Random reads from several threads, each right or the right error.
fn compare(disk: &Disk, truth: &Truth, seed: u64) {
    std::thread::scope(|scope| {
        for thread in 0..3 {
            scope.spawn(move || {
                let random = &mut Random::new(seed * 31 + thread);
                for _ in 0..60 {
                    let offset = random.below(truth.bytes.len() as u64) as usize;
                    let len = random.below((truth.bytes.len() - offset) as u64 + 1) as usize;
                    let mut buf = vec![0xEE; len];
                    match (disk.read_at(&mut buf, offset as u64), truth.read(offset, len)) {
                        (Ok(()), Ok(bytes)) => {
                            assert!(buf == bytes, "seed {seed}: wrong bytes at {offset}+{len}")
                        }
                        (Err(ReadError::Bad { sector, good, .. }), Err(bad)) => {
                            assert_eq!(
                                (sector, good),
                                (bad, (bad as usize * SECTOR).saturating_sub(offset)),
                                "seed {seed}"
                            );
                        }
                        (got, expect) => panic!(
                            "seed {seed}: {got:?} and not {:?} at {offset}+{len}",
                            expect.map(<[u8]>::len)
                        ),
                    }
                }
            });
        }
    });
}

/// Fails the n-th read.
struct FailingReads {
    bytes: Vec<u8>,
    left: Mutex<u64>,
}

impl cdi_image::input::ReadAt for FailingReads {
    fn read_at(&self, buf: &mut [u8], at: u64) -> std::io::Result<usize> {
        let mut left = self.left.lock().unwrap();
        *left = left.saturating_sub(1);
        if *left == 0 {
            *left = u64::MAX;
            return Err(std::io::Error::from_raw_os_error(5));
        }
        self.bytes.read_at(buf, at)
    }
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }
}

tests!(
    fn random_images_read_like_a_plain_vector() {
        for seed in 0..400 {
            let store = Memory::default();
            let (truth, result) = write(seed, store.clone(), true);
            result.unwrap();
            let bytes = store.bytes.lock().unwrap().clone();
            let disk = open(bytes).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            disk.start_readahead(2).unwrap();
            assert!(disk.image().warnings().is_empty(), "seed {seed}: {:?}", disk.image().warnings());
            disk.image().check(&mut |flaw, _| panic!("seed {seed}: {flaw}"), &mut || Ok(())).unwrap();
            compare(&disk, &truth, seed);
        }
    }

    fn an_unfinished_image_reads_as_far_as_it_was_written() {
        for seed in 1000..1200 {
            let store = Memory::default();
            let (truth, result) = write(seed, store.clone(), false);
            result.unwrap();
            let bytes = store.bytes.lock().unwrap().clone();
            let disk = open(bytes).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            assert!(disk.image().warnings()[0].contains("unfinished"));
            compare(&disk, &truth, seed);
        }
    }

    /// Images with all records and with superblocks from an earlier step, as after a crash.
    fn records_after_the_last_checkpoint_are_recovered() {
        let mut taken = 0;
        for seed in 4000..4300 {
            let store = Memory::default();
            let (truth, result) = write(seed, store.clone(), true);
            result.unwrap();
            let whole = store.bytes.lock().unwrap().clone();
            let random = &mut Random::new(seed);
            for _ in 0..truth.heads.len().min(4) {
                let mut bytes = whole.clone();
                let head = &truth.heads[random.below(truth.heads.len() as u64) as usize];
                bytes[..head.len()].copy_from_slice(head);
                let disk = open(bytes).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                let warnings = disk.image().warnings();
                assert!(
                    warnings[0].contains("unfinished") && !warnings.iter().any(|r| r.contains("are ignored")),
                    "{warnings:?}"
                );
                taken +=
                    usize::from(warnings.iter().any(|r| r.contains("recovered after the last checkpoint")));
                compare(&disk, &truth, seed);
            }
        }
        assert!(taken > 500, "only {taken} images had anything to take in");
    }

    fn a_failing_write_never_leads_to_a_wrong_byte() {
        for seed in 2000..2010 {
            for fail_at in 1.. {
                let store = Memory { fail_at: Some(fail_at), ..Memory::default() };
                let (truth, result) = write(seed, store.clone(), true);
                if result.is_ok() {
                    break;
                }
                // Whether it opens or not, it only returns bytes that were written at some time.
                let bytes = store.bytes.lock().unwrap().clone();
                if let Ok(disk) = open(bytes) {
                    for sector in 0..truth.status.len() {
                        let start = sector * SECTOR;
                        let mut buf = vec![0; SECTOR.min(truth.bytes.len() - start)];
                        if disk.read_at(&mut buf, start as u64).is_ok() {
                            assert!(
                                truth.versions[sector].contains(&buf),
                                "seed {seed}, call {fail_at}, sector {sector}"
                            );
                        }
                    }
                }
            }
        }
    }

    fn a_failing_read_never_leads_to_a_wrong_byte() {
        for seed in 3000..3010 {
            let store = Memory::default();
            let (truth, result) = write(seed, store.clone(), true);
            result.unwrap();
            let bytes = store.bytes.lock().unwrap().clone();
            for n in 1.. {
                let source = FailingReads { bytes: bytes.clone(), left: Mutex::new(n) };
                let Ok(opened) =
                    open_source(Box::new(source), Path::new("model.cdimg"), &OpenOptions::default())
                else {
                    continue;
                };
                let disk = Disk::new(opened, Options::default());
                let mut failed = false;
                for start in (0..truth.bytes.len()).step_by(4096) {
                    let len = 4096.min(truth.bytes.len() - start);
                    let mut buf = vec![0; len];
                    match (disk.read_at(&mut buf, start as u64), truth.read(start, len)) {
                        (Ok(()), Ok(bytes)) => assert!(buf == bytes, "seed {seed}, read {n}"),
                        (Ok(()), Err(_)) => panic!("seed {seed}, read {n}: a bad sector was read"),
                        (Err(ReadError::Bad { .. }), Err(_)) => {}
                        (Err(_), _) => failed = true,
                    }
                }
                if !failed && n > 40 {
                    break;
                }
            }
        }
    }

    /// The index of a disk with 10^8 chunks: written as such, opened, and read at a few places.
    fn an_index_of_an_8_tib_disk_opens_at_once() {
        let store = Memory::default();
        let size = 8u64 << 40;
        let metadata = Metadata { size_bytes: size, ..Metadata::default() };
        let new = NewImage {
            geometry: Geometry { disk_size: size, chunk_size: 64 << 10 },
            logical_sector: 512,
            physical_sector: 4096,
            uuid: [9; 16],
            salt: 99,
        };
        let mut writer =
            Writer::create(Box::new(store.clone()), Path::new("huge.cdimg"), &new, metadata).unwrap();
        writer.put_fill(0..size, [0; 8]).unwrap();
        let data = vec![0x5A; 64 << 10];
        // Far apart, so that each has nodes of its own.
        let places: Vec<u64> = (0..200).map(|i| i * (size / 200) / 65536 * 65536).collect();
        for at in &places {
            writer.put_data(*at, 64 << 10, Codec::Stored, &data).unwrap();
        }
        writer.finish().unwrap();
        let bytes = store.bytes.lock().unwrap().clone();
        let start = std::time::Instant::now();
        let disk = open(bytes).unwrap();
        assert!(start.elapsed().as_secs() < 5, "opening took {:?}", start.elapsed());
        let mut buf = vec![0; 128 << 10];
        for at in &places {
            disk.read_at(&mut buf, *at).unwrap();
            assert!(buf[..65536] == data[..] && buf[65536..].iter().all(|b| *b == 0));
        }
        disk.read_at(&mut buf, size - 131_072).unwrap();
    }
);

//! The format of cdi: fixtures, which every version must read forever, and images with every field changed.

use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};

use cdi_image::badmap::Status;
use cdi_image::cdimg::layout::*;
use cdi_image::cdimg::record::{Head, encode};
use cdi_image::codec::Codec;
use cdi_image::disk::{Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open::open_source;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::IntoBytes;

use crate::common::{Lab, disk, mapfile};

/// The disk that the fixtures are images of: 1.25 MiB and three sectors, and which of its sectors are what.
pub const FIXTURE_SECTORS: u64 = 2563;

pub const FIXTURE_BAD: [(u64, u64); 4] = [(3, 1), (1001, 2), (1600, 300), (2562, 1)];

pub fn fixtures_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Returns the disk of the fixtures: with a run of zeros, a run of a pattern, and a part that repeats another.
pub fn fixture_disk() -> Vec<u8> {
    let mut bytes = disk(FIXTURE_SECTORS * 512);
    bytes[100 * 512..600 * 512].fill(0);
    bytes[700 * 512..1000 * 512].iter_mut().enumerate().for_each(|(i, b)| *b = b"REPEATED"[i % 8]);
    bytes.copy_within(1024 * 512..1088 * 512, 2048 * 512);
    bytes
}

/// Every fixture with its name.
pub fn fixtures_list() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(fixtures_dir().join("v1"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|x| x == "cdimg") && !p.ends_with("example.cdimg"))
        .map(|p| (p.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&p).unwrap()))
        .collect();
    all.sort();
    assert!(all.len() >= 3, "the fixtures are gone");
    all
}

pub fn open(bytes: Vec<u8>) -> Result<Disk, cdi_base::error::Error> {
    let opened = open_source(Box::new(bytes), Path::new("fixture.cdimg"), &OpenOptions::default())?;
    Ok(Disk::new(opened, Options { cache: 1 << 20, ..Options::default() }))
}

/// Reads every sector: the number of sectors that gave bytes. Wrong bytes are a failure.
pub fn compare(disk: &Disk, truth: &[u8], what: &str) -> u64 {
    let mut good = 0;
    for start in (0..truth.len().min(disk.size() as usize)).step_by(512) {
        let mut buf = vec![0; 512.min(truth.len() - start).min(disk.size() as usize - start)];
        if disk.read_at(&mut buf, start as u64).is_ok() {
            assert!(buf == truth[start..start + buf.len()], "{what}: wrong bytes in sector {}", start / 512);
            good += 1;
        }
    }
    good
}

tests!(
    fn fixtures_of_every_version_still_read() {
        let truth = fixture_disk();
        // For the fixtures of a new version (docs/TESTING.md): the disk that they are to be images of.
        if let Some(path) = std::env::var_os("CDI_FIXTURE_DISK") {
            fs::write(path, &truth).unwrap();
        }
        let bad: u64 = FIXTURE_BAD.iter().map(|(_, n)| n).sum();
        for (name, bytes) in fixtures_list() {
            let disk = open(bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(disk.size(), FIXTURE_SECTORS * 512, "{name}");
            assert_eq!(compare(&disk, &truth, &name), FIXTURE_SECTORS - bad, "{name}");
            assert_eq!(disk.bad().count(Status::Bad).bytes, bad * 512, "{name}");
            disk.image().check(&mut |flaw, _| panic!("{name}: {flaw}"), &mut || Ok(())).unwrap();
            assert_eq!(disk.metadata().serial.as_deref(), Some("FIXTURE-1"), "{name}");
        }
    }

    fn invalid_superblock_fields_are_refused_with_a_reason() {
        let (_, fixture) = fixtures_list().into_iter().find(|(n, _)| n == "zstd.cdimg").unwrap();
        let len = fixture.len() as u64;
        let cases: &[(usize, u64, usize, &str)] = &[
            (offset_of!(Superblock, version), 0, 4, "unsupported version 0 of the format"),
            (
                offset_of!(Superblock, version),
                2,
                4,
                "unsupported version 2 of the format; this program reads versions 1 to 1",
            ),
            (offset_of!(Superblock, version), u64::MAX, 4, "unsupported version 4294967295"),
            (offset_of!(Superblock, state), 0, 1, "unknown state 0"),
            (offset_of!(Superblock, state), 3, 1, "unknown state 3"),
            (offset_of!(Superblock, zero1), 1, 1, "a reserved field of the superblock is not zero"),
            (offset_of!(Superblock, zero2), 1, 1, "a reserved field of the superblock is not zero"),
            (
                offset_of!(Superblock, must_understand),
                7,
                8,
                "features that this program does not support (0x6)",
            ),
            (offset_of!(Superblock, salt), 0, 8, "its salt is zero"),
            (offset_of!(Superblock, disk_size), 0, 8, "invalid disk size: 0 bytes"),
            (offset_of!(Superblock, disk_size), u64::MAX, 8, "invalid disk size: 18446744073709551615 bytes"),
            (offset_of!(Superblock, disk_size), 512, 8, "the records of the bad-block map are inconsistent"),
            (
                offset_of!(Superblock, physical_sector),
                4096,
                4,
                "sector size mismatch: 512 bytes in the metadata, 4096 bytes in the superblock",
            ),
            (offset_of!(Superblock, committed_end), len - 4, 8, "invalid end of the records: byte"),
            (offset_of!(Superblock, chunk_size), 0, 4, "invalid chunk size: 0 bytes"),
            (offset_of!(Superblock, chunk_size), 2048, 4, "invalid chunk size: 2048 bytes"),
            (offset_of!(Superblock, chunk_size), 65537, 4, "invalid chunk size: 65537 bytes"),
            (offset_of!(Superblock, chunk_size), 2 << 20, 4, "invalid chunk size: 2097152 bytes"),
            (offset_of!(Superblock, logical_sector), 0, 4, "invalid sector size: 0 bytes"),
            (offset_of!(Superblock, logical_sector), 513, 4, "invalid sector size: 513 bytes"),
            (offset_of!(Superblock, physical_sector), 1 << 31, 4, "invalid sector size: 2147483648 bytes"),
            (offset_of!(Superblock, committed_end), 0, 8, "the records end before they begin"),
            (offset_of!(Superblock, committed_end), len + 1, 8, "the file is truncated"),
            (offset_of!(Superblock, committed_end), u64::MAX, 8, "the file is truncated"),
            (offset_of!(Superblock, metadata_at), 0, 8, "invalid record offset: byte 0"),
            (offset_of!(Superblock, metadata_at), u64::MAX, 8, "invalid record offset"),
            (offset_of!(Superblock, map_at), 1, 8, "invalid record offset: byte 1"),
            (offset_of!(Superblock, map_at), 131_080, 8, "expected a Map record"),
            (offset_of!(Superblock, root), u64::MAX, 8, "an index entry points outside the file"),
            (offset_of!(Superblock, root) + 20, 5, 1, "an index entry is of an unknown kind"),
            (offset_of!(Superblock, root) + 21, 1, 1, "a reserved field of an index entry is not zero"),
            (offset_of!(Superblock, root) + 16, u64::MAX, 4, "an index entry points outside the file"),
        ];
        for (field, value, width, expect) in cases {
            let mut bytes = fixture.clone();
            poke(&mut bytes, *field, &value.to_le_bytes()[..*width]);
            match open(bytes) {
                Ok(_) => panic!("field at {field} = {value}: opened"),
                Err(e) => {
                    assert!(e.to_string().contains(expect), "field at {field} = {value}: {e}");
                    assert!(e.to_string().contains("at byte"), "{e}");
                    assert_eq!(e.kind, cdi_base::error::Kind::BadImage, "{e}");
                }
            }
        }
        // Metadata that are lost cost the metadata, not the disk.
        for lost in [131_072u64, 131_080] {
            let mut bytes = fixture.clone();
            poke(&mut bytes, offset_of!(Superblock, metadata_at), &lost.to_le_bytes());
            let disk = open(bytes).unwrap();
            assert!(
                disk.image().warnings()[0].contains("the metadata about the disk is lost"),
                "{:?}",
                disk.image().warnings()
            );
            assert_eq!(
                (disk.sector(), compare(&disk, &fixture_disk(), "metadata")),
                (512, FIXTURE_SECTORS - 304)
            );
        }
        // Features that a reader may ignore change nothing.
        let mut bytes = fixture.clone();
        poke(&mut bytes, offset_of!(Superblock, may_ignore), &u64::MAX.to_le_bytes());
        compare(&open(bytes).unwrap(), &fixture_disk(), "may_ignore");
    }

    /// Every byte of every structure to 0, 1, 0x7F, 0xFF, with all checksums put right: an error or the truth, no panic.
    /// (With correct checksums, a wrong offset of a chunk can only lead to another chunk's bytes, whose own checksum
    /// in the entry then does not hold.)
    fn changed_structures_with_valid_checksums_are_refused_or_right() {
        let truth = fixture_disk();
        for (name, fixture) in fixtures_list() {
            // Superblock fields, resealed.
            for field in (0..160).chain([500]) {
                for value in [0u8, 1, 0x7F, 0xFF] {
                    let mut bytes = fixture.clone();
                    poke(&mut bytes, field, &[value]);
                    if let Ok(disk) = open(bytes)
                        && disk.size() == FIXTURE_SECTORS * 512
                    {
                        compare(&disk, &truth, &format!("{name}: superblock byte {field} = {value}"));
                    }
                }
            }
            // Record headers, resealed.
            let salt = parse_salt(&fixture);
            let mut at = RECORDS_AT as usize;
            while at + HEADER_LEN <= fixture.len() {
                let stored = u32::from_le_bytes(fixture[at + 40..at + 44].try_into().unwrap());
                for field in 16..HEADER_LEN - 8 {
                    for value in [0u8, 0xFF] {
                        let mut bytes = fixture.clone();
                        bytes[at + field] = value;
                        reseal(&mut bytes[at..at + HEADER_LEN]);
                        if let Ok(disk) = open(bytes) {
                            compare(
                                &disk,
                                &truth,
                                &format!("{name}: header at {at}, byte {field} = {value}"),
                            );
                            disk.image().check(&mut |_, _| {}, &mut || Ok(())).unwrap();
                        }
                    }
                }
                assert_eq!(
                    u64::from_le_bytes(fixture[at + 8..at + 16].try_into().unwrap()),
                    salt,
                    "{name}: not a record at {at}"
                );
                at = (at + HEADER_LEN + stored as usize).next_multiple_of(8);
            }
        }
    }

    fn the_superblock_copy_at_the_end_replaces_lost_ones() {
        let truth = fixture_disk();
        let (_, fixture) = fixtures_list().into_iter().find(|(n, _)| n == "zstd.cdimg").unwrap();
        // The newest superblock lost: the other is older, the copy at the end is not.
        for (from, to) in [(0, 4096), (64 << 10, (64 << 10) + 4096), (0, 128 << 10)] {
            let mut bytes = fixture.clone();
            bytes[from..to].fill(0);
            let disk = open(bytes).unwrap();
            assert_eq!(compare(&disk, &truth, "a lost superblock"), FIXTURE_SECTORS - 304);
        }
        // All lost: said in words.
        let mut bytes = fixture.clone();
        let last = bytes.len() - 100;
        bytes[last..].fill(0);
        bytes[9] ^= 1;
        bytes[(64 << 10) + 9] ^= 1;
        let error = open(bytes).err().unwrap().to_string();
        assert!(error.contains("the superblock is damaged"), "{error}");
        // Cut off: said in words.
        let error = open(fixture[..fixture.len() - 1000].to_vec()).err().unwrap().to_string();
        assert!(error.contains("the file is truncated: it ends 1000 B before"), "{error}");
    }

    /// Power fails in the last checkpoint: its copy at the end has reached the disk, records before it have not, and the
    /// superblock has not been written. The checkpoint before it holds.
    fn a_superblock_copy_written_too_early_is_not_used() {
        let truth = fixture_disk();
        for (name, fixture) in fixtures_list() {
            let superblock = |at: usize| Superblock::parse(&fixture[at..]).unwrap();
            let slots = [superblock(0), superblock(64 << 10)];
            let newest = usize::from(slots[1].generation.get() > slots[0].generation.get());
            let (old, new) = (slots[1 - newest], slots[newest]);
            // The slot as it was two generations ago: valid, and older than the other.
            let mut before = old;
            before.generation = (new.generation.get() - 2).into();
            let mut bytes = fixture.clone();
            let at = newest << 16;
            bytes[at..at + SUPERBLOCK_LEN].copy_from_slice(before.sealed().as_bytes());
            // The first of the records that it speaks of are lost.
            let lost = old.committed_end.get() as usize;
            bytes[lost..lost + 4096].fill(0);
            let disk = open(bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
            compare(&disk, &truth, &name);
            // Before parity was added, the image was finished.
            let finished = old.state == STATE_COMPLETE;
            let warnings = disk.image().warnings();
            assert!(finished || warnings.iter().any(|r| r.contains("unfinished")), "{name}: {warnings:?}");
        }
    }

    /// An unfinished image with very many small records: an error in words, soon, with little memory.
    fn hostile_unfinished_images_are_refused_quickly() {
        let (_, fixture) = fixtures_list().into_iter().find(|(n, _)| n == "zstd.cdimg").unwrap();
        let mut superblock = Superblock::parse(&fixture[64 << 10..]).unwrap();
        let size = 1u64 << 60;
        superblock.disk_size = size.into();
        superblock.root = RawEntry::UNREAD;
        superblock.map_at = 0.into();
        superblock.metadata_at = RECORDS_AT.into();
        superblock.committed_end = (RECORDS_AT + 8).into();
        superblock.state = STATE_ACQUIRING;
        superblock.generation = 1.into();
        let mut bytes = vec![0; RECORDS_AT as usize + 8];
        bytes[64 << 10..(64 << 10) + SUPERBLOCK_LEN].copy_from_slice(superblock.sealed().as_bytes());
        for i in 0..40_000u64 {
            let head = Head {
                kind: RecordType::Fill,
                codec: Codec::Stored,
                uncompressed: 8,
                disk_at: i * (size / 50_000) / 512 * 512 + 512,
                disk_len: 1 << 40,
                detail: 0,
            };
            let header = encode(head, superblock.salt.get(), superblock.epoch.get(), &[1; 8]);
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(&[1; 8]);
        }
        let start = std::time::Instant::now();
        let error = open(bytes).err().expect("refused").to_string();
        assert!(start.elapsed().as_secs() < 5, "took {:?}", start.elapsed());
        assert!(error.contains("too much data after the last checkpoint"), "{error}");
    }

    fn an_image_in_an_image_is_not_mistaken_for_its_host() {
        let lab = Lab::new();
        lab.image(4096, 512, &[(7, 2)]);
        // A disk with an uncompressed image at an odd offset.
        let inner = lab.read("disk.cdimg");
        let mut outer = disk(1 << 20);
        outer[4096..4096 + inner.len().min(900_000)].copy_from_slice(&inner[..inner.len().min(900_000)]);
        lab.write("outer.raw", &outer);
        lab.write("outer.map", mapfile(2048, 512, &[(5, 1)]));
        lab.cdi(["create", "outer.raw", "outer.cdimg", "--codec", "none", "--mapfile", "outer.map"]).ends(4);
        lab.cdi(["verify", "outer.cdimg"]).ends(0);
        // And without superblocks: the records of the inner image must not be mistaken for the outer's.
        let mut bytes = lab.read("outer.cdimg");
        bytes[..128 << 10].fill(0);
        let opened = open(bytes).unwrap();
        assert_eq!(compare(&opened, &outer, "nested"), 2047);
    }
);

/// Puts `value` at `field` of both superblocks and the copy at the end, and their checksums right again.
fn poke(bytes: &mut [u8], field: usize, value: &[u8]) {
    let last = bytes.len() - SUPERBLOCK_LEN;
    for at in [0, 64 << 10, last] {
        bytes[at + field..at + field + value.len()].copy_from_slice(value);
        reseal(&mut bytes[at..at + SUPERBLOCK_LEN]);
    }
    let header = last - HEADER_LEN;
    let sum = xxh3_64(&bytes[last..]);
    bytes[header + 32..header + 40].copy_from_slice(&sum.to_le_bytes());
    reseal(&mut bytes[header..header + HEADER_LEN]);
}

/// Puts the checksum in the last eight bytes right.
fn reseal(structure: &mut [u8]) {
    let end = structure.len() - 8;
    let sum = xxh3_64(&structure[..end]);
    structure[end..].copy_from_slice(&sum.to_le_bytes());
}

fn parse_salt(bytes: &[u8]) -> u64 {
    Superblock::parse(bytes).unwrap().salt.get()
}

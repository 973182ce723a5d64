//! Android's sparse images, against img2simg and simg2img.

use cdi_image::Disk;
use cdi_image::disk::Options;
use cdi_image::image::OpenOptions;
use cdi_image::open::open_source;

use super::{extracted, path, verified};
use crate::common::{Lab, Random, disk, run};
use crate::makers::{android_sparse, android_sparse_part};

/// A disk with runs of zeros and of patterns.
fn patterned() -> Vec<u8> {
    let mut disk = disk(4 << 20);
    disk[0x1_0000..0x8_0000].fill(0);
    disk[0x10_0000..0x12_0000].fill(b'a');
    disk[0x12_0000..0x13_0000].chunks_mut(4).for_each(|b| b.copy_from_slice(b"abcd"));
    disk[0x13_0000..0x13_1000].chunks_mut(4).for_each(|b| b.copy_from_slice(b"efgh"));
    disk[0x38_0000..].fill(0);
    disk
}

tests!(
    #[needs(Program("img2simg"))]
    fn images_by_img2simg_read_as_their_source() {
        let lab = Lab::new();
        let truth = patterned();
        lab.write("disk.raw", &truth);
        for block in ["4096", "1024", "65536"] {
            run("img2simg", [&path(&lab, "disk.raw"), &path(&lab, "a.simg"), block]);
            assert!(extracted(&lab, "a.simg", 0) == truth, "{block}");
            verified(&lab, "a.simg", 0);
        }
    }

    #[needs(Program("simg2img"))]
    fn every_kind_of_chunk_reads_as_by_simg2img() {
        let lab = Lab::new();
        let truth = patterned();
        // Blocks of 4100 bytes begin in the middle of a pattern of eight bytes.
        for block in [512, 4096, 4100] {
            let truth = &truth[..truth.len() / block * block];
            lab.write("a.simg", android_sparse(truth, block));
            run("simg2img", [&path(&lab, "a.simg"), &path(&lab, "theirs.raw")]);
            assert!(extracted(&lab, "a.simg", 0) == truth, "{block}");
            assert!(lab.read("theirs.raw") == truth, "{block}");
            lab.cdi(["verify", "a.simg"]).ends(0);
        }
    }

    /// What a raw disk begins with must not choose how it is read.
    fn an_image_with_the_name_of_a_raw_one_is_read_on_demand() {
        let lab = Lab::new();
        let truth = patterned();
        lab.write("system.img", android_sparse(&truth, 4096));
        let err = lab.cdi(["info", "system.img"]).ends(3).err;
        assert!(err.contains("begins like an android-sparse image"), "{err}");
        assert!(err.contains("--format raw or --format android-sparse"), "{err}");
        lab.cdi(["-q", "extract", "--format", "android-sparse", "system.img", "out.raw"]).ends(0);
        assert!(lab.read("out.raw") == truth);
    }

    fn many_chunks_are_found() {
        let lab = Lab::new();
        let mut truth = vec![0; 2 << 20];
        for (n, block) in truth.chunks_mut(512).enumerate() {
            match n % 3 {
                0 => block.copy_from_slice(&disk(512 * (n as u64 % 7 + 1))[n % 7 * 512..]),
                1 => block.chunks_mut(4).for_each(|b| b.copy_from_slice(&(n as u32).to_le_bytes())),
                _ => {}
            }
        }
        lab.write("a.simg", android_sparse(&truth, 512));
        assert!(extracted(&lab, "a.simg", 0) == truth);
        // More than places that are kept at first: each chunk has four bytes, its number.
        let count = (32 << 16) + 100_000u32;
        let mut image = b"\x3A\xFF\x26\xED\x01\0\0\0\x1C\0\x0C\0".to_vec();
        image.extend([4, count, count, 0].into_iter().flat_map(u32::to_le_bytes));
        for n in 0..count {
            image.extend([0xCAC2, 1, 16, n].into_iter().flat_map(u32::to_le_bytes));
        }
        let opened = open_source(Box::new(image), "/x/a.simg".as_ref(), &OpenOptions::default()).unwrap();
        let disk = Disk::new(opened, Options::default());
        let random = &mut Random::new(1);
        for n in (0..200).map(|_| random.below(count.into())).chain([0, u64::from(count) - 1]) {
            let mut number = [0; 4];
            disk.read_at(&mut number, n * 4).unwrap();
            assert_eq!(u64::from(u32::from_le_bytes(number)), n);
        }
    }

    /// A byte that differs is found by the CRC-32 of the disk, and by that of its beginning.
    fn a_checksum_that_does_not_match_is_reported() {
        let lab = Lab::new();
        let mut image = android_sparse(&patterned(), 4096);
        image[60] ^= 1;
        lab.write("a.simg", &image);
        let out = lab.cdi(["verify", "a.simg"]).ends(4).out;
        assert!(out.contains("CRC-32 of the disk") && out.contains("of the disk's first"), "{out}");
    }

    #[needs(Program("simg2img"))]
    fn an_image_in_pieces_is_one_disk() {
        let lab = Lab::new();
        let truth = patterned();
        let quarter = truth.len() / 4;
        for name in ["super.img_sparsechunk.", "system.img_sparsechunk", "super.simg."] {
            for first in [0, 1] {
                let lab = Lab::new();
                let pieces: Vec<_> = (0..4).map(|n| format!("{name}{}", first + n)).collect();
                for (n, piece) in pieces.iter().enumerate() {
                    lab.write(piece, android_sparse_part(&truth, 4096, n * quarter..(n + 1) * quarter));
                }
                let ran = lab.cdi(["extract", "--format", "android-sparse", &pieces[0], "out.raw"]).ends(0);
                assert!(ran.err.contains("split into 4 files"), "{}", ran.err);
                assert!(lab.read("out.raw") == truth, "{name}");
                let all = pieces.iter().map(|piece| path(&lab, piece));
                run("simg2img", all.chain([path(&lab, "theirs.raw")]));
                assert!(lab.read("theirs.raw") == truth, "{name}");
                let err = lab.cdi(["info", "--format", "android-sparse", &pieces[2]]).ends(3).err;
                assert!(err.contains("comes before it"), "{err}");
                std::fs::remove_file(lab.path(&pieces[1])).unwrap();
                let err = lab.cdi(["info", "--format", "android-sparse", &pieces[0]]).ends(3).err;
                assert!(err.contains(&format!("a piece of the image is missing: '{}'", pieces[1])), "{err}");
            }
        }
        // A piece of another disk.
        lab.write("a.simg.0", android_sparse_part(&truth, 4096, 0..quarter));
        lab.write("a.simg.1", android_sparse_part(&truth[..quarter], 4096, 0..quarter));
        let err = lab.cdi(["info", "--format", "android-sparse", "a.simg.0"]).ends(3).err;
        assert!(err.contains("a.simg.1: is a piece of a disk of 1048576 bytes, not of 4194304"), "{err}");
    }

    fn inconsistent_chunks_are_refused_by_their_place() {
        let lab = Lab::new();
        let whole = android_sparse(&patterned(), 4096);
        for (at, bytes, says) in [
            (4, &[2][..], "at byte 4: unsupported version 2"),
            (8, &[27], "at byte 8: the headers are too short"),
            (10, &[11], "at byte 8: the headers are too short"),
            (12, &[2, 0, 0, 0], "at byte 12: invalid block size: 2 bytes"),
            (16, &[0; 4], "at byte 16: invalid disk size"),
            (16, &[1, 0, 0, 0], "at byte 28: the chunks have more than the disk's 4096 bytes"),
            (20, &[1, 0, 0, 0], "at byte 20: the chunks have 65536 of the disk's"),
            (20, &[0xFF; 4], "the file ends within a chunk"),
            (28, &[0xC5], "at byte 28: unknown chunk of type 0xcac5"),
            (32, &[3], "at byte 28: a chunk for 3 blocks cannot have"),
            (
                32,
                &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
                "at byte 28: a chunk for 4294967295 blocks",
            ),
        ] {
            let mut bad = whole.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            lab.write("bad.simg", bad);
            let err = lab.cdi(["info", "bad.simg"]).ends(3).err;
            assert!(err.contains(says), "{says}: {err}");
        }
        lab.write("bad.simg", &whole[..whole.len() / 2]);
        assert!(lab.cdi(["info", "bad.simg"]).ends(3).err.contains("extends past the end of the file"));
    }
);

//! partclone's images: by partclone, and of version 0001 by a writer of the tests' own.

use std::path::Path;

use cdi_image::disk::{Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open::open_source;

use super::extracted;
use crate::common::{Lab, filter, run};
use crate::makers::partclone_v1;

/// An ext4 file system with files in it, mostly free.
fn ext4(lab: &Lab, name: &str) -> Vec<u8> {
    let path = lab.write(name, vec![0; 24 << 20]);
    let path = path.to_str().unwrap();
    run("mke2fs", ["-q", "-F", "-t", "ext4", "-b", "1024", "-d", "src", path]);
    lab.read(name)
}

/// What partclone restores.
fn restored(lab: &Lab, image: &str) -> Vec<u8> {
    let [image, out, log] =
        [image, "restored.raw", "log"].map(|name| lab.path(name).to_str().unwrap().to_owned());
    run("partclone.restore", ["-C", "-W", "-s", &image, "-O", &out, "-L", &log]);
    lab.read("restored.raw")
}

/// Runs partclone on `disk.raw`.
fn clone(lab: &Lab, program: &str, words: &[&str], out: &str) {
    let [disk, out, log] = ["disk.raw", out, "log"].map(|name| lab.path(name).to_str().unwrap().to_owned());
    let fixed = ["-c", "-s", &disk, "-O", &out, "-L", &log];
    run(program, fixed.iter().chain(words));
}

fn open(bytes: Vec<u8>) -> Result<Disk, String> {
    let opened = open_source(Box::new(bytes), Path::new("/nowhere/image"), &OpenOptions::default());
    opened.map(|opened| Disk::new(opened, Options::default())).map_err(|e| format!("{e:#}"))
}

tests!(
    /// Every kind of checksum, strips of every length, with and without a restart of the checksum.
    #[needs(
        Program("partclone.ext4"),
        Program("partclone.restore"),
        Program("partclone.imager"),
        Program("mke2fs")
    )]
    fn what_partclone_writes_is_read_as_it_restores_it() {
        let lab = Lab::new();
        ext4(&lab, "disk.raw");
        for words in [
            &["-a0"][..],
            &["-a1"],
            &["-a1", "-k", "7"],
            &["-a1", "-K"],
            &["-z", "10485760"],
            &["-k", "100000"],
        ] {
            clone(&lab, "partclone.ext4", words, "image");
            let image = extracted(&lab, "image", 0);
            // partclone 0.3.23 cannot restore from strips of 7 blocks.
            if !words.contains(&"7") {
                assert!(image == restored(&lab, "image"), "{words:?}");
            }
            lab.write("restored.raw", &image);
            run("e2fsck", ["-fn", lab.path("restored.raw").to_str().unwrap()]);
            lab.cdi(["verify", "image"]).ends(0);
        }
        let info = lab.cdi(["info", "--json", "image"]).ends(0).json();
        assert_eq!(
            (&info["format"], &info["metadata"]["file_system"]),
            (&"partclone".into(), &"EXTFS".into())
        );
        assert!(info["metadata"]["notes"][0].as_str().unwrap().contains("not in use"), "{info}");
        // All blocks, without a bitmap of use.
        clone(&lab, "partclone.imager", &[], "all");
        assert!(extracted(&lab, "all", 0) == lab.read("disk.raw"));
    }

    /// As Clonezilla keeps them.
    #[needs(Program("partclone.ext4"), Program("gzip"), Program("split"), Program("mke2fs"))]
    fn a_packed_image_in_pieces_is_a_partition() {
        let lab = Lab::new();
        let disk = ext4(&lab, "disk.raw");
        clone(&lab, "partclone.ext4", &["-z", "10485760"], "image");
        lab.write("sda1.ext4-ptcl-img.gz", filter("gzip", &["-1"], &lab.read("image")));
        let [whole, prefix] = ["sda1.ext4-ptcl-img.gz", "sda1.ext4-ptcl-img.gz."]
            .map(|n| lab.path(n).to_str().unwrap().to_owned());
        run("split", ["-b", "60000", &whole, &prefix]);
        assert!(
            extracted(&lab, "sda1.ext4-ptcl-img.gz", 0) == extracted(&lab, "sda1.ext4-ptcl-img.gz.aa", 0)
        );
        let image = extracted(&lab, "image", 0);
        assert!(image == extracted(&lab, "sda1.ext4-ptcl-img.gz.aa", 0) && image.len() == disk.len());
        lab.cdi(["verify", "sda1.ext4-ptcl-img.gz.aa"]).ends(0);
    }

    /// A strip whose checksum is wrong is an error, and its neighbours are not.
    #[needs(Program("partclone.ext4"), Program("mke2fs"))]
    fn a_damaged_strip_is_an_error_and_costs_nothing_else() {
        let lab = Lab::new();
        ext4(&lab, "disk.raw");
        clone(&lab, "partclone.ext4", &["-k", "16"], "image");
        let whole = lab.read("image");
        let truth = extracted(&lab, "image", 0);
        let mut bytes = whole.clone();
        let at = bytes.len() / 2;
        bytes[at] ^= 4;
        lab.write("image", &bytes);
        let disk = open(bytes).unwrap();
        let mut failed = 0;
        for at in (0..truth.len()).step_by(1024) {
            let mut block = [0; 1024];
            match disk.read_at(&mut block, at as u64) {
                Ok(()) => assert!(block == truth[at..at + 1024], "block {}", at / 1024),
                Err(_) => failed += 1,
            }
        }
        assert!((1..=16).contains(&failed), "{failed} blocks failed");
        lab.cdi(["verify", "image"]).ends(4);
        // Of an image that is cut off, everything before the end can be read.
        lab.write("image", &whole[..whole.len() / 2]);
        let info = lab.cdi(["info", "--json", "image"]).ends(4).json();
        assert!(
            info["lost_bytes"].as_u64().unwrap() > 0 && info["warnings"].to_string().contains("truncated"),
            "{info}"
        );
        lab.cdi(["extract", "--force", "image", "out.raw"]).ends(4);
        let disk = Disk::open(lab.path("image")).unwrap();
        for at in (0..truth.len()).step_by(1024) {
            let mut block = [0; 1024];
            if disk.read_at(&mut block, at as u64).is_ok() {
                assert!(block == truth[at..at + 1024], "block {}", at / 1024);
            }
        }
    }

    /// Strips in a file whose packing has no checksums are checked by their own.
    #[needs(Program("partclone.ext4"), Program("zstd"), Program("mke2fs"))]
    fn strips_in_a_packed_file_without_checksums_are_checked() {
        let lab = Lab::new();
        ext4(&lab, "disk.raw");
        clone(&lab, "partclone.ext4", &["-k", "16"], "image");
        let truth = extracted(&lab, "image", 0);
        let whole = filter("zstd", &["-1", "--no-check"], &lab.read("image"));
        for part in 2..9 {
            let mut bytes = whole.clone();
            let at = bytes.len() / 10 * part;
            bytes[at] ^= 1;
            lab.write("image.zst", bytes);
            let Ok(disk) = Disk::open(lab.path("image.zst")) else { continue };
            for at in (0..truth.len()).step_by(1024) {
                let mut block = [0; 1024];
                if disk.read_at(&mut block, at as u64).is_ok() {
                    assert!(block == truth[at..at + 1024], "block {} with damage at {part}/10", at / 1024);
                }
            }
        }
    }

    /// A sector that partclone could not read fails, however it is read; its neighbours do not.
    #[needs(Program("partclone.imager"))]
    fn sectors_that_partclone_marked_as_unreadable_are_errors() {
        let lab = Lab::new();
        let mut disk = crate::common::disk(1 << 20);
        let mut mark = [b'?'; 512];
        mark[..10].copy_from_slice(b"BADSECTOR\0");
        for sector in [3, 40, 41, 2047] {
            disk[sector * 512..][..512].copy_from_slice(&mark);
        }
        // Only a part of the text is data.
        disk[100 * 512..][..500].copy_from_slice(&mark[..500]);
        lab.write("disk.raw", &disk);
        clone(&lab, "partclone.imager", &[], "image");
        let opened = Disk::open(lab.path("image")).unwrap();
        for sector in 0..2048u64 {
            let mut buf = [0; 512];
            let is_bad = [3, 40, 41, 2047].contains(&sector);
            assert_eq!(opened.read_at(&mut buf, sector * 512).is_err(), is_bad, "sector {sector}");
            for (at, len) in [(0, 1), (511, 1), (5, 100)] {
                assert_eq!(
                    opened.read_at(&mut buf[..len], sector * 512 + at).is_err(),
                    is_bad,
                    "{sector}: {at}"
                );
            }
        }
        // A raw copy has a map, and `verify` counts them.
        lab.cdi(["extract", "--force", "image", "out.raw"]).ends(4);
        let map = lab.read("out.raw.map");
        assert!(
            String::from_utf8(map).unwrap().contains("0x00005000  0x00000400  -"),
            "{}",
            String::from_utf8_lossy(&lab.read("out.raw.map"))
        );
        let mut filled = disk.clone();
        for sector in [3, 40, 41, 2047] {
            filled[sector * 512..][..512].fill(0);
        }
        assert!(extracted(&lab, "image", 4) == filled);
        assert!(!lab.cdi(["extract", "image", "-"]).ends(4).out.is_empty());
        lab.cdi(["extract", "--force", "--bad", "error", "image", "none.raw"]).ends(4);
        let verified = lab.cdi(["verify", "--json", "image"]).ends(0).json();
        assert_eq!(verified["missing_bytes"], 4 * 512, "{verified}");
        // A copy knows which they are.
        lab.cdi(["create", "image", "copy.cdimg"]).ends(4);
        let map = lab.cdi(["map", "--bad", "--json", "copy.cdimg"]).ends(0).json();
        let sectors: Vec<_> = map["ranges"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| (r["first_sector"].as_u64(), r["sectors"].as_u64()))
            .collect();
        assert_eq!(sectors, [(Some(3), Some(1)), (Some(40), Some(2)), (Some(2047), Some(1))]);
    }

    /// Version 0001, with checksums of four bytes, and of eight by programs with a bug.
    fn images_of_version_0001_are_read() {
        let lab = Lab::new();
        let disk = super::truth();
        for sum in [4, 8] {
            let used: Vec<bool> = (0..disk.len() / 4096).map(|n| n % 5 != 2 && n != 255).collect();
            lab.write("image", partclone_v1(&disk, 4096, &used, sum));
            let mut want = disk.clone();
            for (n, _) in used.iter().enumerate().filter(|(_, used)| !**used) {
                want[n * 4096..][..4096].fill(0);
            }
            assert!(extracted(&lab, "image", 0) == want, "{sum}");
            lab.cdi(["verify", "image"]).ends(0);
            let mut bytes = lab.read("image");
            let data = bytes.len() - 4096 - sum as usize;
            bytes[data] ^= 1;
            lab.write("image", bytes);
            lab.cdi(["verify", "image"]).ends(4);
        }
    }

    #[needs(Program("partclone.imager"))]
    fn inconsistent_headers_are_refused_with_a_reason() {
        let lab = Lab::new();
        lab.write("disk.raw", super::truth());
        clone(&lab, "partclone.imager", &[], "image");
        let whole = lab.read("image");
        let changed = |at: usize, value: &[u8]| {
            let mut bytes = whole.clone();
            bytes[at..at + value.len()].copy_from_slice(value);
            // With a right checksum.
            let crc = !crc32(&bytes[..106]);
            bytes[106..110].copy_from_slice(&crc.to_le_bytes());
            open(bytes).err().unwrap_or_else(|| panic!("{at}: {value:?} was opened"))
        };
        let mut bytes = whole.clone();
        bytes[60] ^= 1;
        assert!(open(bytes).err().unwrap().contains("checksum is wrong"));
        for (at, value, words) in [
            (30, &b"0003"[..], "unsupported version '0003'"),
            (34, &[0xC0, 0xDE], "big-endian"),
            (60, &[0xFF; 8], "number of blocks"),
            (60, &[0; 8], "number of blocks"),
            (60, &[0, 0, 0, 0, 2, 0, 0, 0], "within the bitmap"),
            (84, &[0; 4], "block size: 0"),
            (84, &[0xFF; 4], "block size"),
            (96, &[0x77, 0], "kind of checksum"),
            (98, &[5, 0], "do not fit their kind"),
            (105, &[3], "kind of bitmap"),
        ] {
            let error = changed(at, value);
            assert!(error.contains(words), "{at}: {error}");
        }
        let mut bytes = whole.clone();
        bytes[112] ^= 1;
        assert!(open(bytes).err().unwrap().contains("the bitmap is damaged"));
    }

    /// The blocks of a strip whose checksum is missing are there, but suspect.
    #[needs(Program("partclone.ext4"), Program("mke2fs"))]
    fn of_a_strip_that_is_cut_off_the_blocks_that_are_there_can_be_read() {
        let lab = Lab::new();
        ext4(&lab, "disk.raw");
        clone(&lab, "partclone.ext4", &["-z", "10485760", "-k", "100000"], "image");
        let truth = extracted(&lab, "image", 0);
        let whole = lab.read("image");
        lab.write("image", &whole[..whole.len() - 70_000]);
        let info = lab.cdi(["info", "--json", "image"]).ends(4).json();
        let lost = info["lost_bytes"].as_u64().unwrap();
        assert!((69_000..80_000).contains(&lost), "{info}");
        let mut sector = vec![0; 1024];
        assert!(open(lab.read("image")).unwrap().read_at(&mut sector, 1024).is_err());
        lab.cdi(["extract", "-q", "--force", "image", "out.raw"]).ends(4);
        let out = lab.read("out.raw");
        let wrong = (0..out.len()).step_by(1024).filter(|at| out[*at..at + 1024] != truth[*at..at + 1024]);
        assert!(wrong.count() as u64 * 1024 <= lost);
        lab.cdi(["map", "--extents", "image"]).ends(0);
    }
);

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

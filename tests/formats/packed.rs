//! Raw disks, and images in other formats, that are compressed as a whole: by the programs that people use for that.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cdi_image::disk::{Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open::open_source;

use super::{extracted, truth};
use crate::common::{Lab, Random, disk, filter, run};
use crate::makers;

/// A disk of some MiB: what compresses well, what does not, and long runs of zeros.
fn large() -> Vec<u8> {
    let mut bytes = vec![0; 24 << 20];
    let noise = disk(2 << 20);
    bytes[..2 << 20].copy_from_slice(&noise);
    for (n, sector) in bytes[4 << 20..12 << 20].chunks_mut(512).enumerate() {
        let text = format!("sector {n} of a disk that compresses well, {}\n", n * 7919 % 1000);
        sector[..text.len()].copy_from_slice(text.as_bytes());
    }
    bytes[20 << 20..][..1 << 20].copy_from_slice(&noise[1 << 20..]);
    // A partition table, so that a name without a suffix is enough.
    bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
    bytes
}

/// Compresses `bytes` by a program that works as a filter.
fn packed(bytes: &[u8], program: &str, words: &[&str]) -> Vec<u8> {
    filter(program, words, bytes)
}

/// Every part of the disk, in random order, is what it should be.
fn reads_like(bytes: Vec<u8>, name: &str, truth: &[u8]) {
    let opened = open_source(Box::new(bytes), Path::new(name), &OpenOptions::default())
        .unwrap_or_else(|e| panic!("{name}: {e:#}"));
    let disk = Disk::new(opened, Options::default());
    assert_eq!(disk.size(), truth.len() as u64, "{name}");
    let random = &mut Random::new(7);
    for _ in 0..300 {
        let offset = random.below(disk.size());
        let len = (1 + random.below(200_000)).min(disk.size() - offset) as usize;
        let mut buf = vec![0; len];
        disk.read_at(&mut buf, offset).unwrap_or_else(|e| panic!("{name} at {offset}: {e}"));
        assert!(buf == truth[offset as usize..][..len], "{name}: {len} bytes at {offset}");
    }
}

/// The error of an image that cannot be opened.
fn refused(bytes: Vec<u8>, name: &str) -> String {
    match open_source(Box::new(bytes), Path::new(name), &OpenOptions::default()) {
        Ok(_) => panic!("{name} was opened"),
        Err(e) => format!("{e:#} {:?}", e.advice),
    }
}

tests!(
    #[needs(Program("pigz"), Program("bgzip"))]
    fn what_gzip_pigz_and_bgzip_write_is_read_in_any_order() {
        let truth = large();
        for level in ["-1", "-6", "-9"] {
            reads_like(packed(&truth, "gzip", &[level]), "disk.raw.gz", &truth);
        }
        reads_like(packed(&truth, "pigz", &["-b", "256"]), "disk.img.gz", &truth);
        reads_like(packed(&truth, "pigz", &["--rsyncable", "--fast"]), "disk.dd.gz", &truth);
        reads_like(packed(&truth, "pigz", &["-11", "-b", "128", "-I", "1"]), "disk.gz", &truth);
        reads_like(packed(&truth, "bgzip", &[]), "disk.raw.gz", &truth);
        let (a, b) = truth.split_at(11_000_000);
        let mixed = [packed(a, "bgzip", &[]), packed(b, "gzip", &["-1"])];
        reads_like(mixed.concat(), "disk.raw.gz", &truth);
        // Several members, one of them empty, and the zeros of a tape's last block.
        let (a, b) = truth.split_at(5_000_001);
        let members =
            [packed(a, "gzip", &["-3"]), packed(b"", "gzip", &[]), packed(b, "pigz", &[]), vec![0; 700]];
        reads_like(members.concat(), "disk.raw.gz", &truth);
    }

    #[needs(Program("xz"), Program("zstd"), Program("pzstd"), Program("lz4"))]
    fn blocks_and_frames_of_xz_zstd_and_lz4_are_read_in_any_order() {
        let truth = large();
        let (a, b) = truth.split_at(5_000_001);
        for words in
            [&["-0", "-T2", "--block-size=1MiB"][..], &["-1", "-T1", "--block-size=3MiB", "-C", "sha256"]]
        {
            reads_like(packed(&truth, "xz", words), "disk.raw.xz", &truth);
        }
        reads_like(packed(&truth, "xz", &["-0", "-T1", "-C", "crc32"]), "disk.raw.xz", &truth);
        reads_like(
            packed(&truth, "xz", &["-0", "--x86", "--lzma2=preset=0", "-C", "none"]),
            "disk.raw.xz",
            &truth,
        );
        let streams = [packed(a, "xz", &["-0"]), vec![0; 8], packed(b, "xz", &["-0"])];
        reads_like(streams.concat(), "disk.raw.xz", &truth);
        reads_like(packed(&truth, "zstd", &["-1"]), "disk.raw.zst", &truth);
        reads_like(packed(&truth, "zstd", &["-3", "--no-check", "--long=27"]), "disk.raw.zst", &truth);
        reads_like(packed(&truth, "pzstd", &["-1", "-p", "3"]), "disk.raw.zst", &truth);
        reads_like([packed(a, "zstd", &["-1"]), packed(b, "zstd", &["-1"])].concat(), "disk.zst", &truth);
        for words in [&["-1"][..], &["-BD", "-B4"], &["-BX", "-B5", "-1"], &["-l"], &["-9", "--no-frame-crc"]]
        {
            reads_like(packed(&truth, "lz4", words), "disk.raw.lz4", &truth);
        }
        reads_like([packed(a, "lz4", &["-BD"]), packed(b, "lz4", &["-l"])].concat(), "disk.lz4", &truth);
    }

    /// About a point for every MiB, wherever blocks end: just before the end of their member, or 8 MiB after the last.
    #[needs(Program("gzip"))]
    fn gzip_has_points_wherever_blocks_end() {
        let noise = disk(12 << 20);
        let mut members = Vec::new();
        for part in noise.chunks(60_000) {
            let mut member = flate2::write::GzEncoder::new(&mut members, flate2::Compression::fast());
            member.write_all(&part[..part.len().min(58_000)]).unwrap();
            member.flush().unwrap();
            member.write_all(&part[part.len().min(58_000)..]).unwrap();
            member.finish().unwrap();
        }
        let same = vec![0xFF; 96 << 20];
        for (bytes, truth, least) in [(members, &noise, 9), (packed(&same, "gzip", &["-1"]), &same, 12)] {
            let opened =
                open_source(Box::new(bytes.clone()), Path::new("disk.raw.gz"), &OpenOptions::default())
                    .unwrap();
            let points = opened.image.details().packed[0].points;
            assert!(points >= least, "{points}");
            reads_like(bytes, "disk.raw.gz", truth);
        }
    }

    /// Also of the only frame of a file, which may be short.
    #[needs(Program("zstd"))]
    fn a_wrong_checksum_of_a_frame_costs_no_data() {
        let lab = Lab::new();
        let truth = large();
        let mut bytes = packed(&truth, "zstd", &["-1"]);
        *bytes.last_mut().unwrap() ^= 1;
        // As from a tape.
        bytes.extend([0; 700]);
        lab.write("disk.raw.zst", bytes);
        let info = lab.cdi(["info", "--json", "disk.raw.zst"]).ends(4).json();
        assert_eq!(info["blocks"]["suspect"]["bytes"], truth.len(), "{info}");
        lab.cdi(["extract", "-q", "disk.raw.zst", "out.raw"]).ends(4);
        assert!(lab.read("out.raw") == truth);
        let verified = lab.cdi(["verify", "disk.raw.zst"]).ends(4).err;
        assert!(verified.contains("--suspect read"), "{verified}");
    }

    /// There is no room for the index: it is made again each time.
    #[needs(Program("gzip"), Loop)]
    fn without_room_for_an_index_the_image_is_read_all_the_same() {
        let lab = Lab::new();
        let truth = large();
        lab.write("disk.raw.gz", packed(&truth, "gzip", &["-1"]));
        fs::create_dir(lab.path("cache")).unwrap();
        run("mount", ["-t", "tmpfs", "-o", "size=8k", "tmpfs", lab.path("cache").to_str().unwrap()]);
        let ran = lab.cdi(["extract", "disk.raw.gz", "out.raw"]);
        run("umount", [lab.path("cache")]);
        let err = ran.ends(0).err;
        assert!(err.contains("cannot write the index"), "{err}");
        assert!(lab.read("out.raw") == truth);
    }

    /// Members of bgzip say how long they are: a wrong number costs the group in which it is, not the image.
    #[needs(Program("bgzip"))]
    fn a_wrong_length_of_a_member_costs_what_is_near_it() {
        let truth = large();
        let mut bytes = packed(&truth, "bgzip", &["-l", "0"]);
        // The length in bytes of a member of bgzip is at byte 16, minus one; that of what is in it ends the member.
        let mut end = 0;
        for _ in 0..100 {
            end += usize::from(u16::from_le_bytes([bytes[end + 16], bytes[end + 17]])) + 1;
        }
        bytes[end - 1] ^= 0x40;
        let opened = open_source(Box::new(bytes), Path::new("disk.raw.gz"), &OpenOptions::default()).unwrap();
        let disk = Disk::new(opened, Options::default());
        assert_eq!(disk.size(), truth.len() as u64);
        let mut bad = 0;
        for at in (0..disk.size()).step_by(4096) {
            let mut part = vec![0; 4096];
            match disk.read_at(&mut part, at) {
                Ok(()) => assert!(part == truth[at as usize..][..4096], "at {at}"),
                Err(_) => bad += 4096,
            }
        }
        assert!((1..2 << 20).contains(&bad), "{bad}");
    }

    /// `zstd` makes one frame of a whole disk, however long.
    #[needs(Program("zstd"))]
    fn a_long_frame_of_zstd_is_read_in_any_order() {
        let truth = large();
        for words in [
            &["-1", "--zstd=wlog=15"][..],
            &["-3", "--zstd=wlog=18"],
            &["--fast=4", "--zstd=wlog=10"],
            &["-16", "--zstd=wlog=17"],
            &["-3", "-T2"],
        ] {
            let frame = makers::as_long_frame(&packed(&truth, "zstd", words));
            reads_like(frame.clone(), "disk.raw.zst", &truth);
            let two = [&frame[..], &packed(&truth, "zstd", &["-1"]), &frame].concat();
            reads_like(two, "disk.raw.zst", &truth.repeat(3));
        }
    }

    /// The frame's checksum says that something is wrong, or its end is missing.
    #[needs(Program("zstd"))]
    fn of_a_damaged_long_frame_nothing_wrong_is_read() {
        let truth = large();
        let frame = makers::as_long_frame(&packed(&truth, "zstd", &["-1", "--zstd=wlog=15"]));
        let mut sum = frame.clone();
        *sum.last_mut().unwrap() ^= 1;
        let opened = open_source(Box::new(sum), Path::new("disk.raw.zst"), &OpenOptions::default()).unwrap();
        let disk = Disk::new(opened, Options::default());
        assert!(disk.read_at(&mut [0; 512], 3 << 20).is_err());

        let cut = frame[..frame.len() / 2].to_vec();
        let opened = open_source(Box::new(cut), Path::new("disk.raw.zst"), &OpenOptions::default()).unwrap();
        assert!(opened.image.is_incomplete());
        let disk = Disk::new(opened, Options::default());
        let mut part = vec![0; 1 << 20];
        disk.read_at(&mut part, 0).unwrap();
        assert!(part == truth[..1 << 20]);
    }

    #[needs(Program("bzip2"), Program("pbzip2"), Program("lbzip2"))]
    fn blocks_of_bzip2_are_read_in_any_order() {
        let truth = large();
        reads_like(packed(&truth, "bzip2", &["-1"]), "disk.raw.bz2", &truth);
        reads_like(packed(&truth, "bzip2", &["-9"]), "disk.raw.bz2", &truth);
        reads_like(packed(&truth, "lbzip2", &["-3"]), "disk.raw.bz2", &truth);
        reads_like(packed(&truth, "pbzip2", &["-2", "-c"]), "disk.bz2", &truth);
    }

    /// What was read before is right, what comes after is an error, and the exit code says so.
    #[needs(Program("gzip"), Program("xz"), Program("bzip2"), Program("zstd"), Program("lz4"))]
    fn of_a_file_that_ends_too_early_the_beginning_is_right() {
        let lab = Lab::new();
        let truth = large();
        let (a, b) = truth.split_at(9 << 20);
        for (suffix, words) in [
            ("gz", &["gzip", "-6"][..]),
            ("xz", &["xz", "-0", "-T2", "--block-size=1MiB"]),
            ("bz2", &["bzip2", "-1"]),
            ("zst", &["zstd", "-1"]),
            ("lz4", &["lz4", "-1"]),
        ] {
            let first = packed(a, words[0], &words[1..]);
            let second = packed(b, words[0], &words[1..]);
            let name = format!("disk.raw.{suffix}");
            let whole = [&first[..], &second].concat();
            lab.write(&name, &whole[..first.len() + second.len() / 2]);
            let ran = lab.cdi(["info", "--json", &name]).ends(4);
            let info = ran.json();
            assert!(info["warnings"].to_string().contains("ends too early"), "{suffix}: {info}");
            let size = info["size_bytes"].as_u64().unwrap();
            assert!(size >= 9 << 20, "{suffix}: {size}");
            lab.cdi(["extract", "--force", &name, "out.raw"]).ends(4);
            let out = lab.read("out.raw");
            assert!(out[..9 << 20] == truth[..9 << 20], "{suffix}");
            // What is in the map as finished is right; nothing else is said to be.
            let map = lab.cdi(["map", "--bad", "--json", &name]).ends(0).json();
            let bad: Vec<_> = map["ranges"]
                .as_array()
                .unwrap()
                .iter()
                .map(|range| {
                    let [at, len] =
                        ["offset_bytes", "length_bytes"].map(|key| range[key].as_u64().unwrap() as usize);
                    at..at + len
                })
                .collect();
            for at in
                (0..out.len() / 512).map(|n| n * 512).filter(|at| !bad.iter().any(|range| range.contains(at)))
            {
                assert!(out[at..at + 512] == truth[at..at + 512], "{suffix}: sector {}", at / 512);
            }
            fs::remove_file(lab.path("out.raw")).unwrap();
        }
    }

    /// A wrong checksum makes what it covers suspect; and what comes after it, if that may not be where it belongs.
    #[needs(Program("gzip"), Program("lz4"))]
    fn a_member_with_a_wrong_checksum_is_suspect() {
        let lab = Lab::new();
        let truth = truth();
        let (a, b) = truth.split_at(512 << 10);
        // gzip's trailer has the length of the member; a frame of lz4 has none.
        for (program, suffix, from_end, suspect) in
            [("gzip", "gz", 8, 512 << 10), ("gzip", "gz", 4, 1 << 20), ("lz4", "lz4", 4, 1 << 20)]
        {
            let mut first = packed(a, program, &[]);
            let len = first.len();
            first[len - from_end] ^= 1;
            let name = format!("disk.raw.{suffix}");
            lab.write(&name, [first, packed(b, program, &[])].concat());
            let info = lab.cdi(["info", "--json", &name]).ends(4).json();
            assert_eq!(info["blocks"]["suspect"]["bytes"], suspect, "{info}");
            let disk = Disk::open(lab.path(&name)).unwrap();
            let mut sector = [0; 512];
            assert!(disk.read_at(&mut sector, 0).is_err());
            assert_eq!(disk.read_at(&mut sector, 512 << 10).is_ok(), suspect == 512 << 10);
            let read = Disk::options().read_suspect(true).open(lab.path(&name)).unwrap();
            for at in [0, 512 << 10] {
                read.read_at(&mut sector, at).unwrap();
                assert_eq!(sector, truth[at as usize..][..512]);
            }
        }
    }

    /// Formats that say how long their parts are lose only the damaged part.
    #[needs(Program("bgzip"), Program("xz"))]
    fn damage_costs_only_the_part_that_it_is_in() {
        let truth = large();
        for (name, mut bytes) in [
            ("disk.raw.gz", packed(&truth, "bgzip", &[])),
            ("disk.raw.xz", packed(&truth, "xz", &["-0", "-T2", "--block-size=1MiB"])),
        ] {
            let middle = bytes.len() / 2;
            bytes[middle..middle + 100].fill(0x5A);
            let opened = open_source(Box::new(bytes), Path::new(name), &OpenOptions::default()).unwrap();
            let lost = opened.image.lost().to_vec();
            let bytes: u64 = lost.iter().map(|range| range.end - range.start).sum();
            assert!(bytes > 0 && bytes <= 4 << 20, "{name}: {lost:?}");
            let disk = Disk::new(opened, Options::default());
            assert_eq!(disk.size(), truth.len() as u64);
            for at in (0..truth.len()).step_by(64 << 10) {
                let mut buf = vec![0; 64 << 10];
                let is_lost =
                    lost.iter().any(|range| range.start < (at + buf.len()) as u64 && range.end > at as u64);
                assert_eq!(disk.read_at(&mut buf, at as u64).is_err(), is_lost, "{name} at {at}");
                assert!(is_lost || buf == truth[at..at + buf.len()], "{name} at {at}");
            }
        }
    }

    /// The index is kept, found again, and never used for another version of the file.
    #[needs(Program("gzip"))]
    fn an_index_next_to_the_image_is_used_while_it_fits() {
        let lab = Lab::new();
        let truth = large();
        lab.write("disk.raw.gz", packed(&truth, "gzip", &["-1"]));
        // It has parts of the disk in it: nobody may read it who may not read the image.
        fs::set_permissions(lab.path("disk.raw.gz"), fs::Permissions::from_mode(0o600)).unwrap();
        let made = lab.cdi(["index", "--json", "disk.raw.gz"]).ends(0).json();
        let mode = fs::metadata(lab.path("disk.raw.gz.cdi-index")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(made["made"].as_array().unwrap().len(), 1, "{made}");
        let index = lab.read("disk.raw.gz.cdi-index");
        let again = lab.cdi(["index", "--json", "disk.raw.gz"]).ends(0).json();
        assert_eq!(again["made"].as_array().unwrap().len(), 0);
        assert!(extracted(&lab, "disk.raw.gz", 0) == truth);
        // Damage anywhere in it: it is made again, or what is read through it is checked.
        let random = &mut Random::new(3);
        for _ in 0..200 {
            let mut broken = index.clone();
            let at = random.below(broken.len() as u64) as usize;
            broken[at] ^= 1 << random.below(8);
            lab.write("disk.raw.gz.cdi-index", &broken);
            let disk = Disk::open(lab.path("disk.raw.gz")).unwrap();
            for _ in 0..4 {
                let offset = random.below(disk.size() - 4096);
                let mut buf = [0; 4096];
                if disk.read_at(&mut buf, offset).is_ok() {
                    assert!(buf == truth[offset as usize..][..4096], "byte {at} of the index");
                }
            }
        }
        lab.write("disk.raw.gz.cdi-index", &index);
        // Another file, of the same length and at the same time.
        let mut other = truth.clone();
        other[5 << 20] ^= 1;
        let time = fs::metadata(lab.path("disk.raw.gz")).unwrap().modified().unwrap();
        lab.write("disk.raw.gz", packed(&other, "gzip", &["-1"]));
        let file = fs::File::options().write(true).open(lab.path("disk.raw.gz")).unwrap();
        file.set_modified(time).unwrap();
        let ran = lab.cdi(["extract", "--force", "disk.raw.gz", "out.raw"]).ends(0);
        assert!(lab.read("out.raw") == other, "{}", ran.err);
    }

    /// An archive, or a text, is not taken for a disk; a disk is not unpacked because of what its first sector contains.
    #[needs(Program("gzip"), Program("tar"))]
    fn only_what_is_a_disk_by_its_name_or_contents_is_opened() {
        let lab = Lab::new();
        let mut plain = truth();
        plain[510..512].fill(0);
        lab.write("text", "a text, and no disk\n".repeat(1000));
        run(
            "tar",
            ["-C", lab.path("").to_str().unwrap(), "-czf", lab.path("a.tar.gz").to_str().unwrap(), "text"],
        );
        let tar = lab.read("a.tar.gz");
        assert!(refused(tar, "a.tar.gz").contains("tar archive"));
        assert!(refused(packed(&lab.read("text"), "gzip", &[]), "text.gz").contains("format"));
        assert!(refused(packed(&plain, "gzip", &[]), "sda.gz").contains("format"));
        assert!(refused(packed(&plain, "gzip", &[]), "disk.raw").contains("begins like a gzip file"));
        assert!(refused(packed(b"QFI\xfb is how it begins", "gzip", &[]), "disk.raw.gz").contains("qcow2"));
        let raw = OpenOptions { format: Some("raw".into()), ..OpenOptions::default() };
        let bytes = packed(&plain, "gzip", &[]);
        let len = bytes.len() as u64;
        let opened = open_source(Box::new(bytes.clone()), Path::new("disk.raw"), &raw).unwrap();
        assert_eq!(opened.image.size(), len);
        let gzip = OpenOptions { format: Some("gzip".into()), ..OpenOptions::default() };
        let opened = open_source(Box::new(bytes), Path::new("disk.raw"), &gzip).unwrap();
        assert_eq!(opened.image.size(), plain.len() as u64);
    }

    /// Images in other formats that are packed, pieces of packed files, and maps next to them.
    #[needs(Program("gzip"), Program("qemu-img"), Program("split"))]
    fn packed_images_of_other_formats_pieces_and_maps_are_read() {
        let lab = Lab::new();
        let truth = truth();
        let raw = lab.write("disk.raw", &truth);
        let qcow2 = lab.path("d.qcow2");
        run("qemu-img", ["convert", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()]);
        lab.write("d.qcow2.gz", packed(&lab.read("d.qcow2"), "gzip", &[]));
        assert!(extracted(&lab, "d.qcow2.gz", 0) == truth);
        lab.write("whole", packed(&truth, "gzip", &["-1"]));
        let prefix = lab.path("p.img.gz.");
        run("split", ["-b", "100000", lab.path("whole").to_str().unwrap(), prefix.to_str().unwrap()]);
        assert!(extracted(&lab, "p.img.gz.aa", 0) == truth);
        let error = lab.cdi(["info", "p.img.gz.ab"]).ends(3).err;
        assert!(error.contains("p.img.gz.aa"), "{error}");
        lab.write("m.img.gz", packed(&truth, "gzip", &["-1"]));
        lab.write("m.map", crate::common::mapfile(2048, 512, &[(6, 4)]));
        let info = lab.cdi(["info", "--json", "m.img.gz"]).ends(0).json();
        assert_eq!(info["blocks"]["bad-sector"]["bytes"], 2048, "{info}");
        assert_eq!(info["packed_files"][0]["packing"], "gzip");
    }

    /// A format that knows nothing of the packed file it is in: what may be wrong is not read as if it were right.
    #[needs(Program("gzip"), Program("lz4"), Program("qemu-img"))]
    fn damage_of_a_packed_image_in_another_format_is_an_error() {
        let lab = Lab::new();
        let truth = truth();
        let raw = lab.write("disk.raw", &truth);
        for format in ["qcow2", "vdi"] {
            let made = lab.path(&format!("d.{format}"));
            run("qemu-img", ["convert", "-O", format, raw.to_str().unwrap(), made.to_str().unwrap()]);
            let mut bytes = packed(&lab.read(&format!("d.{format}")), "gzip", &["-1"]);
            let len = bytes.len();
            // The checksum alone: everything may be wrong.
            bytes[len - 8] ^= 1;
            lab.write("d.gz", &bytes);
            let ran = lab.cdi(["verify", "--format", format, "d.gz"]);
            assert!(ran.code != 0, "{format}: {}", ran.out);
        }
    }

    /// What follows the last member is not ignored if it is not zeros, and members that are missing are noticed.
    #[needs(
        Program("gzip"),
        Program("bgzip"),
        Program("pbzip2"),
        Program("pzstd"),
        Program("lz4"),
        Program("zstd")
    )]
    fn members_do_not_vanish_without_a_word() {
        let truth = large();
        let (a, b) = truth.split_at(9 << 20);
        let pair = |program: &str, words: &[&str]| (packed(a, program, words), packed(b, program, words));
        for (name, (first, second)) in [
            ("disk.raw.gz", pair("gzip", &["-1"])),
            ("disk.raw.lz4", pair("lz4", &["-1"])),
            ("disk.raw.zst", pair("zstd", &["-1"])),
            ("disk.raw.bz2", pair("bzip2", &["-1"])),
            ("disk.raw.gz", pair("bgzip", &[])),
        ] {
            for (at, value) in [(0, 0x55), (1, 0)] {
                let mut whole = [&first[..], &second].concat();
                whole[first.len() + at] = value;
                let opened = open_source(Box::new(whole), Path::new(name), &OpenOptions::default()).unwrap();
                assert!(opened.image.is_incomplete(), "{name}: byte {at} of the second");
            }
        }
        // A frame that ends the file is not good up to where it ends because it is damaged.
        let mut whole = packed(&truth, "zstd", &["-3"]);
        let at = whole.len() / 5;
        whole[at] ^= 4;
        let opened = open_source(Box::new(whole), Path::new("disk.zst"), &OpenOptions::default());
        if let Ok(opened) = opened {
            let disk = Disk::new(opened, Options::default());
            for at in (0..disk.size() / 512).map(|n| n * 512) {
                let mut sector = [0; 512];
                if disk.read_at(&mut sector, at).is_ok() {
                    assert!(sector == truth[at as usize..][..512], "sector {}", at / 512);
                }
            }
        }
    }

    /// A file without restart points is refused, and the message says what to do.
    #[needs(Program("zstd"), Program("xz"))]
    fn what_cannot_be_read_in_any_order_is_refused_with_a_way_out() {
        let lab = Lab::new();
        let mut long = vec![0; 260 << 20];
        long[510..512].copy_from_slice(&[0x55, 0xAA]);
        for at in (0..long.len()).step_by(1 << 20) {
            long[at] = 7;
        }
        lab.write("disk.raw", &long);
        for (program, words, why) in
            [("xz", &["-0", "-T1"][..], "no restart points"), ("zstd", &["-1", "--long=28"], "more memory")]
        {
            let name = format!("disk.raw.{program}");
            lab.write(&name, packed(&long, program, words));
            let error = lab.cdi(["info", &name]).ends(3).err;
            assert!(error.contains(why), "{error}");
            let (_, hint) = error.split_once("decompress it: ").unwrap();
            let (hint, convert) = hint.split_once("; or convert it in one step: ").unwrap();
            let convert = convert.trim().replace(" cdi ", &format!(" {} -q ", env!("CARGO_BIN_EXE_cdi")));
            run("sh", ["-c", &format!("cd {} && {convert}", lab.path("").display())]);
            lab.cdi(["extract", "-q", "--force", "NEW.cdimg", "new.raw"]).ends(0);
            assert!(lab.read("new.raw") == long, "{convert}");
            fs::remove_file(lab.path("NEW.cdimg")).unwrap();
            run("sh", ["-c", &format!("cd {} && {hint}", lab.path("").display())]);
            assert!(lab.read("disk-plain.raw") == long, "{hint}");
            fs::remove_file(lab.path("disk-plain.raw")).unwrap();
        }
        // A single segment, whose window is all of it.
        let file = lab.path("disk.raw");
        run(
            "zstd",
            [
                "-q",
                "--long=31",
                "-1",
                file.to_str().unwrap(),
                "-o",
                lab.path("one.raw.zst").to_str().unwrap(),
            ],
        );
        let error = lab.cdi(["info", "one.raw.zst"]).ends(3).err;
        assert!(error.contains("more memory"), "{error}");
        // A frame of zstd can have this length.
        reads_like(packed(&long, "zstd", &["-1"]), "disk.raw.zst", &long);
    }
);

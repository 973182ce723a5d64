//! AFF, versions 1 to 3.

use std::fs;
use std::path::Path;
use std::process::Command;

use cdi_base::error::{Error, Kind, ReadError};
use cdi_image::disk::{BadPolicy, Disk, Options};
use cdi_image::image::{OpenOptions, Opened};
use cdi_image::open::open_source;

use super::{bad_of, extracted, path, truth, verified};
use crate::common::{Lab, run};
use crate::makers::{AffPage, aff, aff_kind, aff_mark, aff_quad, aff_segment, zlib};

/// Where the first segment is.
const FIRST: usize = 8;

tests!(
    #[needs(Program("affconvert"))]
    fn images_by_affconvert_are_read() {
        let lab = Lab::new();
        // Not whole sectors, and more than a page of each kind.
        let disk = [&truth()[..], &vec![0; 1 << 20], &truth()[..(1 << 20) - 100]].concat();
        lab.write("d.raw", &disk);
        for options in [&[][..], &["-x"], &["-L"], &["-s", "64k"], &["-L", "-s", "128k"], &["-x", "-s", "1m"]]
        {
            convert(&lab, options, "d.aff");
            assert!(extracted(&lab, "d.aff", 0) == disk, "{options:?}");
            let checked = verified(&lab, "d.aff", 0);
            let hashes = checked["stored_hashes"].as_array().unwrap();
            let matching: Vec<_> =
                hashes.iter().filter(|h| h["matches"] == true).map(|h| &h["hash"]).collect();
            assert_eq!(matching, ["MD5", "SHA-1"]);
            let info = lab.cdi(["info", "--json", "d.aff"]).ends(0).json();
            assert_eq!(info["format"], "aff");
            assert_eq!(info["metadata"]["logical_sector_bytes"], 512);
            let command = info["metadata"]["acquisition_commandline"].as_str().unwrap();
            assert!(command.starts_with("affconvert -q"), "{command}");
            fs::remove_file(lab.path("d.aff")).unwrap();
        }
        // It is converted to a .cdimg, with its metadata.
        convert(&lab, &[], "d.aff");
        lab.cdi(["create", "d.aff", "d.cdimg"]).ends(0);
        assert!(extracted(&lab, "d.cdimg", 0) == disk);
        let made = lab.cdi(["info", "--json", "d.cdimg"]).ends(0).json();
        assert!(made["metadata"]["md5_stored"].is_string(), "{made}");
        // A byte of a page that is not compressed: only the hash shows it.
        convert(&lab, &["-x"], "x.aff");
        let mut bytes = lab.read("x.aff");
        let at = bytes.windows(64).position(|w| *w == disk[..64]).unwrap();
        bytes[at + 5000] ^= 1;
        lab.write("x.aff", bytes);
        assert!(
            verified(&lab, "x.aff", 4)["errors"][0]["what"]
                .as_str()
                .unwrap()
                .contains("MD5 of the disk mismatch")
        );
    }

    #[needs(Program("affconvert"))]
    fn an_afd_and_an_afm_are_read_with_all_their_files() {
        let lab = Lab::new();
        let truth = truth();
        lab.write("d.raw", &truth);
        convert(&lab, &["-x", "-s", "64k", "-M", "200k"], "d.afd");
        let files = fs::read_dir(lab.path("d.afd")).unwrap().count();
        assert!(files > 3, "{files}");
        for name in ["d.afd", "d.afd/file_000.aff"] {
            assert!(extracted(&lab, name, 0) == truth, "{name}");
            verified(&lab, name, 0);
        }
        let ran = lab.cdi(["info", "d.afd/file_002.aff"]).ends(3);
        assert!(
            ran.err.contains("one of several files of an AFD") && ran.err.contains("file_000.aff"),
            "{}",
            ran.err
        );
        // Without one of the files, its pages are lost, and nothing else.
        fs::remove_file(lab.path("d.afd/file_002.aff")).unwrap();
        let ran = lab.cdi(["extract", "d.afd", "part.raw"]).ends(4);
        assert!(ran.err.contains("1 file missing before 'file_003.aff'"), "{}", ran.err);
        let bad = bad_of(&lab, &["d.afd"]);
        assert!(!bad.is_empty() && bad.iter().all(|b| b.2 == "bad-sector"), "{bad:?}");
        same_but(&lab.read("part.raw"), &truth, &bad);

        // An AFM: the data is in raw files, one or several.
        for options in [&[][..], &["-s", "64k", "-M", "320k"]] {
            convert(&lab, options, "m.afm");
            assert!(extracted(&lab, "m.afm", 0) == truth, "{options:?}");
            verified(&lab, "m.afm", 0);
            let last = ["m.003", "m.000"].into_iter().find(|name| lab.path(name).exists()).unwrap();
            fs::remove_file(lab.path(last)).unwrap();
            if last == "m.000" {
                let ran = lab.cdi(["info", "m.afm"]).ends(3);
                assert!(ran.err.contains("'m.000', which contains the disk, is missing"), "{}", ran.err);
            } else {
                assert_eq!(bad_of(&lab, &["m.afm"]), [(1920, 128, "bad-sector".into())]);
                same_but(&extracted(&lab, "m.afm", 4), &truth, &bad_of(&lab, &["m.afm"]));
            }
            fs::remove_file(lab.path("m.afm")).unwrap();
        }
    }

    /// affxml counts the sectors that have the mark, and affcat replaces them by zeros.
    #[needs(Program("affcat"), Program("affxml"))]
    fn bad_sectors_that_are_marked_are_bad() {
        let lab = Lab::new();
        let truth = truth();
        let bad = [0, 77, 1000, 1001, 2047];
        let image = aff(&truth, 64 << 10, &bad, aff_kind);
        let file = lab.write("d.aff", &image);
        let xml = run("affxml", ["-x", "-s", file.to_str().unwrap()]);
        // As counted by the image, and by affxml itself.
        assert_eq!(xml.matches("<badsectors coding='base10'>5</badsectors>").count(), 2, "{xml}");
        let list = [(0, 1), (77, 1), (1000, 2), (2047, 1)].map(|(first, n)| (first, n, "bad-sector".into()));
        assert_eq!(bad_of(&lab, &["d.aff"]), list);
        let ours = extracted(&lab, "d.aff", 4);
        same_but(&ours, &truth, &list);
        assert!(ours == Command::new("affcat").arg(&file).output().unwrap().stdout);
        let info = lab.cdi(["info", "--json", "d.aff"]).json();
        let metadata = &info["metadata"];
        assert_eq!((&metadata["model"], &metadata["serial"]), (&"an old disk".into(), &"SN1".into()));
        assert_eq!((&metadata["case_number"], &metadata["tool"]), (&"17/3".into(), &"AFFLIB 3.7.20".into()));
        lab.cdi(["create", "d.aff", "d.cdimg"]).ends(4);
        assert_eq!(bad_of(&lab, &["d.cdimg"]), list);
        same_but(&extracted(&lab, "d.cdimg", 4), &truth, &list);
    }

    /// If the image does not count them, nothing is searched; but a mark is never returned for data.
    fn marks_that_are_not_counted_are_bad_when_they_are_read() {
        let lab = Lab::new();
        let truth = truth();
        let bad = [77, 1000, 2047];
        let mut image = aff(&truth, 64 << 10, &bad, aff_kind);
        let count = image.len() - 8 - 8;
        image[count..count + 8].fill(0);
        lab.write("d.aff", &image);
        assert_eq!(bad_of(&lab, &["d.aff"]), []);
        let disk = open(image.clone(), BadPolicy::Error).unwrap();
        let mut sector = vec![0; 512];
        for n in 0..truth.len() / 512 {
            let read = disk.read_at(&mut sector, n as u64 * 512);
            match bad.contains(&n) {
                true => assert_eq!(read, Err(ReadError::Bad { sector: n as u64, good: 0, untried: false })),
                false => assert!(read.is_ok() && sector == truth[n * 512..][..512], "sector {n}"),
            }
        }
        // A part of a sector, and more than one; a byte that the mark has, too.
        for (at, len, result) in [(77 * 512 + 3, 1, 0), (75 * 512 + 10, 1500, 1014), (999 * 512, 513, 512)] {
            let read = disk.read_at(&mut vec![0; len], at);
            assert_eq!(
                read,
                Err(ReadError::Bad {
                    sector: if at < 99_999 { 77 } else { 1000 },
                    good: result,
                    untried: false
                })
            );
        }
        let at = truth.windows(1).position(|b| b == b"B").unwrap() as u64;
        disk.read_at(&mut [0], at).unwrap();
        // Filled, as all bad sectors; and found when the image is converted.
        let disk = open(image.clone(), BadPolicy::Zero).unwrap();
        let mut whole = vec![1; truth.len()];
        disk.read_at(&mut whole, 0).unwrap();
        let list = bad.map(|n| (n as u64, 1, String::new()));
        same_but(&whole, &truth, &list);
        let map = |name: &str| String::from_utf8(lab.read(name)).unwrap().matches(" -\n").count();
        lab.cdi(["extract", "d.aff", "whole.raw"]).ends(4);
        assert!(lab.read("whole.raw") == whole && map("whole.raw.map") == 3);
        for fill in [0, b'x'] {
            let option = if fill == 0 { "zero" } else { "pattern:x" };
            lab.cdi(["-q", "extract", "--force", "--bad", option, "d.aff", "filled.raw"]).ends(4);
            bad.iter().for_each(|n| whole[n * 512..][..512].fill(fill));
            assert!(lab.read("filled.raw") == whole, "{option}");
        }
        let ran = lab.cdi(["extract", "--bad", "error", "d.aff", "none.raw"]).ends(4);
        assert!(ran.err.contains("--bad error was given"), "{}", ran.err);
        let checked = verified(&lab, "d.aff", 0);
        assert_eq!(
            (&checked["missing_bytes"], &checked["lost_bytes"]),
            (&1536.into(), &0.into()),
            "{checked}"
        );
        lab.cdi(["create", "d.aff", "d.cdimg"]).ends(4);
        assert_eq!(bad_of(&lab, &["d.cdimg"]), [77, 1000, 2047].map(|n| (n, 1, "bad-sector".into())));
        same_but(&extracted(&lab, "d.cdimg", 4), &truth, &bad_of(&lab, &["d.cdimg"]));
        // A part of the disk has them, too.
        let part = opened(image).unwrap().part(77 * 512..truth.len() as u64).unwrap();
        let read = Disk::new(part, Options::default()).read_at(&mut [0; 512], 0);
        assert_eq!(read, Err(ReadError::Bad { sector: 0, good: 0, untried: false }));
    }

    /// The search for marks ends after 512 MiB: those after that are not in the map, and a warning says so.
    fn marks_far_from_the_start_are_bad_when_they_are_read() {
        const PAGE: usize = 16 << 20;
        let sector = 40 * PAGE as u64 / 512 - 10;
        let mut marked = vec![b'a'; PAGE];
        let plain = zlib(&marked);
        marked[PAGE - 10 * 512..][..512].copy_from_slice(&aff_mark());
        let mut image = aff(&[], PAGE, &[], aff_kind);
        image.truncate(image.len() - aff_quad("imagesize", 0).len() - aff_quad("badsectors", 0).len());
        for n in 0..40 {
            let page = if n % 39 == 0 { zlib(&marked) } else { plain.clone() };
            image.extend(aff_segment(&format!("page{n}"), 1, &page));
        }
        image.extend(aff_quad("imagesize", 40 * PAGE as u64));
        image.extend(aff_quad("badsectors", 2));
        let disk = open(image, BadPolicy::Error).unwrap();
        let listed: Vec<_> = disk.bad().ranges().iter().map(|r| (r.start, r.end)).collect();
        assert_eq!(listed, [((PAGE - 10 * 512) as u64, (PAGE - 9 * 512) as u64)]);
        let warning = "of the 2 bad sectors that the image counts, 1 were found in the first 512 MiB";
        assert!(disk.image().warnings()[0].starts_with(warning), "{:?}", disk.image().warnings());
        let read = disk.read_at(&mut [0; 1024], (sector - 1) * 512);
        assert_eq!(read, Err(ReadError::Bad { sector, good: 512, untried: false }));
        disk.read_at(&mut [0; 512], (sector - 1) * 512).unwrap();
    }

    /// affcat ends there.
    fn pages_that_are_not_in_the_image_were_not_read() {
        let lab = Lab::new();
        let truth = truth();
        let kind = |n, bytes: &[u8]| if n == 3 || n > 13 { AffPage::Missing } else { aff_kind(n, bytes) };
        lab.write("d.aff", aff(&truth, 64 << 10, &[], kind));
        let list = [(384, 128, "non-tried".into()), (1792, 256, "non-tried".into())];
        assert_eq!(bad_of(&lab, &["d.aff"]), list);
        same_but(&extracted(&lab, "d.aff", 4), &truth, &list);
        let ran = lab.cdi(["info", "d.aff"]);
        assert!(ran.err.contains("196608 of the disk's 1048576 bytes are not in the image"), "{}", ran.err);
    }

    /// The segments before and after it are used.
    fn a_damaged_segment_costs_itself_alone() {
        let lab = Lab::new();
        let truth = truth();
        let image = aff(&truth, 64 << 10, &[], aff_kind);
        let page = image.windows(5).position(|w| w == b"page7").unwrap();
        for (what, at) in [
            ("head", page - 16),
            ("name's length", page - 12),
            ("length", page - 7),
            ("tail", page + 5 + 65536),
        ] {
            let mut bytes = image.clone();
            bytes[at] ^= 0x41;
            lab.write("d.aff", bytes);
            let list = [(7 * 128, 128, "bad-sector".into())];
            assert_eq!(bad_of(&lab, &["d.aff"]), list, "{what}");
            same_but(&extracted(&lab, "d.aff", 4), &truth, &list);
            assert_eq!(verified(&lab, "d.aff", 4)["lost_bytes"], 65536);
        }
        // Cut off: pages are in reverse order, so the first ones are lost; and the size is unknown.
        let page = image.windows(5).position(|w| w == b"page5").unwrap();
        lab.write("d.aff", &image[..page + 1000]);
        let ran = lab.cdi(["info", "d.aff"]).ends(4);
        assert!(ran.err.contains("does not record the size of the disk"), "{}", ran.err);
        let list = [(0, 768, "bad-sector".into())];
        assert_eq!(bad_of(&lab, &["d.aff"]), list);
        same_but(&extracted(&lab, "d.aff", 4), &truth, &list);
    }

    #[needs(Program("affconvert"))]
    fn encrypted_aff_images_are_refused_and_signatures_are_no_pages() {
        let lab = Lab::new();
        lab.write("d.raw", truth());
        let words = ["-q", "-s", "64k", "-o", "e.aff", "d.raw"];
        let mut command = Command::new("affconvert");
        let ran = command.args(words).current_dir(&lab.dir).env("AFFLIB_PASSPHRASE", "secret").status();
        assert!(ran.unwrap().success());
        let ran = lab.cdi(["info", "e.aff"]).ends(3);
        assert!(ran.err.contains("encrypted AFF image (not supported)"), "{}", ran.err);
        assert!(ran.err.contains("AFFLIB_PASSPHRASE"), "{}", ran.err);
        // A signature of a page, and a hash.
        let mut image = aff(&truth(), 64 << 10, &[], aff_kind);
        image.extend(aff_segment("page0/sha256", 1, &[7; 128]));
        image.extend(aff_segment("page1_md5", 0, &[7; 16]));
        lab.write("d.aff", image);
        assert!(extracted(&lab, "d.aff", 0) == truth());
    }

    fn inconsistent_aff_images_are_refused_with_a_reason() {
        let truth = truth();
        let image = aff(&truth, 64 << 10, &[], aff_kind);
        let with = |segment: Vec<u8>| [&image[..FIRST], &segment, &image[FIRST..]].concat();
        let without = |name: &str| {
            let head = aff_segment(name, 0, b"");
            let at = image.windows(name.len()).position(|w| w == name.as_bytes()).unwrap() - 16;
            let mut image = image.clone();
            // Another name of the same length.
            image[at + 16..at + 16 + name.len()].fill(b'?');
            assert_eq!(&head[..4], &image[at..at + 4]);
            image
        };
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (b"AFF10\r\n\x01".to_vec(), "not an AFF image"),
            (with(aff_segment("page3", 0, b"")), "page 3 is stored twice"),
            (with(aff_segment("seg3", 0, b"")), "page 3 is stored twice"),
            (with(aff_segment("page99", 0x11, b"x")), "segment 'page99': compression by bzip2"),
            (with(aff_segment("page99", 0x41, b"x")), "unknown compression method 0x40"),
            (with(aff_segment("page5000000000", 0, b"x")), "invalid number of a page"),
            (with(aff_segment("pagesize", 0, b"")), "invalid page size: 0 bytes"),
            (with(aff_segment("pagesize", 65000, b"")), "invalid page size: 65000 bytes"),
            (
                with(aff_segment("pagesize", 32 << 20, b"")),
                "has 33554432 bytes: more than 16777216 are not supported",
            ),
            (with(aff_segment("sectorsize", 500, b"")), "invalid sector size: 500 bytes"),
            (with(aff_quad("imagesize", u64::MAX)), "invalid disk size: 18446744073709551615 bytes"),
            (without("pagesize"), "invalid page size: 0 bytes"),
            (image[..FIRST].to_vec(), "invalid page size: 0 bytes"),
            (with(aff_segment("raw_image_file_extension", 0, b"../x")), "invalid description of raw files"),
            (
                with(aff_segment("raw_image_file_extension", 0, b"001")),
                "'d.001', which contains the disk, is missing",
            ),
        ];
        for (bytes, words) in cases {
            let error = open(bytes, BadPolicy::Error).err().unwrap_or_else(|| panic!("{words}: opened"));
            assert!(error.to_string().contains(words), "{words}: {error}");
            assert_eq!(error.kind, Kind::BadImage);
        }
        // Pages that are not compressed may be longer than others.
        let whole = [&truth[..], &vec![3; 32 << 20]].concat();
        let disk = open(aff(&whole, 32 << 20, &[], |_, _| AffPage::Stored), BadPolicy::Error).unwrap();
        let mut read = vec![0; 1 << 20];
        disk.read_at(&mut read, 0).unwrap();
        assert!(read == truth);
    }
);

fn opened(image: Vec<u8>) -> Result<Opened, Error> {
    open_source(Box::new(image), Path::new("/nowhere/d.aff"), &OpenOptions::default())
}

fn open(image: Vec<u8>, bad: BadPolicy) -> Result<Disk, Error> {
    opened(image).map(|opened| Disk::new(opened, Options { bad, ..Options::default() }))
}

fn convert(lab: &Lab, options: &[&str], out: &str) {
    let (raw, out) = (path(lab, "d.raw"), path(lab, out));
    run("affconvert", [&["-q"], options, &["-o", &out, &raw]].concat());
}

/// Compares two disks, of which the first has zeros in the `bad` sectors.
fn same_but(disk: &[u8], truth: &[u8], bad: &[(u64, u64, String)]) {
    let mut truth = truth.to_vec();
    for (first, count, _) in bad {
        truth[(first * 512) as usize..((first + count) * 512) as usize].fill(0);
    }
    assert!(disk == truth);
}

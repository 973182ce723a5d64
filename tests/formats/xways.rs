//! E01 images as X-Ways makes them: encrypted, and compressed with zstd.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cdi_base::error::ReadError;
use cdi_image::passphrase::Passphrase;
use cdi_image::{Disk, DiskOptions};
use serde_json::json;

use super::truth;
use crate::common::{Lab, run};
use crate::makers::xways::USUAL;
use crate::makers::{XWays, adler, xways};

/// The option that gives the passphrase, which is in the file `pass`.
const WITH: [&str; 2] = ["--passphrase-file", "pass"];

/// Writes the segments `NAME.E01` …, and the passphrase to `pass`. Returns the path of the first one.
fn write(lab: &Lab, name: &str, segments: &[Vec<u8>]) -> PathBuf {
    lab.write("pass", format!("{}\n", USUAL.passphrase));
    for (n, bytes) in segments.iter().enumerate() {
        lab.write(&format!("{name}.E{:02}", n + 1), bytes);
    }
    lab.path(&format!("{name}.E01"))
}

/// Every way in which an image can be encrypted and compressed.
fn ways() -> impl Iterator<Item = XWays<'static>> {
    let flags = (0..8).map(|n| [1, 2, 4].map(|bit| n & bit != 0));
    flags.flat_map(|[zstd, check, split]| {
        let per = if split { 7 } else { usize::MAX };
        [128, 256].map(|bits| XWays { bits, zstd, check, per, ..USUAL })
    })
}

fn with(passphrase: &str) -> DiskOptions {
    Disk::options().passphrase(Passphrase::new(passphrase))
}

/// Where a section's data begins.
fn section(bytes: &[u8], name: &str) -> usize {
    let is = |w: &[u8]| w.starts_with(name.as_bytes()) && w[name.len()..].iter().all(|b| *b == 0);
    bytes.windows(16).position(is).unwrap() + 76
}

/// Reads all of the disk, sector by sector: each is right, or fails. Returns how many fail.
fn right_or_failing(disk: &Disk, truth: &[u8]) -> usize {
    let mut failed = 0;
    for (n, sector) in truth.chunks(512).enumerate() {
        let mut bytes = vec![0; sector.len()];
        match disk.read_at(&mut bytes, n as u64 * 512) {
            Ok(()) => assert!(bytes == sector, "sector {n} is wrong"),
            Err(e) => {
                assert!(matches!(e, ReadError::Corrupt { .. }), "sector {n}: {e}");
                failed += 1;
            }
        }
    }
    failed
}

tests!(
    fn what_x_ways_encrypts_is_decrypted() {
        // The last chunk is shorter.
        let truth = &truth()[..(1 << 20) - 5 * 512];
        for how in ways() {
            let lab = Lab::new();
            let image = write(&lab, "a", &xways(truth, &how));
            let what = format!("{} bits, zstd {}, check {}", how.bits, how.zstd, how.check);
            let disk = with(how.passphrase).open(&image).unwrap();
            assert!(disk.image().warnings().is_empty(), "{what}: {:?}", disk.image().warnings());
            let mut bytes = vec![0; truth.len()];
            disk.read_at(&mut bytes, 0).unwrap();
            assert!(bytes == truth, "{what}");
            for (at, len) in [(0, 1), (511, 2), (32_767, 2), (65_535, 140_000), (truth.len() - 1, 1)] {
                let mut read = vec![0; len];
                disk.read_at(&mut read, at as u64).unwrap();
                assert!(read == truth[at..][..len], "{what}: {len} bytes at {at}");
            }
            assert_eq!(disk.image().metadata().more["description"], "SESAME");
        }
    }

    fn every_verb_reads_an_image_encrypted_by_x_ways() {
        let lab = Lab::new();
        for (how, name) in [(XWays { per: 7, ..USUAL }, "a"), (XWays { bits: 128, zstd: true, ..USUAL }, "b")]
        {
            write(&lab, name, &xways(&truth(), &how));
            let image = format!("{name}.E01");
            let info = lab.cdi([&["info", "--json", &image], &WITH[..]].concat()).ends(0).json();
            assert_eq!(info["encryption"], format!("AES-{}, by X-Ways; passphrase", how.bits));
            assert_eq!(info["format"], "ewf");
            let verified = lab.cdi([&["verify", "--json", &image], &WITH[..]].concat()).ends(0).json();
            assert_eq!(verified["stored_hashes"][0]["matches"], json!(true), "{verified}");
            lab.cdi([&["create", "--force", &image, "copy.cdimg"], &WITH[..]].concat()).ends(0);
            lab.cdi(["-q", "extract", "--force", "copy.cdimg", "out.raw"]).ends(0);
            assert!(lab.read("out.raw") == truth());
            // The map has the places in the files.
            let map = lab.cdi([&["map", "--extents", "--json", &image], &WITH[..]].concat()).ends(0).json();
            let first = section(&lab.read(&image), "sectors");
            assert_eq!(map["extents"][0]["file_offset_bytes"], first, "{map}");
        }
    }

    #[needs(Program("gzip"))]
    fn an_encrypted_image_is_read_from_a_gzip_file() {
        let lab = Lab::new();
        let image = write(&lab, "a", &xways(&truth(), &USUAL));
        run("gzip", ["-n", image.to_str().unwrap()]);
        lab.cdi([&["-q", "extract", "a.E01.gz", "out.raw"], &WITH[..]].concat()).ends(0);
        assert!(lab.read("out.raw") == truth());
    }

    fn images_compressed_by_x_ways_with_zstd_are_read() {
        let lab = Lab::new();
        for (per, size) in [(usize::MAX, 1 << 20), (5, (1 << 20) - 512), (usize::MAX, 0x3_0000)] {
            let truth = &truth()[..size];
            let how = XWays { bits: 0, zstd: true, per, ..USUAL };
            write(&lab, "a", &xways(truth, &how));
            lab.cdi(["verify", "a.E01"]).ends(0);
            lab.cdi(["-q", "extract", "--force", "a.E01", "out.raw"]).ends(0);
            assert!(lab.read("out.raw") == truth);
            let info = lab.cdi(["info", "--json", "a.E01"]).ends(0).json();
            assert_eq!(info["metadata"]["description"], "SESAME", "{info}");
        }
    }

    /// It has no checksum.
    fn a_damaged_byte_of_the_header_costs_nothing() {
        let lab = Lab::new();
        for (zstd, byte) in [(false, 0x21), (false, 0x81), (false, 0xA1), (true, 0x01), (true, 0x81)] {
            let mut whole = xways(&truth(), &XWays { bits: 0, zstd, ..USUAL }).remove(0);
            whole[8] = byte;
            write(&lab, "a", &[whole]);
            lab.cdi(["verify", "a.E01"]).ends(0);
            let ran = lab.cdi(["extract", "--force", "a.E01", "out.raw"]).ends(0);
            assert!(lab.read("out.raw") == truth(), "{byte:#x}");
            let is_warned = ran.err.contains("says that the image is encrypted, but its chunks are not");
            assert_eq!(is_warned, byte & 0x80 != 0, "{}", ran.err);
        }
    }

    /// The writer of these tests: what it writes without X-Ways' additions is an E01 for libewf, too.
    #[needs(Program("ewfverify"))]
    fn ewfverify_reads_the_images_of_these_tests() {
        let lab = Lab::new();
        let image = write(&lab, "a", &xways(&truth(), &XWays { bits: 0, per: 7, ..USUAL }));
        run("ewfverify", ["-q", image.to_str().unwrap()]);
        lab.cdi(["verify", "a.E01"]).ends(0);
    }

    /// The cipher of these tests' writer, of which the first chunk is decrypted.
    #[needs(Program("openssl"))]
    fn openssl_decrypts_a_chunk_of_these_tests() {
        let image = xways(&truth(), &XWays { bits: 128, zstd: false, ..USUAL }).remove(0);
        let (how, table) = (section(&image, "x_encryption"), section(&image, "table"));
        let sectors = section(&image, "sectors");
        let mut padded = [0; 32];
        padded[..USUAL.passphrase.len()].copy_from_slice(USUAL.passphrase.as_bytes());
        let key = <sha2::Sha256 as sha2::Digest>::digest([&padded, &image[how + 4..how + 36]].concat());
        let key: Vec<u8> = (0..16).map(|n| key[n] ^ key[n + 16]).collect();
        let hex = cdi_base::printable::hex;
        let second = u32::from_le_bytes(image[table + 28..table + 32].try_into().unwrap()) & !(1 << 31);
        let words = ["enc", "-d", "-aes-128-ctr", "-K", &hex(&key), "-iv", &hex(&image[how + 36..how + 52])];
        let mut child =
            Command::new("openssl").args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&image[sectors..sectors + second as usize]).unwrap();
        let plain = child.wait_with_output().unwrap().stdout;
        assert!(plain == crate::makers::zlib(&truth()[..32 << 10]));
    }

    fn a_wrong_passphrase_never_opens_an_image() {
        let lab = Lab::new();
        for how in ways() {
            let image = write(&lab, "a", &xways(&truth(), &how));
            let ran = lab.cdi(["info", "a.E01"]).ends(3);
            let needed = format!(
                "encrypted image (AES-{}, by X-Ways; passphrase): its passphrase is needed",
                how.bits
            );
            assert!(ran.err.contains(&needed), "{}", ran.err);
            assert!(ran.err.contains("--passphrase-file FILE or --passphrase-fd N"), "{}", ran.err);
            lab.write("other", "open sesam");
            let ran = lab.cdi(["info", "a.E01", "--passphrase-file", "other"]).ends(3);
            let words = match how.check {
                true => "the passphrase is wrong: it does not open this encrypted image",
                false => "the passphrase is wrong: none of ",
            };
            assert!(ran.err.contains(words) && !ran.err.contains("iconv"), "{}", ran.err);
            for n in 0..50 {
                assert!(with(&format!("wrong {n}")).open(&image).is_err(), "{n}");
            }
        }
        lab.write("other", "öpen sesame");
        let ran = lab.cdi(["info", "a.E01", "--passphrase-file", "other"]).ends(3);
        assert!(ran.err.contains("iconv -t WINDOWS-1252"), "{}", ran.err);
        for (bits, max) in [(128, 16), (256, 32)] {
            let longest = "x".repeat(max);
            write(&lab, "b", &xways(&truth(), &XWays { bits, passphrase: &longest, ..USUAL }));
            lab.write("other", &longest);
            lab.cdi(["info", "b.E01", "--passphrase-file", "other"]).ends(0);
            lab.write("other", "x".repeat(max + 1));
            let ran = lab.cdi(["info", "b.E01", "--passphrase-file", "other"]).ends(3);
            assert!(ran.err.contains(&format!("takes at most {max} bytes for this cipher")), "{}", ran.err);
        }
    }

    /// Without anything to check a passphrase with, in images of which all chunks are a byte each.
    fn chunks_of_one_byte_prove_no_passphrase() {
        let lab = Lab::new();
        let zeros = vec![0; 1 << 20];
        for bits in [128, 256] {
            let how = XWays { bits, zstd: true, check: false, ..USUAL };
            let image = write(&lab, "a", &xways(&zeros, &how));
            let disk = with(how.passphrase).open(&image).unwrap();
            assert_eq!(right_or_failing(&disk, &zeros), 0);
            for n in 0..2000 {
                assert!(with(&format!("wrong {n}")).open(&image).is_err(), "{n}");
            }
        }
    }

    fn what_is_not_known_is_refused_by_name() {
        let lab = Lab::new();
        let whole = xways(&truth(), &USUAL).remove(0);
        let at = section(&whole, "x_encryption");
        let changed = |changes: &[(usize, &[u8])], expected: &str| {
            let mut bytes = whole.clone();
            for (at, value) in changes {
                bytes[*at..at + value.len()].copy_from_slice(value);
            }
            let header = at - 76;
            let sum = adler(&bytes[header..header + 72]);
            bytes[header + 72..header + 76].copy_from_slice(&sum);
            write(&lab, "a", &[bytes]);
            let ran = lab.cdi(["info", "a.E01", WITH[0], WITH[1]]).ends(3);
            assert!(ran.err.contains(expected), "{expected}: {}", ran.err);
        };
        let place = |at: usize| format!("at byte {at}: ");
        let cipher = "image encrypted by X-Ways with the unknown cipher 2 (not supported)\nhint: if it was";
        changed(&[(at, &[2])], &(place(at) + cipher));
        changed(
            &[(at + 2, &[4])],
            &(place(at + 2) + "image encrypted by X-Ways with the unknown flags 0x1004"),
        );
        changed(&[(at + 3, &[0x20])], "with the unknown flags 0x2000 (not supported)");
        changed(&[(at + 2, &[1])], &(place(at + 2) + "cipher 1 does not match the flags 0x1001"));
        changed(&[(at, &[0])], "cipher 0 does not match the flags 0x1000");
        changed(&[(at - 76, b"x_something\0")], "but the section that says how is missing");
        // A section of another length ends the segment: so there are no chunks.
        changed(&[(at - 52, &[159])], "but the section that says how is missing");
        // By the section alone, without the mark in the header, an image is encrypted, too.
        let mut bytes = whole.clone();
        bytes[8] = 1;
        write(&lab, "a", &[bytes]);
        lab.cdi([&["-q", "extract", "a.E01", "out.raw"], &WITH[..]].concat()).ends(0);
        assert!(lab.read("out.raw") == truth());
        // A segment without the section, and segments of two images.
        let [first, mut second] = xways(&truth(), &XWays { per: 16, ..USUAL }).try_into().unwrap();
        let header = section(&second, "x_encryption") - 76;
        second[header] = b'y';
        let sum = adler(&second[header..header + 72]);
        second[header + 72..header + 76].copy_from_slice(&sum);
        write(&lab, "b", &[first, second]);
        let ran = lab.cdi(["info", "b.E01", WITH[0], WITH[1]]).ends(3);
        assert!(ran.err.contains("b.E02: this segment is encrypted, but"), "{}", ran.err);
        let segments = |bits| xways(&truth(), &XWays { bits, per: 16, ..USUAL });
        write(&lab, "c", &[segments(256).remove(0), segments(128).remove(1)]);
        let ran = lab.cdi(["info", "c.E01", WITH[0], WITH[1]]).ends(3);
        assert!(ran.err.contains("c.E02: at byte") && ran.err.contains("another cipher"), "{}", ran.err);
        let other = xways(&truth(), &XWays { passphrase: "close sesame", per: 16, ..USUAL });
        let image = write(&lab, "d", &[segments(256).remove(0), other[1].clone()]);
        let disk = with(USUAL.passphrase).open(&image).unwrap();
        assert_eq!(right_or_failing(&disk, &truth()), 1024);
        assert!(disk.image().warnings()[0].contains("is damaged in this image"));
    }

    fn damage_of_an_encrypted_image_is_no_wrong_passphrase() {
        let lab = Lab::new();
        for how in ways().filter(|how| how.check && how.per == usize::MAX) {
            let whole = xways(&truth(), &how).remove(0);
            let at = section(&whole, "x_encryption");
            let opened = |damaged: usize| {
                let mut bytes = whole.clone();
                bytes[damaged] ^= 0x10;
                let image = write(&lab, "a", &[bytes]);
                with(how.passphrase).open(image)
            };
            // What the passphrase is checked with.
            let disk = opened(at + 52).unwrap();
            assert_eq!(right_or_failing(&disk, &truth()), 0);
            assert!(disk.image().warnings()[0].contains("chunks can be decrypted with this one"));
            assert!(with("wrong").open(lab.path("a.E01")).is_err());
            // The counter.
            let disk = opened(at + 40).unwrap();
            let failed = right_or_failing(&disk, &truth());
            assert!(failed > 1900, "{failed}");
            assert!(disk.image().warnings()[0].contains("the passphrase is right, but all of"));
            // A chunk that zlib compressed, and one that is not compressed; zstd has no checksums.
            let table = section(&whole, "table");
            for chunk in if how.zstd { 8..9 } else { 6..9 } {
                let entry = table + 24 + 4 * chunk;
                let entry = u32::from_le_bytes(whole[entry..entry + 4].try_into().unwrap()) & !(1 << 31);
                let start = section(&whole, "sectors") + entry as usize;
                let disk = opened(start + 100).unwrap();
                assert_eq!(right_or_failing(&disk, &truth()), 64);
                // It is named by its place in the file.
                let error = disk.read_at(&mut [0; 512], chunk as u64 * 32_768).unwrap_err();
                assert_eq!(error, ReadError::Corrupt { at: start as u64 });
                let ran = lab.cdi(["verify", "a.E01", WITH[0], WITH[1]]).ends(4);
                assert!(ran.err.contains(&format!("byte {start}")), "{}", ran.err);
            }
        }
    }

    fn a_missing_segment_of_an_encrypted_image_is_lost() {
        let lab = Lab::new();
        let segments = xways(&truth(), &XWays { per: 10, ..USUAL });
        let image = write(&lab, "a", &segments);
        fs::remove_file(lab.path("a.E02")).unwrap();
        let disk = with(USUAL.passphrase).open(&image).unwrap();
        let held = 10 * 32_768;
        assert_eq!(disk.image().lost(), std::slice::from_ref(&(held as u64..1 << 20)));
        let mut bytes = vec![0; held];
        disk.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == truth()[..held]);
        lab.cdi(["verify", "a.E01", WITH[0], WITH[1]]).ends(4);
    }

    #[needs(Fuse, Loop, Program("mkfs.ext4"), Program("e2fsck"))]
    fn e2fsck_finds_the_file_system_of_an_image_by_x_ways_sound() {
        let lab = Lab::new();
        let raw = lab.path("fs.raw");
        fs::File::create(&raw).unwrap().set_len(8 << 20).unwrap();
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        run("mkfs.ext4", ["-q", "-d", here.to_str().unwrap(), raw.to_str().unwrap()]);
        for how in [USUAL, XWays { bits: 128, zstd: true, per: 50, ..USUAL }] {
            write(&lab, "fs", &xways(&lab.read("fs.raw"), &how));
            let ran = lab.cdi([&["-q", "attach", "fs.E01"], &WITH[..]].concat()).ends(0);
            let device = ran.out.trim();
            run("e2fsck", ["-fn", device]);
            assert!(fs::read(device).unwrap() == lab.read("fs.raw"));
            lab.cdi(["detach", device]).ends(0);
        }
    }
);

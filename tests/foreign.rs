//! Images in formats for which the tests have writers of their own (`makers`), and damage of every format: 20,000 seeded
//! damages each. To repeat one: `CDI_SEED=n cargo test --test all foreign::damaged_NAME`.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cdi_base::printable::hex;
use cdi_image::badmap::Status;
use cdi_image::disk::{BadPolicy, Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open::{open, open_source};
use sha2::{Digest, Sha256};

use crate::common::{Lab, Random, corpus, disk, run, seeds};
use crate::makers::{self, Aff4, Tables};

const DAMAGES: u64 = 20_000;

/// A disk for all of them: 1 MiB of everything, with zeros, a pattern and free space in it.
fn truth() -> Vec<u8> {
    let mut disk = disk(1 << 20);
    disk[0x1_0000..0x3_0000].fill(0);
    disk[0x8_0000..0x9_0000].fill(b'a');
    disk
}

fn sample(name: &str) -> std::path::PathBuf {
    corpus().join("dmgwiz").join(name)
}

/// The disk of an image, by `extract`.
fn extracted(lab: &Lab, image: &str, code: i32) -> Vec<u8> {
    lab.cdi(["-q", "extract", "--force", "--bad", "zero", image, "out.raw"]).ends(code);
    fs::read(lab.path("out.raw")).unwrap()
}

fn verified(lab: &Lab, image: &str, code: i32) -> serde_json::Value {
    lab.cdi(["verify", "--json", image]).ends(code).json()
}

tests!(
    fn a_dmg_of_every_kind_of_chunk() {
        let lab = Lab::new();
        let truth = truth();
        for tables in [Tables::PropertyList, Tables::ResourceFork] {
            let whole = makers::dmg(&truth, tables);
            lab.write("a.dmg", &whole);
            assert!(extracted(&lab, "a.dmg", 0) == truth);
            assert_eq!(verified(&lab, "a.dmg", 0)["stored_hashes"][0]["matches"], true);
            // A byte of a plain chunk, which nothing checks but the sums of the whole.
            let at = whole.windows(16).position(|w| w == &truth[4 << 16..][..16]).unwrap();
            let mut broken = whole.clone();
            broken[at + 100] ^= 1;
            lab.write("b.dmg", &broken);
            let told = verified(&lab, "b.dmg", 4);
            assert_eq!(told["stored_hashes"][0]["matches"], false);
            assert!(told["errors"][0]["what"].as_str().unwrap().contains("CRC-32 mismatch of the data"));
            // A trailer with a little behind it, and none at all.
            lab.write("c.dmg", [&whole[..], &[0; 300]].concat());
            assert!(extracted(&lab, "c.dmg", 0) == truth);
            lab.write("d.dmg", &whole[..whole.len() - 100]);
            let ran = lab.cdi(["info", "d.dmg"]).ends(3);
            assert!(ran.err.contains("no UDIF trailer") && ran.err.contains("--format raw"), "{}", ran.err);
        }
    }

    #[needs(Corpus)]
    fn dmg_samples_hold_what_they_claim() {
        let lab = Lab::new();
        let one = "1407509ff44696aab011815d84951ad2c53cb7345a71d9803b73817c2d2d83cf";
        let other = "3dabc11a062d044ff75043e6bddeea3821a2fdb9132d3b89d31ecb83bbaf6e7d";
        for (name, sum) in [
            ("input_adc.dmg", one),
            ("input_bzip2.dmg", one),
            ("input_lzfse.dmg", one),
            ("input_lzma.dmg", one),
            ("input_ro.dmg", one),
            ("input_zlib.dmg", one),
            ("input_non_null_data_offset.dmg", other),
        ] {
            let told = verified(&lab, sample(name).to_str().unwrap(), 0);
            assert_eq!(told["sha256_zero_filled"], serde_json::Value::Null, "{name} stores none");
            assert_eq!(
                hex(&Sha256::digest(extracted(&lab, sample(name).to_str().unwrap(), 0))),
                sum,
                "{name}"
            );
            assert!(told["stored_hashes"].as_array().unwrap().iter().all(|c| c["matches"] == true), "{name}");
        }
        let ran = lab.cdi(["info".as_ref(), sample("input_aes256.dmg").as_os_str()]).ends(3);
        assert!(
            ran.err.contains("encrypted disk image (not supported)") && ran.err.contains("hdiutil convert"),
            "{}",
            ran.err
        );
    }

    fn sparse_images_and_bundles() {
        let lab = Lab::new();
        let truth = truth();
        lab.write("a.sparseimage", makers::sparseimage(&truth));
        assert!(extracted(&lab, "a.sparseimage", 0) == truth);
        fs::create_dir_all(lab.path("b.sparsebundle/bands")).unwrap();
        for (name, bytes) in makers::sparsebundle(&truth) {
            lab.write(&format!("b.sparsebundle/{name}"), bytes);
        }
        assert!(extracted(&lab, "b.sparsebundle", 0) == truth);
        // Relative, and from elsewhere: the bands are found all the same.
        lab.cdi(["create", "b.sparsebundle", "b.cdimg"]).ends(0);
        assert!(extracted(&lab, "b.cdimg", 0) == truth);
        fs::write(lab.path("b.sparsebundle/token"), b"encrcdsa\0\0\0\x02").unwrap();
        let ran = lab.cdi(["info", "b.sparsebundle"]).ends(3);
        assert!(ran.err.contains("encrypted sparse bundle (not supported)"), "{}", ran.err);
        fs::write(lab.path("b.sparsebundle/token"), b"").unwrap();
        fs::remove_file(lab.path("b.sparsebundle/bands/5")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", lab.path("b.sparsebundle/bands/5")).unwrap();
        let told = verified(&lab, "b.sparsebundle", 4);
        assert_eq!(told["lost_bytes"], 65536, "a band that leads elsewhere is not read: {told}");
        // The list is missing, or damaged: its copy stands in, if that is a file.
        let lab = Lab::new();
        fs::create_dir_all(lab.path("b.sparsebundle/bands")).unwrap();
        for (name, bytes) in makers::sparsebundle(&truth) {
            lab.write(&format!("b.sparsebundle/{name}"), bytes);
        }
        let (list, copy) = (lab.path("b.sparsebundle/Info.plist"), lab.path("b.sparsebundle/Info.bckup"));
        fs::copy(&list, &copy).unwrap();
        for damage in [&b""[..], b"<plist>", b"\0\0\0\0"] {
            fs::write(&list, damage).unwrap();
            assert!(extracted(&lab, "b.sparsebundle", 0) == truth);
        }
        let ran = lab.cdi(["info", "b.sparsebundle"]).ends(0);
        assert!(ran.err.contains("Info.plist is unusable") && ran.err.contains("Info.bckup"), "{}", ran.err);
        fs::remove_file(&list).unwrap();
        assert!(extracted(&lab, "b.sparsebundle", 0) == truth);
        let ran = lab.cdi(["info", "b.sparsebundle"]).ends(0);
        assert!(ran.err.contains("Info.plist is missing"), "{}", ran.err);
        fs::rename(&copy, lab.path("away")).unwrap();
        std::os::unix::fs::symlink(lab.path("away"), &copy).unwrap();
        assert!(lab.cdi(["info", "b.sparsebundle"]).ends(3).err.contains("is a directory"));
        fs::write(&list, "<plist>").unwrap();
        lab.cdi(["info", "b.sparsebundle"]).ends(3);
        // Bands that are elsewhere are not read.
        fs::remove_file(&copy).unwrap();
        fs::remove_file(&list).unwrap();
        fs::rename(lab.path("away"), &list).unwrap();
        assert!(extracted(&lab, "b.sparsebundle", 0) == truth);
        fs::rename(lab.path("b.sparsebundle/bands"), lab.path("bands")).unwrap();
        std::os::unix::fs::symlink(lab.path("bands"), lab.path("b.sparsebundle/bands")).unwrap();
        assert!(lab.cdi(["info", "b.sparsebundle"]).ends(3).err.contains("is reached by a symbolic link"));
        fs::create_dir(lab.path("empty")).unwrap();
        assert!(lab.cdi(["info", "empty"]).ends(3).err.contains("is a directory"));
    }

    fn ex01_with_patterns_and_read_errors() {
        let lab = Lab::new();
        let mut truth = truth();
        truth[100 * 512..104 * 512].fill(0);
        truth.truncate((1 << 20) - 3 * 512);
        lab.write("a.Ex01", makers::ex01(&truth, &[(100, 4), (600, 2)]));
        assert_eq!(verified(&lab, "a.Ex01", 0)["stored_hashes"][0]["matches"], true);
        let bad = lab.cdi(["map", "--bad", "--json", "a.Ex01"]).ends(0).json();
        let told: Vec<_> = bad["ranges"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| (r["first_sector"].clone(), r["status"].clone()))
            .collect();
        // What was zeroed cannot be told from what could not be read; what was not is suspect.
        assert_eq!(told, [(100.into(), "bad-sector".into()), (600.into(), "suspect".into())]);
        let info = lab.cdi(["info", "--json", "a.Ex01"]).ends(0).json();
        assert_eq!(
            (&info["metadata"]["serial"], &info["metadata"]["case_number"]),
            (&"SER1".into(), &"CASE".into())
        );
        lab.cdi(["create", "a.Ex01", "a.cdimg"]).ends(4);
        let info = lab.cdi(["info", "--json", "a.cdimg"]).ends(0).json();
        assert_eq!(info["metadata"]["md5_stored"].as_str().unwrap().len(), 32, "hashes are kept");
        lab.write("b.Ex01", [b"LEF2\r\n\x81\0", &[0; 56][..]].concat());
        assert!(lab.cdi(["info", "b.Ex01"]).ends(3).err.contains("it contains files, not a disk"));
    }

    /// ddrescue finds on the device of an E01, and of an AFF4, what they list, and the disk's bytes everywhere else.
    #[needs(Fuse, Loop, Program("ddrescue"))]
    fn attached_its_read_errors_fail() {
        let lab = Lab::new();
        let mut truth = truth();
        truth[100 * 512..104 * 512].fill(0);
        lab.write("a.Ex01", makers::ex01(&truth, &[(100, 4)]));
        lab.write("a.aff4", makers::aff4(&truth, Aff4::Snappy, 5 << 16, usize::MAX));
        for (image, bad) in [("a.Ex01", (100 * 512, 4 * 512)), ("a.aff4", (5 << 16, 1 << 16))] {
            let device = lab.cdi(["attach", image]).ends(0).out.trim().to_owned();
            let (raw, map) = (lab.path("again.raw"), lab.path("again.map"));
            let path = |p: &Path| p.to_str().unwrap().to_owned();
            run(
                "ddrescue",
                ["-q".into(), "-d".into(), "-b512".into(), device.clone(), path(&raw), path(&map)],
            );
            lab.cdi(["detach", &device]).ends(0);
            let text = fs::read_to_string(&map).unwrap();
            let left: Vec<_> = crate::common::blocks(&text).into_iter().filter(|b| b.2 != "+").collect();
            assert_eq!(left, [(bad.0, bad.1, "-".to_owned())], "{image}");
            let got = fs::read(&raw).unwrap();
            let bad = bad.0 as usize..(bad.0 + bad.1) as usize;
            assert!(got[..bad.start] == truth[..bad.start] && got[bad.end..] == truth[bad.end..], "{image}");
            fs::remove_file(raw).unwrap();
            fs::remove_file(map).unwrap();
        }
    }

    fn aff4_in_every_compression_with_its_holes() {
        let lab = Lab::new();
        let mut truth = truth();
        for how in [Aff4::Snappy, Aff4::Lz4, Aff4::Deflate, Aff4::Stored, Aff4::Old] {
            lab.write("a.aff4", makers::aff4(&truth, how, 5 << 16, 9 << 16));
            let opened = open(&lab.path("a.aff4"), &OpenOptions::default()).unwrap();
            let bad: Vec<_> =
                opened.image.bad().ranges().iter().map(|r| (r.start, r.end, r.status)).collect();
            assert_eq!(bad, [(5 << 16, 6 << 16, Status::Bad), (9 << 16, 10 << 16, Status::NonTried)]);
            truth[5 << 16..6 << 16].fill(0);
            truth[9 << 16..10 << 16].fill(0);
            assert!(extracted(&lab, "a.aff4", 4) == truth);
            let sound = verified(&lab, "a.aff4", 0);
            assert_eq!(sound["missing_bytes"], 2 << 16);
        }
        // A stored chunk is checked by nothing but the stream's hash.
        let whole = makers::aff4(&truth, Aff4::Stored, 5 << 16, 9 << 16);
        let at = whole.windows(64).position(|w| w == &truth[4 << 16..][..64]).unwrap();
        let mut broken = whole;
        broken[at + 1] ^= 0x20;
        lab.write("b.aff4", broken);
        let told = verified(&lab, "b.aff4", 4);
        assert!(told["errors"][0]["what"].as_str().unwrap().contains("MD5 mismatch of stream"), "{told}");
    }

    fn zstd_seekable() {
        let lab = Lab::new();
        let truth = truth();
        for frame in [512, 65536, 100_000] {
            lab.write("a.zst", makers::zstd_seekable(&truth, frame));
            assert!(extracted(&lab, "a.zst", 0) == truth, "{frame}");
        }
        // CompressedChunk in one piece: what to do is said.
        lab.write("b.zst", zstd::bulk::compress(&truth, 1).unwrap());
        lab.write("b.raw.gz", b"\x1F\x8B\x08\0\0\0\0\0\0\x03");
        for (name, word) in [("b.zst", "decompress it: zstd -dc"), ("b.raw.gz", "gzip -dc")] {
            let ran = lab.cdi(["info", name]).ends(3);
            assert!(ran.err.contains("not a disk image") && ran.err.contains(word), "{}", ran.err);
        }
    }

    fn lists_of_bad_blocks_and_logs() {
        let lab = Lab::new();
        lab.write("d.raw", truth());
        lab.write("bad.txt", "3\n4\n10\n");
        lab.write("log.txt", "# sectorsize 512\n0x800 0x7f\n0x0 0x6 0x7f 0x0 0x0\n0x6 0x4 0x40 0x0 0x31100\n0xa 0x7f6 0x7f 0x0 0x0\n");
        let bad = |words: &[&str]| {
            lab.cdi([&["create", "--force", "d.raw", "d.cdimg"], words].concat()).ends(4);
            let bad = lab.cdi(["map", "--bad", "--json", "d.cdimg"]).ends(0).json();
            let ranges = bad["ranges"].as_array().unwrap().clone();
            ranges
                .iter()
                .map(|r| (r["first_sector"].as_u64().unwrap(), r["sectors"].as_u64().unwrap()))
                .collect::<Vec<_>>()
        };
        assert_eq!(bad(&["--badblocks", "bad.txt", "--block-size", "1024"]), [(6, 4), (20, 2)]);
        assert_eq!(bad(&["--badblocks", "bad.txt", "--block-size", "4096"]), [(24, 16), (80, 8)]);
        assert_eq!(bad(&["--mapfile", "log.txt"]), [(6, 4)]);
        // The size of a block is not in the list; it is asked for.
        let ran = lab.cdi(["create", "d.raw", "x.cdimg", "--badblocks", "bad.txt"]).ends(2);
        assert!(ran.err.contains("--block-size"), "{}", ran.err);
        let ran = lab.cdi(["info", "d.raw", "--badblocks", "bad.txt", "--block-size", "1M"]).ends(3);
        assert!(ran.err.contains("block 10 of 1048576 bytes is past the end"), "{}", ran.err);
    }

    #[needs(Program("qemu-img"))]
    fn a_vhdx_with_a_log_and_one_with_a_parent() {
        let lab = Lab::new();
        let truth = disk(6 << 20);
        lab.write("disk.raw", &truth);
        let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        run(
            "qemu-img",
            ["convert", "-O", "vhdx", "-o", "block_size=1M", &path("disk.raw"), &path("parent.vhdx")],
        );
        let whole = fs::read(lab.path("parent.vhdx")).unwrap();
        let (bat, metadata) = vhdx_regions(&whole);
        // The table of blocks is only in the log: as after a crash, when it was not written to its place yet.
        let mut broken = whole.clone();
        let page: Vec<u8> = broken[bat..bat + 4096].to_vec();
        broken[bat..bat + 4096].fill(0);
        let newer =
            if le(&whole, (64 << 10) + 8) > le(&whole, (128 << 10) + 8) { 64 << 10 } else { 128 << 10 };
        let log = le(&whole, newer + 72);
        let guid = [9; 16];
        broken[newer + 48..newer + 64].copy_from_slice(&guid);
        makers::vhdx_sign(&mut broken[newer..newer + 4096]);
        let mut entry = b"loge\0\0\0\0".to_vec();
        entry.extend(8192u32.to_le_bytes());
        entry.extend(0u32.to_le_bytes());
        entry.extend(7u64.to_le_bytes());
        entry.extend(1u32.to_le_bytes());
        entry.extend([0; 4]);
        entry.extend(guid);
        entry.extend((whole.len() as u64).to_le_bytes());
        entry.extend((whole.len() as u64).to_le_bytes());
        entry.extend(b"desc");
        entry.extend(&page[4092..]);
        entry.extend(&page[..8]);
        entry.extend((bat as u64).to_le_bytes());
        entry.extend(7u64.to_le_bytes());
        entry.resize(4096, 0);
        entry.extend(b"data");
        entry.extend(0u32.to_le_bytes());
        entry.extend(&page[8..4092]);
        entry.extend(7u32.to_le_bytes());
        makers::vhdx_sign(&mut entry);
        broken[log..log + 8192].copy_from_slice(&entry);
        lab.write("log.vhdx", &broken);
        assert!(extracted(&lab, "log.vhdx", 0) == truth);
        broken[log + 5000] ^= 1;
        lab.write("log.vhdx", &broken);
        assert!(lab.cdi(["info", "log.vhdx"]).ends(3).err.contains("contains no complete sequence"));

        // A child: its first block is the parent's, of its second every third sector is its own.
        let mut child = whole.clone();
        let at = child.len().next_multiple_of(1 << 20);
        child.resize(at + (2 << 20), 0xEE);
        let (bitmap, block) = (at, at + (1 << 20));
        child[bitmap..block].fill(0);
        let mut expect = truth.clone();
        for sector in (0..2048usize).step_by(3) {
            let bit = 2048 + sector;
            child[bitmap + bit / 8] |= 1 << (bit % 8);
            child[block + sector * 512..][..512].fill(sector as u8);
            expect[(1 << 20) + sector * 512..][..512].fill(sector as u8);
        }
        let entry = |child: &mut [u8], n: usize, state: u64, at: usize| {
            let value = state | (at as u64 >> 20) << 20;
            child[bat + n * 8..][..8].copy_from_slice(&value.to_le_bytes());
        };
        entry(&mut child, 0, 0, 0);
        entry(&mut child, 1, 7, block);
        entry(&mut child, 4096, 6, bitmap);
        // In the metadata: that there is a parent, and which.
        let count = u16::from_le_bytes([child[metadata + 10], child[metadata + 11]]) as usize;
        for n in 0..count {
            let e = metadata + 32 + n * 32;
            if child[e..e + 4] == 0xCAA1_6737u32.to_le_bytes() {
                let item = metadata + u32::from_le_bytes(child[e + 16..e + 20].try_into().unwrap()) as usize;
                child[item + 4] |= 2;
            }
        }
        let name = &whole[newer + 32..newer + 48];
        let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
        let hex: String = order.iter().map(|n| format!("{:02X}", name[*n])).collect();
        let guid =
            format!("{{{}-{}-{}-{}-{}}}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        let locator = |pairs: &[(&str, &str)]| {
            let mut head = vec![0; 18];
            head.extend((pairs.len() as u16).to_le_bytes());
            let mut texts = Vec::new();
            for (key, value) in pairs {
                for text in [key, value] {
                    let at = 20 + pairs.len() * 12 + texts.len();
                    texts.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
                    head.extend((at as u32).to_le_bytes());
                }
                head.extend((key.len() as u16 * 2).to_le_bytes());
                head.extend((value.len() as u16 * 2).to_le_bytes());
            }
            [head, texts].concat()
        };
        let mut with = |linkage: &str| {
            let item = locator(&[("parent_linkage", linkage), ("relative_path", ".\\parent.vhdx")]);
            let e = metadata + 32 + count * 32;
            let mut told = [
                0x2D, 0x5F, 0xD3, 0xA8, 0x0B, 0xB3, 0x4D, 0x45, 0xAB, 0xF7, 0xD3, 0xD8, 0x48, 0x34, 0xAB,
                0x0C,
            ]
            .to_vec();
            told.extend((200u32 << 10).to_le_bytes());
            told.extend((item.len() as u32).to_le_bytes());
            told.extend([4, 0, 0, 0, 0, 0, 0, 0]);
            child[e..e + 32].copy_from_slice(&told);
            child[metadata + 10..metadata + 12].copy_from_slice(&(count as u16 + 1).to_le_bytes());
            child[metadata + (200 << 10)..][..item.len()].copy_from_slice(&item);
            lab.write("child.avhdx", &child);
        };
        with(&guid);
        assert!(extracted(&lab, "child.avhdx", 0) == expect);
        with("{00000000-0000-0000-0000-000000000000}");
        assert!(lab.cdi(["info", "child.avhdx"]).ends(3).err.contains("its GUID does not match"));
    }

    #[needs(Program("chdman"))]
    fn what_chdman_makes_reads_the_same() {
        let lab = Lab::new();
        let mut truth = disk(4 << 20);
        // What sounds is compressed by FLAC; what repeats is told once.
        for (n, sample) in truth[1 << 20..2 << 20].chunks_exact_mut(2).enumerate() {
            let wave = (((n / 2) as f64 / 30.0).sin() * 9000.0) as i16;
            sample.copy_from_slice(&wave.to_le_bytes());
        }
        truth.copy_within(0..1 << 19, 3 << 20);
        truth[5 << 19..3 << 20].fill(0);
        lab.write("disk.raw", &truth);
        for words in [
            &[][..],
            &["-c", "zlib"],
            &["-c", "lzma"],
            &["-c", "huff"],
            &["-c", "flac"],
            &["-c", "none"],
            &["-hs", "512"],
            &["-hs", "65536"],
        ] {
            chd_make(&lab, "a.chd", words);
            assert!(extracted(&lab, "a.chd", 0) == truth, "{words:?}");
            let stored_hashes = verified(&lab, "a.chd", 0)["stored_hashes"].clone();
            assert!(
                words == ["-c", "none"] || stored_hashes[0]["matches"] == true,
                "{words:?}: {stored_hashes}"
            );
        }
        // A child, and the same without its parent.
        chd_make(&lab, "parent.chd", &[]);
        truth[2 << 20..][..100_000].fill(7);
        lab.write("disk.raw", &truth);
        let parent = lab.path("parent.chd").to_str().unwrap().to_owned();
        chd_make(&lab, "child.chd", &["-op", &parent]);
        fs::remove_file(lab.path("a.chd")).unwrap();
        assert!(extracted(&lab, "child.chd", 0) == truth);
        assert_eq!(verified(&lab, "child.chd", 0)["stored_hashes"][0]["matches"], true);
        fs::create_dir(lab.path("away")).unwrap();
        fs::rename(&parent, lab.path("away/parent.chd")).unwrap();
        assert!(lab.cdi(["info", "child.chd"]).ends(3).err.contains("parent not found"));
    }

    #[needs(Program("qemu-img"))]
    fn parents_lie_where_the_user_allows() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        fs::create_dir(lab.path("base")).unwrap();
        fs::create_dir(lab.path("top")).unwrap();
        lab.write("base/base.raw", &truth);
        let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        for backing in [path("base/base.raw"), "../base/base.raw".into(), "base.raw".into()] {
            run(
                "qemu-img",
                [
                    "create",
                    "-q",
                    "-u",
                    "-f",
                    "qcow2",
                    "-F",
                    "raw",
                    "-b",
                    &backing,
                    &path("top/t.qcow2"),
                    "1M",
                ],
            );
            lab.cdi(["info", "top/t.qcow2"]).ends(3);
            lab.cdi(["-q", "extract", "--force", "top/t.qcow2", "out.raw", "--allow-parent", "base"]).ends(0);
            assert!(fs::read(lab.path("out.raw")).unwrap() == truth, "{backing}");
            // Another folder allows nothing.
            fs::create_dir_all(lab.path("other")).unwrap();
            lab.cdi(["info", "top/t.qcow2", "--allow-parent", "other"]).ends(3);
        }
    }

    /// A hole that is longer than what `verify` looks at in one step was taken for damage once.
    fn a_long_hole_is_no_damage() {
        let lab = Lab::new();
        fs::File::create(lab.path("d.raw")).unwrap().set_len(200 << 20).unwrap();
        lab.write("d.map", "0 +\n0 0x100000 +\n0x100000 0xB000000 ?\n0xB100000 0x1700000 +\n");
        lab.cdi(["create", "d.raw", "d.cdimg", "--mapfile", "d.map"]).ends(4);
        assert_eq!(verified(&lab, "d.cdimg", 0)["missing_bytes"], 0xB00_0000);
    }

    /// What is missing must not read as zeros.
    fn what_is_not_all_there_is_an_error() {
        let lab = Lab::new();
        let truth = truth();
        let whole = makers::sparseimage(&truth);
        lab.write("a.sparseimage", &whole[..whole.len() - 300]);
        assert!(lab.cdi(["info", "a.sparseimage"]).ends(3).err.contains("extends past the end of the file"));
        fs::create_dir(lab.path("b.sparsebundle")).unwrap();
        lab.write("b.sparsebundle/Info.plist", &makers::sparsebundle(&truth)[0].1);
        assert!(lab.cdi(["info", "b.sparsebundle"]).ends(3).err.contains("the directory 'bands' is missing"));
        // An extent that is not understood is no extent less.
        lab.write("flat.vmdk", &truth);
        lab.write("c.vmdk", "# Disk DescriptorFile\nRW\t8 FLAT \"flat.vmdk\" 0\nRW 8 ZERO\n");
        assert_eq!(extracted(&lab, "c.vmdk", 0).len(), 8192);
        lab.write("c.vmdk", "# disk descriptorfile\nWR 8 FLAT \"flat.vmdk\" 0\nRW 8 ZERO\n");
        assert!(lab.cdi(["info", "c.vmdk"]).ends(3).err.contains("line 2 of the descriptor"));
        // A segment of another set.
        let mut other = makers::ex01(&truth, &[]);
        let done = other.len() - 64;
        other[done..done + 4].copy_from_slice(&13u32.to_le_bytes());
        let sum = other[done..done + 60].iter().fold((1u32, 0u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65521;
            (a, (b + a) % 65521)
        });
        other[done + 60..].copy_from_slice(&(sum.1 << 16 | sum.0).to_le_bytes());
        lab.write("d.Ex01", &other);
        let mut second = makers::ex01(&truth, &[]);
        second[12] = 2;
        second[20] ^= 1;
        lab.write("d.Ex02", second);
        // The first one holds all of the disk; what else the second one says is not known.
        assert!(lab.cdi(["info", "d.Ex01"]).ends(4).err.contains("does not belong to the same set"));
        // A dmg whose table leaves sectors out.
        let mut dmg = makers::dmg(&truth, Tables::ResourceFork);
        let mish = dmg.windows(4).rposition(|w| w == b"mish").unwrap();
        dmg[mish + 204 + 4 * 40..][..4].fill(0xFF);
        lab.write("e.dmg", dmg);
        assert!(lab.cdi(["info", "e.dmg"]).ends(3).err.contains("does not cover all of its sectors"));
    }

    /// Every byte and every number near the start and the end of an image, set to what is least and most likely to break a
    /// reader: no panic, no hang, no memory.
    #[needs(Program("qemu-img"), Program("ewfacquire"), Program("chdman"))]
    fn poked_fields_do_no_harm() {
        for (name, whole) in small_images() {
            let format = name.split('/').next().unwrap();
            let options = OpenOptions { format: Some(format.into()), ..OpenOptions::default() };
            let len = whole.len();
            let places = (0..len.min(700)).chain(len.saturating_sub(700)..len);
            let start = Instant::now();
            let try_it = |bytes: Vec<u8>| {
                let Ok(opened) = open_source(Box::new(bytes), Path::new("/nowhere/poked"), &options) else {
                    return;
                };
                let disk =
                    Disk::new(opened, Options { cache: 1 << 20, bad: BadPolicy::Zero, ..Options::default() });
                let end = disk.size().saturating_sub(4096);
                for offset in [0, end / 2, end] {
                    let len = (disk.size() - offset).min(4096) as usize;
                    let _ = disk.read_at(&mut vec![0; len], offset);
                }
            };
            for at in places {
                for value in [0, 1, 0x7F, 0x80, 0xFF] {
                    let mut bytes = whole.clone();
                    bytes[at] = value;
                    try_it(bytes);
                }
                for (width, value) in [(4, 0xFF), (8, 0xFF), (8, 0), (8, 0x7F)] {
                    let mut bytes = whole.clone();
                    let end = (at + width).min(len);
                    if at % 4 == 0 {
                        bytes[at..end].fill(value);
                        try_it(bytes);
                    }
                }
            }
            assert!(start.elapsed() < Duration::from_secs(120), "{name}: {:?}", start.elapsed());
        }
    }

    /// With `CDI_FUZZ_SEEDS` they are left in that folder for the fuzzer (`.ci/fuzz`).
    #[needs(Program("qemu-img"), Program("ewfacquire"), Program("chdman"))]
    fn seeds_for_the_fuzzer_open() {
        for (name, bytes) in small_images() {
            let format = name.split('/').next().unwrap();
            if let Some(dir) = std::env::var_os("CDI_FUZZ_SEEDS") {
                let file = Path::new(&dir).join(name);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, &bytes).unwrap();
            }
            let options = OpenOptions { format: Some(format.into()), ..OpenOptions::default() };
            assert!(open_source(Box::new(bytes), Path::new("/nowhere/seed"), &options).is_ok(), "{name}");
        }
    }

    #[needs(Program("qemu-img"))]
    fn damaged_qcow2() {
        damaged(qemu_image("qcow2", "extended_l2=on"), "qcow2");
    }

    #[needs(Program("qemu-img"))]
    fn damaged_qcow2_zlib() {
        damaged(qemu_image("qcow2", "-c"), "qcow2");
    }

    #[needs(Program("qemu-img"))]
    fn damaged_vhd() {
        damaged(qemu_image("vpc", "force_size=on"), "vhd");
    }

    #[needs(Program("qemu-img"))]
    fn damaged_vhdx() {
        damaged(qemu_image("vhdx", "block_size=1M"), "vhdx");
    }

    #[needs(Program("qemu-img"))]
    fn damaged_vdi() {
        damaged(qemu_image("vdi", "static=off"), "vdi");
    }

    #[needs(Program("qemu-img"))]
    fn damaged_vmdk() {
        damaged(qemu_image("vmdk", "subformat=monolithicSparse"), "vmdk");
    }

    #[needs(Program("qemu-img"))]
    fn damaged_vmdk_stream() {
        damaged(qemu_image("vmdk", "subformat=streamOptimized"), "vmdk");
    }

    #[needs(Program("ewfacquire"))]
    fn damaged_ewf() {
        damaged_checked(ewf_image("encase6"), "ewf");
    }

    #[needs(Program("ewfacquire"))]
    fn damaged_ewf_smart() {
        damaged(ewf_image("smart"), "ewf");
    }

    fn damaged_ewf2() {
        damaged_checked(makers::ex01(&truth(), &[(100, 4)]), "ewf2");
    }

    fn damaged_dmg() {
        damaged(makers::dmg(&truth(), Tables::PropertyList), "dmg");
    }

    fn damaged_dmg_fork() {
        damaged(makers::dmg(&truth(), Tables::ResourceFork), "dmg");
    }

    #[needs(Corpus)]
    fn damaged_dmg_xz() {
        damaged(fs::read(sample("input_lzma.dmg")).unwrap(), "dmg");
    }

    fn damaged_sparseimage() {
        damaged(makers::sparseimage(&truth()), "sparseimage");
    }

    fn damaged_aff4() {
        damaged(makers::aff4(&truth(), Aff4::Snappy, 0, 65536), "aff4");
    }

    fn damaged_aff4_lz4() {
        damaged(makers::aff4(&truth(), Aff4::Lz4, 0, 65536), "aff4");
    }

    fn damaged_aff4_old() {
        damaged(makers::aff4(&truth(), Aff4::Old, 0, 65536), "aff4");
    }

    fn damaged_zstd() {
        damaged(makers::zstd_seekable(&truth(), 16384), "zstd");
    }

    #[needs(Program("chdman"))]
    fn damaged_chd() {
        damaged(chd_image(), "chd");
    }

    /// A bundle's list, and the texts that tell of bad blocks.
    fn damaged_bundle_and_maps() {
        let lab = Lab::new();
        let truth = truth();
        fs::create_dir_all(lab.path("b.sparsebundle/bands")).unwrap();
        let files = makers::sparsebundle(&truth);
        for (name, bytes) in &files {
            lab.write(&format!("b.sparsebundle/{name}"), bytes);
        }
        lab.write("d.raw", &truth);
        let log = "# sectorsize 512\n0x800 0x7f\n0x0 0x6 0x7f 0x0 0x0\n0x6 0x4 0x40 0x0 0x31100\n0xa 0x7f6 0x7f 0x0 0x0\n";
        let map = crate::common::mapfile(2048, 512, &[(6, 4), (100, 1)]);
        for seed in seeds(DAMAGES).step_by(4) {
            let random = &mut Random::new(seed);
            lab.write("b.sparsebundle/Info.plist", damaged_bytes(&files[0].1, random));
            if let Ok(opened) = open(&lab.path("b.sparsebundle"), &OpenOptions::default()) {
                let disk = Disk::new(opened, Options::default());
                let offset = random.below(disk.size());
                let _ = disk.read_at(&mut vec![0; (disk.size() - offset).min(4096) as usize], offset);
            }
            for (text, badblocks) in [(log, false), (map.as_str(), false), ("3\n4\n5\n100\n", true)] {
                let list = lab.write("list", damaged_bytes(text.as_bytes(), random));
                let mut options = OpenOptions::default();
                if badblocks {
                    options.badblocks = Some((list, 1024));
                } else {
                    options.mapfile = cdi_image::image::Mapfile::File(list);
                }
                if let Ok(opened) = open(&lab.path("d.raw"), &options) {
                    assert!(
                        opened
                            .image
                            .bad()
                            .ranges()
                            .iter()
                            .all(|r| r.start < r.end && r.end <= opened.image.size())
                    );
                }
            }
        }
    }
);

fn le(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

/// Where the regions of a VHDX are: its blocks, its metadata.
fn vhdx_regions(bytes: &[u8]) -> (usize, usize) {
    let table = 192 << 10;
    let region = |n: usize| le(bytes, table + 16 + n * 32 + 16);
    let is_bat = bytes[table + 16..][..4] == 0x2DC2_7766u32.to_le_bytes();
    if is_bat { (region(0), region(1)) } else { (region(1), region(0)) }
}

fn chd_make(lab: &Lab, out: &str, words: &[&str]) {
    let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
    let first = ["createhd", "-f", "-i", &path("disk.raw"), "-o", &path(out)].map(str::to_owned);
    run("chdman", first.into_iter().chain(words.iter().map(|w| (*w).to_owned())));
}

fn chd_image() -> Vec<u8> {
    let lab = Lab::new();
    lab.write("disk.raw", truth());
    chd_make(&lab, "a.chd", &["-hs", "8192"]);
    fs::read(lab.path("a.chd")).unwrap()
}

fn qemu_image(format: &str, option: &str) -> Vec<u8> {
    let lab = Lab::new();
    let raw = lab.write("disk.raw", truth());
    let out = lab.path("out");
    let mut words = vec!["convert".to_owned(), "-O".into(), format.into()];
    words.extend(if option == "-c" { vec!["-c".into()] } else { vec!["-o".into(), option.into()] });
    words.extend([raw, out.clone()].map(|p| p.to_str().unwrap().to_owned()));
    run("qemu-img", words);
    fs::read(out).unwrap()
}

fn ewf_image(format: &str) -> Vec<u8> {
    let lab = Lab::new();
    let raw = lab.write("disk.raw", truth());
    let target = lab.path("e").to_str().unwrap().to_owned();
    run("ewfacquire", ["-q", "-u", "-t", &target, "-f", format, raw.to_str().unwrap()]);
    let path = ["E01", "s01"].iter().map(|x| lab.path("e").with_extension(x)).find(|p| p.exists());
    fs::read(path.unwrap()).unwrap()
}

/// An image of each format, small, by format and kind.
fn small_images() -> Vec<(&'static str, Vec<u8>)> {
    let small = &truth()[..192 << 10];
    vec![
        ("aff4/snappy", makers::aff4(small, Aff4::Snappy, usize::MAX, 65536)),
        ("aff4/deflate", makers::aff4(small, Aff4::Deflate, usize::MAX, 65536)),
        ("aff4/old", makers::aff4(small, Aff4::Old, usize::MAX, 65536)),
        (
            "cdimg/zstd",
            fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v1/zstd.cdimg")).unwrap(),
        ),
        ("chd/all", chd_image()),
        ("dmg/list", makers::dmg(small, Tables::PropertyList)),
        ("dmg/fork", makers::dmg(small, Tables::ResourceFork)),
        ("ewf/encase", ewf_image("encase6")),
        ("ewf/smart", ewf_image("smart")),
        ("ewf2/all", makers::ex01(small, &[(100, 4)])),
        ("qcow2/subclusters", qemu_image("qcow2", "extended_l2=on")),
        ("qcow2/zlib", qemu_image("qcow2", "-c")),
        ("sparseimage/all", makers::sparseimage(small)),
        ("vdi/dynamic", qemu_image("vdi", "static=off")),
        ("vhd/dynamic", qemu_image("vpc", "force_size=on")),
        ("vhdx/dynamic", qemu_image("vhdx", "block_size=1M")),
        ("vmdk/sparse", qemu_image("vmdk", "subformat=monolithicSparse")),
        ("vmdk/stream", qemu_image("vmdk", "subformat=streamOptimized")),
        ("zstd/sums", makers::zstd_seekable(small, 16384)),
    ]
}

/// Damage where the format has no checksums, or not of all: no panic, no hang, no memory.
fn damaged(whole: Vec<u8>, format: &str) {
    damage(&whole, format, None);
}

/// Damage where it has: right, or an error.
fn damaged_checked(whole: Vec<u8>, format: &str) {
    damage(&whole, format, Some(&truth()));
}

fn damage(whole: &[u8], format: &str, truth: Option<&[u8]>) {
    let options = OpenOptions { format: Some(format.into()), ..OpenOptions::default() };
    let mut sound = 0;
    for seed in seeds(DAMAGES) {
        let start = Instant::now();
        let random = &mut Random::new(seed);
        let bytes: Arc<Vec<u8>> = Arc::new(damaged_bytes(whole, random));
        // Nothing is beside it.
        let path = Path::new("/nowhere/broken");
        let Ok(opened) = open_source(Box::new(bytes), path, &options) else { continue };
        let bad = if truth.is_some() { BadPolicy::Error } else { BadPolicy::Zero };
        let disk = Disk::new(opened, Options { cache: 1 << 20, bad, ..Options::default() });
        sound += 1;
        let mut buf = vec![0; 64 << 10];
        for _ in 0..6 {
            let offset = random.below(disk.size());
            let len = (buf.len() as u64).min(disk.size() - offset) as usize;
            let read = disk.read_at(&mut buf[..len], offset);
            if let (Some(truth), Ok(())) = (truth, read) {
                assert!(
                    truth.get(offset as usize..offset as usize + len) == Some(&buf[..len]),
                    "{format}, CDI_SEED={seed}: wrong bytes at {offset}"
                );
            }
        }
        if seed % 16 == 0 {
            disk.image().check(&mut |_, _| {}, &mut || Ok(())).unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{format}, CDI_SEED={seed}: too long");
    }
    assert!(sound > 0 || seeds(DAMAGES).end - seeds(DAMAGES).start == 1, "{format}: all of it was refused");
}

/// A few damages; most of them at the start and the end, where structures are.
fn damaged_bytes(whole: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..=random.below(3) {
        let len = bytes.len() as u64;
        let near = [600, 8192, len, len][random.below(4) as usize].min(len);
        let mut at = random.below(near) as usize;
        if random.below(2) == 0 {
            at = bytes.len() - 1 - at;
        }
        let most = bytes.len() - at;
        match random.below(7) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][random.below(5) as usize],
            3 => bytes[at..][..most.min(8)].fill([0, 0xFF][random.below(2) as usize]),
            4 => {
                let n = 1 + random.below(most.min(64) as u64) as usize;
                bytes[at..at + n].iter_mut().for_each(|b| *b = random.next() as u8);
            }
            5 => {
                let n = 1 + random.below(most.min(4096) as u64) as usize;
                let from = random.below(len - n as u64 + 1) as usize;
                bytes.copy_within(from..from + n, at);
            }
            _ => bytes.truncate(at.max(1)),
        }
    }
    bytes
}

//! Damage of every format but our own (cdimg_damage.rs): 20,000 seeded corruptions of an image each, every byte near its
//! ends set to extreme values, and the images that the fuzzer starts with. To repeat one:
//! `CDI_SEED=n cargo test --test all formats::damage::damaged_NAME`.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cdi_image::disk::{BadPolicy, Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open::{open, open_source};
use cdi_image::passphrase::Passphrase;

use super::chd::chd_make;
use super::{dmg_sample, qcow, truth};
use crate::common::{Lab, Need, Random, filter, run, seeds};
use crate::makers::encrypted::USUAL;
use crate::makers::ndif::{apple, mac_binary, ndif};
use crate::makers::{self, Aff4, Tables, XWays, encrypted};

/// The writers of the small images.
const WRITERS: &[Need] = &[
    Need::Program("affconvert"),
    Need::Program("qemu-img"),
    Need::Program("ewfacquire"),
    Need::Program("chdman"),
    Need::Program("bgzip"),
    Need::Program("xz"),
    Need::Program("pzstd"),
    Need::Program("bzip2"),
    Need::Program("lz4"),
    Need::Program("partclone.imager"),
];

/// Returns the cases of the campaign of each format.
fn damages() -> std::ops::Range<u64> {
    seeds(if std::env::var_os("CDI_LONG").is_some_and(|value| value == "all") { 20_000 } else { 5_000 })
}

tests!(
    /// Every byte and every number near the start and the end of an image, set to the values that are most likely to break a
    /// reader: no panic, no hang, no memory.
    #[needs(All(WRITERS))]
    fn extreme_values_in_any_field_do_no_harm() {
        for (name, whole) in small_images() {
            let format = name.split('/').next().unwrap();
            let options = options(format);
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
    #[needs(All(WRITERS))]
    fn seeds_for_the_fuzzer_open() {
        for (name, bytes) in small_images() {
            let format = name.split('/').next().unwrap();
            if let Some(dir) = std::env::var_os("CDI_FUZZ_SEEDS") {
                let file = Path::new(&dir).join(name);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, &bytes).unwrap();
            }
            let options = options(format);
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
    fn damaged_qcow() {
        damaged(qcow_image(), "qcow");
    }

    #[needs(Program("qemu-img"))]
    fn damaged_qed() {
        damaged(qemu_image("qed", "cluster_size=4k,table_size=2"), "qed");
    }

    #[needs(Program("qemu-img"))]
    fn damaged_parallels() {
        damaged(qemu_image("parallels", "cluster_size=64k"), "parallels");
    }

    fn damaged_vma() {
        damaged(vma_image(), "vma");
    }

    /// Headers that are wrong, and match their checksums.
    fn damaged_vma_signed() {
        damage(&vma_image(), "vma", None, &makers::sign_vma);
    }

    fn damaged_android_sparse() {
        damaged(makers::android_sparse(&truth(), 4096), "android-sparse");
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

    fn damaged_ewf_encrypted() {
        damaged_xways(&makers::xways::USUAL);
    }

    fn damaged_ewf_encrypted_without_check() {
        damaged_xways(&XWays { bits: 128, check: false, ..makers::xways::USUAL });
    }

    /// It has no checksums of chunks.
    fn damaged_ewf_zstd() {
        damaged(
            makers::xways(&truth(), &XWays { bits: 0, zstd: true, ..makers::xways::USUAL }).remove(0),
            "ewf",
        );
    }

    fn damaged_ewf_zstd_encrypted() {
        damaged(makers::xways(&truth(), &XWays { zstd: true, ..makers::xways::USUAL }).remove(0), "ewf");
    }

    fn damaged_ewf2() {
        damaged_checked(makers::ex01(&truth(), &[(100, 4)]), "ewf2");
    }

    fn damaged_diskcopy() {
        damaged(makers::diskcopy(&truth(), &truth()[..2048 * 12]), "diskcopy");
    }

    fn damaged_ewf2_bzip2() {
        damaged_checked(makers::ex01_bzip2(&truth()), "ewf2");
    }

    fn damaged_dmg() {
        damaged(makers::dmg(&truth(), Tables::PropertyList), "dmg");
    }

    fn damaged_dmg_fork() {
        damaged(makers::dmg(&truth(), Tables::ResourceFork), "dmg");
    }

    #[needs(Corpus)]
    fn damaged_dmg_xz() {
        damaged(fs::read(dmg_sample("input_lzma.dmg")).unwrap(), "dmg");
    }

    fn damaged_sparseimage() {
        damaged(makers::sparseimage(&truth()), "sparseimage");
    }

    fn damaged_encrypted_dmg() {
        damaged(encrypted(&makers::dmg(&truth(), Tables::PropertyList), &USUAL), "dmg");
    }

    fn damaged_encrypted_sparseimage() {
        damaged(encrypted(&makers::sparseimage(&truth()), &USUAL), "sparseimage");
    }

    fn damaged_encrypted_first() {
        damaged(makers::encrypted_first(&makers::sparseimage(&truth())), "sparseimage");
    }

    /// The token of an encrypted bundle.
    fn damaged_encrypted_bundle() {
        let lab = Lab::new();
        fs::create_dir_all(lab.path("b.sparsebundle/bands")).unwrap();
        let files = makers::encrypted_bundle(&truth(), &USUAL);
        for (name, bytes) in &files {
            lab.write(&format!("b.sparsebundle/{name}"), bytes);
        }
        damaged_part(&lab, "b.sparsebundle", "b.sparsebundle/token", "sparsebundle");
    }

    /// A segment of a dmg.
    fn damaged_dmg_segment() {
        let lab = Lab::new();
        let segments = makers::dmg_segments(&makers::dmg(&truth(), Tables::PropertyList), 300_000);
        lab.write("a.dmg", &segments[0]);
        for (n, bytes) in segments.iter().enumerate().skip(1) {
            lab.write(&format!("a.{:03}.dmgpart", n + 1), bytes);
        }
        damaged_part(&lab, "a.dmg", "a.002.dmgpart", "dmg");
    }

    fn damaged_ndif() {
        let (data, resources) = ndif(&truth(), 0);
        damaged(mac_binary(&data, &resources), "ndif");
    }

    /// The resource fork next to the data.
    fn damaged_ndif_fork() {
        let lab = Lab::new();
        let (data, resources) = ndif(&truth(), 0);
        lab.write("a.smi", data);
        lab.write("._a.smi", apple(None, &resources));
        damaged_part(&lab, "a.smi", "._a.smi", "ndif");
    }

    fn damaged_asif() {
        damaged(asif_image(&truth()), "asif");
    }

    fn damaged_aff() {
        damaged(aff_image(&truth()), "aff");
    }

    #[needs(Program("affconvert"))]
    fn damaged_aff_lzma() {
        damaged(affconverted(&["-L", "-s", "64k"]), "aff");
    }

    fn damaged_aff4() {
        damaged(makers::aff4(&truth(), Aff4::Snappy, 0, 65536), "aff4");
    }

    fn damaged_aff4_hashed() {
        damaged(makers::aff4(&truth(), Aff4::Hashed, 0, 65536), "aff4");
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

    /// The descriptor of a Parallels disk: an error, or a disk of the same size.
    fn damaged_parallels_descriptor() {
        let lab = Lab::new();
        let truth = truth();
        fs::create_dir(lab.path("d.hdd")).unwrap();
        let guids = ["{5fbaabe3-6958-40ff-92a7-860e329aab41}", "{00000000-0000-0000-0000-000000000000}"];
        let text = makers::parallels_descriptor(
            2048,
            &[(1024, &[(guids[0], true, "a.hds")]), (2048, &[(guids[0], false, "b.hds")])],
            &[(guids[0], guids[1])],
            None,
        );
        lab.write("d.hdd/a.hds", &truth[..1 << 19]);
        lab.write("d.hdd/b.hds", makers::parallels(&truth[1 << 19..], 128));
        let mut sound = 0;
        for seed in damages().step_by(4) {
            let random = &mut Random::new(seed);
            lab.write("d.hdd/DiskDescriptor.xml", damaged_bytes(text.as_bytes(), random));
            let options = OpenOptions { format: Some("parallels".into()), ..OpenOptions::default() };
            let Ok(opened) = open(&lab.path("d.hdd"), &options) else { continue };
            let disk = Disk::new(opened, Options::default());
            sound += 1;
            let mut bytes = vec![0; disk.size() as usize];
            // (The name of one file may have become the other's.)
            if disk.read_at(&mut bytes, 0).is_ok() {
                assert_eq!(bytes.len(), truth.len(), "CDI_SEED={seed}");
            }
        }
        assert!(sound > 0 || damages().count() == 1);
    }

    #[needs(Program("gzip"))]
    fn damaged_gzip() {
        damaged_packed("gzip", &["-6"], "gzip");
    }

    #[needs(Program("bgzip"))]
    fn damaged_bgzip() {
        damaged_packed("bgzip", &[], "gzip");
    }

    #[needs(Program("xz"))]
    fn damaged_xz() {
        damaged_packed("xz", &["-0", "-T2", "--block-size=64KiB"], "xz");
    }

    #[needs(Program("pzstd"))]
    fn damaged_zstd_frames() {
        damaged_packed("pzstd", &["-1", "-p", "4", "--check"], "zstd");
    }

    /// In one place: without the checksum of the whole frame, at its end, damage elsewhere cannot be noticed.
    #[needs(Program("zstd"))]
    fn damaged_zstd_long_frame() {
        let large = [truth(), truth()[..99_999].to_vec(), truth()[4096..].to_vec()].concat().repeat(2);
        let frame = filter("zstd", &["-1", "--zstd=wlog=15"], &large);
        let frame = makers::as_long_frame(&frame);
        damage_by("zstd", Some(&large), &|random| damaged_in(&frame, random, 1));
    }

    #[needs(Program("bzip2"))]
    fn damaged_bzip2() {
        damaged_packed("bzip2", &["-1"], "bzip2");
    }

    #[needs(Program("lz4"))]
    fn damaged_lz4() {
        damaged_packed("lz4", &["-BD", "-B4", "-BX"], "lz4");
    }

    #[needs(Program("partclone.imager"))]
    fn damaged_partclone() {
        damaged_checked(partclone_image(&truth(), &["-k", "16"]), "partclone");
    }

    fn damaged_partclone_first() {
        damaged(makers::partclone_v1(&truth(), 4096, &[true; 256], 4), "partclone");
    }

    /// The index next to a packed image: what is read is right, or an error.
    #[needs(Program("gzip"))]
    fn damaged_index() {
        let lab = Lab::new();
        let small = small_disk();
        lab.write("a.raw.gz", filter("gzip", &["-1"], &small));
        lab.cdi(["index", "a.raw.gz"]).ends(0);
        let index = lab.read("a.raw.gz.cdi-index");
        for seed in damages().step_by(4) {
            let random = &mut Random::new(seed);
            lab.write("a.raw.gz.cdi-index", damaged_bytes(&index, random));
            let disk = Disk::open(lab.path("a.raw.gz")).unwrap();
            let offset = random.below(disk.size() - 4096);
            let mut buf = [0; 4096];
            if disk.read_at(&mut buf, offset).is_ok() {
                assert!(buf == small[offset as usize..][..4096], "CDI_SEED={seed}: wrong bytes at {offset}");
            }
        }
    }

    /// A bundle's property list, and lists of bad blocks.
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
        for seed in damages().step_by(4) {
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

fn aff_image(disk: &[u8]) -> Vec<u8> {
    makers::aff(disk, 64 << 10, &[100, 1500], makers::aff_kind)
}

fn affconverted(options: &[&str]) -> Vec<u8> {
    let lab = Lab::new();
    let raw = lab.write("disk.raw", truth());
    let out = lab.path("disk.aff");
    let [raw, out] = [raw, out].map(|p| p.to_str().unwrap().to_owned());
    run("affconvert", [&["-q"], options, &["-o", &out, &raw]].concat());
    lab.read("disk.aff")
}

fn asif_image(disk: &[u8]) -> Vec<u8> {
    makers::asif(makers::Asif::default(), disk.len() as u64, &[(0, disk)])
}

/// A small disk: packed ones are decompressed when they are opened.
fn small_disk() -> Vec<u8> {
    truth()[0x2_0000..0x5_0000].to_vec()
}

/// Damage of a disk that is packed by a program.
fn damaged_packed(program: &str, words: &[&str], format: &str) {
    let small = small_disk();
    damage(&filter(program, words, &small), format, Some(&small), &|_| ());
}

fn partclone_image(disk: &[u8], words: &[&str]) -> Vec<u8> {
    let lab = Lab::new();
    let disk = lab.write("disk.raw", disk);
    let [disk, out, log] = [disk, lab.path("out"), lab.path("log")].map(|p| p.to_str().unwrap().to_owned());
    run("partclone.imager", [&["-c", "-s", &disk, "-O", &out, "-L", &log], words].concat());
    lab.read("out")
}

fn chd_image() -> Vec<u8> {
    let lab = Lab::new();
    lab.write("disk.raw", truth());
    chd_make(&lab, "a.chd", &["-hs", "8192"]);
    lab.read("a.chd")
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

fn qcow_image() -> Vec<u8> {
    let lab = Lab::new();
    lab.write("disk.raw", truth());
    qcow::convert(&lab, true, "out");
    lab.read("out")
}

fn vma_image() -> Vec<u8> {
    makers::vma(&[("drive-scsi0", &truth()), ("vmstate", &truth()[..99_000])], Some(1))
}

fn ewf_image(format: &str) -> Vec<u8> {
    let lab = Lab::new();
    let raw = lab.write("disk.raw", truth());
    let target = lab.path("e").to_str().unwrap().to_owned();
    run("ewfacquire", ["-q", "-u", "-t", &target, "-f", format, raw.to_str().unwrap()]);
    let path = ["E01", "s01"].iter().map(|x| lab.path("e").with_extension(x)).find(|p| p.exists());
    fs::read(path.unwrap()).unwrap()
}

/// Damage of an image by X-Ways: right, or an error. Its disk is noise and zeros, because Adler-32 does not notice each
/// damage of a text of few letters: one in 20,000 put six letters in the place of others with the same sum.
fn damaged_xways(how: &XWays<'_>) {
    let mut random = Random::new(1);
    let mut disk: Vec<u8> = (0..1 << 20).map(|_| random.next() as u8).collect();
    disk.chunks_mut(200).step_by(2).for_each(|part| part.fill(0));
    damage(&makers::xways(&disk, how).remove(0), "ewf", Some(&disk), &|_| ());
}

/// How an image of this format is opened. Those that are encrypted have this passphrase.
fn options(format: &str) -> OpenOptions {
    OpenOptions {
        format: Some(format.into()),
        passphrase: Some(Passphrase::new(USUAL.passphrases[0])),
        ..OpenOptions::default()
    }
}

/// An image of each format, small, by format and kind.
fn small_images() -> Vec<(&'static str, Vec<u8>)> {
    let small = &truth()[..192 << 10];
    // For what is decompressed as a whole again and again.
    let tiny = &small[..48 << 10];
    vec![
        ("aff4/snappy", makers::aff4(small, Aff4::Snappy, usize::MAX, 65536)),
        ("aff4/deflate", makers::aff4(small, Aff4::Deflate, usize::MAX, 65536)),
        ("aff4/hashed", makers::aff4(small, Aff4::Hashed, usize::MAX, 65536)),
        ("aff4/lz4", makers::aff4(&small[..small.len() - 100], Aff4::Lz4, usize::MAX, usize::MAX)),
        ("aff4/old", makers::aff4(small, Aff4::Old, usize::MAX, 65536)),
        ("android-sparse/all", makers::android_sparse(small, 4096)),
        ("aff/own", makers::aff(small, 16 << 10, &[100], makers::aff_kind)),
        ("aff/zlib", affconverted(&["-s", "64k"])),
        ("aff/lzma", affconverted(&["-L", "-s", "64k"])),
        ("asif/all", asif_image(small)),
        (
            "cdimg/zstd",
            fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v1/zstd.cdimg")).unwrap(),
        ),
        (
            "cdimg/parity",
            fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v1/parity.cdimg")).unwrap(),
        ),
        ("chd/all", chd_image()),
        ("diskcopy/tags", makers::diskcopy(small, &truth()[..384 * 12])),
        ("dmg/list", makers::dmg(small, Tables::PropertyList)),
        ("dmg/fork", makers::dmg(small, Tables::ResourceFork)),
        ("dmg/encrypted", encrypted(&makers::dmg(small, Tables::PropertyList), &USUAL)),
        ("ewf/encase", ewf_image("encase6")),
        ("ewf/smart", ewf_image("smart")),
        ("ewf/encrypted", makers::xways(small, &makers::xways::USUAL).remove(0)),
        ("ewf/zstd", makers::xways(small, &XWays { bits: 0, zstd: true, ..makers::xways::USUAL }).remove(0)),
        (
            "ewf/zstd_encrypted",
            makers::xways(small, &XWays { bits: 128, check: false, zstd: true, ..makers::xways::USUAL })
                .remove(0),
        ),
        ("gzip/one", filter("gzip", &["-1"], tiny)),
        ("gzip/blocked", filter("bgzip", &[], tiny)),
        ("xz/blocks", filter("xz", &["-0", "-T2", "--block-size=16KiB"], tiny)),
        ("zstd/long", makers::as_long_frame(&filter("zstd", &["-1", "--zstd=wlog=10"], tiny))),
        ("zstd/frames", filter("pzstd", &["-1", "-p", "4"], tiny)),
        ("bzip2/one", filter("bzip2", &["-1"], tiny)),
        ("lz4/linked", filter("lz4", &["-BD", "-B4", "-BX"], tiny)),
        ("partclone/sums", partclone_image(small, &["-k", "16"])),
        ("partclone/first", makers::partclone_v1(small, 4096, &[true; 48], 4)),
        ("ewf2/all", makers::ex01(small, &[(100, 4)])),
        ("ndif/mac_binary", small_ndif(mac_binary)),
        ("ndif/apple_single", small_ndif(|data, resources| apple(Some(data), resources))),
        ("parallels/expanding", qemu_image("parallels", "cluster_size=64k")),
        ("parallels/older", makers::parallels(small, 63)),
        ("qcow/deflate", qcow_image()),
        ("qcow2/subclusters", qemu_image("qcow2", "extended_l2=on")),
        ("qcow2/zlib", qemu_image("qcow2", "-c")),
        ("qed/small", qemu_image("qed", "cluster_size=4k,table_size=2")),
        ("sparseimage/all", makers::sparseimage(small)),
        ("sparseimage/encrypted_first", makers::encrypted_first(&makers::sparseimage(small))),
        ("sparseimage/encrypted", encrypted(&makers::sparseimage(small), &USUAL)),
        ("vdi/dynamic", qemu_image("vdi", "static=off")),
        ("vhd/dynamic", qemu_image("vpc", "force_size=on")),
        ("vhdx/dynamic", qemu_image("vhdx", "block_size=1M")),
        ("vma/one", makers::vma(&[("drive-scsi0", small), ("vmstate", &small[..9000])], None)),
        ("vma/shuffled", makers::vma(&[("drive-scsi0", small)], Some(1))),
        ("vmdk/sparse", qemu_image("vmdk", "subformat=monolithicSparse")),
        ("vmdk/stream", qemu_image("vmdk", "subformat=streamOptimized")),
        ("zstd/sums", makers::zstd_seekable(small, 16384)),
    ]
}

/// A small image of DiskCopy 6, in a container.
fn small_ndif(contain: impl Fn(&[u8], &[u8]) -> Vec<u8>) -> Vec<u8> {
    let (data, resources) = ndif(&truth()[..192 << 10], 0);
    contain(&data, &resources)
}

/// Damage where the format has no checksums, or not of all: no panic, no hang, no memory.
fn damaged(whole: Vec<u8>, format: &str) {
    damage(&whole, format, None, &|_| ());
}

/// Damage where it has: right, or an error.
fn damaged_checked(whole: Vec<u8>, format: &str) {
    damage(&whole, format, Some(&truth()), &|_| ());
}

/// Damages an image; `sign` corrects the checksums of what is damaged.
fn damage(whole: &[u8], format: &str, truth: Option<&[u8]>, sign: &dyn Fn(&mut [u8])) {
    damage_by(format, truth, &|random| {
        let mut bytes = damaged_bytes(whole, random);
        sign(&mut bytes);
        bytes
    });
}

/// As [`damage`], of what `make` returns.
fn damage_by(format: &str, truth: Option<&[u8]>, make: &dyn Fn(&mut Random) -> Vec<u8>) {
    let options = options(format);
    let mut sound = 0;
    for seed in damages() {
        let start = Instant::now();
        let random = &mut Random::new(seed);
        let bytes = make(random);
        let bytes: Arc<Vec<u8>> = Arc::new(bytes);
        // There is no file next to it.
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
    assert!(sound > 0 || damages().count() == 1, "{format}: all of it was refused");
}

/// Damage of one of several files of an image: no panic, no hang, no memory.
fn damaged_part(lab: &Lab, image: &str, part: &str, format: &str) {
    let whole = lab.read(part);
    let mut sound = 0;
    for seed in damages().step_by(4) {
        let start = Instant::now();
        let random = &mut Random::new(seed);
        lab.write(part, damaged_bytes(&whole, random));
        if let Ok(opened) = open(&lab.path(image), &options(format)) {
            sound += 1;
            let disk = Disk::new(opened, Options::default());
            let offset = random.below(disk.size());
            let _ = disk.read_at(&mut vec![0; (disk.size() - offset).min(4096) as usize], offset);
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{part}, CDI_SEED={seed}: too long");
    }
    assert!(sound > 0 || damages().count() == 1, "{part}: all of it was refused");
}

/// A few damages; most of them at the start and the end, where structures are.
fn damaged_bytes(whole: &[u8], random: &mut Random) -> Vec<u8> {
    let count = 1 + random.below(3);
    damaged_in(whole, random, count)
}

/// Returns `whole` with damage in `count` places.
fn damaged_in(whole: &[u8], random: &mut Random, count: u64) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..count {
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

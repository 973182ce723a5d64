//! Disks in several files: what lies below a qcow2, files that are named by other systems and in other encodings; and runs
//! of zeros, which cost nothing.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use cdi_image::image::OpenOptions;
use cdi_image::open::open;

use crate::common::{Lab, Need, Random, disk, run};

fn path(lab: &Lab, name: &str) -> String {
    lab.path(name).to_str().unwrap().to_owned()
}

fn qemu_img(lab: &Lab, words: &[&str]) {
    let words = words.iter().map(|w| w.strip_prefix('@').map_or((*w).to_owned(), |name| path(lab, name)));
    run("qemu-img", words);
}

fn qemu_io(lab: &Lab, image: &str, commands: &[String]) {
    let format = if image.ends_with(".raw") { &["-f", "raw"][..] } else { &[] };
    let words = format.iter().map(|w| (*w).to_owned());
    let words =
        words.chain(commands.iter().flat_map(|c| ["-c".to_owned(), c.clone()])).chain([path(lab, image)]);
    run("qemu-io", words);
}

/// The image reads as qemu reads it.
fn same_as_qemu(lab: &Lab, image: &str) {
    qemu_img(lab, &["convert", "-O", "raw", &format!("@{image}"), "@qemu.raw"]);
    lab.cdi(["-q", "extract", "--force", image, "cdi.raw"]).ends(0);
    run("cmp", [path(lab, "qemu.raw"), path(lab, "cdi.raw")]);
}

tests!(
    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn a_disk_of_any_format_below_a_qcow2() {
        let lab = Lab::new();
        let truth = disk(6 << 20);
        lab.write("disk.raw", &truth);
        for (format, option) in [
            ("raw", ""),
            ("qcow2", "cluster_size=4k"),
            ("vmdk", "subformat=monolithicSparse"),
            ("vmdk", "subformat=streamOptimized"),
            ("vmdk", "subformat=monolithicFlat"),
            ("vpc", "subformat=dynamic,force_size=on"),
            ("vpc", "subformat=fixed,force_size=on"),
            ("vhdx", "block_size=1M"),
            ("vdi", "static=off"),
            ("vdi", "static=on"),
        ] {
            let words = ["convert", "-O", format, "-o", option, "@disk.raw", "@base"];
            qemu_img(
                &lab,
                if option.is_empty() { &["convert", "-O", "raw", "@disk.raw", "@base"] } else { &words },
            );
            // Larger than what is below; with and without the format's name, as older ones have it.
            for top in ["cluster_size=64k", "extended_l2=on"] {
                qemu_img(
                    &lab,
                    &[
                        "create",
                        "-q",
                        "-f",
                        "qcow2",
                        "-o",
                        top,
                        "-b",
                        "base",
                        "-F",
                        format,
                        "@top.qcow2",
                        "9M",
                    ],
                );
                let io = [
                    "write -q -P 7 1000k 3k",
                    "write -q -z 3M 100k",
                    "write -q -P 9 5M 512",
                    "write -q -P 1 7M 1k",
                ];
                qemu_io(&lab, "top.qcow2", &io.map(str::to_owned));
                same_as_qemu(&lab, "top.qcow2");
            }
            qemu_img(
                &lab,
                &["create", "-q", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", "@third.qcow2"],
            );
            same_as_qemu(&lab, "third.qcow2");
            if option.is_empty() || option.contains("fixed") {
                continue;
            }
            // A name that is not in the header any more: its magic says what it is.
            let mut bytes = fs::read(lab.path("top.qcow2")).unwrap();
            let kind = bytes.windows(4).position(|w| w == 0xE279_2ACA_u32.to_be_bytes()).unwrap();
            bytes[kind] ^= 1;
            lab.write("unnamed.qcow2", bytes);
            lab.cdi(["-q", "extract", "--force", "unnamed.qcow2", "cdi.raw"]).ends(0);
            same_as_qemu(&lab, "top.qcow2");
            assert!(
                fs::read(lab.path("cdi.raw")).unwrap() == fs::read(lab.path("qemu.raw")).unwrap(),
                "{option}"
            );
        }
        // One that is not read as a backing file, and one that is not what it is called.
        qemu_img(
            &lab,
            &["create", "-q", "-u", "-f", "qcow2", "-b", "base", "-F", "parallels", "@odd.qcow2", "1M"],
        );
        assert!(lab.cdi(["info", "odd.qcow2"]).ends(3).err.contains("in format 'parallels'"));
        for format in ["qcow2", "vmdk", "vpc", "vhdx"] {
            qemu_img(
                &lab,
                &["create", "-q", "-u", "-f", "qcow2", "-b", "base", "-F", format, "@odd.qcow2", "1M"],
            );
            let err = lab.cdi(["info", "odd.qcow2"]).ends(3).err;
            assert!(err.contains("base"), "{err}");
        }
    }

    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn a_backing_file_that_was_elsewhere() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        fs::create_dir(lab.path("here")).unwrap();
        lab.write("here/base.raw", &truth);
        lab.write("here/two words.raw", &truth);
        for told in [
            "/srv/images/base.raw",
            "../images/base.raw",
            "C:\\vms\\base.raw",
            "file:base.raw",
            "sub/two words.raw",
        ] {
            qemu_img(
                &lab,
                &["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", told, "@here/top.qcow2", "1M"],
            );
            let ran = lab.cdi(["extract", "--force", "here/top.qcow2", "out.raw"]).ends(0);
            assert!(fs::read(lab.path("out.raw")).unwrap() == truth, "{told}");
            let name = told.rsplit(['/', '\\', ':']).next().unwrap();
            assert!(ran.err.contains(&format!("/{name}")), "{told}: {}", ran.err);
            assert!(told.starts_with("file:") || ran.err.contains(told), "{told}: {}", ran.err);
        }
        // The directory that the image means, where the user allows it.
        fs::create_dir(lab.path("images")).unwrap();
        lab.write("images/base.raw", vec![7; 1 << 20]);
        let told = "../images/base.raw";
        qemu_img(
            &lab,
            &["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", told, "@here/top.qcow2", "1M"],
        );
        lab.cdi(["extract", "--force", "here/top.qcow2", "out.raw", "--allow-parent", "images"]).ends(0);
        assert!(fs::read(lab.path("out.raw")).unwrap() == vec![7; 1 << 20]);
    }

    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn the_bytes_of_a_qcow2_in_another_file() {
        let lab = Lab::new();
        for option in ["data_file_raw=off", "data_file_raw=on", "cluster_size=4k", "extended_l2=on"] {
            let option = format!("data_file={},{option}", path(&lab, "bytes.raw"));
            qemu_img(&lab, &["create", "-q", "-f", "qcow2", "-o", &option, "@top.qcow2", "20M"]);
            let io = [
                "write -q -P 3 0 512",
                "write -q -P 7 1M 300k",
                "write -q -z 1100k 64k",
                "write -q -P 9 15M 77k",
            ];
            qemu_io(&lab, "top.qcow2", &io.map(str::to_owned));
            same_as_qemu(&lab, "top.qcow2");
            // It is found by its last part when both were moved.
            let _ = fs::create_dir(lab.path("away"));
            for name in ["top.qcow2", "bytes.raw"] {
                fs::rename(lab.path(name), lab.path("away").join(name)).unwrap();
            }
            lab.cdi(["-q", "extract", "--force", "away/top.qcow2", "cdi.raw"]).ends(0);
            run("cmp", [path(&lab, "qemu.raw"), path(&lab, "cdi.raw")]);
            fs::remove_file(lab.path("away/bytes.raw")).unwrap();
            let err = lab.cdi(["info", "away/top.qcow2"]).ends(3).err;
            assert!(err.contains("external data file not found") && err.contains("bytes.raw'"), "{err}");
        }
    }

    fn names_in_a_vmdk_of_other_systems_and_encodings() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        let flat = |bytes: &[u8]| {
            let (mut text, sectors) = (b"# Disk DescriptorFile\nversion=1\n".to_vec(), truth.len() / 512);
            let encoding = bytes.split(|b| *b == b'|').next().unwrap();
            if !encoding.is_empty() {
                text.extend([b"encoding=\"", encoding, b"\"\n"].concat());
            }
            text.extend(format!("CID=fffffffe\nparentCID=ffffffff\nRW {sectors} FLAT \"").bytes());
            text.extend(&bytes[encoding.len() + 1..]);
            text.extend(b"\" 0\n");
            text
        };
        // What the text says, and what the file is called. (In GBK, Shift_JIS and Big5 a character may end as a backslash does.)
        for (said, called) in [
            (&b"windows-1252|Pr\xFCfung.vmdk"[..], "Prüfung.vmdk".as_bytes()),
            (b"GBK|\xD0\xE9\xC4\xE2\xBB\xFA.vmdk", "虚拟机.vmdk".as_bytes()),
            (b"GBK|\x81\x5C.vmdk", "乗.vmdk".as_bytes()),
            (b"Shift_JIS|\x95\x5C.vmdk", "表.vmdk".as_bytes()),
            (b"Big5|\xA5\x5C.vmdk", "功.vmdk".as_bytes()),
            (b"EUC-KR|\xB0\xA1.vmdk", "가.vmdk".as_bytes()),
            (b"UTF-8|Pr\xC3\xBCfung.vmdk", "Prüfung.vmdk".as_bytes()),
            (b"|Pr\xC3\xBCfung.vmdk", "Prüfung.vmdk".as_bytes()),
            // What says one encoding and has another; one that nobody knows.
            (b"windows-1252|Pr\xC3\xBCfung.vmdk", "Prüfung.vmdk".as_bytes()),
            (b"UTF-8|Pr\xFCfung.vmdk", b"Pr\xFCfung.vmdk"),
            (b"x-no-such|Pr\xFCfung.vmdk", b"Pr\xFCfung.vmdk"),
            // Paths of other systems.
            (b"|C:\\VMs\\x\\disk-flat.vmdk", b"disk-flat.vmdk"),
            (b"|\\\\server\\share\\disk-flat.vmdk", b"disk-flat.vmdk"),
            (b"|/vmfs/volumes/x/disk-flat.vmdk", b"disk-flat.vmdk"),
            (b"|../x/disk-flat.vmdk", b"disk-flat.vmdk"),
            (b"windows-1252|D:\\Pr\xFCfung\\\xFC.vmdk", "ü.vmdk".as_bytes()),
        ] {
            let dir = lab.path("vm");
            fs::create_dir(&dir).unwrap();
            let written = fs::write(dir.join(Path::new(std::ffi::OsStr::from_bytes(called))), &truth);
            // A file system whose names are UTF-8 has no others.
            if written.is_ok() {
                lab.write("vm/d.vmdk", flat(said));
                lab.cdi(["-q", "extract", "--force", "vm/d.vmdk", "out.raw"]).ends(0);
                assert!(fs::read(lab.path("out.raw")).unwrap() == truth, "{}", String::from_utf8_lossy(said));
            }
            fs::remove_dir_all(dir).unwrap();
        }
        lab.write("d.vmdk", flat(b"windows-1252|C:\\Pr\xFCfung.vmdk"));
        let err = lab.cdi(["info", "d.vmdk"]).ends(3).err;
        assert!(err.contains("extent not found next to the image: 'C:\\Prüfung.vmdk'"), "{err}");
    }

    /// As Virtual PC before 2004 wrote it: 511 bytes.
    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn a_vhd_with_a_short_footer() {
        let lab = Lab::new();
        let truth = disk(4 << 20);
        lab.write("disk.raw", &truth);
        for kind in ["fixed", "dynamic"] {
            let option = format!("subformat={kind},force_size=on");
            qemu_img(&lab, &["convert", "-O", "vpc", "-o", &option, "@disk.raw", "@a.vhd"]);
            let whole = fs::read(lab.path("a.vhd")).unwrap();
            // Its magic alone says what it is.
            lab.write("short", &whole[..whole.len() - 1]);
            let ran = lab.cdi(["extract", "--force", "short", "out.raw"]).ends(0);
            assert!(fs::read(lab.path("out.raw")).unwrap() == truth, "{kind}");
            assert!(!ran.err.contains("footer"), "{kind}: {}", ran.err);
            lab.write("short.vhd", &whole[..whole.len() - 2]);
            lab.cdi(["info", "short.vhd"]).ends(if kind == "fixed" { 3 } else { 0 });
        }
    }

    /// Disks with holes of all lengths: within a table, over several, in several layers.
    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn runs_of_zeros_are_where_qemu_says() {
        let lab = Lab::new();
        let mut random = Random::new(5);
        let io = |random: &mut Random, mib: u64, count: u64| -> Vec<String> {
            let one = |_| {
                let (at, len) = (random.below(mib * 2048 - 300) * 512, (1 + random.below(200)) * 512);
                match random.below(3) {
                    0 => format!("write -q -z {at} {len}"),
                    _ => format!("write -q -P {} {at} {len}", 1 + random.below(255)),
                }
            };
            (0..count).map(one).collect()
        };
        for (format, option, mib) in [
            ("qcow2", "cluster_size=512", 70),
            ("qcow2", "cluster_size=4k", 700),
            ("qcow2", "cluster_size=64k", 3000),
            ("qcow2", "extended_l2=on,cluster_size=16k", 200),
            ("qcow2", "extended_l2=on", 2000),
            ("qcow2", "compat=0.10", 1000),
            ("vpc", "force_size=on", 3000),
            ("vdi", "static=off", 3000),
            ("vhdx", "block_size=1M", 6000),
            ("vhdx", "block_size=16M", 9000),
            ("vmdk", "subformat=monolithicSparse", 3000),
            ("vmdk", "zeroed_grain=on", 3000),
            ("vmdk", "subformat=twoGbMaxExtentSparse", 5000),
        ] {
            let _ = fs::remove_file(lab.path("truth.raw"));
            let mut below = None;
            // For qcow2 two more on top, of which one is larger.
            let layers = if format == "qcow2" { 3 } else { 1 };
            for (layer, mib) in [("a.img", mib), ("b.img", mib), ("c.img", mib + 50)].into_iter().take(layers)
            {
                let option =
                    if layer != "a.img" && option.contains("compat") { "cluster_size=64k" } else { option };
                let (image, size) = (format!("@{layer}"), format!("{mib}M"));
                let mut words = vec!["create", "-q", "-f", format, "-o", option];
                if let Some(below) = below.replace(layer) {
                    words.extend(["-b", below, "-F", "qcow2"]);
                }
                qemu_img(&lab, &[&words[..], &[&image, &size]].concat());
                let commands = io(&mut random, mib, 40);
                qemu_io(&lab, layer, &commands);
                // The same in a raw file.
                let truth =
                    fs::File::options().create(true).append(true).open(lab.path("truth.raw")).unwrap();
                truth.set_len(mib << 20).unwrap();
                qemu_io(&lab, "truth.raw", &commands);
                lab.cdi(["-q", "extract", "--force", "--format", cdi_name(format), layer, "cdi.raw"]).ends(0);
                qemu_img(&lab, &["compare", "-q", "-f", "raw", "-F", "raw", "@truth.raw", "@cdi.raw"]);
            }
        }
    }

    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn zeros_that_a_format_knows_of_cost_nothing() {
        let lab = Lab::new();
        fs::create_dir_all(lab.path("a.sparsebundle/bands")).unwrap();
        lab.write(
            "a.sparsebundle/Info.plist",
            format!(
                "<?xml version=\"1.0\"?><plist version=\"1.0\"><dict><key>diskimage-bundle-type</key>\
                 <string>com.apple.diskimage.sparsebundle</string><key>band-size</key><integer>8388608</integer>\
                 <key>size</key><integer>{}</integer></dict></plist>",
                64u64 << 30
            ),
        );
        let mut sparse = vec![0; 4096];
        sparse[..12].copy_from_slice(b"sprs\0\0\0\x03\0\0\x08\0");
        sparse[28..36].copy_from_slice(&(128u64 << 20).to_be_bytes());
        lab.write("a.sparseimage", sparse);
        for (image, option) in [
            ("a.qcow2", "cluster_size=64k"),
            ("b.qcow2", "cluster_size=4k"),
            ("c.qcow2", "extended_l2=on"),
            ("a.vhd", "subformat=dynamic"),
            ("a.vhdx", "block_size=1M"),
            ("b.vhdx", "block_size=32M"),
            ("a.vdi", "static=off"),
            ("a.vmdk", "subformat=monolithicSparse"),
            ("b.vmdk", "subformat=twoGbMaxExtentSparse"),
            ("a.sparseimage", ""),
            ("a.sparsebundle", ""),
            ("a.chd", "none"),
        ] {
            if image == "a.chd" {
                if !Need::Program("chdman").is_there() {
                    continue;
                }
                run("chdman", ["createhd", "-o", &path(&lab, image), "-s", "68719476736", "-c", option]);
            } else if !option.is_empty() {
                let format = image.rsplit('.').next().unwrap();
                let format = if format == "vhd" { "vpc" } else { format };
                qemu_img(&lab, &["create", "-q", "-f", format, "-o", option, &format!("@{image}"), "64G"]);
            }
            let start = Instant::now();
            let json = lab.cdi(["verify", "--json", image]).ends(0).json();
            assert!(json["blake3_rescued"].is_null() && json["sha256_zero_filled"].is_null(), "{json}");
            lab.cdi(["-q", "extract", "--force", image, "out.raw"]).ends(0);
            assert!(start.elapsed() < Duration::from_secs(5), "{image}: {:?}", start.elapsed());
            assert!(fs::metadata(lab.path("out.raw")).unwrap().len() >= 64 << 30);
            // Few runs, and no one call looks at much.
            let opened = open(&lab.path(image), &OpenOptions::default()).unwrap();
            let (mut at, mut extents) = (0, 0);
            while at < opened.image.size() {
                let start = Instant::now();
                let extent = opened.image.map(at).unwrap();
                assert!(extent.origin.is_zero() && extent.disk.contains(&at), "{image}: {extent:?}");
                assert!(start.elapsed() < Duration::from_millis(500));
                (at, extents) = (extent.disk.end, extents + 1);
            }
            assert!(extents <= 2100, "{image}: {extents}");
        }
        // A hash that is stored is checked all the same.
        qemu_img(&lab, &["create", "-q", "-f", "qcow2", "@d.qcow2", "200M"]);
        lab.cdi(["-q", "create", "d.qcow2", "d.cdimg"]).ends(0);
        let json = lab.cdi(["verify", "--json", "d.cdimg"]).ends(0).json();
        let metadata = lab.cdi(["info", "--json", "d.cdimg"]).ends(0).json()["metadata"].clone();
        for name in ["blake3_rescued", "sha256_zero_filled"] {
            assert!(json[name].is_string() && json[name] == metadata[name], "{json}");
        }
    }
);

fn cdi_name(format: &str) -> &str {
    if format == "vpc" { "vhd" } else { format }
}

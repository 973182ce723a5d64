//! Tests of several formats at once: samples, what qemu-img writes, read errors on a device, and images with a part missing.

use std::fs;
use std::path::Path;

use cdi_base::printable::hex;
use sha2::{Digest, Sha256};

use super::{extracted, truth};
use crate::common::{Lab, corpus, disk, run};
use crate::makers::{self, Aff4, Tables};

/// The SHA-256 of the disk in an image.
fn sha256(lab: &Lab, image: &Path) -> String {
    lab.cdi(["verify".as_ref(), image.as_os_str()]).ends(0);
    let words = ["extract", "-q", "--force"].map(AsRef::as_ref);
    lab.cdi(words.into_iter().chain([image.as_os_str(), "sha256.raw".as_ref()])).ends(0);
    hex(&Sha256::digest(lab.read("sha256.raw")))
}

tests!(
    #[needs(Corpus)]
    fn samples_read_as_their_makers_document() {
        let lab = Lab::new();
        let ext2 = "a6c2f0e39afe6c6ab432ca5465349fcefe8dc944398e97b2d957d3f89dbb5d80";
        for (file, sum) in [
            ("dfvfs/ext2.E01", ext2),
            ("dfvfs/ext2.split.E01", ext2),
            ("dfvfs/ext2.splitraw.000", ext2),
            ("dfvfs/ext2.qcow2", ext2),
        ] {
            assert_eq!(sha256(&lab, &corpus().join(file)), sum, "{file}");
        }
        // The same disk, with zeros up to whole cylinders.
        let vhd = corpus().join("dfvfs/ext2.vhd");
        lab.cdi(["extract".as_ref(), vhd.as_os_str(), "vhd.raw".as_ref()]).ends(0);
        lab.cdi(["extract".as_ref(), corpus().join("dfvfs/ext2.E01").as_os_str(), "ext2.raw".as_ref()])
            .ends(0);
        let (vhd, ext2) = (lab.read("vhd.raw"), lab.read("ext2.raw"));
        assert!(vhd.starts_with(&ext2) && vhd[ext2.len()..].iter().all(|b| *b == 0));
        // A difference without its parent says which one it is.
        let ran = lab.cdi(["info".as_ref(), corpus().join("dfvfs/fat-differential.vhd").as_os_str()]).ends(3);
        assert!(ran.err.contains("fat-parent.vhd"), "{}", ran.err);
        // Read errors that EnCase's programs have listed.
        for name in ["errsectors_encase6.E01", "errsectors_ewfx.e01"] {
            let image = corpus().join("ewf-error2").join(name);
            let bad = lab
                .cdi(["map".as_ref(), "--bad".as_ref(), "--json".as_ref(), image.as_os_str()])
                .ends(0)
                .json();
            let ranges: Vec<_> = bad["ranges"].as_array().unwrap().iter().collect();
            let told: Vec<_> =
                ranges.iter().map(|r| (r["first_sector"].as_u64(), r["sectors"].as_u64())).collect();
            let expect = [(2048, 128), (4096, 512), (8192, 16)].map(|(a, b)| (Some(a), Some(b)));
            assert_eq!(told, expect, "{name}");
            assert!(ranges.iter().all(|r| r["status"] == "bad-sector"));
        }
    }

    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn every_format_of_qemu_img_reads_correctly() {
        let lab = Lab::new();
        let mut truth = disk(6 << 20);
        truth[1 << 20..3 << 20].fill(0);
        lab.write("disk.raw", &truth);
        let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        let convert = |options: &[&str], out: &str| {
            let words = [&["convert"], options].concat();
            let words = words.into_iter().map(str::to_owned).chain([path("disk.raw"), path(out)]);
            run("qemu-img", words);
        };
        let same = |image: &str, truth: &[u8]| {
            let _ = fs::remove_file(lab.path("out.raw"));
            let _ = fs::remove_file(lab.path("out.raw.map"));
            lab.cdi(["extract", image, "out.raw"]).ends(0);
            let got = lab.read("out.raw");
            // Some formats count in cylinders.
            assert!(got.starts_with(truth) && got[truth.len()..].iter().all(|b| *b == 0), "{image}");
        };
        for (n, options) in [
            &["-O", "qcow2"][..],
            &["-O", "qcow2", "-o", "compat=0.10"],
            &["-O", "qcow2", "-o", "cluster_size=512"],
            &["-O", "qcow2", "-o", "cluster_size=2M"],
            &["-O", "qcow2", "-o", "extended_l2=on"],
            &["-c", "-O", "qcow2"],
            &["-c", "-O", "qcow2", "-o", "compression_type=zstd,cluster_size=4k"],
        ]
        .into_iter()
        .enumerate()
        {
            convert(options, &format!("{n}.qcow2"));
            same(&format!("{n}.qcow2"), &truth);
        }
        convert(&["-O", "vpc"], "dynamic.vhd");
        convert(&["-O", "vpc", "-o", "subformat=fixed"], "fixed.vhd");
        convert(&["-O", "vdi"], "dynamic.vdi");
        convert(&["-O", "vdi", "-o", "static=on"], "static.vdi");
        for (format, option, name) in [
            ("vhdx", "subformat=dynamic", "dynamic.vhdx"),
            ("vhdx", "subformat=fixed", "fixed.vhdx"),
            ("vhdx", "block_size=1M", "small.vhdx"),
            ("vmdk", "subformat=monolithicSparse", "sparse.vmdk"),
            ("vmdk", "zeroed_grain=on", "zeroed.vmdk"),
            ("vmdk", "subformat=streamOptimized", "stream.vmdk"),
            ("vmdk", "subformat=monolithicFlat", "flat.vmdk"),
            ("vmdk", "subformat=twoGbMaxExtentSparse", "split.vmdk"),
            ("vmdk", "subformat=twoGbMaxExtentFlat", "splitflat.vmdk"),
        ] {
            convert(&["-O", format, "-o", option], name);
            same(name, &truth);
        }
        for image in ["dynamic.vhd", "fixed.vhd", "dynamic.vdi", "static.vdi"] {
            same(image, &truth);
        }
        // A difference of a VMDK, and one extent of many.
        let words = ["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", "sparse.vmdk"];
        run("qemu-img", words.into_iter().map(str::to_owned).chain([path("child.vmdk")]));
        run("qemu-io", ["-c", "write -q -P 7 1000k 300k", &path("child.vmdk")]);
        run("qemu-img", ["convert", "-O", "raw", &path("child.vmdk"), &path("child.raw")]);
        same("child.vmdk", &lab.read("child.raw"));
        let ran = lab.cdi(["info", "split-s001.vmdk"]).ends(3);
        assert!(ran.err.contains("this is one extent of a disk"), "{}", ran.err);
        // Differences, zeros and parts of clusters on top of others.
        for (base, format) in [("4.qcow2", "qcow2"), ("6.qcow2", "qcow2"), ("disk.raw", "raw")] {
            let words = ["create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "-F", format, "-b", base];
            run("qemu-img", words.into_iter().map(str::to_owned).chain([path("top.qcow2")]));
            let io =
                ["-c", "write -q -P 7 1000k 3k", "-c", "write -q -z 3M 100k", "-c", "write -q -P 9 5M 512"];
            run("qemu-io", io.into_iter().map(str::to_owned).chain([path("top.qcow2")]));
            run(
                "qemu-img",
                ["convert", "-O", "raw"]
                    .into_iter()
                    .map(str::to_owned)
                    .chain([path("top.qcow2"), path("top.raw")]),
            );
            same("top.qcow2", &lab.read("top.raw"));
        }
        run("qemu-img", ["snapshot", "-c", "before"].into_iter().map(str::to_owned).chain([path("0.qcow2")]));
        let info = lab.cdi(["info", "--json", "0.qcow2"]).ends(0).json();
        assert_eq!(info["metadata"]["snapshots"][0], "before");
    }

    /// On the device of an Ex01 and of an AFF4, ddrescue finds the read errors that the image lists, and correct bytes elsewhere.
    #[needs(Fuse, Loop, Program("ddrescue"))]
    fn recorded_read_errors_fail_on_the_device() {
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

    /// A missing part must not read as zeros.
    fn a_missing_part_is_an_error_not_zeros() {
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
        let sum = makers::adler(&other[done..done + 60]);
        other[done + 60..].copy_from_slice(&sum);
        lab.write("d.Ex01", &other);
        let mut second = makers::ex01(&truth, &[]);
        second[12] = 2;
        second[20] ^= 1;
        lab.write("d.Ex02", second);
        // The first segment holds the whole disk; the second one may have more to say.
        assert!(lab.cdi(["info", "d.Ex01"]).ends(4).err.contains("does not belong to the same set"));
        // A dmg whose table leaves sectors out.
        let mut dmg = makers::dmg(&truth, Tables::ResourceFork);
        let mish = dmg.windows(4).rposition(|w| w == b"mish").unwrap();
        dmg[mish + 204 + 4 * 40..][..4].fill(0xFF);
        lab.write("e.dmg", dmg);
        assert!(lab.cdi(["info", "e.dmg"]).ends(3).err.contains("does not cover all of its sectors"));
    }
);

//! Images that other programs have made: the samples beside the project, what qemu-img and ewfacquire make here, files that
//! lie beside each other or should, and damage.

use std::fs;
use std::path::Path;

use cdi_base::printable::hex;
use cdi_image::disk::{Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open::open;
use sha2::{Digest, Sha256};

use crate::common::{Lab, corpus, disk, run};

/// The SHA-256 of the disk in an image.
fn sha256(lab: &Lab, image: &Path) -> String {
    lab.cdi(["verify".as_ref(), image.as_os_str()]).ends(0);
    let words = ["extract", "-q", "--force"].map(AsRef::as_ref);
    lab.cdi(words.into_iter().chain([image.as_os_str(), "sha256.raw".as_ref()])).ends(0);
    hex(&Sha256::digest(fs::read(lab.path("sha256.raw")).unwrap()))
}

tests!(
    #[needs(Corpus)]
    fn samples_read_as_their_makers_say() {
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
        // The same disk, and zeros behind it up to whole cylinders.
        let vhd = corpus().join("dfvfs/ext2.vhd");
        lab.cdi(["extract".as_ref(), vhd.as_os_str(), "vhd.raw".as_ref()]).ends(0);
        lab.cdi(["extract".as_ref(), corpus().join("dfvfs/ext2.E01").as_os_str(), "ext2.raw".as_ref()])
            .ends(0);
        let (vhd, ext2) = (fs::read(lab.path("vhd.raw")).unwrap(), fs::read(lab.path("ext2.raw")).unwrap());
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
    fn what_qemu_img_makes_reads_the_same() {
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
            let got = fs::read(lab.path("out.raw")).unwrap();
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
        same("child.vmdk", &fs::read(lab.path("child.raw")).unwrap());
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
            same("top.qcow2", &fs::read(lab.path("top.raw")).unwrap());
        }
        run("qemu-img", ["snapshot", "-c", "before"].into_iter().map(str::to_owned).chain([path("0.qcow2")]));
        let info = lab.cdi(["info", "--json", "0.qcow2"]).ends(0).json();
        assert_eq!(info["metadata"]["snapshots"][0], "before");
    }

    /// A differencing VHD by hand, for nothing at hand makes one: a block of which every third sector is its own, and one
    /// that it does not have.
    #[needs(Program("qemu-img"))]
    fn a_difference_shows_its_parent_below() {
        let lab = Lab::new();
        let mut truth = disk(4 << 20);
        lab.write("disk.raw", &truth);
        let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        run(
            "qemu-img",
            ["convert", "-O", "vpc", "-o", "force_size=on", &path("disk.raw"), &path("parent.vhd")],
        );
        let parent = fs::read(lab.path("parent.vhd")).unwrap();
        let mut footer = parent[parent.len() - 512..].to_vec();
        let uuid = footer[68..84].to_vec();
        footer[16..24].copy_from_slice(&512u64.to_be_bytes());
        footer[60..64].copy_from_slice(&4u32.to_be_bytes());
        footer[68] ^= 1;
        vhd_sum(&mut footer, 64);
        let mut header = vec![0; 1024];
        header[..8].copy_from_slice(b"cxsparse");
        header[16..24].copy_from_slice(&1536u64.to_be_bytes());
        header[28..32].copy_from_slice(&2u32.to_be_bytes());
        header[32..36].copy_from_slice(&(2u32 << 20).to_be_bytes());
        header[40..56].copy_from_slice(&uuid);
        let name: Vec<u8> = "C:\\disks\\parent.vhd".encode_utf16().flat_map(u16::to_be_bytes).collect();
        header[64..64 + name.len()].copy_from_slice(&name);
        vhd_sum(&mut header, 36);
        let mut table = vec![0xFF; 512];
        table[..4].copy_from_slice(&4u32.to_be_bytes());
        let (mut bitmap, mut block) = (vec![0u8; 512], vec![0xEE; 2 << 20]);
        for sector in (0..4096).step_by(3) {
            bitmap[sector / 8] |= 0x80 >> (sector % 8);
            block[sector * 512..][..512].fill(sector as u8);
            truth[sector * 512..][..512].fill(sector as u8);
        }
        lab.write("child.vhd", [&footer[..], &header, &table, &bitmap, &block, &footer].concat());
        lab.cdi(["extract", "child.vhd", "out.raw"]).ends(0);
        assert!(fs::read(lab.path("out.raw")).unwrap() == truth);
        // Another disk of the same name is not its parent.
        run(
            "qemu-img",
            ["convert", "-O", "vpc", "-o", "force_size=on", &path("disk.raw"), &path("parent.vhd")],
        );
        let ran = lab.cdi(["info", "child.vhd"]).ends(3);
        assert!(ran.err.contains("its UUID does not match"), "{}", ran.err);
    }

    /// With either of a table's two places damaged an E01 reads as before; with both it is an error.
    #[needs(Program("ewfacquire"))]
    fn a_damaged_table_has_a_copy() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        let raw = lab.write("disk.raw", &truth);
        let target = lab.path("e").to_str().unwrap().to_owned();
        run("ewfacquire", ["-q", "-u", "-t", &target, "-f", "encase6", raw.to_str().unwrap()]);
        let whole = fs::read(lab.path("e.E01")).unwrap();
        let section = |name: &[u8]| {
            let place = whole
                .windows(16)
                .position(|w| w.starts_with(name) && w[name.len()..].iter().all(|b| *b == 0));
            place.unwrap() + 76
        };
        let (table, copy) = (section(b"table"), section(b"table2"));
        let out = |places: &[usize]| {
            let mut bytes = whole.clone();
            places.iter().for_each(|at| bytes[*at] ^= 0x10);
            let file = lab.write("broken.E01", &bytes);
            let opened = open(&file, &OpenOptions::default()).ok()?;
            let mut all = vec![0; truth.len()];
            Disk::new(opened, Options::default()).read_at(&mut all, 0).ok().map(|()| all == truth)
        };
        // The number of entries in the head, and an entry behind it.
        for at in [0, 24] {
            assert_eq!(out(&[table + at]), Some(true), "the table at {at}");
            assert_eq!(out(&[copy + at]), Some(true), "its copy at {at}");
            assert_eq!(out(&[table + at, copy + at]), None, "both at {at}");
        }
    }

    #[needs(Program("ewfacquire"))]
    fn what_ewfacquire_makes_reads_the_same() {
        let lab = Lab::new();
        let truth = disk((5 << 20) + 512 * 3);
        lab.write("disk.raw", &truth);
        for (n, options) in [
            &["-f", "encase6", "-c", "deflate:fast"][..],
            &["-f", "encase5", "-c", "deflate:best"],
            &["-f", "encase1", "-c", "none"],
            &["-f", "encase2"],
            &["-f", "ftk"],
            &["-f", "linen6"],
            &["-f", "ewfx"],
            &["-f", "smart", "-c", "deflate:best"],
            &["-f", "ewf"],
            &["-f", "encase6", "-b", "16"],
            &["-f", "encase6", "-c", "none", "-S", "1048576"],
        ]
        .into_iter()
        .enumerate()
        {
            let target = lab.path(&format!("d{n}"));
            let words = ["-q", "-u", "-t"]
                .into_iter()
                .map(str::to_owned)
                .chain([target.to_str().unwrap().to_owned()]);
            let words = words.chain(options.iter().map(|o| (*o).to_owned()));
            run("ewfacquire", words.chain([lab.path("disk.raw").to_str().unwrap().to_owned()]));
            let image =
                ["E01", "e01", "s01"].iter().map(|x| target.with_extension(x)).find(|p| p.exists()).unwrap();
            let out = format!("o{n}.raw");
            lab.cdi(["extract".as_ref(), image.as_os_str(), out.as_ref()]).ends(0);
            assert!(fs::read(lab.path(&out)).unwrap() == truth, "{options:?}");
            lab.cdi(["verify".as_ref(), image.as_os_str()]).ends(0);
        }
        let ran = lab.cdi(["info", "d10.E02"]).ends(3);
        assert!(ran.err.contains("this is segment 2") && ran.err.contains("open the first"), "{}", ran.err);
    }

    fn pieces_of_a_raw_image_are_one_disk() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        for (n, part) in truth.chunks(400_000).enumerate() {
            lab.write(&format!("d.{n:03}"), part);
        }
        lab.cdi(["extract", "d.000", "out.raw"]).ends(0);
        assert!(fs::read(lab.path("out.raw")).unwrap() == truth);
        fs::rename(lab.path("d.001"), lab.path("away")).unwrap();
        let ran = lab.cdi(["info", "d.000"]).ends(3);
        assert!(ran.err.contains("piece 'd.001' is missing"), "{}", ran.err);
        // With a map, and attached as one.
        fs::rename(lab.path("away"), lab.path("d.001")).unwrap();
        lab.write("d.map", crate::common::mapfile(2048, 512, &[(600, 2)]));
        lab.cdi(["create", "d.000", "d.cdimg", "--mapfile", "d.map"]).ends(4);
    }

    #[needs(Program("qemu-img"))]
    fn only_what_lies_beside_an_image_is_read() {
        let lab = Lab::new();
        lab.write("secret.raw", vec![7; 1 << 20]);
        fs::create_dir(lab.path("in")).unwrap();
        std::os::unix::fs::symlink(lab.path("secret.raw"), lab.path("in/link.raw")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", lab.path("in/zero.raw")).unwrap();
        fs::create_dir(lab.path("in/folder.raw")).unwrap();
        let absolute = lab.path("secret.raw").to_str().unwrap().to_owned();
        fs::create_dir(lab.path("in/.ssh")).unwrap();
        lab.write("in/.ssh/id", vec![7; 1 << 20]);
        std::os::unix::fs::symlink(".ssh/id", lab.path("in/below.raw")).unwrap();
        std::os::unix::fs::symlink(".ssh", lab.path("in/linked")).unwrap();
        let below = lab.path("in/.ssh/id").to_str().unwrap().to_owned();
        let elsewhere = "not found next to the image";
        let link = "is reached by a symbolic link to another directory";
        for (backing, word) in [
            (absolute.as_str(), elsewhere),
            ("../secret.raw", elsewhere),
            (".ssh/id", elsewhere),
            ("linked/id", elsewhere),
            ("./.ssh/id", elsewhere),
            (&below, elsewhere),
            ("link.raw", link),
            ("below.raw", link),
            ("zero.raw", link),
            ("folder.raw", "is not a regular file"),
            ("missing.raw", elsewhere),
            ("json:{}", "JSON description (not supported)"),
            ("nbd://localhost/x", "uses the protocol 'nbd:'"),
            ("http://localhost/x.raw", "uses the protocol 'http:'"),
            ("nbd+unix:///x?socket=s", "uses the protocol 'nbd+unix:'"),
            ("/dev/zero", elsewhere),
        ] {
            let top = lab.path("in/top.qcow2").to_str().unwrap().to_owned();
            let words = ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, &top, "1M"];
            run("qemu-img", words);
            let ran = lab.cdi(["info", "in/top.qcow2"]).ends(3);
            assert!(ran.err.contains(word) && ran.err.contains(backing), "{backing}: {}", ran.err);
            // Of an allowed directory, too, only the files in it itself are read.
            for dir in ["in", "."] {
                let ran = lab.cdi(["info", "in/top.qcow2", "--allow-parent", dir]);
                let is_allowed = dir == "." && (backing.ends_with("secret.raw") || backing == "link.raw");
                assert_eq!(ran.code, if is_allowed { 0 } else { 3 }, "{backing}, {dir}: {}", ran.err);
            }
            let extent = format!("# Disk DescriptorFile\nversion=1\nRW 2048 FLAT \"{backing}\" 0\n");
            lab.write("in/top.vmdk", extent);
            lab.cdi(["info", "in/top.vmdk"]).ends(3);
        }
        // A chain without end has one.
        let top = lab.path("loop.qcow2").to_str().unwrap().to_owned();
        run("qemu-img", ["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "loop.qcow2", &top, "1M"]);
        let ran = lab.cdi(["info", "loop.qcow2"]).ends(3);
        assert!(ran.err.contains("more than 16 parents"), "{}", ran.err);
    }
);

/// The one's complement of the sum of all bytes, with the checksum's own taken for zeros, put in its place.
fn vhd_sum(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum = !bytes.iter().fold(0u32, |sum, b| sum.wrapping_add(u32::from(*b)));
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}

//! Parallels' disks: files, against qemu-img, and directories.

use std::fs;

use super::{extracted, path, qemu_img, qemu_io, same_as_qemu};
use crate::common::{Lab, disk, run};
use crate::makers::{parallels, parallels_descriptor};

const TOP: &str = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";
const ROOT: &str = "{11111111-2222-3333-4444-555555555555}";
const MIDDLE: &str = "{AAAAAAAA-bbbb-cccc-dddd-eeeeeeeeeeee}";
const NONE: &str = "{00000000-0000-0000-0000-000000000000}";

/// A directory with a disk of 6 MiB in two parts, of which the first is plain at first, and two snapshots. Gives the
/// disk now, and in the two snapshots, the older first.
fn with_snapshots(lab: &Lab, top: Option<&str>) -> [Vec<u8>; 3] {
    let part = 4 << 20;
    let root = disk(6 << 20);
    // What differs between two times is in a disk of its own: in clusters, because these are what is there or not.
    let changed = |n: u8, clusters: &[usize]| {
        let mut delta = vec![0; 6 << 20];
        clusters.iter().for_each(|c| delta[c * 65_536..(c + 1) * 65_536].fill(n));
        delta
    };
    let over = |below: &[u8], delta: &[u8]| {
        let bytes = below.iter().zip(delta).map(|(below, here)| if *here == 0 { *below } else { *here });
        bytes.collect::<Vec<u8>>()
    };
    let deltas = [changed(1, &[0, 5, 70, 95]), changed(2, &[5, 6, 80])];
    let states = [root.clone(), over(&root, &deltas[0]), over(&over(&root, &deltas[0]), &deltas[1])];
    fs::create_dir_all(lab.path("d.hdd")).unwrap();
    lab.write("d.hdd/a.0.hds", &root[..part]);
    lab.write("d.hdd/b.0.hds", parallels(&root[part..], 128));
    for (n, delta) in deltas.iter().enumerate() {
        lab.write(&format!("d.hdd/a.{}.hds", n + 1), parallels(&delta[..part], 128));
        lab.write(&format!("d.hdd/b.{}.hds", n + 1), parallels(&delta[part..], 128));
    }
    let now = top.unwrap_or(TOP);
    let descriptor = parallels_descriptor(
        12_288,
        &[
            (8192, &[(ROOT, true, "a.0.hds"), (now, false, "a.2.hds"), (MIDDLE, false, "a.1.hds")]),
            (
                12_288,
                &[(ROOT, false, "b.0.hds"), (MIDDLE, false, "/vm/d.hdd/b.1.hds"), (now, false, "b.2.hds")],
            ),
        ],
        &[(ROOT, NONE), (&MIDDLE.to_lowercase(), ROOT), (now, &MIDDLE.to_uppercase())],
        top,
    );
    lab.write("d.hdd/DiskDescriptor.xml", descriptor);
    states
}

tests!(
    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn expanding_disks_read_as_by_qemu() {
        let lab = Lab::new();
        let mut truth = disk(6 << 20);
        truth[1 << 20..3 << 20].fill(0);
        lab.write("disk.raw", &truth);
        for option in ["cluster_size=1M", "cluster_size=64k", "cluster_size=252k"] {
            qemu_img(&lab, &["convert", "-O", "parallels", "-o", option, "@disk.raw", "@all.hds"]);
            same_as_qemu(&lab, "all.hds");
            assert!(lab.read("cdi.raw") == truth);
            let io = ["write -q -P 7 1100k 3k", "write -q -P 9 5M 512"];
            qemu_io(&lab, "all.hds", &io.map(str::to_owned));
            same_as_qemu(&lab, "all.hds");
        }
        // The older variant, which nothing writes any more.
        for tracks in [2048, 504, 63] {
            lab.write("old.hds", parallels(&truth, tracks));
            same_as_qemu(&lab, "old.hds");
            assert!(lab.read("cdi.raw") == truth);
        }
        // As a backing file, with the name of the format and without.
        for format in ["parallels", ""] {
            qemu_img(
                &lab,
                &["create", "-q", "-f", "qcow2", "-b", "old.hds", "-F", "parallels", "@top.qcow2"],
            );
            qemu_io(&lab, "top.qcow2", &["write -q -P 7 1000k 3k".to_owned()]);
            if format.is_empty() {
                let mut bytes = lab.read("top.qcow2");
                let kind = bytes.windows(4).position(|w| w == 0xE279_2ACA_u32.to_be_bytes()).unwrap();
                bytes[kind] ^= 1;
                lab.write("top.qcow2", bytes);
            }
            same_as_qemu(&lab, "top.qcow2");
        }
    }

    fn inconsistent_files_are_refused_by_their_place() {
        let lab = Lab::new();
        let whole = parallels(&disk(1 << 20), 128);
        for (at, bytes, says) in [
            (16, &[3][..], "at byte 16: unsupported version 3"),
            (28, &[0, 0, 0, 0], "at byte 28: invalid cluster size: 0 sectors"),
            (28, &[0, 0, 0, 1], "at byte 28: invalid cluster size"),
            (32, &[3, 0, 0, 0], "at byte 32: 3 clusters of 65536 bytes are too few"),
            (32, &[0xFF; 4], "at byte 32: the table of 4294967295 clusters extends past the end"),
            (36, &[0; 4], "at byte 36: invalid disk size: 0 sectors"),
        ] {
            let mut bad = whole.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            lab.write("bad.hds", bad);
            let err = lab.cdi(["info", "bad.hds"]).ends(3).err;
            assert!(err.contains(says), "{says}: {err}");
        }
        let mut open = whole.clone();
        open[44..48].copy_from_slice(&0x746F_6E59u32.to_le_bytes());
        lab.write("open.hds", open);
        assert!(lab.cdi(["info", "open.hds"]).ends(0).err.contains("is marked as in use"));
        // A cluster within the table, and one that the file ends in.
        let small = parallels(&disk(1 << 20), 1);
        for (place, len) in [(1u32, small.len()), (u32::MAX, small.len()), (2048, 2048 * 512 + 511)] {
            let mut bad = small.clone();
            bad[64..68].copy_from_slice(&place.to_le_bytes());
            lab.write("bad.hds", &bad[..len]);
            let err = lab.cdi(["extract", "--force", "bad.hds", "out.raw"]).ends(4).err;
            assert!(err.contains("at byte 64 "), "{err}");
        }
        // A plain disk is raw.
        lab.write("plain.hds", disk(1 << 20));
        assert!(lab.cdi(["info", "plain.hds"]).ends(3).err.contains("a plain one is raw"));
        // What a raw disk begins with must not choose how it is read.
        lab.write("disk.hdd", &whole);
        let err = lab.cdi(["info", "disk.hdd"]).ends(3).err;
        assert!(err.contains("--format raw or --format parallels"), "{err}");
        lab.cdi(["info", "--format", "parallels", "disk.hdd"]).ends(0);
    }

    fn a_split_disk_has_all_its_parts_and_snapshots() {
        for top in [None, Some("{99999999-0000-0000-0000-000000000001}")] {
            let lab = Lab::new();
            let [root, middle, now] = with_snapshots(&lab, top);
            assert!(extracted(&lab, "d.hdd", 0) == now);
            // The descriptor itself stands for the directory.
            assert!(extracted(&lab, "d.hdd/DiskDescriptor.xml", 0) == now);
            let info = lab.cdi(["info", "--json", "d.hdd"]).ends(0);
            assert!(info.err.contains("snapshots in the image (ignored): 2"), "{}", info.err);
            let metadata = info.json()["metadata"].clone();
            assert_eq!(metadata["snapshots"], serde_json::json!([ROOT, MIDDLE.to_lowercase()]));
            assert_eq!(metadata["physical_sector_bytes"], 4096);
            for (name, truth) in [(ROOT, root), (MIDDLE.trim_matches(['{', '}']), middle)] {
                let words = ["-q", "extract", "--force", "--snapshot", name, "d.hdd", "out.raw"];
                lab.cdi(words).ends(0);
                assert!(lab.read("out.raw") == truth, "{name}");
            }
            let err = lab.cdi(["info", "--snapshot", "x", "d.hdd"]).ends(2).err;
            assert!(err.contains("has no snapshot 'x'") && err.contains(ROOT), "{err}");
        }
    }

    fn a_cluster_that_is_used_twice_is_reported() {
        let lab = Lab::new();
        with_snapshots(&lab, None);
        lab.cdi(["verify", "d.hdd"]).ends(0);
        let mut bytes = lab.read("d.hdd/b.0.hds");
        bytes.copy_within(64..68, 68);
        lab.write("d.hdd/b.0.hds", bytes);
        let out = lab.cdi(["verify", "d.hdd"]).ends(4).out;
        assert!(out.contains("at file offset 68: ") && out.contains("b.0.hds: the cluster at byte"), "{out}");
    }

    fn a_missing_file_is_an_error_that_names_it() {
        let lab = Lab::new();
        with_snapshots(&lab, None);
        fs::rename(lab.path("d.hdd/b.1.hds"), lab.path("b.1.hds")).unwrap();
        let err = lab.cdi(["info", "d.hdd"]).ends(3).err;
        assert!(err.contains("file of the disk not found") && err.contains("b.1.hds"), "{err}");
        // Without it, an older state can be read.
        lab.cdi(["info", "--snapshot", ROOT, "d.hdd"]).ends(0);
        fs::rename(lab.path("b.1.hds"), lab.path("d.hdd/b.1.hds")).unwrap();
        let plain = lab.read("d.hdd/a.0.hds");
        lab.write("d.hdd/a.0.hds", &plain[..plain.len() - 512]);
        let err = lab.cdi(["info", "d.hdd"]).ends(3).err;
        assert!(err.contains("a.0.hds: has 4193792 bytes of the disk instead of 4194304"), "{err}");
        // A machine has its disks in it.
        fs::create_dir(lab.path("m.pvm")).unwrap();
        assert!(lab.cdi(["info", "m.pvm"]).ends(3).err.contains("is a directory, not an image"));
        fs::rename(lab.path("d.hdd"), lab.path("m.pvm/d.hdd")).unwrap();
        assert!(lab.cdi(["info", "m.pvm"]).ends(3).err.contains("open an image in it: d.hdd"));
    }

    fn what_a_descriptor_may_not_say_is_refused() {
        let lab = Lab::new();
        with_snapshots(&lab, None);
        let text = String::from_utf8(lab.read("d.hdd/DiskDescriptor.xml")).unwrap();
        for (from, to, says) in [
            ("Version=\"1.0\"", "Version=\"2.0\"", "unsupported version 2.0"),
            ("<Padding>0", "<Padding>1", "disk with padding (not supported)"),
            ("<Engine>{0", "<Engine>{1", "encrypted disk (not supported)"),
            (
                "<Padding>",
                "<LogicSectorSize>4096</LogicSectorSize><Padding>",
                "sectors of 4096 bytes (not supported)",
            ),
            ("<Type>Plain", "<Type>Other", "file of type 'Other'"),
            ("<Start>8192", "<Start>8193", "have a gap or overlap at byte 4194304"),
            ("<End>12288", "<End>12000", "have 6144000 bytes, but the disk has 6291456"),
            ("<Disk_size>12288", "<Disk_size>36028797018963968", "not a number of sectors"),
            ("<Disk_size>", "<!DOCTYPE a><Disk_size>", "document type"),
            (ROOT, TOP, "twice"),
            ("</Snapshots>", "", "not valid XML"),
            ("Snapshots", "Snap", "no element Snapshots"),
            (MIDDLE, "", "has no file for the snapshot"),
        ] {
            lab.write("d.hdd/DiskDescriptor.xml", text.replace(from, to));
            let err = lab.cdi(["info", "d.hdd"]).ends(3).err;
            assert!(err.contains(says), "{says}: {err}");
        }
        // A snapshot that is based on itself.
        lab.write(
            "d.hdd/DiskDescriptor.xml",
            text.replace(&format!("<ParentGUID>{NONE}"), &format!("<ParentGUID>{ROOT}")),
        );
        assert!(lab.cdi(["info", "d.hdd"]).ends(3).err.contains("more than 16 parents"));
    }

    /// A volume that was changed between two snapshots is consistent in both.
    #[needs(Fuse, Loop, Program("mkfs.ext4"), Program("e2fsck"))]
    fn the_file_system_in_it_is_consistent() {
        let lab = Lab::new();
        lab.write("disk.raw", vec![0; 8 << 20]);
        run("mkfs.ext4", ["-q", "-F", &path(&lab, "disk.raw")]);
        fs::create_dir(lab.path("d.hdd")).unwrap();
        lab.write("d.hdd/a.hds", parallels(&lab.read("disk.raw"), 504));
        lab.write(
            "d.hdd/DiskDescriptor.xml",
            parallels_descriptor(16_384, &[(16_384, &[(TOP, false, "a.hds")])], &[(TOP, NONE)], None),
        );
        let device = lab.cdi(["attach", "d.hdd"]).ends(0).out.trim().to_owned();
        run("e2fsck", ["-fn", &device]);
        lab.cdi(["detach", &device]).ends(0);
    }
);

//! Proxmox's backup archives.

use cdi_image::Disk;
use cdi_image::disk::Options;
use cdi_image::image::OpenOptions;
use cdi_image::open::open_source;

use super::{bad_of, extracted};
use crate::common::{Lab, Random, disk, run};
use crate::makers::{sign_vma, vma};

/// A disk that is not a whole number of clusters, with zeros in it.
fn sparse_disk(size: usize) -> Vec<u8> {
    let mut disk = disk(size as u64);
    disk[size / 8..size / 2].fill(0);
    disk[size / 2 + 8192..size / 2 + 12_288].fill(0);
    disk
}

/// Where the extents of an archive begin.
fn extents(archive: &[u8]) -> Vec<usize> {
    let first = u32::from_be_bytes(archive[56..60].try_into().unwrap()) as usize;
    let next = |at: &usize| {
        let blocks = usize::from(u16::from_be_bytes(archive[at + 6..at + 8].try_into().unwrap()));
        Some(at + 512 + blocks * 4096).filter(|next| *next < archive.len())
    };
    std::iter::successors(Some(first), next).collect()
}

/// What is read, with zeros for what is lost.
fn with_zeros(truth: &[u8], lost: &[(u64, u64, String)]) -> Vec<u8> {
    let mut truth = truth.to_vec();
    for (first, count, status) in lost {
        assert_eq!(status, "bad-sector");
        truth[*first as usize * 512..(first + count) as usize * 512].fill(0);
    }
    truth
}

tests!(
    fn every_disk_of_an_archive_is_read() {
        let lab = Lab::new();
        let (scsi, ide) = (sparse_disk((9 << 20) + 4608), sparse_disk(3 << 20));
        let memory = sparse_disk(1 << 20);
        let disks = [("drive-scsi0", &scsi[..]), ("vmstate", &memory), ("drive-ide2", &ide)];
        for shuffled in [None, Some(1), Some(2)] {
            lab.write("a.vma", vma(&disks, shuffled));
            for (name, truth) in [("drive-scsi0", &scsi), ("drive-ide2", &ide)] {
                lab.cdi(["-q", "extract", "--force", "--member", name, "a.vma", "out.raw"]).ends(0);
                assert!(lab.read("out.raw") == *truth, "{name}, {shuffled:?}");
                lab.cdi(["verify", "--member", name, "a.vma"]).ends(0);
            }
        }
        let err = lab.cdi(["info", "a.vma"]).ends(2).err;
        assert!(
            err.contains("several disks: drive-scsi0, drive-ide2") && err.contains("--member NAME"),
            "{err}"
        );
        // The memory of the machine is no disk.
        for name in ["vmstate", "x"] {
            let err = lab.cdi(["info", "--member", name, "a.vma"]).ends(2).err;
            assert!(err.contains(&format!("no disk '{name}', but has drive-scsi0, drive-ide2")), "{err}");
        }
        // Of one disk nothing needs to be said.
        lab.write("a.vma", vma(&[("drive-scsi0", &scsi), ("vmstate", &memory)], None));
        assert!(extracted(&lab, "a.vma", 0) == scsi);
        let info = lab.cdi(["info", "--json", "a.vma"]).ends(0).json();
        assert_eq!(info["metadata"]["members"], serde_json::json!(["drive-scsi0"]));
        assert_eq!(info["metadata"]["created"], "2023-11-14T22:13:20Z");
    }

    /// Reads of any place and length, as in a mounted disk.
    fn reads_within_a_cluster_are_right() {
        let truth = sparse_disk(2 << 20);
        let image = vma(&[("a", &truth), ("b", &sparse_disk(1 << 20))], Some(7));
        let options = OpenOptions { member: Some("a".into()), ..OpenOptions::default() };
        let opened = open_source(Box::new(image), "/x/a.vma".as_ref(), &options).unwrap();
        let disk = Disk::new(opened, Options::default());
        let random = &mut Random::new(3);
        for _ in 0..2000 {
            let at = random.below(truth.len() as u64);
            let len = (1 + random.below(200_000)).min(truth.len() as u64 - at) as usize;
            let mut buf = vec![9; len];
            disk.read_at(&mut buf, at).unwrap();
            assert!(buf == truth[at as usize..at as usize + len], "{len} bytes at {at}");
        }
    }

    /// What is in the archive is right; what is not is lost, and is neither zeros nor an error of everything.
    fn a_truncated_archive_has_what_is_there() {
        let lab = Lab::new();
        let truth = sparse_disk(20 << 20);
        for shuffled in [None, Some(5)] {
            let whole = vma(&[("drive-scsi0", &truth)], shuffled);
            let starts = extents(&whole);
            assert!(starts.len() > 4);
            // Within a header, at an extent, within a block.
            for end in [starts[2] + 100, starts[3], starts[3] + 512 + 3 * 4096 + 100] {
                lab.write("a.vma", &whole[..end]);
                let info = lab.cdi(["info", "--json", "a.vma"]).ends(4);
                assert!(info.err.contains("are not in the archive"), "{}", info.err);
                let lost = bad_of(&lab, &["a.vma"]);
                let bytes: u64 = lost.iter().map(|(_, count, _)| count * 512).sum();
                assert!(bytes > 0 && bytes < truth.len() as u64);
                assert!(extracted(&lab, "a.vma", 4) == with_zeros(&truth, &lost), "{end}");
                lab.cdi(["verify", "a.vma"]).ends(4);
            }
            lab.write("a.vma", &whole[..starts[0]]);
            assert_eq!(bad_of(&lab, &["a.vma"]), [(0, truth.len() as u64 / 512, "bad-sector".to_owned())]);
        }
    }

    fn a_damaged_extent_costs_its_own_clusters() {
        let lab = Lab::new();
        let truth = sparse_disk(20 << 20);
        let whole = vma(&[("drive-scsi0", &truth)], None);
        let starts = extents(&whole);
        let mut bad = whole.clone();
        bad[starts[1] + 45] ^= 1;
        lab.write("a.vma", &bad);
        let info = lab.cdi(["info", "a.vma"]).ends(4);
        let says = format!("at byte {}: there is no intact extent: its clusters are not used", starts[1]);
        assert!(info.err.contains(&says), "{}", info.err);
        // The second extent of a disk in order has the second 59 clusters.
        assert_eq!(bad_of(&lab, &["a.vma"]), [(59 * 128, 59 * 128, "bad-sector".to_owned())]);
        assert!(extracted(&lab, "a.vma", 4) == with_zeros(&truth, &bad_of(&lab, &["a.vma"])));
        // What follows the last extent costs nothing.
        lab.write("a.vma", [&whole[..], &[0; 700]].concat());
        assert!(lab.cdi(["info", "a.vma"]).ends(0).err.contains("there is no intact extent"));
        assert!(extracted(&lab, "a.vma", 0) == truth);
        // The extents of another archive are not of this one.
        let other = [&whole[..starts[1]], &{
            let mut rest = whole[starts[1]..].to_vec();
            rest[8] ^= 1;
            rest
        }];
        lab.write("a.vma", other.concat());
        lab.cdi(["info", "a.vma"]).ends(4);
    }

    fn inconsistent_archives_are_refused_by_their_place() {
        let lab = Lab::new();
        let truth = sparse_disk(1 << 20);
        let whole = vma(&[("drive-scsi0", &truth)], None);
        let header = u32::from_be_bytes(whole[56..60].try_into().unwrap()) as usize;
        for (at, bytes, says) in [
            (4, &[0, 0, 0, 2][..], "at byte 4: unsupported version 2"),
            (48, &[0xFF; 4], "at byte 48: the texts extend past the end"),
            (56, &[0, 0, 0, 1], "at byte 56: invalid length of the header"),
            (4096 + 32, &[0, 0, 0xFF, 0xFF], "at byte 4128: the name of a disk is not in the header"),
            (4096 + 40, &[0xFF; 8], "at byte 4136: invalid size of 'drive-scsi0'"),
            (4096 + 40, &[0; 8], "the archive contains no disk"),
            (4096 + 40, &[0, 0, 0, 0, 0, 0, 2, 0], "is past the end of the disk"),
        ] {
            let mut bad = whole.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            sign_vma(&mut bad);
            lab.write("a.vma", bad);
            let err = lab.cdi(["info", "a.vma"]).ends(3).err;
            assert!(err.contains(says), "{says}: {err}");
        }
        let mut bad = whole.clone();
        bad[100] ^= 1;
        lab.write("a.vma", bad);
        assert!(lab.cdi(["info", "a.vma"]).ends(3).err.contains("does not match its checksum"));
        for (at, bytes, says) in [
            (header + 7, &[1][..], "an extent of 1 blocks lists"),
            (header + 40 + 8 + 4, &[0, 0, 0, 0], "cluster 0 of the disk is in the archive twice"),
        ] {
            let mut bad = whole.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            bad[header + 6] = if at == header + 7 { 0 } else { bad[header + 6] };
            sign_vma(&mut bad);
            lab.write("a.vma", bad);
            let err = lab.cdi(["info", "a.vma"]).ends(3).err;
            assert!(err.contains(says), "{says}: {err}");
        }
        // The same extent again.
        lab.write("a.vma", [&whole[..], &whole[header..]].concat());
        assert!(lab.cdi(["info", "a.vma"]).ends(3).err.contains("is in the archive twice"));
    }

    /// A file system whose blocks are in any order in the archive is whole.
    #[needs(Fuse, Loop, Program("mkfs.ext4"), Program("e2fsck"))]
    fn the_file_system_in_it_is_consistent() {
        let lab = Lab::new();
        lab.write("disk.raw", vec![0; 8 << 20]);
        run("mkfs.ext4", ["-q".as_ref(), "-F".as_ref(), lab.path("disk.raw").as_os_str()]);
        lab.write("a.vma", vma(&[("drive-scsi0", &lab.read("disk.raw")), ("efidisk0", &[1; 4096])], Some(3)));
        let device = lab.cdi(["attach", "--member", "drive-scsi0", "a.vma"]).ends(0).out.trim().to_owned();
        run("e2fsck", ["-fn", &device]);
        lab.cdi(["detach", &device]).ends(0);
    }
);

//! Directories as Clonezilla writes them: with its commands, run here on parts of a file.

use std::fs;
use std::path::{Path, PathBuf};

use cdi_image::disk::Disk;

use super::extracted;
use crate::common::{Lab, LoopDevice, MountedDisk, Need, disk, filter, run};

/// What makes the disk and saves it.
const TOOLS: &[Need] = &[
    Need::Program("partclone.ext4"),
    Need::Program("partclone.vfat"),
    Need::Program("sfdisk"),
    Need::Program("mke2fs"),
    Need::Program("mkfs.vfat"),
];

/// A partition of the disk: number, first sector, sectors, and what is in it.
type Partition = (u32, usize, usize, &'static str);

const MBR: [Partition; 4] = [
    (1, 2048, 40_000, "ext4"),
    (5, 45_056, 30_000, "vfat"),
    (6, 77_824, 8_192, "swap"),
    (7, 88_064, 40_000, "ext4"),
];
const GPT: [Partition; 4] = [
    (1, 2048, 30_000, "vfat"),
    (2, 32_768, 8_192, "swap"),
    (3, 43_008, 60_000, "ext4"),
    (4, 104_448, 4_096, "dd"),
];

const SAVED_BY: &str = "This image was saved by Clonezilla at 2022-11-03 20:10:48 UTC.\n\
    Saved by clonezilla-live-3.0.1-8-amd64.\n";
const SECTORS: usize = 131_072;

/// Makes a disk with these partitions, as `disk.raw`.
fn make_disk(lab: &Lab, table: &str, partitions: &[Partition]) -> Vec<u8> {
    for dir in ["src", "img", "other"] {
        fs::create_dir_all(lab.path(dir)).unwrap();
    }
    lab.write("src/text", "a file\n".repeat(10_000));
    lab.write("src/noise", disk(3 << 20));
    lab.write("disk.raw", vec![0; SECTORS * 512]);
    let path = lab.path("disk.raw").to_str().unwrap().to_owned();
    filter("sfdisk", &["-q", &path], table.as_bytes());
    let mut disk = lab.read("disk.raw");
    for (n, first, sectors, kind) in partitions {
        let part = lab.write("part", vec![0; sectors * 512]).to_str().unwrap().to_owned();
        match *kind {
            "ext4" => drop(run(
                "mke2fs",
                ["-q", "-F", "-t", "ext4", "-d", lab.path("src").to_str().unwrap(), &part],
            )),
            "vfat" => drop(run("mkfs.vfat", [&part])),
            "swap" => drop(run("mkswap", ["-q", &part])),
            _ => drop(lab.write("part", crate::common::disk((sectors * 512) as u64))),
        }
        disk[first * 512..(first + sectors) * 512].copy_from_slice(&lab.read("part"));
        assert!(*n > 0);
    }
    disk[3 * 512..][..11].copy_from_slice(if table.contains("gpt") { &[0; 11] } else { b"boot loader" });
    lab.write("disk.raw", &disk);
    disk
}

/// Saves `disk.raw` to the directory `img`, as Clonezilla does, with this compression.
fn save(
    lab: &Lab,
    disk: &[u8],
    name: &str,
    partitions: &[Partition],
    packing: (&str, &[&str], &str),
) -> PathBuf {
    let (program, words, suffix) = packing;
    let file = |end: &str| format!("img/{end}");
    let path = lab.path("disk.raw").to_str().unwrap().to_owned();
    let dump = run("sfdisk", ["-d", &path]).replace(&path, &format!("/dev/{name}"));
    let is_gpt = dump.contains("label: gpt");
    lab.write(&file(&format!("{name}-pt.sf")), &dump);
    let label = if is_gpt { "gpt" } else { "msdos" };
    lab.write(
        &file(&format!("{name}-pt.parted")),
        format!(
            "Model: ATA A DISK (scsi)\nDisk /dev/{name}: {SECTORS}s\nSector size (logical/physical): 512B/512B\n\
             Partition Table: {label}\n"
        ),
    );
    lab.write(&file(&format!("{name}-mbr")), &disk[..512]);
    if is_gpt {
        lab.write(&file(&format!("{name}-gpt-1st")), &disk[..34 * 512]);
    } else {
        lab.write(&file(&format!("{name}-hidden-data-after-mbr")), &disk[512..2048 * 512]);
        lab.write(&file(&format!("{name}2-ebr")), &disk[43_008 * 512..43_009 * 512]);
    }
    let mut parts = String::new();
    for (n, first, sectors, kind) in partitions {
        let part = format!("{name}{n}");
        if *kind == "swap" {
            lab.write(&file(&format!("swappt-{part}.info")), "UUID=\"\"\nLABEL=\"\"\n");
            continue;
        }
        parts += &format!(" {part}");
        let bytes = &disk[first * 512..(first + sectors) * 512];
        let image = if *kind == "dd" {
            bytes.to_vec()
        } else {
            let source = lab.write("part", bytes);
            let [source, out, log] =
                [source, lab.path("image"), lab.path("log")].map(|p| p.to_str().unwrap().to_owned());
            run(
                &format!("partclone.{kind}"),
                ["-z", "10485760", "-c", "-s", &source, "-O", &out, "-L", &log],
            );
            lab.read("image")
        };
        let packed = if program == "cat" { image } else { filter(program, words, &image) };
        let stem = format!("{part}.{kind}-ptcl-img.{suffix}");
        // In pieces, as split -b makes them, or in one.
        if *kind == "vfat" {
            lab.write(&file(&stem), &packed);
        } else {
            for (n, piece) in packed.chunks(400_000).enumerate() {
                lab.write(&file(&format!("{stem}.a{}", char::from(b'a' + u8::try_from(n).unwrap()))), piece);
            }
        }
    }
    lab.write(&file("parts"), parts + "\n");
    lab.write(&file("disk"), format!("{name}\n"));
    lab.write(&file("clonezilla-img"), SAVED_BY);
    lab.path("img")
}

/// Where a disk and its image differ, the image has zeros: what was not in use.
fn same_but_for_free_space(disk: &[u8], image: &[u8], made: &[usize]) {
    assert_eq!(disk.len(), image.len());
    for (n, (a, b)) in disk.chunks(512).zip(image.chunks(512)).enumerate() {
        assert!(a == b || b.iter().all(|b| *b == 0) || made.contains(&n), "sector {n}");
    }
}

const MBR_TABLE: &str = "label: dos\nlabel-id: 0x0003eea8\nstart=2048, size=40000, type=83, bootable\n\
    start=43008, size=86016, type=5\nstart=45056, size=30000, type=c\nstart=77824, size=8192, type=82\n\
    start=88064, size=40000, type=83\n";
const GPT_TABLE: &str = "label: gpt\n\
    start=2048, size=30000, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=\"EFI, system: part\"\n\
    start=32768, size=8192, type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F\n\
    start=43008, size=60000, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n\
    start=104448, size=4096, type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE\n";

fn table_of(path: &Path) -> String {
    let path = path.to_str().unwrap();
    run("sfdisk", ["-d", path]).replace(path, "disk")
}

tests!(
    #[needs(All(TOOLS), Program("pigz"), Program("zstd"), Program("xz"), Program("lz4"), Program("bzip2"))]
    fn a_directory_is_the_whole_disk_however_it_is_compressed() {
        for (table, partitions) in [(MBR_TABLE, MBR), (GPT_TABLE, GPT)] {
            let lab = Lab::new();
            let disk = make_disk(&lab, table, &partitions);
            for packing in [
                ("pigz", &["--fast", "-b", "1024", "--rsyncable"][..], "gz"),
                ("zstd", &["-3", "-T0"], "zst"),
                ("xz", &["-0", "-T2"], "xz"),
                ("lz4", &["-1"], "lz4"),
                ("bzip2", &["-3"], "bz2"),
                ("cat", &[], "uncomp"),
            ] {
                save(&lab, &disk, "sda", &partitions, packing);
                let image = extracted(&lab, "img", 0);
                // The table is the same, with both copies of a GPT and all logical partitions; so is what comes after the MBR.
                assert_eq!(table_of(&lab.path("out.raw")), table_of(&lab.path("disk.raw")), "{packing:?}");
                same_but_for_free_space(&disk, &image, &[]);
                let used: usize = partitions
                    .iter()
                    .filter(|(.., kind)| *kind == "ext4")
                    .map(|(_, first, ..)| {
                        assert!(image[first * 512 + 1024..][..1024] == disk[first * 512 + 1024..][..1024]);
                        1
                    })
                    .sum();
                assert!(used > 0);
                lab.cdi(["verify", "img"]).ends(0);
                fs::remove_dir_all(lab.path("img")).unwrap();
                fs::create_dir(lab.path("img")).unwrap();
            }
        }
    }

    /// The file systems on the attached disk are those that were saved.
    #[needs(All(TOOLS), Fuse, Loop, Program("pigz"), Program("diff"))]
    fn a_directory_is_attached_and_its_file_systems_mounted() {
        let lab = Lab::new();
        let disk = make_disk(&lab, MBR_TABLE, &MBR);
        save(&lab, &disk, "sda", &MBR, ("pigz", &["--fast"], "gz"));
        for (words, offset) in
            [(&["--partition", "7"][..], 0), (&["--member", "sda7"], 0), (&[], 88_064 * 512)]
        {
            let attached = lab.cdi([&["attach", "img"], words].concat()).ends(0);
            let device = attached.out.trim().to_owned();
            let inner = LoopDevice::new(Path::new(&device), &["-r", "-o", &offset.to_string()]);
            let dir = lab.path("mounted");
            let mounted = MountedDisk::mount(inner, dir.clone());
            run(
                "diff",
                ["-r", "--exclude=lost+found", lab.path("src").to_str().unwrap(), dir.to_str().unwrap()],
            );
            drop(mounted);
            fs::remove_dir(dir).unwrap();
            lab.cdi(["detach", &device]).ends(0);
        }
    }

    /// Partitions without an image fail, a partition whose image is damaged is lost, and the others are there.
    #[needs(All(TOOLS), Program("pigz"))]
    fn a_missing_or_damaged_partition_costs_itself() {
        let lab = Lab::new();
        let disk = make_disk(&lab, GPT_TABLE, &GPT);
        save(&lab, &disk, "sda", &GPT, ("pigz", &["--fast"], "gz"));
        fs::remove_file(lab.path("img/sda1.vfat-ptcl-img.gz")).unwrap();
        // It was saved, by the list, or it was not; or what is in it was.
        let saved = lab.read("img/parts");
        let info = lab.cdi(["info", "--json", "img"]).ends(4).json();
        assert_eq!(info["lost_bytes"], 30_000 * 512, "{info}");
        assert!(info["warnings"].to_string().contains("sda1: its image is missing"), "{info}");
        lab.cdi(["verify", "img"]).ends(4);
        for (name, text, why) in [
            ("lvm_vg_dev.list", "vg /dev/sda1 UUID\n", "sda1: a physical volume"),
            ("parts", "sda3\n", "sda1: was not saved"),
        ] {
            lab.write(&format!("img/{name}"), text);
            let info = lab.cdi(["info", "--json", "img"]).ends(0).json();
            assert_eq!(info["blocks"]["non-tried"]["bytes"], 30_000 * 512, "{info}");
            assert!(info["warnings"].to_string().contains(why), "{info}");
            let _ = fs::remove_file(lab.path("img/lvm_vg_dev.list"));
        }
        lab.write("img/parts", saved);
        lab.write("img/sda1.vfat-ptcl-img.gz", "no image at all");
        let info = lab.cdi(["info", "--json", "img"]).ends(4).json();
        assert_eq!(info["lost_bytes"], 30_000 * 512, "{info}");
        let opened = Disk::open(lab.path("img")).unwrap();
        let mut sector = [0; 512];
        assert!(opened.read_at(&mut sector, 2048 * 512).is_err());
        opened.read_at(&mut sector, 43_008 * 512 + 1024).unwrap();
        assert!(sector == disk[43_008 * 512 + 1024..][..512]);
        // A piece that is missing at the end: what comes before it is right.
        let pieces: Vec<_> = ["sda3.ext4-ptcl-img.gz.ab", "sda3.ext4-ptcl-img.gz.ac"]
            .into_iter()
            .filter(|p| lab.path("img").join(p).exists())
            .collect();
        for piece in &pieces {
            fs::remove_file(lab.path("img").join(piece)).unwrap();
        }
        assert!(!pieces.is_empty());
        let info = lab.cdi(["info", "--json", "img"]).ends(4).json();
        assert!(info["lost_bytes"].as_u64().unwrap() > 30_000 * 512, "{info}");
        lab.cdi(["-q", "extract", "--force", "img", "out.raw"]).ends(4);
        let opened = Disk::open(lab.path("img")).unwrap();
        for at in (43_008..103_008).map(|sector| sector * 512) {
            if opened.read_at(&mut sector, at as u64).is_ok() {
                assert!(sector == disk[at..][..512] || sector == [0; 512], "sector {}", at / 512);
            }
        }
    }

    /// Somebody has joined the pieces, or kept something else next to them; the partition table is damaged.
    #[needs(All(TOOLS), Program("pigz"))]
    fn other_files_next_to_an_image_are_no_pieces_of_it() {
        let lab = Lab::new();
        let disk = make_disk(&lab, MBR_TABLE, &MBR);
        save(&lab, &disk, "sda", &MBR, ("pigz", &["--fast"], "gz"));
        let image = extracted(&lab, "img", 0);
        let pieces: Vec<u8> = ["aa", "ab", "ac", "ad"]
            .iter()
            .flat_map(|counter| {
                fs::read(lab.path(&format!("img/sda7.ext4-ptcl-img.gz.{counter}"))).unwrap_or_default()
            })
            .collect();
        lab.write("img/sda7.ext4-ptcl-img.gz.bak", "an older one");
        assert!(extracted(&lab, "img", 0) == image);
        lab.write("img/sda7.ext4-ptcl-img.gz", &pieces);
        assert!(extracted(&lab, "img", 0) == image);
        fs::remove_file(lab.path("img/sda7.ext4-ptcl-img.gz.aa")).unwrap();
        assert!(extracted(&lab, "img", 0) == image);
        let table = lab.read("img/sda-mbr");
        lab.write("img/sda-mbr", &table[..300]);
        let info = lab.cdi(["info", "img"]).ends(4);
        assert!(info.err.contains("sda-mbr is damaged"), "{}", info.err);
    }

    /// Pieces of an image of all bytes have nothing that says where they belong but their names and lengths.
    #[needs(All(TOOLS))]
    fn pieces_that_are_missing_are_noticed() {
        let lab = Lab::new();
        let disk = make_disk(&lab, GPT_TABLE, &GPT);
        save(&lab, &disk, "sda", &GPT, ("cat", &[], "uncomp"));
        let piece = |letter: char| lab.path(&format!("img/sda4.dd-ptcl-img.uncomp.a{letter}"));
        let is_right = |code: i32| {
            let info = lab.cdi(["info", "--json", "img"]).ends(code).json();
            let opened = Disk::open(lab.path("img")).unwrap();
            for at in (104_448..108_544).map(|sector| sector * 512) {
                let mut sector = [0; 512];
                if opened.read_at(&mut sector, at as u64).is_ok() {
                    assert!(sector == disk[at..][..512], "sector {}", at / 512);
                }
            }
            info["lost_bytes"].as_u64().unwrap()
        };
        assert_eq!(is_right(0), 0);
        for letter in ['a', 'c'] {
            let kept = fs::read(piece(letter)).unwrap();
            fs::remove_file(piece(letter)).unwrap();
            assert_eq!(is_right(4), 4096 * 512, "{letter}");
            fs::write(piece(letter), &kept[1..]).unwrap();
            assert_eq!(is_right(4), 4096 * 512, "{letter}");
            fs::write(piece(letter), kept).unwrap();
        }
        let last = ('a'..='z').rev().find(|letter| piece(*letter).exists()).unwrap();
        fs::remove_file(piece(last)).unwrap();
        assert!(is_right(4) > 0);
    }

    /// What is made from the table never takes the place of what was saved.
    #[needs(All(TOOLS))]
    fn overlapping_partitions_are_not_zeros() {
        let lab = Lab::new();
        let disk = make_disk(&lab, MBR_TABLE, &MBR);
        save(&lab, &disk, "sda", &MBR, ("cat", &[], "uncomp"));
        fs::remove_file(lab.path("img/sda2-ebr")).unwrap();
        let table = String::from_utf8(lab.read("img/sda-pt.sf")).unwrap();
        // The partition begins where the boot record would be, and where another partition is.
        for (from, to, code) in
            [("start=       45056", "start=       43008", 0), ("start=       88064", "start=       50000", 4)]
        {
            assert!(table.contains(from), "{table}");
            lab.write("img/sda-pt.sf", table.replace(from, to));
            let info = lab.cdi(["info", "--json", "img"]).ends(code).json();
            assert_eq!(info["lost_bytes"].as_u64().unwrap() > 0, code == 4, "{info}");
        }
        for size in ["sector-size: 1", "sector-size: 513"] {
            lab.write("img/sda-pt.sf", table.replace("sector-size: 512", size));
            assert!(lab.cdi(["info", "img"]).ends(3).err.contains("sector size"));
        }
        lab.write("img/sda-pt.sf", &table);
        fs::remove_file(lab.path("img/sda-mbr")).unwrap();
        assert!(lab.cdi(["info", "img"]).ends(4).err.contains("sda-mbr is missing"));
    }

    /// One of several disks is chosen, an encrypted directory is refused, and any other directory is none.
    #[needs(All(TOOLS))]
    fn directories_with_several_disks_and_encrypted_ones_are_named() {
        let lab = Lab::new();
        let disk = make_disk(&lab, GPT_TABLE, &GPT);
        save(&lab, &disk, "sda", &GPT, ("cat", &[], "uncomp"));
        save(&lab, &disk, "sdb", &GPT, ("cat", &[], "uncomp"));
        let error = lab.cdi(["info", "img"]).ends(2).err;
        assert!(error.contains("sda, sdb") && error.contains("--member NAME"), "{error}");
        for member in ["sda", "sdb"] {
            let info = lab.cdi(["info", "--json", "--member", member, "img"]).ends(0).json();
            assert_eq!(info["size_bytes"], SECTORS * 512);
        }
        let info = lab.cdi(["info", "--json", "--member", "sdb3", "img"]).ends(0).json();
        assert_eq!(info["size_bytes"], 60_000 * 512);
        assert!(
            lab.cdi(["info", "--member", "sdc", "img"])
                .ends(2)
                .err
                .contains("there is no disk or partition 'sdc'")
        );
        lab.write("img/ecryptfs.info", "disk_of_img=\"sda\"\n");
        lab.write("img/clonezilla-img", [0x81, 0x3C, 0xB7]);
        assert!(lab.cdi(["info", "img"]).ends(3).err.contains("encrypted by eCryptfs"));
        lab.write("other/parts", "some list\n");
        assert!(
            lab.cdi(["info", "other"]).ends(3).err.contains("not an image"),
            "{}",
            lab.cdi(["info", "other"]).err
        );
    }
);

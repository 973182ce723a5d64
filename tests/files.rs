//! The files of a disk: which are damaged, by the file system's own tools, and copies of what can be saved.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use cdi_fs::recognize::{Recognized, recognize_as};
use cdi_fs::volume::Volume;
use serde_json::Value;

use crate::common::{Lab, Random, mapfile, run};

/// The size of the test volumes in sectors.
const SECTORS: u64 = 64 << 11;

/// Fills a directory with files whose contents differ, some of them sparse, and subdirectories.
fn fill(dir: &Path) {
    let mut random = Random::new(1);
    for d in 0..8 {
        let sub = dir.join(format!("folder {d}/inner"));
        fs::create_dir_all(&sub).unwrap();
        for f in 0..40 {
            let bytes: Vec<u8> = (0..random.below(60_000)).map(|i| (i / 512 % 256) as u8 ^ f).collect();
            let place = if f % 2 == 0 {
                sub.join(format!("file {f}.bin"))
            } else {
                dir.join(format!("folder {d}/photo {f}.JPG"))
            };
            fs::write(&place, bytes).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + u64::from(f));
            fs::File::options().write(true).open(&place).unwrap().set_modified(time).unwrap();
        }
    }
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 5 << 20).unwrap();
    sparse.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_100_000_000)).unwrap();
    symlink("folder 1/inner", dir.join("link")).unwrap();
}

/// Makes an ext4 volume with these files.
fn ext4(lab: &Lab, from: &str) {
    fs::File::create(lab.path("disk.raw")).unwrap().set_len(SECTORS * 512).unwrap();
    let disk = lab.path("disk.raw");
    run("mke2fs", ["-q", "-t", "ext4", "-d", lab.path(from).to_str().unwrap(), disk.to_str().unwrap()]);
}

/// Makes an image of `disk.raw` with these sectors bad.
fn image(lab: &Lab, bad: &[(u64, u64)]) {
    lab.write("disk.map", mapfile(SECTORS, 512, bad));
    lab.cdi(["create", "-f", "-q", "disk.raw", "disk.cdimg", "--mapfile", "disk.map"])
        .ends(if bad.is_empty() { 0 } else { 4 });
}

/// Random single sectors, in order.
fn random_sectors(seed: u64, count: u64) -> Vec<(u64, u64)> {
    let mut random = Random::new(seed);
    let sectors: BTreeSet<u64> = (0..count).map(|_| random.below(SECTORS)).collect();
    sectors.into_iter().map(|sector| (sector, 1)).collect()
}

/// Returns the paths in the list of files with one of these states.
fn paths(list: &Value, states: &[&str]) -> BTreeSet<String> {
    let files = list["files"].as_array().unwrap().iter();
    let wanted = files.filter(|f| states.contains(&f["state"].as_str().unwrap()));
    wanted.map(|f| f["path"].as_str().unwrap().split_once('/').unwrap().1.to_owned()).collect()
}

/// Returns the inodes that have one of these sectors, by debugfs.
fn by_debugfs(lab: &Lab, bad: &[(u64, u64)], block: u64) -> BTreeSet<u64> {
    let disk = lab.path("disk.raw");
    let blocks: Vec<String> = bad.iter().map(|(sector, _)| (sector * 512 / block).to_string()).collect();
    let mut inodes = BTreeSet::new();
    for some in blocks.chunks(100) {
        let found = run("debugfs", ["-R", &format!("icheck {}", some.join(" ")), disk.to_str().unwrap()]);
        inodes.extend(found.lines().filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()));
    }
    inodes
}

tests!(
    #[needs(Program("mke2fs"), Program("debugfs"))]
    fn damaged_files_are_those_that_debugfs_finds() {
        let lab = Lab::new();
        fill(&lab.path("from"));
        ext4(&lab, "from");
        for seed in 1..4 {
            let bad = random_sectors(seed, 600);
            image(&lab, &bad);
            let list = lab.cdi(["files", "--json", "disk.cdimg"]).ends(4).json();
            let block = list["volumes"][0]["block_bytes"].as_u64().unwrap();
            let theirs = by_debugfs(&lab, &bad, block);
            let files = list["files"].as_array().unwrap();
            let lost: BTreeSet<u64> = files.iter().map(|f| f["record"].as_u64().unwrap()).collect();
            let has_bad = |f: &&Value| f["lost"]["bad_bytes"].as_u64().unwrap() > 0;
            let damaged: BTreeSet<u64> =
                files.iter().filter(has_bad).map(|f| f["record"].as_u64().unwrap()).collect();
            assert!(
                damaged.len() > 20 && damaged.is_subset(&theirs),
                "seed {seed}: {:?}",
                damaged.difference(&theirs)
            );
            // Of theirs, the rest has its bad sectors past the end of the file, in its last block; or is the file system's own.
            for inode in theirs.difference(&lost).filter(|inode| **inode > 11) {
                let stat = run(
                    "debugfs",
                    ["-R", &format!("stat <{inode}>"), lab.path("disk.raw").to_str().unwrap()],
                );
                let size = stat
                    .split("Size: ")
                    .nth(1)
                    .and_then(|s| s.split_whitespace().next()?.parse::<u64>().ok());
                assert!(size.unwrap() % block != 0, "seed {seed}: inode {inode} is not in the list");
            }
        }
    }

    #[needs(Program("mke2fs"))]
    fn a_whole_disk_has_whole_files() {
        let lab = Lab::new();
        fill(&lab.path("from"));
        ext4(&lab, "from");
        image(&lab, &[]);
        let list = lab.cdi(["files", "--json", "--all", "disk.cdimg"]).ends(0).json();
        let volume = &list["volumes"][0];
        assert_eq!((volume["file_system"].as_str(), volume["partition"].as_u64()), (Some("ext4"), None));
        assert_eq!(volume["files"]["whole"], 8 * 40 + 2);
        let all = paths(&list, &["whole"]);
        let theirs = run("find", [lab.path("from").to_str().unwrap(), "-mindepth", "1", "-printf", "%P\n"]);
        let theirs: BTreeSet<String> = theirs.lines().map(Into::into).chain(["lost+found".into()]).collect();
        assert_eq!(all, theirs);
        assert_eq!(lab.cdi(["files", "--json", "disk.cdimg"]).ends(0).json()["files"], serde_json::json!([]));
        let photos = lab.cdi(["files", "--json", "--all", "disk.cdimg", "folder 3/*.jpg"]).ends(0).json();
        assert_eq!(photos["files"].as_array().unwrap().len(), 20);
        lab.cdi(["files", "--partition", "1", "disk.cdimg"]).ends(2);
        lab.cdi(["files", "disk.cdimg", "a["]).ends(2);
        assert!(lab.cdi(["files", "disk.cdimg"]).ends(0).out.contains("322 files: all whole"));
    }

    /// The case that makes other programs blind: 12 KiB of the MFT are bad.
    #[needs(Program("mkntfs"), Program("ntfs-3g"), Fuse)]
    fn files_whose_records_are_lost_are_listed_by_name() {
        const FILES: usize = 2500;
        let lab = Lab::new();
        fs::File::create(lab.path("disk.raw")).unwrap().set_len(SECTORS * 512).unwrap();
        run("mkntfs", ["-F", "-q", "-Q", "-L", "Old", lab.path("disk.raw").to_str().unwrap()]);
        fs::create_dir(lab.path("mnt")).unwrap();
        run("ntfs-3g", [lab.path("disk.raw"), lab.path("mnt")]);
        let mut names = BTreeSet::new();
        for n in 0..FILES {
            let dir = format!("dir {}", n % 60);
            fs::create_dir_all(lab.path("mnt").join(&dir)).unwrap();
            let name = format!("{dir}/picture {n}.jpg");
            fs::write(lab.path("mnt").join(&name), vec![n as u8; 700 + n % 900]).unwrap();
            names.insert(name);
        }
        run("umount", [lab.path("mnt")]);
        // mkntfs puts the MFT at cluster 4 of 4 KiB; record 64 and those after it are directories and files.
        let first = (4 * 4096 + 100 * 1024) / 512;
        image(&lab, &[(first, 24)]);
        let list = lab.cdi(["files", "--all", "--json", "disk.cdimg"]).ends(4).json();
        let found = paths(&list, &["whole", "damaged", "record-lost", "name-lost"]);
        let last = |path: &str| path.rsplit('/').next().unwrap().to_owned();
        let found: BTreeSet<String> = found.iter().map(|path| last(path)).collect();
        // Of a file whose record is lost, the name may stand in the lost record of its directory; then it is counted.
        let missing: Vec<_> = names.iter().filter(|name| !found.contains(&last(name))).collect();
        let counted = list["volumes"][0]["lost_records"].as_u64().unwrap();
        assert!(missing.len() as u64 <= counted && missing.len() < 3, "{counted} are counted: {missing:?}");
        let lost = paths(&list, &["record-lost"]);
        assert_eq!(lost.len() as u64 + counted, 12, "{lost:?}");
        let text = lab.cdi(["files", "disk.cdimg"]).ends(4).out;
        assert!(text.contains("of which only the name is left"), "{text}");
    }

    #[needs(Program("mke2fs"))]
    fn copies_are_the_originals_but_for_their_holes() {
        let lab = Lab::new();
        fill(&lab.path("from"));
        ext4(&lab, "from");
        image(&lab, &random_sectors(7, 400));
        let list = lab.cdi(["files", "--json", "disk.cdimg"]).ends(4).json();
        let damaged = paths(&list, &["damaged"]);
        let copied = lab.cdi(["files", "--json", "--copy", "saved", "disk.cdimg"]).ends(4).json();
        let gone = paths(&list, &["record-lost"]);
        assert_eq!(copied["not_saved"], gone.len());
        let title = list["volumes"][0]["title"].as_str().unwrap();
        let saved = lab.path("saved").join(title);
        let (mut holes, mut unplaced) = (0, 0);
        for (path, size, is_link) in tree(&lab.path("from")) {
            let copy = saved.join(&path);
            // Its record, or its directory's, is lost.
            if !copy.exists() && !is_link {
                unplaced += 1;
                continue;
            }
            if is_link {
                assert_eq!(
                    fs::read_link(&copy).unwrap(),
                    fs::read_link(lab.path("from").join(&path)).unwrap()
                );
                continue;
            }
            let (theirs, ours) = (fs::read(lab.path("from").join(&path)).unwrap(), fs::read(&copy).unwrap());
            assert_eq!(ours.len() as u64, size, "{path}");
            let beside = saved.join(format!("{path}.bad.json"));
            assert_eq!(beside.exists(), damaged.contains(&path), "{path}");
            let mut expect = theirs;
            if beside.exists() {
                holes += 1;
                let told: Value = serde_json::from_slice(&fs::read(&beside).unwrap()).unwrap();
                for lost in told["lost"]["ranges"].as_array().unwrap() {
                    let at = |key: &str| lost[key].as_u64().unwrap() as usize;
                    expect[at("start")..at("end")].fill(0);
                }
            }
            assert!(ours == expect, "{path} differs outside of its holes");
            let time = |p: &Path| fs::metadata(p).unwrap().modified().unwrap();
            assert_eq!(time(&copy), time(&lab.path("from").join(&path)), "{path}");
        }
        assert!(holes > 5 && unplaced < 60, "{holes}, {unplaced}");
        // Again: nothing is copied twice, and the result is the same. Nothing else is taken for ours.
        let again = lab.cdi(["files", "--json", "--copy", "saved", "disk.cdimg"]).ends(4).json();
        assert_eq!(again["whole"], copied["whole"]);
        fs::create_dir(lab.path("theirs")).unwrap();
        lab.write("theirs/file", "theirs");
        lab.cdi(["files", "--copy", "theirs", "disk.cdimg"]).ends(5);
        let page = fs::read_to_string(lab.path("saved/cdi-report.html")).unwrap();
        assert!(page.contains("Saved with holes") && damaged.iter().all(|path| page.contains(path.as_str())));
        // Only whole ones, and only those that are meant.
        let some = lab
            .cdi(["files", "--json", "--only-whole", "--copy", "photos", "disk.cdimg", "*.jpg"])
            .ends(4)
            .json();
        let photos = damaged.iter().chain(&gone).filter(|p| p.ends_with(".JPG")).count();
        assert_eq!((some["not_saved"].as_u64(), some["with_holes"].as_u64()), (Some(photos as u64), Some(0)));
    }

    /// What a copy says is the truth, whatever was copied before, and whatever else is lost.
    #[needs(Program("mke2fs"), Program("debugfs"))]
    fn a_copy_never_calls_lost_data_saved() {
        let lab = Lab::new();
        fs::create_dir_all(lab.path("from/d:1")).unwrap();
        let data = |n: u8| vec![n; 40_000];
        for (n, name) in
            [(1, "a:b.txt"), (2, "a_b.txt"), (3, "d_1"), (4, "d:1/inner"), (5, "big"), (6, "photo")]
        {
            lab.write(&format!("from/{name}"), data(n));
        }
        for name in ["from/a:b.txt", "from/a_b.txt"] {
            let file = fs::File::options().write(true).open(lab.path(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
        }
        fs::hard_link(lab.path("from/photo"), lab.path("from/again")).unwrap();
        ext4(&lab, "from");
        let disk = lab.path("disk.raw");
        run("debugfs", ["-w", "-R", "set_inode_field big size 0x400000000000", disk.to_str().unwrap()]);
        image(&lab, &[]);
        let copy = |to: &str, more: &[&str], code: i32| {
            let args = [&["files", "--json", "--copy", to, "disk.cdimg"], more].concat();
            lab.cdi(args).ends(code).json()
        };
        // Two names that become one, in runs of their own; a file next to a directory of its name; another name.
        let title = lab.cdi(["files", "--json", "disk.cdimg"]).ends(4).json()["volumes"][0]["title"]
            .as_str()
            .unwrap()
            .to_owned();
        let read = |path: &str| fs::read(lab.path("out").join(&title).join(path)).unwrap_or_default();
        copy("out", &["a_b*"], 0);
        copy("out", &["a[:]b*"], 0);
        copy("out", &["d_1", "d:1"], 0);
        copy("out", &["photo", "again"], 0);
        let copies: BTreeSet<Vec<u8>> = fs::read_dir(lab.path("out").join(&title))
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.is_file())
            .map(|p| fs::read(p).unwrap())
            .collect();
        assert_eq!(copies, [1, 2, 3, 6].map(data).into());
        let inner =
            fs::read_dir(lab.path("out").join(&title)).unwrap().map(|e| e.unwrap().path().join("inner"));
        let inner: Vec<Vec<u8>> = inner.filter_map(|path| fs::read(path).ok()).collect();
        assert!(inner == [data(4)] && read("photo") == data(6) && read("again") == data(6));
        // A size that makes no sense is not saved whole, and ends nothing.
        let all = copy("all", &[], 4);
        assert_eq!(all["whole"], 5, "{all}");
        // What was copied without the map is not whole with it.
        let blocks = run("debugfs", ["-R", "blocks photo", disk.to_str().unwrap()]);
        let block: u64 = blocks.split_whitespace().next().unwrap().parse().unwrap();
        image(&lab, &[(block * lab_block(&lab) / 512, 1)]);
        let again = copy("all", &["photo"], 4);
        assert_eq!((again["whole"].as_u64(), again["kept"].as_u64()), (Some(0), Some(1)));
        let photo = lab.path("all").join(&title).join("photo");
        assert!(fs::read(&photo).unwrap() == data(6), "what was copied earlier is kept");
        fs::write(&photo, vec![0; 40_000]).unwrap();
        let again = copy("all", &["photo"], 4);
        assert_eq!((again["whole"].as_u64(), again["with_holes"].as_u64()), (Some(0), Some(1)));
        assert!(photo.with_extension("bad.json").exists() && fs::read(&photo).unwrap()[39_999] == 6);
        assert!(
            lab.cdi(["files", "--copy", "none", "disk.cdimg", "no such file"])
                .err
                .contains("no file matches")
        );
    }

    /// A volume made to do harm: nothing is written outside of the directory.
    #[needs(Program("mke2fs"), Program("debugfs"))]
    fn a_copy_never_leaves_its_directory() {
        let lab = Lab::new();
        fs::create_dir_all(lab.path("from/dir")).unwrap();
        lab.write("from/dir/file", "harmless");
        lab.write("from/plain", "text");
        symlink(lab.path("outside"), lab.path("from/way out")).unwrap();
        fs::create_dir(lab.path("outside")).unwrap();
        ext4(&lab, "from");
        let disk = lab.path("disk.raw");
        // A second entry for the directory, of the link's name: a path below it leads through the link.
        for question in ["ln dir evil", "unlink \"way out\"", "symlink evil2 /tmp", "ln plain ..x"] {
            run("debugfs", ["-w", "-R", question, disk.to_str().unwrap()]);
        }
        // Names that are paths, put into the directory itself.
        let bytes = fs::read(&disk).unwrap();
        let at = bytes.windows(5).position(|w| w == b"plain").unwrap();
        let file = fs::File::options().write(true).open(&disk).unwrap();
        file.write_all_at(b"../.x", at as u64).unwrap();
        image(&lab, &[]);
        let ran = lab.cdi(["files", "--copy", "saved", "disk.cdimg"]);
        assert!(ran.code == 0 || ran.code == 4, "{}", ran.err);
        assert_eq!(fs::read_dir(lab.path("outside")).unwrap().count(), 0);
        assert!(!lab.path(".x").exists() && !lab.path("saved/.x").exists());
    }

    #[needs(Program("mke2fs"), Program("debugfs"))]
    fn what_is_at_a_sector_is_named() {
        let lab = Lab::new();
        fill(&lab.path("from"));
        ext4(&lab, "from");
        image(&lab, &[]);
        let disk = lab.path("disk.raw");
        let blocks = run("debugfs", ["-R", "blocks \"folder 2/photo 1.JPG\"", disk.to_str().unwrap()]);
        let block: u64 = blocks.split_whitespace().next().unwrap().parse().unwrap();
        let list = lab.cdi(["files", "--json", "disk.cdimg"]).ends(0).json();
        let size = list["volumes"][0]["block_bytes"].as_u64().unwrap();
        let ask = |sector: u64| {
            lab.cdi(["files", "--json", "--sector", &sector.to_string(), "disk.cdimg"]).ends(0).json()
        };
        let found = ask(block * size / 512 + 1);
        assert_eq!(
            found["owners"][0]["path"],
            format!("{}/folder 2/photo 1.JPG", list["volumes"][0]["title"].as_str().unwrap())
        );
        assert_eq!(found["owners"][0]["file_byte"], 512);
        assert_eq!(ask(2)["owners"][0]["kind"], "metadata");
        assert_eq!(ask(SECTORS - 100)["owners"][0]["kind"], "free");
        lab.cdi(["files", "--sector", &SECTORS.to_string(), "disk.cdimg"]).ends(2);
    }

    #[needs(Program("mke2fs"), Program("debugfs"))]
    fn a_picture_shows_what_bad_sectors_cost() {
        let lab = Lab::new();
        fill(&lab.path("from"));
        ext4(&lab, "from");
        let blocks =
            run("debugfs", ["-R", "blocks \"folder 2/photo 1.JPG\"", lab.path("disk.raw").to_str().unwrap()]);
        let block: u64 = blocks.split_whitespace().next().unwrap().parse().unwrap();
        image(&lab, &[]);
        let size = lab.cdi(["files", "--json", "disk.cdimg"]).ends(0).json()["volumes"][0]["block_bytes"]
            .as_u64()
            .unwrap();
        image(&lab, &[(2, 1), (block * size / 512, 1), (SECTORS - 100, 1)]);
        let cells = lab.cdi(["map", "--files", "--json", "disk.cdimg"]).ends(0).json()["cells"]
            .as_str()
            .unwrap()
            .to_owned();
        let at = |sector: u64| cells.as_bytes()[(sector * cells.len() as u64 / SECTORS) as usize] as char;
        assert_eq!((at(2), at(block * size / 512), at(SECTORS - 100)), ('M', 'F', 'x'), "{cells}");
        assert!(cells.contains('f') && cells.contains('-') && !cells.contains('!'), "{cells}");
        lab.cdi(["map", "--files", "--picture", "map.svg", "disk.cdimg"]).ends(0);
        assert!(String::from_utf8(lab.read("map.svg")).unwrap().contains("bad, in metadata"));
    }

    #[needs(Program("mke2fs"), Program("sfdisk"))]
    fn files_are_found_although_the_partition_table_is_lost() {
        let lab = Lab::new();
        fill(&lab.path("from"));
        ext4(&lab, "from");
        let volume = fs::read(lab.path("disk.raw")).unwrap();
        let mut disk = vec![0; 1 << 20];
        disk.extend_from_slice(&volume[..volume.len() - (1 << 20)]);
        disk.resize((SECTORS * 512) as usize, 0);
        lab.write("disk.raw", &disk);
        run(
            "sh",
            [
                "-c",
                &format!(
                    "printf 'label: dos\\nstart=2048,type=83\\n' | sfdisk -q '{}'",
                    lab.path("disk.raw").display()
                ),
            ],
        );
        image(&lab, &[(0, 1)]);
        let ran = lab.cdi(["files", "--json", "--all", "disk.cdimg"]).ends(4);
        assert!(ran.err.contains("partition table cannot be read"), "{}", ran.err);
        let list = ran.json();
        assert_eq!(list["volumes"][0]["first_sector"], 2048);
        assert!(paths(&list, &["whole", "damaged"]).contains("folder 2/photo 1.JPG"));
    }

    /// With `CDI_FUZZ_SEEDS` they are left in that folder for the fuzzer (`.ci/fuzz`).
    #[needs(
        Program("mke2fs"),
        Program("mkntfs"),
        Program("mkfs.fat"),
        Program("mkfs.exfat"),
        Program("genisoimage"),
        Program("mcopy")
    )]
    fn seeds_for_the_fuzzer_are_recognised() {
        let lab = Lab::new();
        fs::create_dir_all(lab.path("from/dir")).unwrap();
        lab.write("from/dir/a file with a long name.text", "text".repeat(3000));
        lab.write("from/small", "small");
        symlink("small", lab.path("from/link")).unwrap();
        let (from, volume) = (lab.path("from"), lab.path("volume"));
        let (from, volume) = (from.to_str().unwrap(), volume.to_str().unwrap());
        let rows: &[(&str, u64, &[&str])] = &[
            ("ext", 1, &["mke2fs", "-q", "-t", "ext4", "-N", "64", "-d", from, volume]),
            ("ntfs", 2, &["mkntfs", "-q", "-F", "-Q", volume]),
            ("fat", 1, &["sh", "-c", &format!("mkfs.fat {volume} && mcopy -s -i {volume} {from}/dir ::/")]),
            ("exfat", 4, &["mkfs.exfat", volume]),
            ("iso9660", 0, &["genisoimage", "-quiet", "-R", "-J", "-o", volume, from]),
        ];
        for (name, size, command) in rows {
            let file = fs::File::create(volume).unwrap();
            file.set_len(size << 20).unwrap();
            run(command[0], &command[1..]);
            let bytes = fs::read(volume).unwrap();
            let whole = Volume::new(&bytes, 0..bytes.len() as u64);
            assert!(matches!(recognize_as(&whole, name), Ok(Recognized::Files(_))), "{name}");
            if let Some(dir) = std::env::var_os("CDI_FUZZ_SEEDS") {
                let dir = Path::new(&dir).join(format!("fs_{name}"));
                fs::create_dir_all(&dir).unwrap();
                // Its first byte says which sectors are bad.
                fs::write(dir.join("seed"), [&[0], &bytes[..]].concat()).unwrap();
            }
        }
    }

    fn what_is_not_listed_is_named() {
        let lab = Lab::new();
        let mut disk = vec![0; 8 << 20];
        disk[..6].copy_from_slice(b"LUKS\xBA\xBE");
        lab.write("disk.img", &disk);
        let list = lab.cdi(["files", "--json", "disk.img"]).ends(0).json();
        assert!(list["volumes"][0]["contents"].as_str().unwrap().starts_with("LUKS (encrypted)"));
        assert_eq!(list["files"], serde_json::json!([]));
        assert!(lab.cdi(["files", "disk.img"]).ends(0).out.contains("cdi does not list its files"));
    }
);

/// Returns the size of a block of the volume in `disk.cdimg`, in bytes.
fn lab_block(lab: &Lab) -> u64 {
    lab.cdi(["files", "--json", "disk.cdimg"]).json()["volumes"][0]["block_bytes"].as_u64().unwrap()
}

/// Returns the files and links below a directory, with their sizes and whether they are links.
fn tree(dir: &Path) -> Vec<(String, u64, bool)> {
    let output = Command::new("find")
        .arg(dir)
        .args(["-mindepth", "1", "!", "-type", "d", "-printf", "%P\t%s\t%y\n"])
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let line = |line: &str| {
        let words: Vec<&str> = line.split('\t').collect();
        (words[0].to_owned(), words[1].parse().unwrap(), words[2] == "l")
    };
    text.lines().map(line).collect()
}

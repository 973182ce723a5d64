//! Copies of files into a directory that other copies were made to: from the same disk when more or less of it was known, and
//! from other disks.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::common::{Lab, Need, mapfile, run};

const MIB: u64 = 1 << 20;

/// Makes `name`: a FAT16 of 16 MiB with the label CANON and one photo.
fn card(lab: &Lab, name: &str, photo: &str) {
    lab.write("IMG_0001.JPG", photo);
    let (path, photo) = (lab.path(name), lab.path("IMG_0001.JPG"));
    let (path, photo) = (path.to_str().unwrap(), photo.to_str().unwrap());
    fs::File::create(path).unwrap().set_len(16 * MIB).unwrap();
    run("mkfs.fat", ["-F", "16", "-n", "CANON", path]);
    run("mcopy", ["-m", "-i", path, photo, "::"]);
}

/// Makes `disk.raw`: an ext4 and a FAT16 in partitions of 16 MiB.
fn disk(lab: &Lab) {
    fs::create_dir_all(lab.path("from")).unwrap();
    lab.write("from/letter.txt", "a letter");
    let (path, from) = (lab.path("part"), lab.path("from"));
    fs::File::create(&path).unwrap().set_len(16 * MIB).unwrap();
    run("mke2fs", ["-q", "-t", "ext4", "-d", from.to_str().unwrap(), path.to_str().unwrap()]);
    card(lab, "card", "a photo");
    let mut bytes = vec![0; 34 << 20];
    bytes[MIB as usize..17 << 20].copy_from_slice(&lab.read("part"));
    bytes[17 << 20..33 << 20].copy_from_slice(&lab.read("card"));
    for (n, kind) in [0x83u8, 0x06].into_iter().enumerate() {
        let at = 446 + 16 * n;
        bytes[at + 4] = kind;
        let start = u32::try_from((1 + 16 * n as u64) * 2048).unwrap();
        bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&(16 * 2048u32).to_le_bytes());
    }
    bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
    lab.write("disk.raw", &bytes);
    lab.write("bad.map", mapfile(34 * 2048, 512, &[(0, 1)]));
}

fn copy(lab: &Lab, words: &[&str], code: i32) -> Value {
    lab.cdi([&["files", "--json", "--mapfile"], words].concat()).ends(code).json()
}

const TOOLS: Need = Need::All(&[Need::Program("mkfs.fat"), Need::Program("mcopy"), Need::Program("mke2fs")]);

tests!(
    #[needs(TOOLS)]
    fn another_disk_is_not_copied_over_the_first() {
        let lab = Lab::new();
        card(&lab, "one.raw", "the photo of card one");
        card(&lab, "two.raw", "the photo of card two");
        copy(&lab, &["none", "--copy", "saved", "one.raw"], 0);
        let ran = lab.cdi(["files", "--mapfile", "none", "--copy", "saved", "two.raw"]).ends(5);
        assert!(ran.err.contains("files of another disk"), "{}", ran.err);
        let photo = "saved/fat16-CANON/IMG_0001.JPG";
        assert_eq!(lab.read(photo), b"the photo of card one");
        copy(&lab, &["none", "--copy", "saved", "one.raw"], 0);
    }

    #[needs(TOOLS)]
    fn partitions_are_found_without_their_table() {
        let lab = Lab::new();
        disk(&lab);
        let ran = lab.cdi(["files", "--json", "--all", "--mapfile", "bad.map", "disk.raw"]).ends(4);
        assert!(ran.err.contains("2 file systems found that no partition table lists"), "{}", ran.err);
        let list = ran.json();
        let first: Vec<_> = list["volumes"].as_array().unwrap().iter().map(|v| &v["first_sector"]).collect();
        assert_eq!(first, [2048, 17 * 2048]);
        // A copy is not whole as long as nobody knows what else there was.
        let copied = copy(&lab, &["bad.map", "--copy", "saved", "disk.raw"], 4);
        assert_eq!((&copied["whole"], &copied["not_saved"]), (&2.into(), &0.into()));
        let report: Value = serde_json::from_slice(&lab.read("saved/cdi-report.json")).unwrap();
        assert!(
            report["unknown"][0].as_str().unwrap().contains("partition table cannot be read"),
            "{report}"
        );
        // With the table they are the same volumes: nothing is copied twice.
        let copied = copy(&lab, &["none", "--copy", "saved", "disk.raw"], 0);
        assert_eq!(copied["whole"], 2);
        let names: Vec<_> =
            fs::read_dir(lab.path("saved")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(
            names.iter().filter(|n| n.to_str().unwrap().starts_with("sector")).count(),
            2,
            "{names:?}"
        );
        assert_eq!(names.len(), 5, "{names:?}");
        // A table that is there, and names what cannot be read.
        lab.write("bad.map", mapfile(34 * 2048, 512, &[(2050, 2)]));
        lab.cdi(["files", "--mapfile", "bad.map", "--partition", "1", "disk.raw"]).ends(4);
        lab.cdi(["files", "--mapfile", "bad.map", "--partition", "2", "disk.raw"]).ends(0);
    }

    #[needs(TOOLS)]
    fn the_report_has_what_all_runs_saved() {
        let lab = Lab::new();
        disk(&lab);
        copy(&lab, &["none", "--copy", "saved", "disk.raw", "letter.txt"], 0);
        let copied = copy(&lab, &["none", "--copy", "saved", "disk.raw", "*.jpg"], 0);
        assert_eq!(copied["whole"], 1);
        let report: Value = serde_json::from_slice(&lab.read("saved/cdi-report.json")).unwrap();
        assert_eq!((&report["whole"], &report["whole_bytes"]), (&2.into(), &15.into()));
    }

    #[needs(TOOLS)]
    fn links_are_what_they_were() {
        let lab = Lab::new();
        fs::create_dir_all(lab.path("from")).unwrap();
        symlink("somewhere", lab.path("from/link")).unwrap();
        symlink("elsewhere", lab.path("from/other")).unwrap();
        let (path, from) = (lab.path("disk.raw"), lab.path("from"));
        fs::File::create(&path).unwrap().set_len(8 * MIB).unwrap();
        run("mke2fs", ["-q", "-t", "ext4", "-d", from.to_str().unwrap(), path.to_str().unwrap()]);
        run("debugfs", ["-w", "-R", "ln link again", path.to_str().unwrap()]);
        copy(&lab, &["none", "--copy", "saved", "disk.raw"], 0);
        let target =
            |name: &str| fs::read_link(lab.path("saved/ext4").join(name)).unwrap().display().to_string();
        assert_eq!(["link", "again", "other"].map(target), ["somewhere", "somewhere", "elsewhere"]);
        // A link that leads elsewhere by now is replaced, a file in its place is not.
        let link = lab.path("saved/ext4/link");
        fs::remove_file(&link).unwrap();
        symlink("/etc", &link).unwrap();
        copy(&lab, &["none", "--copy", "saved", "disk.raw"], 0);
        assert_eq!(fs::read_link(&link).unwrap().to_str(), Some("somewhere"));
        fs::remove_file(&link).unwrap();
        fs::write(&link, "mine").unwrap();
        let copied = copy(&lab, &["none", "--copy", "saved", "disk.raw"], 4);
        assert_eq!((&copied["not_saved"], fs::read(&link).unwrap()), (&1.into(), b"mine".to_vec()));
    }

    /// What was not read yet is not called lost, nor what is lost, bad.
    #[needs(TOOLS)]
    fn what_was_not_read_yet_is_said_as_that() {
        let lab = Lab::new();
        card(&lab, "one.raw", &"photo ".repeat(2000));
        let raw = lab.read("one.raw");
        let at = raw.windows(12).position(|w| w == b"photo photo ").unwrap() / 512;
        let map = format!(
            "0x0 ? 1\n0x0 {0:#x} +\n{0:#x} 0x200 ?\n{1:#x} {2:#x} +\n",
            at * 512,
            at * 512 + 512,
            raw.len() - at * 512 - 512
        );
        lab.write("one.raw.map", &map);
        let ran = lab.cdi(["files", "one.raw"]).ends(4);
        assert!(ran.out.contains("1 not read yet (512 B not read yet)"), "{}", ran.out);
        assert!(!ran.out.contains("lost") && !ran.out.contains("bad"), "{}", ran.out);
        let sector = at.to_string();
        let ran = lab.cdi(["files", "--sector", &sector, "one.raw"]).ends(0);
        assert!(ran.out.contains("non-tried"), "{}", ran.out);
        lab.cdi(["files", "--copy", "saved", "one.raw"]).ends(4);
        let page = String::from_utf8(lab.read("saved/cdi-report.html")).unwrap();
        assert!(
            page.contains("512 B of it were not read yet") && page.contains("imaging may still save more")
        );
        // A pattern that matches nothing is said.
        assert!(lab.cdi(["files", "one.raw", "*.cr2"]).err.contains("no file matches"));
    }
);

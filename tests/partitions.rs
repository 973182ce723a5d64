//! Partitions: listed as the program lists them that made the table, and attached alone.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Lab, run};

/// Makes a disk of 64 MiB with a partition table by sfdisk.
fn partitioned(lab: &Lab, name: &str, script: &str) {
    let file = fs::File::create(lab.path(name)).unwrap();
    file.set_len(64 << 20).unwrap();
    let mut sfdisk =
        Command::new("sfdisk").arg("-q").arg(lab.path(name)).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut sfdisk.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success());
}

const GPT: &str = "label: gpt\nstart=2048,size=20480,type=L,name=\"first ü\"\nstart=24576,size=40960,type=U\n\
    start=70000,size=1000,type=S\n";

const MBR: &str = "label: dos\nstart=2048,size=20480,type=83\nstart=24576,size=60000,type=5\n\
    start=26624,size=10240,type=7\nstart=40000,size=2048,type=82\n";

tests!(
    #[needs(Program("sfdisk"), Fuse, Loop)]
    fn partitions_are_listed_as_by_sfdisk() {
        for (script, scheme) in [(GPT, "gpt"), (MBR, "mbr")] {
            let lab = Lab::new();
            partitioned(&lab, "disk.img", script);
            let json = lab.cdi(["attach", "--json", "disk.img"]).ends(0).json();
            lab.cdi(["detach", "--all"]).ends(0);
            assert_eq!(json["partition_table"], scheme);
            let theirs = run("sfdisk", ["--json", lab.path("disk.img").to_str().unwrap()]);
            let theirs: Value = serde_json::from_str(&theirs).unwrap();
            // Its own list has the extended partition, too, which only holds others.
            let node = |p: &Value| {
                p["node"].as_str().unwrap().trim_start_matches(|c: char| !c.is_ascii_digit()).to_owned()
            };
            let expect: Vec<(u64, u64, u64)> = theirs["partitiontable"]["partitions"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|p| p["type"] != "5")
                .map(|p| {
                    let number =
                        node(p).rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
                    (number, p["start"].as_u64().unwrap() * 512, p["size"].as_u64().unwrap() * 512)
                })
                .collect();
            let ours: Vec<(u64, u64, u64)> = json["partitions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|p| {
                    let number = |key: &str| p[key].as_u64().unwrap();
                    (number("number"), number("offset_bytes"), number("size_bytes"))
                })
                .collect();
            assert_eq!(ours, expect, "{scheme}");
            assert_eq!(lab.leftovers(), "");
        }
    }

    /// A disk that had a GPT and got a boot record later: the copy of the GPT at its end is still there.
    #[needs(Program("sfdisk"), Program("partx"), Fuse)]
    fn a_table_of_a_former_use_does_not_count() {
        let lab = Lab::new();
        partitioned(&lab, "disk.img", GPT);
        partitioned(&lab, "later.img", MBR);
        let mut bytes = lab.read("disk.img");
        bytes[..512].copy_from_slice(&lab.read("later.img")[..512]);
        lab.write("disk.img", &bytes);
        let theirs =
            run("partx", ["--raw", "-g", "-o", "NR,START,SECTORS", lab.path("disk.img").to_str().unwrap()]);
        let json = lab.cdi(["mount", "--json", "disk.img", "m"]).ends(0).json();
        lab.cdi(["unmount", "m"]).ends(0);
        assert_eq!(json["partition_table"], "mbr");
        let ours: Vec<String> = json["partitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| {
                let sectors = |key: &str| p[key].as_u64().unwrap() / 512;
                format!("{} {} {}", p["number"], sectors("offset_bytes"), sectors("size_bytes"))
            })
            .collect();
        // Theirs has the extended partition, too.
        let theirs: Vec<&str> = theirs.lines().filter(|line| !line.starts_with("2 ")).collect();
        assert_eq!(ours, theirs);
    }

    #[needs(Program("sfdisk"), Fuse)]
    fn a_table_in_bad_sectors_is_said() {
        let lab = Lab::new();
        partitioned(&lab, "disk.raw", MBR);
        for (bad, part, why) in [
            // The boot record; the link to the second logical partition.
            ("0 +\n0 0x200 -\n0x200 0x3FFFE00 +\n", "1", "cannot read the partition table: bad sector 0"),
            ("0 +\n0 0x1288000 +\n0x1288000 0x200 -\n0x1288200 0x2D77E00 +\n", "6", "no partition 6"),
        ] {
            lab.write("disk.map", bad);
            // Also where reads of bad sectors are filled.
            let ran = lab.cdi(["mount", "--bad", "zero", "--partition", part, "disk.raw", "m"]).ends(4);
            assert!(ran.err.contains(why) && ran.err.contains("bad sector"), "{}", ran.err);
            let json = lab.cdi(["mount", "--json", "--bad", "zero", "disk.raw", "m"]).ends(0).json();
            lab.cdi(["unmount", "m"]).ends(0);
            assert!(json["partition_table_error"].as_str().unwrap().starts_with("bad sector"), "{json}");
        }
    }

    #[needs(Program("sfdisk"), Fuse, Loop)]
    fn one_partition_is_attached_with_its_file_system_and_bad_sectors() {
        let lab = Lab::new();
        partitioned(&lab, "disk.raw", GPT);
        let image = lab.path("disk.raw");
        run("mke2fs", ["-q", "-E", "offset=1048576", image.to_str().unwrap(), "10240k"]);
        // One bad sector in it, one in another, and one in the first copy of the table, which the second one replaces.
        let map = "0 +\n0 0x400 +\n0x400 0x200 -\n0x600 0x5FFA00 +\n0x600000 0x200 -\n\
            0x600200 0x9FFE00 +\n0x1000000 0x200 -\n0x1000200 0x2FFFE00 +\n";
        lab.write("disk.map", map);
        lab.cdi(["create", "-q", "disk.raw", "disk.cdimg"]).ends(4);
        let device = lab.cdi(["attach", "--partition", "1", "disk.cdimg"]).ends(0).out.trim().to_owned();
        assert_eq!(run("blockdev", ["--getsize64", &device]).trim(), (10 << 20).to_string());
        let bad = fs::read_to_string(lab.path("run/mnt/disk/badblocks.json")).unwrap();
        let bad: Value = serde_json::from_str(&bad).unwrap();
        assert_eq!(bad["ranges"].as_array().unwrap().len(), 1, "{bad}");
        assert_eq!(bad["ranges"][0]["offset_bytes"], (6 << 20) - (1 << 20));
        let truth = lab.read("disk.raw");
        let shown = fs::File::open(&device).unwrap();
        let mut buf = vec![0; 1 << 20];
        std::os::unix::fs::FileExt::read_exact_at(&shown, &mut buf, 0).unwrap();
        assert!(buf == truth[1 << 20..2 << 20]);
        assert!(std::os::unix::fs::FileExt::read_exact_at(&shown, &mut buf[..512], 5 << 20).is_err());
        drop(shown);
        // The whole disk may be attached next to it; the same part not again.
        let again = lab.cdi(["attach", "--partition", "1", "disk.cdimg"]).ends(5);
        assert!(again.err.contains("already attached"), "{}", again.err);
        lab.cdi(["attach", "disk.cdimg"]).ends(0);
        let list = lab.cdi(["list"]).ends(0).out;
        assert!(list.starts_with("DEVICE") && list.contains("from byte 1048576"), "{list}");
        assert_eq!(
            lab.cdi(["detach", "--all", "--json"]).ends(0).json()["unmounted"].as_array().unwrap().len(),
            2
        );
        lab.cdi(["detach", "--all"]).ends(0);
        lab.cdi(["detach"]).ends(2);
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Fuse)]
    fn invalid_parts_of_a_disk_are_refused() {
        let lab = Lab::new();
        lab.image(2048, 512, &[]);
        for (words, why) in [
            (&["--partition", "1"][..], "no partition table"),
            (&["--offset", "100"], "not the start of a sector"),
            (&["--offset", "2M"], "after the end of the disk, which has 1048576 bytes"),
            (&["--offset", "512k", "--size", "1M"], "ends at byte 1572864, but the disk has 1048576 bytes"),
            (&["--size", "0"], "is empty"),
        ] {
            let ran = lab.cdi([&["mount", "disk.cdimg", "m"], words].concat()).ends(2);
            assert!(ran.err.contains(why), "{words:?}: {}", ran.err);
        }
        lab.cdi(["mount", "disk.cdimg", "m", "--partition", "1", "--size", "1M"]).ends(2);
        lab.cdi(["mount", "disk.cdimg", "m", "--offset", "512k", "--size", "700"]).ends(0);
        assert_eq!(fs::metadata(lab.path("m/disk.raw")).unwrap().len(), 700);
        let truth = lab.read("disk.raw");
        assert!(lab.read("m/disk.raw") == truth[512 << 10..][..700]);
        let info: Value = serde_json::from_slice(&lab.read("m/info.json")).unwrap();
        assert_eq!(info["metadata"]["part_of_disk"]["offset_bytes"], 512 << 10);
        assert!(info["metadata"]["sha256_zero_filled"].is_null(), "a hash of the whole disk");
        lab.cdi(["unmount", "m"]).ends(0);
        assert_eq!(lab.leftovers(), "");
    }
);

//! The block device is exact to the sector for every reader.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::common::{Lab, LoopDevice, blocks, mapfile, run, six_random_readers};

const SECTORS: u64 = 8192;

/// In mid-page, on a power of two, a run, last in its page, last on the disk.
const BAD: [(u64, u64); 5] = [(1001, 1), (2048, 1), (3000, 20), (5007, 1), (8191, 1)];

fn is_bad(lba: u64) -> bool {
    BAD.iter().any(|(first, count)| (*first..first + count).contains(&lba))
}

fn ddrescue(sectors: u64, sector: u64, bad: &[(u64, u64)]) {
    let lab = Lab::new();
    let truth = lab.image(sectors, sector, bad);
    let device = lab.attach(&[]);
    let size = format!("-b{sector}");
    for direction in [&[][..], &["-R"]] {
        let _ = fs::remove_file(lab.path("r.map"));
        let mut rescue = Command::new("ddrescue");
        rescue
            .args(["-q", "-d", &size])
            .args(direction)
            .arg(&device)
            .args([lab.path("r.raw"), lab.path("r.map")]);
        assert!(rescue.status().unwrap().success());
        let map = fs::read_to_string(lab.path("r.map")).unwrap();
        assert_eq!(blocks(&map), blocks(&mapfile(sectors, sector, bad)), "{direction:?}");
        let rescued = lab.read("r.raw");
        for (at, len, status) in blocks(&map) {
            // ddrescue's file ends with the last good block.
            let range = at as usize..(at + len) as usize;
            assert!(status != "+" || rescued[range.clone()] == truth[range], "{direction:?}: at {at}");
        }
    }
    lab.cdi(["detach"].iter().map(Path::new).chain([device.as_path()])).ends(0);
    assert_eq!(lab.leftovers(), "");
}

tests!(
    #[needs(Fuse, Loop, Program("ddrescue"))]
    fn ddrescue_finds_the_image_s_map_in_sectors_of_512() {
        ddrescue(SECTORS, 512, &BAD);
    }

    #[needs(Fuse, Loop, Program("ddrescue"))]
    fn ddrescue_finds_the_image_s_map_in_sectors_of_4096() {
        ddrescue(1024, 4096, &[(125, 1), (256, 1), (375, 5), (1023, 1)]);
    }

    #[needs(Fuse, Loop)]
    fn six_random_readers_see_no_wrong_byte_and_no_false_error() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &BAD);
        let device = lab.attach(&[]);
        six_random_readers(&device, &truth, is_bad);
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
    }

    #[needs(Fuse, Loop)]
    fn buffered_readers_lose_only_the_page_of_a_bad_sector() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &BAD);
        let device = lab.attach(&[]);
        let file = fs::File::open(&device).unwrap();
        let mut buf = [0; 4096];
        for page in 0..SECTORS / 8 {
            let bad = (page * 8..page * 8 + 8).any(is_bad);
            let read = file.read_exact_at(&mut buf, page * 4096);
            assert_eq!(read.is_err(), bad, "page {page}");
            assert!(bad || buf == truth[page as usize * 4096..][..4096], "page {page}");
        }
        drop(file);
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
    }

    #[needs(Fuse, Loop)]
    fn the_device_has_the_documented_settings() {
        let lab = Lab::new();
        lab.image(SECTORS, 512, &BAD);
        let device = lab.attach(&[]);
        for (what, expect) in [
            ("size", "8192"),
            ("ro", "1"),
            ("loop/dio", "1"),
            ("loop/partscan", "0"),
            ("loop/autoclear", "0"),
            ("queue/logical_block_size", "512"),
            ("queue/read_ahead_kb", "0"),
        ] {
            assert_eq!(sys(&device, what), expect, "{what}");
        }
        // `device` in the folder leads to it, until it is detached.
        let list = lab.cdi(["list", "--json"]).json();
        let dir = Path::new(list["mounts"][0]["mountpoint"].as_str().unwrap()).to_owned();
        assert_eq!(fs::read_link(dir.join("device")).unwrap(), device);
        // Linux lets root open a read-only device for writing; the write fails.
        if let Ok(file) = fs::File::options().write(true).open(&device) {
            assert!(file.write_at(&[0; 512], 0).is_err());
        }
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
        // Without bad sectors the kernel reads ahead; sectors of 4 KiB stay sectors of 4 KiB.
        fs::remove_file(lab.path("disk.cdimg")).unwrap();
        lab.image(1024, 4096, &[]);
        let device = lab.attach(&["--partscan"]);
        for (what, expect) in
            [("queue/logical_block_size", "4096"), ("queue/read_ahead_kb", "4096"), ("loop/partscan", "1")]
        {
            assert_eq!(sys(&device, what), expect, "{what}");
        }
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
        let device = lab.attach(&["--readahead", "128k"]);
        assert_eq!(sys(&device, "queue/read_ahead_kb"), "128");
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
    }

    #[needs(Fuse, Loop)]
    fn attach_prints_the_device_alone_and_exec_fills_it_in() {
        let lab = Lab::new();
        lab.image(SECTORS, 512, &BAD);
        let ran = lab.cdi(["attach", "disk.cdimg", "there"]).ends(0);
        let device = ran.out.strip_suffix('\n').unwrap().to_owned();
        assert!(device.starts_with("/dev/loop") && !device.contains('\n'), "{device:?}");
        assert!(lab.path("there/disk.raw").exists());
        // A second time is refused, because it might be meant otherwise; a folder makes it a second device.
        let again = lab.cdi(["attach", "disk.cdimg", "--bad", "zero"]).ends(5);
        assert!(again.err.contains("already attached") && again.err.contains(&device), "{}", again.err);
        let second =
            lab.cdi(["attach", "disk.cdimg", "second", "--bad", "zero"]).ends(0).out.trim().to_owned();
        assert_ne!(second, device);
        lab.cdi(["detach", "second/device"]).ends(0);
        lab.cdi(["detach", &device]).ends(0);
        lab.cdi(["detach", &device]).ends(0);
        lab.cdi(["detach", "there"]).ends(0);
        // exec: the device for {}, the folder for {dir}, the command's own code, and nothing left.
        let ran = lab
            .cdi([
                "exec",
                "disk.cdimg",
                "--",
                "sh",
                "-c",
                "blockdev --getsize64 {}; ls {dir} | wc -l; exit 7",
            ])
            .ends(7);
        assert_eq!(ran.out, "4194304\n5\n");
        let ran = lab.cdi(["exec", "disk.cdimg", "--", "sh", "-c", "kill -KILL $$"]).ends(137);
        assert_eq!(ran.out, "");
        lab.cdi(["exec", "disk.cdimg", "--", "no-such-program", "{}"]).ends(2);
        lab.cdi(["exec", "disk.cdimg"]).ends(2);
        // A device that the command left open is detached anyway.
        lab.cdi(["exec", "disk.cdimg", "--", "sh", "-c", "sleep 8 < {} > /dev/null 2>&1 &"]).ends(0);
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Fuse, Loop)]
    fn a_start_that_fails_leaves_nothing() {
        let lab = Lab::new();
        lab.image(SECTORS, 512, &BAD);
        // There is no losetup.
        let ran = lab.command().args(["attach", "disk.cdimg"]).env("PATH", "/nowhere").output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(6), "{said}");
        assert!(said.contains("losetup not found on this system"), "{said}");
        assert_eq!(lab.leftovers(), "");
        assert!(!lab.path("run/mnt").exists());
        // A losetup that fails, and one that gives a device of no size.
        fs::create_dir(lab.path("bin")).unwrap();
        lab.write("bin/losetup", "#!/bin/sh\necho losetup: failed >&2\nexit 1\n");
        run("chmod", [std::ffi::OsStr::new("+x"), lab.path("bin/losetup").as_os_str()]);
        let ran = lab
            .command()
            .args(["attach", "disk.cdimg"])
            .env("PATH", format!("{}:/bin", lab.path("bin").display()))
            .output()
            .unwrap();
        assert_eq!(ran.status.code(), Some(6));
        assert_eq!(lab.leftovers(), "");
        assert_eq!(lab.cdi(["list", "--json"]).json()["mounts"].as_array().unwrap().len(), 0);
    }

    #[needs(Fuse, Loop)]
    fn a_size_that_is_not_whole_sectors_is_reported() {
        let lab = Lab::new();
        lab.write("odd.raw", crate::common::disk(1_000_000));
        lab.cdi(["create", "odd.raw", "disk.cdimg"]).ends(0);
        let ran = lab.cdi(["attach", "disk.cdimg"]).ends(0);
        assert!(ran.err.contains("the device is 64 bytes shorter"), "{}", ran.err);
        assert_eq!(sys(Path::new(ran.out.trim()), "size"), (1_000_000u64 / 512).to_string());
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
        lab.write("tiny.raw", "tiny");
        lab.cdi(["create", "tiny.raw", "tiny.cdimg"]).ends(0);
        lab.cdi(["attach", "tiny.cdimg"]).ends(3);
        lab.cdi(["extract", "tiny.cdimg", "tiny2.raw"]).ends(0);
        assert_eq!(lab.read("tiny2.raw"), b"tiny");
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Fuse, Loop)]
    fn a_device_in_use_is_not_torn_down() {
        let lab = Lab::new();
        lab.image(SECTORS, 512, &BAD);
        let device = lab.attach(&[]);
        let held = fs::File::open(&device).unwrap();
        let ran = lab.cdi(["detach", "disk.cdimg"]).ends(5);
        assert!(
            ran.err.contains("is in use by") && ran.err.contains(&std::process::id().to_string()),
            "{}",
            ran.err
        );
        // Nothing has changed: it can be read, and is detached once it is closed.
        held.read_exact_at(&mut [0; 512], 512).unwrap();
        assert_eq!(sys(&device, "loop/autoclear"), "0");
        drop(held);
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Fuse, Loop)]
    fn the_contents_of_a_device_do_not_choose_the_format() {
        let lab = Lab::new();
        lab.image(SECTORS, 512, &BAD);
        let image = lab.path("disk.cdimg");
        let device = LoopDevice::new(&image, &["--read-only"]);
        let info = lab.cdi(["info", &device.path]).ends(3);
        let raw = lab.cdi(["info", "--json", "--format", "raw", &device.path]);
        assert!(
            info.err.contains("is a device that begins like a cdimg image")
                && info.err.contains("--format raw"),
            "{}",
            info.err
        );
        assert_eq!(raw.ends(0).json()["format"], "raw");
    }

    #[needs(Fuse, Loop)]
    fn the_demo_shows_the_main_job() {
        let lab = Lab::new();
        let ran = lab.cdi(["demo"]).ends(0);
        for word in [
            "attached it as /dev/loop",
            "read LETTER.TXT completely: 6144 bytes",
            "read PHOTO.RAW up to byte",
            "Input/output error",
            "detached and unmounted",
        ] {
            assert!(ran.out.contains(word), "{word} is not in {}", ran.out);
        }
        lab.cdi(["demo", "--keep", "kept"]).ends(0);
        lab.cdi(["verify", "kept/disk.cdimg"]).ends(0);
        assert_eq!(lab.cdi(["demo", "--json"]).ends(0).json()["good_file_bytes"], 6144);
        assert_eq!(lab.leftovers(), "");
    }
);

fn sys(device: &Path, what: &str) -> String {
    let name = device.file_name().unwrap().to_str().unwrap();
    fs::read_to_string(format!("/sys/block/{name}/{what}")).unwrap().trim().to_owned()
}

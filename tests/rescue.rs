//! Imaging of failing disks, with a simulated one.

mod dead_head;
mod failing_disk;
mod failures;
mod first;
mod like_ddrescue;
mod named_sectors;
mod shown;
mod simulated;
mod watched;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Lab, MountedDisk, Test, disk, mapfile, open_direct};
use failing_disk::{BAD, DISK, FailingDisk, SECTORS, is_right, lab, map_of};

/// The tests, by module.
pub const MODULES: &[&[Test]] = &[
    TESTS,
    dead_head::TESTS,
    failures::TESTS,
    first::TESTS,
    like_ddrescue::TESTS,
    named_sectors::TESTS,
    shown::TESTS,
    watched::TESTS,
];

tests!(
    #[needs(Fuse, Loop)]
    fn an_attached_image_is_imaged_with_its_bad_sectors() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &BAD);
        let device = lab.attach(&[]);
        lab.cdi(["create", device.to_str().unwrap(), "again.cdimg", "--json"]).ends(4);
        assert_eq!(map_of(&lab, "again.cdimg"), map_of(&lab, "disk.cdimg"));
        is_right(&lab, "again.cdimg", &truth, &BAD);
        lab.cdi(["detach", device.to_str().unwrap()]).ends(0);
    }

    #[needs(DISK)]
    fn an_unfinished_image_can_be_attached() {
        let (lab, truth) = lab(&[(16_000, 4)]);
        let disk = FailingDisk::new(&lab, &[], &[]);
        let ran =
            lab.cdi(["create", disk.path(), "disk.cdimg", "--max-read-errors", "0", "--json"]).ends(4).json();
        assert_eq!(ran["ended"], "too-many-errors");
        let info = lab.cdi(["info", "--json", "disk.cdimg"]).ends(0).json();
        assert!(info["warnings"][0].as_str().unwrap().contains("unfinished"), "{info}");
        // --force, which reads a disk in use, does not discard it.
        let ran = lab.cdi(["create", disk.path(), "disk.cdimg", "--force"]).ends(5);
        assert!(ran.err.contains("--resume"), "{}", ran.err);
        let device = lab.attach(&[]);
        let file = open_direct(&device);
        let mut buf = crate::common::Aligned::new(512);
        assert_eq!(file.read_at(buf.get(), 512 * 100).unwrap(), 512);
        assert_eq!(*buf.get(), truth[512 * 100..512 * 101]);
        // Untried places fail as bad ones do.
        let error = file.read_at(buf.get(), 512 * (SECTORS - 1)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5));
        drop(file);
        lab.cdi(["detach", device.to_str().unwrap()]).ends(0);
        lab.cdi(["create", disk.path(), "disk.cdimg", "--resume"]).ends(4);
        is_right(&lab, "disk.cdimg", &truth, &[(16_000, 4)]);
    }

    fn only_the_chosen_part_is_read() {
        let (lab, truth) = lab(&[]);
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg", "--input-position", "1M", "--size", "2M"])
            .ends(4);
        assert_eq!(
            map_of(&lab, "a.cdimg"),
            [(0, 1 << 20, "?".into()), (1 << 20, 2 << 20, "+".into()), (3 << 20, 13 << 20, "?".into())]
        );
        lab.write("domain.map", mapfile(SECTORS, 512, &[(8192, SECTORS - 8192)]));
        lab.cdi(["create", "disk.raw", "a.cdimg", "--resume", "--domain-mapfile", "domain.map"]).ends(4);
        assert_eq!(map_of(&lab, "a.cdimg"), [(0, 4 << 20, "+".into()), (4 << 20, 12 << 20, "?".into())]);
        lab.cdi(["create", "disk.raw", "a.cdimg", "--resume"]).ends(0);
        is_right(&lab, "a.cdimg", &truth, &[]);
        // A complete image is left as it is.
        let before = lab.cdi(["info", "--json", "a.cdimg"]).ends(0).json();
        lab.cdi(["create", "disk.raw", "a.cdimg", "--resume"]).ends(0);
        let after = lab.cdi(["info", "--json", "a.cdimg"]).ends(0).json();
        assert_eq!(before["metadata"]["sha256_zero_filled"], after["metadata"]["sha256_zero_filled"]);
        for words in [
            &["--input-position", "64M"][..],
            &["--input-position", "100"],
            &["--size", "700"],
            &["--mapfile", "domain.map"],
            &["--resume", "--from-mapfile", "domain.map"],
        ] {
            lab.cdi([&["create", "--rescue", "disk.raw", "b.cdimg"], words].concat()).ends(2);
            assert!(!lab.path("b.cdimg").exists());
        }
    }

    /// What is left is told with the command for it, and that command reads it.
    fn the_summary_says_how_to_go_on() {
        let lab = Lab::new();
        let name = OsStr::from_bytes(b"a b\xFF.raw");
        fs::write(lab.dir.join(name), disk(1 << 20)).unwrap();
        let create = |options: &[&str]| {
            let words = ["create", "--rescue"].iter().chain(options).map(OsStr::new);
            lab.cdi(words.chain([name]).chain([OsStr::new("r.cdimg")]))
        };
        let said = create(&["--size", "64k"]).ends(4).err;
        assert!(
            said.contains("all of 64.0 KiB rescued") && said.contains("960 KiB are missing outside"),
            "{said}"
        );
        assert!(said.contains("cdi create --resume 'a b\u{FFFD}.raw' r.cdimg"), "{said}");
        create(&["--resume"]).ends(0);
        // Of a complete image, nothing is left outside the part that is read again.
        let said = create(&["--resume", "--size", "64k"]).ends(0).err;
        assert!(!said.contains("missing") && !said.contains("to go on"), "{said}");
        // A name that is mistyped does not begin the disk again without a word.
        fs::remove_file(lab.path("r.cdimg")).unwrap();
        assert!(create(&["--resume"]).ends(0).err.contains("r.cdimg: there is no image to resume"));
    }

    fn an_image_is_not_resumed_from_a_disk_of_another_size() {
        let (lab, truth) = lab(&[]);
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg", "--size", "1M"]).ends(4);
        lab.write("smaller.raw", vec![1; 1 << 20]);
        lab.write("larger.raw", vec![1; 32 << 20]);
        let before = lab.read("a.cdimg");
        for other in ["smaller.raw", "larger.raw"] {
            let ran = lab.cdi(["create", other, "a.cdimg", "--resume"]).ends(2);
            assert!(ran.err.contains("the image is of a disk of 16777216"), "{}", ran.err);
        }
        assert_eq!(lab.read("a.cdimg"), before, "a refusal changes nothing");
        // Sectors that were read are compared; no option makes another disk acceptable.
        lab.cdi(["create", "smaller.raw", "a.cdimg", "--resume", "--force"]).ends(2);
        lab.cdi(["create", "larger.raw", "a.cdimg", "--resume", "--force"]).ends(2);
        lab.write("larger.raw", [truth, vec![1; 16 << 20]].concat());
        lab.cdi(["create", "larger.raw", "a.cdimg", "--resume", "--force"]).ends(0);
        // Only a .cdimg can be resumed.
        // As with ddrescue, an image that is not there is begun.
        lab.cdi(["create", "disk.raw", "none.cdimg", "--resume"]).ends(0);
        lab.cdi(["create", "disk.raw", "no/such/none.cdimg", "--resume"]).ends(1);
        fs::rename(lab.path("larger.raw"), lab.path("larger.cdimg")).unwrap();
        lab.cdi(["create", "disk.raw", "larger.cdimg", "--resume"]).ends(3);
        lab.cdi(["create", "--rescue", "disk.raw", "disk.raw", "--force"]).ends(2);
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg"]).ends(5);
    }

    #[needs(Program("flock"))]
    fn only_one_process_writes_an_image() {
        let (lab, _) = lab(&[]);
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg", "--size", "1M"]).ends(4);
        let mut holder =
            Command::new("flock").arg("-F").arg(lab.path("a.cdimg")).args(["sleep", "60"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let ran = lab.cdi(["create", "disk.raw", "a.cdimg", "--resume"]).ends(5);
        assert!(ran.err.contains("another process is writing"), "{}", ran.err);
        // Meanwhile it is neither overwritten nor compacted.
        lab.cdi(["create", "disk.raw", "a.cdimg", "--force"]).ends(5);
        lab.cdi(["compact", "a.cdimg"]).ends(5);
        let _ = holder.kill();
        holder.wait().unwrap();
        // The message names the option to use instead.
        let ran = lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg"]).ends(5);
        assert!(ran.err.contains("--resume"), "{}", ran.err);
    }

    fn two_processes_that_begin_an_image_leave_one() {
        let lab = Lab::new();
        lab.write("disk.raw", disk(1 << 20));
        for round in 0..10 {
            let image = format!("{round}.cdimg");
            let begin = || {
                lab.command().args(["create", "--resume", "disk.raw", &image]).stderr(Stdio::null()).spawn()
            };
            let both = [begin().unwrap(), begin().unwrap()];
            let codes = both.map(|mut process| process.wait().unwrap().code().unwrap());
            assert!(codes.contains(&0) && codes.iter().all(|code| matches!(code, 0 | 5)), "{codes:?}");
        }
        let names = fs::read_dir(&lab.dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        assert_eq!(names.filter(|name| name.contains("partial")).collect::<Vec<_>>(), [""; 0]);
    }

    #[needs(Loop, Program("mkfs.ext4"))]
    fn a_disk_in_use_is_refused() {
        let lab = Lab::new();
        fs::File::create(lab.path("disk.raw")).unwrap().set_len(16 << 20).unwrap();
        let disk = MountedDisk::ext4(&lab.path("disk.raw"), lab.path("mnt"));
        let ran = lab.cdi(["create", &disk.device.path, "a.cdimg"]).ends(5);
        assert!(ran.err.contains("the device is in use"), "{}", ran.err);
        lab.cdi(["create", &disk.device.path, "a.cdimg", "--force"]).ends(0);
    }

    fn map_draws_the_disk() {
        let (lab, _) = lab(&[]);
        lab.write("some.map", mapfile(SECTORS, 512, &BAD));
        lab.cdi(["create", "disk.raw", "a.cdimg", "--mapfile", "some.map"]).ends(4);
        let text = lab.cdi(["map", "a.cdimg"]).ends(0).out;
        let cells: String = text.lines().take(16).map(|l| l.split_whitespace().last().unwrap()).collect();
        assert_eq!(cells.len(), 1024);
        assert!(cells.starts_with('X') && cells.ends_with('X') && cells.contains(&"X".repeat(8)), "{text}");
        assert!(
            text.contains("# finished") && text.contains("X bad-sector") && !text.contains('\u{1b}'),
            "{text}"
        );
        let json = lab.cdi(["map", "--json", "a.cdimg"]).ends(0).json();
        assert_eq!(
            (json["cells"].as_str(), json["blocks"]["bad-sector"].as_u64()),
            (Some(&*cells), Some(610 * 512))
        );
        lab.cdi(["map", "a.cdimg", "--picture", "a.svg"]).ends(0);
        let svg = fs::read_to_string(lab.path("a.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("finished") && svg.ends_with("</svg>\n"));
        lab.cdi(["map", "a.cdimg", "--picture", "a.svg"]).ends(5);
        lab.cdi(["map", "a.cdimg", "--picture", "b.svg", "--bad"]).ends(2);
    }
);

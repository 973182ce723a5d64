//! Parity is added to what is there, or the image stays as it was.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cdi_image::cdimg::layout::Superblock;
use cdi_image::cdimg::parity::make::{append, protectable};
use cdi_image::cdimg::writer::Store;
use cdi_image::input::Input;

use crate::common::{Lab, Random, disk};
use crate::formats::cdimg::{compare, open};

use super::{descriptions, errors, lose, protected, whole};

/// A file in memory whose n-th change fails, after half of it.
#[derive(Clone)]
struct Breaking {
    bytes: Arc<Mutex<Vec<u8>>>,
    left: Arc<Mutex<u64>>,
    /// Whether nothing can be changed after that, as if the program had been killed.
    killed: bool,
}

impl Breaking {
    fn breaks(&self) -> bool {
        let mut left = self.left.lock().unwrap();
        let breaks = *left == 1 || (*left == 0 && self.killed);
        *left = left.saturating_sub(1);
        breaks
    }
}

impl Store for Breaking {
    fn write_all_at(&mut self, new: &[u8], at: u64) -> std::io::Result<()> {
        let at = at as usize;
        let was_broken = self.killed && *self.left.lock().unwrap() == 0;
        let breaks = self.breaks();
        let len = match (breaks, was_broken) {
            (false, _) => new.len(),
            (true, false) => new.len() / 2,
            (true, true) => 0,
        };
        let mut bytes = self.bytes.lock().unwrap();
        let end = bytes.len().max(at + len);
        bytes.resize(end, 0);
        bytes[at..at + len].copy_from_slice(&new[..len]);
        if breaks { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
    fn read_exact_at(&self, out: &mut [u8], at: u64) -> std::io::Result<()> {
        out.copy_from_slice(&self.bytes.lock().unwrap()[at as usize..][..out.len()]);
        Ok(())
    }
    fn sync(&mut self) -> std::io::Result<()> {
        if self.breaks() { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
    fn cut(&mut self, len: u64) -> std::io::Result<()> {
        if self.killed && *self.left.lock().unwrap() == 0 {
            return Err(std::io::Error::from_raw_os_error(5));
        }
        self.bytes.lock().unwrap().truncate(len as usize);
        Ok(())
    }
}

tests!(
    fn a_failing_or_killed_protect_leaves_the_image_as_it_was() {
        let lab = Lab::new();
        let truth = lab.image(2048, 512, &[(100, 3)]);
        let image = lab.read("disk.cdimg");
        let held = 2048 - 3;
        for killed in [false, true] {
            for n in 1.. {
                let bytes = Arc::new(Mutex::new(image.clone()));
                let store = Breaking { bytes: Arc::clone(&bytes), left: Arc::new(Mutex::new(n)), killed };
                let input = Input::new(Box::new(image.clone()), Path::new("disk.cdimg")).unwrap();
                let superblock = protectable(&input).unwrap();
                let path = Path::new("disk.cdimg");
                let made = append(Box::new(store), &input, &superblock, path, 500, 2, &mut |_| Ok(()));
                let after = bytes.lock().unwrap().clone();
                let what = format!("change {n}, killed: {killed}");
                let disk = open(after.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(compare(&disk, &truth, &what), held, "{what}");
                if made.is_ok() {
                    assert_eq!(errors(&disk), 0, "{what}");
                    break;
                }
                // A torn superblock is seen; anything else is as if nothing had happened, or as if all had.
                let torn = [0, 65536].iter().any(|at| Superblock::parse(&after[*at..]).is_none());
                assert_eq!(errors(&disk) > 0, torn, "{what}");
                // It can be done again, and what was left over is no part of it.
                if !torn {
                    lab.write("again.cdimg", &after);
                    lab.cdi(["protect", "again.cdimg"]).ends(0);
                    lab.cdi(["verify", "again.cdimg"]).ends(0);
                }
            }
        }
    }

    fn an_interrupted_protect_leaves_the_image_as_it_was() {
        let lab = Lab::new();
        lab.image(2048, 512, &[]);
        let image = lab.read("disk.cdimg");
        for n in 0..6 {
            let path = lab.path("disk.cdimg");
            let file = fs::File::options().read(true).write(true).open(&path).unwrap();
            let mut left = n;
            let ended = cdi_capture::protect::protect(&file, &path, 500, &mut |_| {
                left -= 1;
                if left < 0 { Err(cdi_base::error::Error::failed("interrupted")) } else { Ok(()) }
            });
            match ended {
                Err(_) => assert!(lab.read("disk.cdimg") == image, "step {n}"),
                Ok(_) => assert!(n > 2),
            }
            lab.write("disk.cdimg", &image);
        }
    }

    fn protecting_twice_changes_nothing_and_another_size_replaces() {
        let (lab, truth, image) = protected(4 << 20, "5%", &[]);
        let again = lab.cdi(["protect", "disk.cdimg", "--json"]).ends(0).json();
        assert_eq!((&again["changed"], &again["parity"]["percent"]), (&false.into(), &5.0.into()));
        assert!(lab.read("disk.cdimg") == image);
        let more = lab.cdi(["protect", "disk.cdimg", "--parity", "12.5", "--json"]).ends(0).json();
        assert_eq!((&more["changed"], &more["parity"]["percent"]), (&true.into(), &12.5.into()));
        assert_eq!(more["image_bytes"], lab.read("disk.cdimg").len());
        lab.cdi(["verify", "disk.cdimg"]).ends(0);
        let mut bytes = lab.read("disk.cdimg");
        let lost = bytes.len() / 10;
        lose(&mut bytes, 128 << 10, lost, &[4096], &mut Random::new(2));
        whole(bytes.clone(), &truth, "12.5 %");
        // Damage would become part of what is protected.
        lab.write("disk.cdimg", &bytes);
        let ran = lab.cdi(["protect", "disk.cdimg"]).ends(3);
        assert!(ran.err.contains("repair"), "{}", ran.err);
        assert!(lab.read("disk.cdimg") == bytes);
    }

    fn damage_does_not_get_parity() {
        let lab = Lab::new();
        lab.image(8192, 512, &[]);
        let image = lab.read("disk.cdimg");
        for at in [200_000, image.len() / 2, image.len() - 3000] {
            let mut bytes = image.clone();
            bytes[at] ^= 1;
            lab.write("damaged.cdimg", &bytes);
            let ran = lab.cdi(["protect", "damaged.cdimg"]).ends(3);
            assert!(ran.err.contains("is damaged") && ran.err.contains("repair"), "{}", ran.err);
            assert!(lab.read("damaged.cdimg") == bytes);
        }
        // Nor does it stay unnoticed where parity restores it.
        let (lab, _, mut bytes) = protected(4 << 20, "5%", &[]);
        bytes[300_000] ^= 1;
        lab.write("damaged.cdimg", &bytes);
        lab.cdi(["protect", "damaged.cdimg"]).ends(3);
        assert!(lab.read("damaged.cdimg") == bytes);
    }

    fn an_image_that_is_rewritten_keeps_its_parity() {
        let (lab, truth, _) = protected(4 << 20, "7%", &[]);
        lab.cdi(["compact", "disk.cdimg", "new.cdimg"]).ends(0);
        lab.cdi(["repair", "disk.cdimg", "repaired.cdimg"]).ends(0);
        lab.cdi(["protect", "disk.cdimg", "--parity", "9%"]).ends(0);
        lab.cdi(["compact", "disk.cdimg"]).ends(0);
        for (name, percent) in [("new.cdimg", 7.0), ("repaired.cdimg", 7.0), ("disk.cdimg", 9.0)] {
            let info = lab.cdi(["info", "--json", name]).ends(0).json();
            assert_eq!(info["parity"]["percent"], percent, "{name}");
            lab.cdi(["verify", name]).ends(0);
            let mut bytes = lab.read(name);
            let lost = bytes.len() / 20;
            lose(&mut bytes, 128 << 10, lost, &[4096], &mut Random::new(4));
            whole(bytes, &truth, name);
        }
    }

    fn what_is_added_later_is_not_covered_until_it_is_protected() {
        let lab = Lab::new();
        let truth = disk(8 << 20);
        lab.write("disk.raw", &truth);
        lab.cdi(["create", "--rescue", "--size", "4M", "disk.raw", "disk.cdimg", "--parity", "10%"]).ends(4);
        let first = lab.read("disk.cdimg");
        assert_eq!(descriptions(&first).len(), 2);
        lab.cdi(["create", "--resume", "disk.raw", "disk.cdimg"]).ends(0);
        let resumed = lab.read("disk.cdimg");
        assert!(resumed[131_072..first.len()] == first[131_072..], "records were changed");
        let info = lab.cdi(["info", "disk.cdimg"]).ends(0);
        assert!(info.out.contains("what follows is not"), "{}", info.out);
        // What was covered is restored, what follows is an error.
        let covered = first.len() * 9 / 10;
        let mut bytes = resumed.clone();
        lose(&mut bytes[..covered], 128 << 10, covered / 20, &[4096], &mut Random::new(4));
        let disk = whole(bytes.clone(), &truth, "resumed");
        assert!(disk.stats().restored_bytes > 0);
        lab.write("damaged.cdimg", &bytes);
        lab.cdi(["repair", "damaged.cdimg", "repaired.cdimg"]).ends(0);
        whole(lab.read("repaired.cdimg"), &truth, "repaired");
        let middle = first.len() + (resumed.len() - first.len()) / 2;
        bytes[middle..middle + 5000].fill(0);
        let disk = open(bytes).unwrap();
        let good = compare(&disk, &truth, "damage after the parity");
        assert!((1..truth.len() as u64 / 512).contains(&good));
        // Without any superblock, the parity alone must not be taken for the end of the image.
        for slots in [&[0, 65536][..], &[0], &[65536]] {
            let mut bytes = resumed.clone();
            slots.iter().for_each(|at| bytes[*at..at + 512].fill(0));
            let last = bytes.len() - 512;
            bytes[last..].fill(0);
            lab.write("headless.cdimg", &bytes);
            lab.cdi(["repair", "headless.cdimg", "headed.cdimg", "--discard-unfinished", "--force"]).ends(0);
            whole(lab.read("headed.cdimg"), &truth, "without superblocks");
        }
        // Now all of it is.
        lab.cdi(["create", "--resume", "disk.raw", "disk.cdimg", "--parity", "10%"]).ends(0);
        let mut bytes = lab.read("disk.cdimg");
        assert!(bytes.len() > resumed.len());
        let lost = bytes.len() / 20;
        lose(&mut bytes, 128 << 10, lost, &[4096], &mut Random::new(4));
        whole(bytes, &truth, "protected again");
    }

    fn other_files_are_refused_and_stay_as_they_are() {
        let lab = Lab::new();
        lab.write("disk.raw", disk(2 << 20));
        let ran = lab.cdi(["protect", "disk.raw"]).ends(3);
        assert!(ran.err.contains("not a .cdimg"), "{}", ran.err);
        for percent in ["0", "101", "5.001", "x", "-1", "", "%"] {
            lab.cdi(["protect", "disk.raw", &format!("--parity={percent}")]).ends(2);
        }
        lab.image(2048, 512, &[]);
        let mut bytes = lab.read("disk.cdimg");
        let superblock = if bytes[56] > bytes[65536 + 56] { 0 } else { 65536 };
        bytes[superblock + 12] = 1;
        let sum = xxhash_rust::xxh3::xxh3_64(&bytes[superblock..superblock + 504]).to_le_bytes();
        bytes[superblock + 504..superblock + 512].copy_from_slice(&sum);
        lab.write("unfinished.cdimg", &bytes);
        let ran = lab.cdi(["protect", "unfinished.cdimg"]).ends(3);
        assert!(ran.err.contains("unfinished") && ran.err.contains("--resume"), "{}", ran.err);
        assert!(lab.read("unfinished.cdimg") == bytes);
    }

    fn images_of_stdin_and_reproducible_images_have_parity() {
        let lab = Lab::new();
        let truth = disk(3 << 20);
        lab.write("disk.raw", &truth);
        let command = format!("cat disk.raw | {} create - in.cdimg --parity 5%", env!("CARGO_BIN_EXE_cdi"));
        let ran =
            std::process::Command::new("sh").args(["-c", &command]).current_dir(&lab.dir).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let mut bytes = lab.read("in.cdimg");
        bytes[150_000..160_000].fill(0);
        whole(bytes, &truth, "stdin");
        for name in ["a.cdimg", "b.cdimg"] {
            lab.cdi(["create", "disk.raw", name, "--reproducible", "--parity", "5%"]).ends(0);
        }
        assert!(lab.read("a.cdimg") == lab.read("b.cdimg"));
    }
);

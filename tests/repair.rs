//! Damaged images (truncated, zeroed, with flipped bits) are right or an error, and are repaired.

use std::fs;
use std::sync::Arc;

use cdi_image::cdimg::writer::Writer;
use cdi_image::codec::Codec;
use cdi_image::input::Input;

use crate::common::{Lab, Random, disk, mapfile};
use crate::formats::cdimg::{compare, open};

const SECTOR: usize = 512;
const SECTORS: usize = 300;
const CHUNK: u32 = 4096;

/// A disk of 4 MiB with bad sectors, and its image.
fn image() -> (Lab, Vec<u8>, Vec<u8>) {
    let lab = Lab::new();
    let truth = disk(4 << 20);
    lab.write("disk.raw", &truth);
    lab.write("disk.map", mapfile(8192, 512, &[(1000, 3), (5000, 200)]));
    lab.cdi(["create", "disk.raw", "disk.cdimg", "--mapfile", "disk.map", "--chunk", "16k"]).ends(4);
    let image = lab.read("disk.cdimg");
    (lab, truth, image)
}

/// How many sectors an image gives; wrong ones are a failure.
fn given(bytes: Vec<u8>, truth: &[u8], what: &str) -> Option<usize> {
    let disk = open(bytes).ok()?;
    Some(compare(&disk, truth, what) as usize)
}

/// Returns the ranges that a repair reports as lost.
fn lost_of(ran: &serde_json::Value) -> usize {
    let maybe = if ran["uncertain"] == true { ran["unread_bytes"].as_u64().unwrap() } else { 0 };
    (ran["lost_bytes"].as_u64().unwrap() + maybe) as usize
}

tests!(
    fn a_truncated_image_is_right_or_an_error() {
        let (_lab, truth, image) = image();
        let random = &mut Random::new(1);
        let mut at = 131_072;
        let mut ends = Vec::new();
        while at + 64 <= image.len() {
            let stored = u32::from_le_bytes(image[at + 40..at + 44].try_into().unwrap()) as usize;
            at = (at + 64 + stored).next_multiple_of(8);
            ends.extend([at, at - 1, at + 1]);
        }
        ends.extend((0..60).map(|_| random.below(image.len() as u64) as usize));
        for end in ends.into_iter().filter(|end| *end < image.len()) {
            given(image[..end].to_vec(), &truth, &format!("cut off at {end}"));
        }
        for (from, to) in [(0, 65_536), (image.len() - 65_536, image.len())] {
            let mut bytes = image.clone();
            bytes[from..to].fill(0);
            given(bytes, &truth, "zeroed");
        }
    }

    fn ten_thousand_bit_flips_are_right_or_an_error() {
        let (_lab, truth, image) = image();
        let wrong = |seed: u64| {
            let random = &mut Random::new(seed);
            let mut bytes = image.clone();
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
            // Where the flip is, and at some other places.
            let Ok(disk) = open(bytes) else { return };
            for _ in 0..4 {
                let sector = random.below(8192 - 64) as usize;
                let mut buf = vec![0; 64 * SECTOR];
                if disk.read_at(&mut buf, (sector * SECTOR) as u64).is_ok() {
                    assert!(
                        buf == truth[sector * SECTOR..][..64 * SECTOR],
                        "CDI_SEED={seed}: sector {sector}"
                    );
                }
            }
        };
        std::thread::scope(|scope| {
            let wrong = &wrong;
            scope.spawn(move || (0..5000).for_each(wrong));
            scope.spawn(move || (5000..10_000).for_each(wrong));
        });
        // Of some every sector.
        for seed in 20_000..20_100 {
            let random = &mut Random::new(seed);
            let mut bytes = image.clone();
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
            given(bytes, &truth, &format!("flip {seed}"));
        }
    }

    fn repair_saves_every_intact_chunk() {
        let (lab, truth, image) = image();
        let all = given(image.clone(), &truth, "whole").unwrap();
        assert_eq!(all, 8192 - 203);
        let repair = |bytes: &[u8], code: i32| {
            lab.write("broken.cdimg", bytes);
            let ran = lab
                .cdi(["repair", "broken.cdimg", "out.cdimg", "--discard-unfinished", "--json"])
                .ends(code)
                .json();
            assert!(lab.read("broken.cdimg") == bytes, "the original was changed");
            let out = lab.read("out.cdimg");
            let given = given(out, &truth, "repaired").unwrap();
            lab.cdi(["verify", "out.cdimg"]).ends(0);
            (ran, given)
        };
        // Truncated: everything in the rest of the file is there.
        for percent in [99, 50] {
            let (ran, got) = repair(&image[..image.len() * percent / 100], 4);
            assert!(got < all && lost_of(&ran) >= (all - got) * SECTOR, "{ran}");
        }
        // Without its superblocks, all of it is.
        let mut bytes = image.clone();
        bytes[..131_072].fill(0);
        let (ran, got) = repair(&bytes, 0);
        assert_eq!((ran["lost_bytes"].as_u64(), got), (Some(0), all));
        let last = bytes.len() - 65_536;
        bytes[last..].fill(0);
        assert!(repair(&bytes, 4).1 > 0);
        // An intact image is the same afterwards.
        let (ran, got) = repair(&image, 0);
        assert_eq!((ran["damaged_records"].as_u64(), got), (Some(0), all));
        // A damaged chunk is lost, by name.
        let mut bytes = image.clone();
        bytes[140_000] ^= 1;
        let (ran, got) = repair(&bytes, 4);
        assert_eq!(ran["lost_bytes"].as_u64(), Some(((all - got) * SECTOR) as u64));
        assert!(ran["lost_bytes"].as_u64().unwrap() <= 16_384);
        let lost = &ran["lost"][0];
        let bad = lab.cdi(["map", "--bad", "--json", "out.cdimg"]).ends(0).json();
        let ranges = bad["ranges"].as_array().unwrap();
        let untried = ranges.iter().find(|r| r["status"] == "non-tried").unwrap();
        assert_eq!(
            (&untried["offset_bytes"], &untried["length_bytes"]),
            (&lost["offset_bytes"], &lost["length_bytes"])
        );
        // With the disk, lost parts are read again.
        lab.cdi(["create", "disk.raw", "out.cdimg", "--resume", "--mapfile", "none"]).ends(4);
        assert_eq!(given(lab.read("out.cdimg"), &truth, "resumed"), Some(all));
        // An image within an image is not mistaken for it.
        lab.write("nested.raw", &image);
        lab.cdi(["create", "--format", "raw", "nested.raw", "outer.cdimg", "--codec", "none"]).ends(0);
        let mut outer = lab.read("outer.cdimg");
        outer[..131_072].fill(0);
        lab.write("broken.cdimg", &outer);
        lab.cdi(["repair", "broken.cdimg", "out.cdimg", "--discard-unfinished"]).ends(0);
        lab.cdi(["extract", "out.cdimg", "nested.out"]).ends(0);
        assert!(lab.read("nested.out") == image);
        // A file that is not an image is not repaired, and the attempt leaves no file.
        lab.write("nothing", vec![7; 300_000]);
        lab.cdi(["repair", "nothing", "none.cdimg"]).ends(3);
        assert!(!lab.path("none.cdimg").exists());
        lab.cdi(["repair", "disk.cdimg", "disk.cdimg", "--force"]).ends(2);
        // Random damage: no wrong byte comes out, and repair says no less than it lost.
        for seed in 0..40 {
            let random = &mut Random::new(seed);
            let mut bytes = image.clone();
            for _ in 0..=random.below(20) {
                let at = 131_072 + random.below(bytes.len() as u64 - 131_072) as usize;
                let end = (at + 1 + random.below(3000) as usize).min(bytes.len());
                bytes[at..end].iter_mut().for_each(|b| *b = random.next() as u8);
            }
            lab.write("broken.cdimg", &bytes);
            let ran = lab.cdi(["repair", "broken.cdimg", "out.cdimg", "--discard-unfinished", "--json"]);
            if ran.code == 3 {
                continue;
            }
            let lost = lost_of(&ran.json());
            let got = given(lab.read("out.cdimg"), &truth, &format!("seed {seed}")).unwrap();
            assert!(
                got * SECTOR + lost >= all * SECTOR,
                "seed {seed}: {got} sectors, {lost} bytes lost, of {all}"
            );
        }
    }

    /// What the map calls bad may have been read since, where a later map is lost.
    fn what_a_lost_map_may_hide_is_not_passed_off_as_saved() {
        let (lab, _, image) = image();
        let resume =
            ["create", "disk.raw", "disk.cdimg", "--resume", "--mapfile", "none", "--retry-passes", "1"];
        lab.cdi(resume).ends(0);
        let resumed = lab.read("disk.cdimg");
        for end in [image.len() + 100, image.len().midpoint(resumed.len())] {
            lab.write("broken.cdimg", &resumed[..end]);
            let ran =
                lab.cdi(["repair", "broken.cdimg", "out.cdimg", "--discard-unfinished", "--json"]).ends(4);
            assert!(ran.err.contains("missing at the end of the file"), "{}", ran.err);
            let ran = ran.json();
            assert_eq!((&ran["uncertain"], lost_of(&ran)), (&true.into(), 203 * SECTOR), "{ran}");
        }
        // Where everything is there, nothing is uncertain.
        let ran = lab.cdi(["repair", "disk.cdimg", "whole.cdimg", "--json"]).ends(0).json();
        assert_eq!((&ran["uncertain"], lost_of(&ran)), (&false.into(), 0), "{ran}");
    }

    /// Reads find a chunk by the index, so repair does, too.
    fn chunks_whose_headers_are_lost_are_saved_by_the_index() {
        let (lab, truth, image) = image();
        let all = given(image.clone(), &truth, "whole").unwrap();
        let (mut bytes, mut at, mut changed) = (image.clone(), 131_072, 0);
        while at + 64 <= bytes.len() {
            let stored = u32::from_le_bytes(bytes[at + 40..at + 44].try_into().unwrap()) as usize;
            if bytes[at + 52] == 1 {
                bytes[at + 16] ^= 1;
                changed += 1;
            }
            at = (at + 64 + stored).next_multiple_of(8);
        }
        assert!(changed > 10, "{changed}");
        lab.write("broken.cdimg", &bytes);
        let ran = lab.cdi(["repair", "broken.cdimg", "out.cdimg", "--json"]).ends(0).json();
        assert_eq!((lost_of(&ran), &ran["uncertain"]), (0, &false.into()), "{ran}");
        assert_eq!(given(lab.read("out.cdimg"), &truth, "repaired"), Some(all));
        let hash =
            |name: &str| lab.cdi(["info", "--json", name]).json()["metadata"]["blake3_rescued"].clone();
        assert!(hash("out.cdimg") == hash("disk.cdimg") && hash("out.cdimg").is_string());
        assert_eq!(lab.cdi(["map", "--bad", "out.cdimg"]).out, lab.cdi(["map", "--bad", "disk.cdimg"]).out);
    }

    /// The first of an image's uncommitted records is damaged: commands that would drop the others refuse; resuming and
    /// repairing keep them.
    fn records_after_damage_are_not_thrown_away() {
        let lab = Lab::new();
        let truth = disk((SECTORS * SECTOR) as u64);
        lab.write("disk.raw", &truth);
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg", "--size", "4k", "--chunk", "4k"]).ends(4);
        let path = lab.path("a.cdimg");
        let input = Arc::new(Input::open(&path).unwrap());
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        let (mut writer, _) = Writer::resume(Box::new(file), &input, &path).unwrap();
        let damage_at = writer.end() as usize + 70;
        for chunk in 1..4u64 {
            let at = chunk * u64::from(CHUNK);
            let bytes = &truth[at as usize..][..CHUNK as usize];
            writer.put_data(at, CHUNK, Codec::Stored, bytes).unwrap();
        }
        writer.write_out().unwrap();
        drop(writer);
        let mut bytes = fs::read(&path).unwrap();
        bytes[damage_at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let ran = lab.cdi(["compact", "a.cdimg"]).ends(3);
        assert!(ran.err.contains("cdi repair"), "{}", ran.err);
        assert!(fs::read(&path).unwrap() == bytes, "a refusal changes nothing");
        lab.cdi(["repair", "a.cdimg", "b.cdimg"]).ends(4);
        let three = 3 * CHUNK as usize / SECTOR;
        assert_eq!(given(lab.read("b.cdimg"), &truth, "repaired"), Some(three));
        lab.cdi(["create", "disk.raw", "a.cdimg", "--resume", "--size", "4k"]).ends(4);
        assert_eq!(given(fs::read(&path).unwrap(), &truth, "resumed"), Some(three));
        lab.cdi(["create", "disk.raw", "a.cdimg", "--resume"]).ends(0);
        assert_eq!(given(fs::read(&path).unwrap(), &truth, "whole"), Some(SECTORS));
    }

    /// Of a disk that is alike everywhere, a file of 99 % holds 99 %.
    fn repair_of_99_percent_of_an_image_saves_99_percent_of_the_disk() {
        let lab = Lab::new();
        let mut truth = disk(16 << 20);
        let random = &mut Random::new(3);
        truth.chunks_mut(2).for_each(|pair| pair[0] = random.next() as u8);
        lab.write("disk.raw", &truth);
        lab.cdi(["create", "disk.raw", "disk.cdimg"]).ends(0);
        let image = lab.read("disk.cdimg");
        let cut = &image[..image.len() * 99 / 100];
        assert_eq!(given(cut.to_vec(), &truth, "cut off"), None, "its index is gone");
        lab.write("cut.cdimg", cut);
        lab.cdi(["repair", "cut.cdimg", "out.cdimg"]).ends(4);
        let got = given(lab.read("out.cdimg"), &truth, "repaired").unwrap();
        let all = truth.len() / SECTOR;
        assert!(got * 100 >= all * 99 && got < all, "{got} of {all}");
    }
);

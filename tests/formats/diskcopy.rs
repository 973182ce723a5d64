//! DiskCopy 4.2.

use super::{extracted, path, truth, verified};
use crate::common::{Lab, disk, run};
use crate::makers::diskcopy;

/// Tags of 800 KB.
fn tags() -> Vec<u8> {
    disk(20 << 10)[..1600 * 12].to_vec()
}

tests!(
    #[needs(Program("floptool"))]
    fn images_by_mame_are_read_and_their_checksums_match() {
        let lab = Lab::new();
        for kib in [400, 800] {
            let disk = disk(kib << 10);
            lab.write("disk.img", &disk);
            lab.write("ours.dc42", diskcopy(&disk, &vec![0; disk.len() / 512 * 12]));
            let words = ["flopconvert", "apple_gcr", "dc42"].map(str::to_owned);
            run("floptool", words.into_iter().chain([path(&lab, "disk.img"), path(&lab, "mame.dc42")]));
            assert!(extracted(&lab, "mame.dc42", 0) == disk);
            assert_eq!(verified(&lab, "mame.dc42", 0)["stored_hashes"][0]["matches"], true);
            // The writer of these tests: the same disk for MAME, and but for its name the same image.
            let words = ["flopconvert", "dc42", "apple_gcr"].map(str::to_owned);
            run("floptool", words.into_iter().chain([path(&lab, "ours.dc42"), path(&lab, "mame.img")]));
            assert!(lab.read("mame.img") == disk);
            assert_eq!(lab.read("ours.dc42")[64..80], lab.read("mame.dc42")[64..80]);
        }
    }

    fn tags_are_left_out_with_a_warning_and_checked() {
        let lab = Lab::new();
        let floppy = disk(800 << 10);
        let image = diskcopy(&floppy, &tags());
        lab.write("a.dc42", &image);
        assert!(extracted(&lab, "a.dc42", 0) == floppy);
        let info = lab.cdi(["info", "--json", "a.dc42"]).ends(0).json();
        assert_eq!(
            (&info["format"], &info["metadata"]["volume_name"]),
            (&"diskcopy".into(), &"My D?sk!".into())
        );
        assert!(
            info["warnings"][0]
                .as_str()
                .unwrap()
                .contains("left out: the tags of the disk (18.8 KiB, 12 bytes")
        );
        assert_eq!(verified(&lab, "a.dc42", 0)["stored_hashes"][0]["hash"], "DiskCopy checksum");
        // A changed byte of the tags, and of the disk.
        let mut changed = image.clone();
        *changed.last_mut().unwrap() ^= 1;
        lab.write("b.dc42", &changed);
        let said = verified(&lab, "b.dc42", 4);
        assert!(
            said["errors"][0]["what"].as_str().unwrap().contains("checksum mismatch of the tags"),
            "{said}"
        );
        assert_eq!(said["stored_hashes"][0]["matches"], true);
        let mut changed = image.clone();
        changed[84 + 777] ^= 1;
        lab.write("b.dc42", &changed);
        assert_eq!(verified(&lab, "b.dc42", 4)["stored_hashes"][0]["matches"], false);
        // Without tags.
        lab.write("c.dc42", diskcopy(&floppy, &[]));
        let info = lab.cdi(["info", "--json", "c.dc42"]).ends(0).json();
        assert_eq!(info["warnings"], serde_json::json!([]));
        verified(&lab, "c.dc42", 0);
    }

    fn only_a_header_that_fits_the_file_is_one() {
        let lab = Lab::new();
        let image = diskcopy(&truth(), &[]);
        let info = |name: &str, options: &[&str], code: i32| {
            lab.cdi([&["info", name], options].concat()).ends(code).err
        };
        // Of a file that is named as raw, the user decides.
        lab.write("a.img", &image);
        assert!(info("a.img", &[], 3).contains("its name says raw, but it begins like a diskcopy image"));
        info("a.img", &["--format", "diskcopy"], 0);
        assert_eq!(
            lab.cdi(["info", "--json", "a.img", "--format", "raw"]).ends(0).json()["size_bytes"],
            image.len()
        );
        // One byte more or less, and it is none; but with its name it is, or what it lacks is said.
        lab.write("b.img", [&image[..], &[0]].concat());
        assert_eq!(lab.cdi(["info", "--json", "b.img"]).ends(0).json()["format"], "raw");
        lab.write("b.dc42", [&image[..], &[0]].concat());
        assert!(info("b.dc42", &[], 0).contains("ignoring 1 bytes after the end"));
        lab.write("b.dc42", &image[..image.len() - 1]);
        assert!(info("b.dc42", &[], 3).contains("at byte 64: disk and tags end at byte"));
        let changed = |at: usize, value: u8, expected: &str| {
            let mut bytes = image.clone();
            bytes[at] = value;
            lab.write("b.dc42", bytes);
            let said = info("b.dc42", &[], 3);
            assert!(said.contains(expected), "{said}");
        };
        changed(82, 2, "at byte 82: not a DiskCopy 4.2 image");
        changed(67, 1, "at byte 64: invalid disk size: 1048577 bytes");
        changed(71, 1, "at byte 68: 1 bytes of tags do not belong to 2048 sectors");
    }
);

//! EnCase's second format (Ex01).

use std::fs;

use super::ewf::{self, name, right_or_lost};
use super::{extracted, truth, verified};
use crate::common::{Lab, disk};
use crate::makers;

tests!(
    fn patterns_and_read_errors_are_read() {
        let lab = Lab::new();
        let mut truth = truth();
        truth[100 * 512..104 * 512].fill(0);
        truth.truncate((1 << 20) - 3 * 512);
        lab.write("a.Ex01", makers::ex01(&truth, &[(100, 4), (600, 2)]));
        assert_eq!(verified(&lab, "a.Ex01", 0)["stored_hashes"][0]["matches"], true);
        let bad = lab.cdi(["map", "--bad", "--json", "a.Ex01"]).ends(0).json();
        let told: Vec<_> = bad["ranges"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| (r["first_sector"].clone(), r["status"].clone()))
            .collect();
        // Zeroed sectors cannot be distinguished from unreadable ones; others are suspect.
        assert_eq!(told, [(100.into(), "bad-sector".into()), (600.into(), "suspect".into())]);
        let info = lab.cdi(["info", "--json", "a.Ex01"]).ends(0).json();
        assert_eq!(
            (&info["metadata"]["serial"], &info["metadata"]["case_number"]),
            (&"SER1".into(), &"CASE".into())
        );
        lab.cdi(["create", "a.Ex01", "a.cdimg"]).ends(4);
        let info = lab.cdi(["info", "--json", "a.cdimg"]).ends(0).json();
        assert_eq!(info["metadata"]["md5_stored"].as_str().unwrap().len(), 32, "hashes are kept");
        lab.write("b.Ex01", [b"LEF2\r\n\x81\0", &[0; 56][..]].concat());
        assert!(lab.cdi(["info", "b.Ex01"]).ends(3).err.contains("it contains files, not a disk"));
    }

    fn chunks_and_texts_by_bzip2_are_read() {
        let lab = Lab::new();
        let truth = &truth()[..(1 << 20) - 3 * 512];
        lab.write("a.Ex01", makers::ex01_bzip2(truth));
        assert!(extracted(&lab, "a.Ex01", 0) == truth);
        assert_eq!(verified(&lab, "a.Ex01", 0)["stored_hashes"][0]["matches"], true);
        let info = lab.cdi(["info", "--json", "a.Ex01"]).ends(0).json();
        assert_eq!(info["metadata"]["serial"], "SER1");
        // A chunk that is damaged.
        let mut bytes = makers::ex01_bzip2(truth);
        let at = bytes.windows(10).rposition(|w| w == b"BZh91AY&SY").unwrap();
        bytes[at + 200] ^= 1;
        lab.write("a.Ex01", bytes);
        verified(&lab, "a.Ex01", 4);
    }

    /// Tables of an Ex01 say which chunks they list: segments after one that is missing are read.
    fn the_other_segments_are_read_when_some_are_missing() {
        let lab = Lab::new();
        let truth = disk((1 << 20) + 512 * 5);
        let made = makers::ex01_segments(&truth, &[], 8);
        assert_eq!(made.len(), 5);
        let file = |n: usize| lab.path(&format!("d.Ex{:02}", n + 1));
        let part = 8 * (32 << 10);
        let all = truth.len() as u64;
        for (gone, lost) in [
            (&[][..], 0),
            (&[4], all - 4 * part),
            (&[1], part),
            (&[1, 2], 2 * part),
            (&[1, 3], 2 * part),
            (&[1, 2, 3, 4], all - part),
        ] {
            for how in ["missing", "empty", "cut off", "of another set"] {
                for (n, bytes) in made.iter().enumerate() {
                    fs::write(file(n), bytes).unwrap();
                    match how {
                        _ if !gone.contains(&n) => {}
                        "missing" => fs::remove_file(file(n)).unwrap(),
                        "empty" => fs::write(file(n), []).unwrap(),
                        "cut off" => fs::write(file(n), &bytes[..bytes.len() / 2]).unwrap(),
                        _ => {
                            let mut bytes = bytes.clone();
                            bytes[20] ^= 1;
                            fs::write(file(n), bytes).unwrap();
                        }
                    }
                }
                assert_eq!(right_or_lost(&file(0), &truth), all - lost, "{gone:?} {how}");
                let err = ewf::verified(&lab, &file(0), lost);
                // Of those at the end only the first is known to be missing.
                let known = if how == "missing" && gone.len() == 4 { &gone[..1] } else { gone };
                assert!(known.iter().all(|n| err.contains(&name(&file(*n)))), "{gone:?} {how}: {err}");
                assert!(!err.contains("ignoring the segments"), "{err}");
            }
        }
        // Where the first is cut off nothing says how large the disk is.
        made.iter().enumerate().for_each(|(n, bytes)| fs::write(file(n), bytes).unwrap());
        fs::write(file(0), &made[0][..made[0].len() / 2]).unwrap();
        lab.cdi(["info".as_ref(), file(0).as_os_str()]).ends(3);
    }
);

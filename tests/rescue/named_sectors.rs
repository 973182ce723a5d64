//! What a drive says about a failed read saves reads, and does no harm if it is wrong.

use super::failing_disk::{is_right, map_of};
use super::simulated::{Making, Says, Simulated};
use crate::common::{Lab, Random, disk};

const SECTORS: u64 = 65_536;

/// Single bad sectors, and an area of many.
fn bad() -> Vec<(u64, u64)> {
    let mut random = Random::new(3);
    let mut bad: Vec<(u64, u64)> =
        (0..40).map(|n| (n * 1500 + random.below(1000), 1 + random.below(2))).collect();
    bad.push((62_000, 300));
    bad
}

tests!(
    fn a_drive_that_names_bad_sectors_is_read_with_fewer_reads() {
        let lab = Lab::new();
        let truth = disk(SECTORS * 512);
        let sectors: Vec<u64> = bad().iter().flat_map(|(first, n)| *first..first + n).collect();
        let mut reads = Vec::new();
        for (name, says) in [("nothing.cdimg", Says::Nothing), ("named.cdimg", Says::Right)] {
            let drive = Simulated::new(&truth, sectors.iter().copied()).with(|drive| drive.says = says);
            Making::new(&lab, name, &drive).run(false, &mut |_| Ok(()));
            is_right(&lab, name, &truth, &bad());
            reads.push((drive.failed(), drive.order().len()));
        }
        assert_eq!(map_of(&lab, "named.cdimg"), map_of(&lab, "nothing.cdimg"));
        let [(failed, all), (failed_named, all_named)] = reads[..] else { panic!() };
        // Each bad sector once, and those that prove that the drive is right once more.
        assert!(failed_named <= sectors.len() as u64 + 20, "{failed_named} of {} sectors", sectors.len());
        assert!(failed_named + 20 < failed, "{failed_named} failed reads, and {failed} without names");
        assert!(all_named * 3 < all * 2, "{all_named} reads, and {all} without names");
        let map = lab.cdi(["map", "--bad", "--json", "named.cdimg"]).ends(0).json();
        let sense = serde_json::json!({ "sense": { "key": 3, "asc": 17, "ascq": 0 } });
        assert!(map["ranges"].as_array().unwrap().iter().all(|range| range["reason"] == sense), "{map}");
    }

    fn a_drive_that_names_the_wrong_sectors_is_not_believed() {
        let lab = Lab::new();
        let truth = disk(SECTORS * 512);
        let sectors: Vec<u64> = bad().iter().flat_map(|(first, n)| *first..first + n).collect();
        for (name, says) in [("first.cdimg", Says::AlwaysTheFirst), ("before.cdimg", Says::OneBefore)] {
            let drive = Simulated::new(&truth, sectors.iter().copied()).with(|drive| drive.says = says);
            Making::new(&lab, name, &drive).run(false, &mut |_| Ok(()));
            // No good sector is bad for it.
            is_right(&lab, name, &truth, &bad());
            let events = lab.cdi(["info", "--events", "--json", name]).ends(0).json();
            let all = events["events"].as_array().unwrap();
            assert_eq!(all.iter().filter(|e| e["event"] == "wrong-sector-named").count(), 1, "{says:?}");
        }
    }
);

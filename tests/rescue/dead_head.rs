//! A disk of which one head of four is dead.

use std::fs;

use super::failing_disk::{DISK, FailingDisk, map_of};
use crate::common::{Lab, mapfile};

const SECTORS: u64 = 1 << 20;
/// The length of a band in sectors: 16 MiB, and 3 sectors.
const BAND: u64 = 32_771;

tests!(
    #[needs(DISK)]
    fn what_the_other_heads_hold_is_read_and_no_more() {
        let lab = Lab::new();
        fs::File::create(lab.path("disk.raw")).unwrap().set_len(SECTORS * 512).unwrap();
        // Heads 0 1 2 3 3 2 1 0 0 1 …, of which 2 is dead.
        let bands: Vec<(u64, u64)> = (0..SECTORS / BAND)
            .filter(|n| [2, 5].contains(&(n % 8)))
            .map(|n| (n * BAND, BAND.min(SECTORS - n * BAND)))
            .collect();
        lab.write("failing.map", mapfile(SECTORS, 512, &bands));
        let disk = FailingDisk::new(&lab, &[], &[]);
        let since = disk.forget();
        let ran = lab.cdi(["create", disk.path(), "a.cdimg", "--json", "--in-order"]).ends(4);
        let result = ran.json();
        let dead: u64 = bands.iter().map(|(_, len)| len * 512).sum();
        assert_eq!((&result["missing_bytes"], &result["ended"]), (&dead.into(), &"finished".into()));
        let head = &result["dead_head"];
        assert_eq!(
            (&head["bands"], &head["one_in"], &head["bytes"]),
            (&bands.len().into(), &4.into(), &dead.into())
        );
        assert_eq!(head["band_bytes"], BAND * 512);
        assert!(result["failed_reads"].as_u64().unwrap() < bands.len() as u64 * 4 + 25, "{result}");
        // Nothing was read within the bands but here and there.
        let reads = disk.reads(since);
        let tried =
            bands.iter().flat_map(|(first, len)| *first..first + len).filter(|s| reads.contains_key(s));
        assert!((tried.count() as u64) < dead / 512 / 4);
        let ran = lab.cdi(["create", disk.path(), "a.cdimg", "--resume", "--in-order"]).ends(4);
        assert!(ran.err.contains("every fourth 16.0 MiB fails: a dead head"), "{}", ran.err);
        // Its bands are not tried, and their edges are known to the sector.
        let edges = bands.iter().flat_map(|(first, len)| [*first, first + len]);
        let map = map_of(&lab, "a.cdimg");
        let finished: Vec<(u64, u64)> = map.iter().filter(|b| b.2 == "+").map(|b| (b.0, b.0 + b.1)).collect();
        for edge in edges.filter(|edge| *edge < SECTORS) {
            assert!(finished.iter().any(|(start, end)| *start == edge * 512 || *end == edge * 512), "{edge}");
        }
        let events = lab.cdi(["info", "--events", "--json", "a.cdimg"]).ends(0).json();
        assert!(events["events"].as_array().unwrap().iter().any(|e| e["event"] == "dead-head"));
        // Swept, each of their sectors was tried.
        lab.cdi(["create", disk.path(), "a.cdimg", "--resume", "--sweep", "--no-scrape", "--in-order"])
            .ends(4);
        assert!(map_of(&lab, "a.cdimg").iter().all(|b| b.2 != "?"));
    }
);

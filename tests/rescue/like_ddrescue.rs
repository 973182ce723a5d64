//! A failing disk is read as ddrescue reads it.

use std::fs;
use std::time::Duration;

use cdi_capture::rescue::passes::{CLUSTER, Next, Outcome, Passes, RescuePlan, Why};
use cdi_image::badmap::{BadBlocks, BadRange, Reason, Status};

use super::failing_disk::{BAD, DISK, FailingDisk, SECTORS, is_right, lab, map_of};
use crate::common::{Lab, Random, blocks, mapfile, run};

tests!(
    #[needs(DISK)]
    fn imaging_gives_the_same_bytes_and_map_as_ddrescue() {
        let (lab, truth) = lab(&BAD);
        let disk = FailingDisk::new(&lab, &[], &[]);
        let since = disk.forget();
        let ran = lab.cdi(["create", disk.path(), "a.cdimg", "--json"]).ends(4).json();
        let reads = disk.reads(since);
        assert_eq!(ran["ended"], "finished");
        assert_eq!(ran["missing_bytes"], 610 * 512);
        // Errors ask for known sectors now and then: those are good ones, and few.
        for (first, count) in BAD {
            for sector in first..first + count {
                assert!(
                    (1..=2).contains(&reads[&sector]),
                    "sector {sector} was read {} times",
                    reads[&sector]
                );
            }
        }
        assert!(reads.len() as u64 == SECTORS && reads.values().filter(|n| **n > 2).count() < 200);
        run(
            "ddrescue",
            [
                "-q",
                "-d",
                "-b512",
                disk.path(),
                lab.path("dd.raw").to_str().unwrap(),
                lab.path("dd.map").to_str().unwrap(),
            ],
        );
        assert_eq!(map_of(&lab, "a.cdimg"), blocks(&fs::read_to_string(lab.path("dd.map")).unwrap()));
        is_right(&lab, "a.cdimg", &truth, &BAD);
        // Why they are bad, and how often they were tried.
        let bad = lab.cdi(["map", "--bad", "--json", "a.cdimg"]).ends(0).json();
        for range in bad["ranges"].as_array().unwrap() {
            assert_eq!(
                (&range["status"], &range["reason"]["errno"], &range["tries"]),
                (&"bad-sector".into(), &5.into(), &2.into())
            );
        }
        // The same backwards, without trimming and scraping, and with retries.
        lab.cdi(["create", disk.path(), "b.cdimg", "--reverse"]).ends(4);
        assert_eq!(map_of(&lab, "b.cdimg"), map_of(&lab, "a.cdimg"));
        lab.cdi(["create", disk.path(), "c.cdimg", "--no-trim"]).ends(4);
        assert!(map_of(&lab, "c.cdimg").iter().all(|b| b.2 == "+" || b.2 == "*"));
        lab.cdi(["create", disk.path(), "c.cdimg", "--resume", "--no-scrape"]).ends(4);
        assert!(map_of(&lab, "c.cdimg").iter().any(|b| b.2 == "/"));
        let since = disk.forget();
        lab.cdi(["create", disk.path(), "c.cdimg", "--resume", "--retry-passes", "2"]).ends(4);
        assert_eq!(map_of(&lab, "c.cdimg"), map_of(&lab, "a.cdimg"));
        assert!(disk.reads(since)[&12_300] == 3, "scraped once and retried twice");
        is_right(&lab, "c.cdimg", &truth, &BAD);
        // The image has a log of events.
        let events = lab.cdi(["info", "--events", "--json", "c.cdimg"]).ends(0).json();
        let named =
            |name: &str| events["events"].as_array().unwrap().iter().filter(|e| e["event"] == name).count();
        assert_eq!((named("begun"), named("resumed"), named("ended")), (1, 2, 3));
        assert!(named("read-error") > 600 && named("pass") > 5);
        // ddrescue's tools read our mapfile.
        lab.cdi(["map", "--export-mapfile", "ours.map", "c.cdimg"]).ends(0);
        run("ddrescuelog", ["-t", lab.path("ours.map").to_str().unwrap()]);
        // Made small again, it is the same.
        let before = map_of(&lab, "c.cdimg");
        lab.cdi(["compact", "c.cdimg"]).ends(0);
        assert_eq!(map_of(&lab, "c.cdimg"), before);
        is_right(&lab, "c.cdimg", &truth, &BAD);
    }

    /// The passes compared with ddrescue's own, on disks that it simulates from a map (`-H`): the same map at the end, and no more
    /// reads, failed or not, but for where our skips end on a cluster's border and its do not.
    #[needs(Program("ddrescue"))]
    fn passes_read_the_same_as_ddrescue() {
        let lab = Lab::new();
        let sectors = 131_072u64;
        fs::File::create(lab.path("in.raw")).unwrap().set_len(sectors * 512).unwrap();
        for seed in 0..12 {
            let random = &mut Random::new(seed);
            let (mut at, mut bad) = (0, Vec::new());
            while at < sectors {
                let first = at + random.below(40_000);
                let count = [1, 2, 9, 300, 5000][random.below(5) as usize];
                if first + count > sectors {
                    break;
                }
                bad.push((first, count));
                at = first + count + 1;
            }
            lab.write("disk.map", mapfile(sectors, 512, &bad));
            for name in ["out.raw", "out.map", "reads.log"] {
                let _ = fs::remove_file(lab.path(name));
            }
            let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
            let (log, map) = (path("reads.log"), path("out.map"));
            let options = ["-q".to_owned(), "-H".into(), path("disk.map"), format!("--log-reads={log}")];
            run("ddrescue", options.into_iter().chain([path("in.raw"), path("out.raw"), map.clone()]));
            let log = fs::read_to_string(log).unwrap();
            let read = |l: &str| {
                let words: Vec<&str> = l.split_whitespace().collect();
                let size: u64 = words[1].parse().unwrap();
                (u64::from_str_radix(&words[0][2..], 16).unwrap(), size, words[3] != "0")
            };
            let theirs: Vec<_> = log.lines().filter(|l| l.starts_with("0x")).map(read).collect();

            let plan = RescuePlan { most: CLUSTER, ..RescuePlan::whole(sectors * 512, 512) };
            let all = BadBlocks::from_unsorted([BadRange::new(0..sectors * 512, Status::NonTried)]);
            let mut passes = Passes::new(plan, &all);
            let mut ours = Vec::new();
            while let Next::Read(read) = passes.next_read() {
                let (first, end) = (read.range.start / 512, read.range.end / 512);
                let hit = bad.iter().find(|(b, n)| *b < end && b + n > first);
                let good = if hit.is_some() { 0 } else { read.range.end - read.range.start };
                if read.why != Why::Check {
                    ours.push((read.range.start, read.range.end - read.range.start, hit.is_some()));
                }
                let reason = hit.map(|_| Reason::errno(5));
                passes.got(&read, &Outcome { good, reason, took: Duration::ZERO, ..Outcome::default() });
            }
            let left = BadBlocks::from_unsorted(passes.areas().iter().copied());
            let mut text = Vec::new();
            let mapfile = cdi_image::badmap::mapfile::Mapfile { map: &left, size: sectors * 512 };
            cdi_image::text::listing::write(&mapfile, &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            let their_map = blocks(&fs::read_to_string(&map).unwrap());
            assert_eq!(blocks(&text), their_map, "seed {seed}");
            let failed = |reads: &[(u64, u64, bool)]| reads.iter().filter(|r| r.2).count();
            let few = |ours: usize, theirs: usize| ours <= theirs + theirs / 20 + 16;
            assert!(
                few(failed(&ours), failed(&theirs)),
                "seed {seed}: {} and {}",
                failed(&ours),
                failed(&theirs)
            );
            assert!(few(ours.len(), theirs.len()), "seed {seed}: {} and {} reads", ours.len(), theirs.len());
            // Up to the second error in a row they are the same to the byte.
            let same = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
            let twice = theirs.windows(2).position(|w| w[0].2 && w[1].2).unwrap_or(theirs.len());
            assert!(same >= twice.min(ours.len()), "seed {seed}: {same} reads are the same, not {twice}");
        }
    }

    #[needs(DISK)]
    fn an_image_from_ddrescue_is_resumed_without_reading_twice() {
        let (lab, truth) = lab(&BAD);
        let disk = FailingDisk::new(&lab, &[], &[]);
        let (raw, map) = (lab.path("dd.raw"), lab.path("dd.map"));
        // ddrescue has read the first half, and has not scraped.
        run(
            "ddrescue",
            ["-q", "-d", "-n", "-s", "8Mi", disk.path(), raw.to_str().unwrap(), map.to_str().unwrap()],
        );
        lab.cdi(["create", "dd.raw", "a.cdimg", "--mapfile", "dd.map"]).ends(4);
        let since = disk.forget();
        lab.cdi(["create", disk.path(), "a.cdimg", "--resume"]).ends(4);
        let reads = disk.reads(since);
        // Nothing that ddrescue has read is read again, except a few sectors that show whether the disk still works.
        assert!(
            reads.iter().filter(|(s, _)| **s < 11_000 && **s != 0 && **s != 5000).count() < 100,
            "read again"
        );
        is_right(&lab, "a.cdimg", &truth, &BAD);
        // With its map alone: sectors that it found bad are not tried, finished ones are read.
        run("ddrescue", ["-q", "-d", disk.path(), raw.to_str().unwrap(), map.to_str().unwrap()]);
        let since = disk.forget();
        lab.cdi(["create", disk.path(), "b.cdimg", "--from-mapfile", "dd.map"]).ends(4);
        let reads = disk.reads(since);
        assert!(BAD.iter().all(|(first, _)| !reads.contains_key(first)));
        is_right(&lab, "b.cdimg", &truth, &BAD);
    }
);

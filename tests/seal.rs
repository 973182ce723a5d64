//! Nothing about a finished image changes unnoticed: the hash chain over its log, its seal, and its digest. They are
//! computed here as docs/FORMAT.md says, without the program's code; and images are changed with correct checksums.

use std::fs;
use std::ops::Range;

use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::common::{Lab, disk};

const RECORDS: usize = 128 << 10;
const HEADER: usize = 64;
const METADATA: u8 = 7;
const MAP: u8 = 4;
const CHECKPOINT: u8 = 8;
const EVENTS: u8 = 130;

/// An image, read as docs/FORMAT.md says.
#[derive(Clone)]
struct File(Vec<u8>);

impl File {
    fn open(lab: &Lab, name: &str) -> File {
        File(lab.read(name))
    }

    fn number(&self, at: usize, len: usize) -> usize {
        self.0[at..at + len].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    /// Where the superblock is that is used.
    fn superblock(&self) -> usize {
        let valid = |at: &usize| self.number(at + 504, 8) as u64 == xxh3_64(&self.0[*at..at + 504]);
        [0, 64 << 10].into_iter().filter(valid).max_by_key(|at| self.number(at + 56, 8)).unwrap()
    }

    fn field(&self, at: usize, len: usize) -> usize {
        self.number(self.superblock() + at, len)
    }

    fn uuid(&self) -> [u8; 16] {
        self.0[self.superblock() + 32..self.superblock() + 48].try_into().unwrap()
    }

    /// The payload of a record, after decompression.
    fn payload(&self, at: usize) -> Vec<u8> {
        let stored = &self.0[at + HEADER..at + HEADER + self.number(at + 40, 4)];
        match self.0[at + 53] {
            0 => stored.to_vec(),
            2 => zstd::decode_all(stored).unwrap(),
            other => panic!("codec {other}"),
        }
    }

    /// The offsets of the records that begin with the one at `at` and go back, the last one first.
    fn back(&self, mut at: usize) -> Vec<usize> {
        let mut all = Vec::new();
        while at != 0 {
            all.push(at);
            at = usize::from_le_bytes(self.payload(at)[..8].try_into().unwrap());
        }
        all
    }

    /// The lines of each EVENTS record, oldest first.
    fn log(&self) -> Vec<Vec<String>> {
        let records = self.back(self.field(136, 8)).into_iter().rev();
        let text = |at| String::from_utf8(self.payload(at)[8..].to_vec()).unwrap();
        records.map(|at| text(at).lines().map(str::to_owned).collect()).collect()
    }

    /// The ranges of the map, 24 bytes each.
    fn map(&self) -> Vec<u8> {
        let records = self.back(self.field(120, 8)).into_iter().rev();
        let mut all: Vec<[u8; 24]> = Vec::new();
        for at in records {
            for range in self.payload(at)[8..].chunks(24).map(|r| <[u8; 24]>::try_from(r).unwrap()) {
                let number = |r: &[u8; 24], at: usize| u64::from_le_bytes(r[at..at + 8].try_into().unwrap());
                match all.last_mut() {
                    Some(last)
                        if number(last, 0) + number(last, 8) == number(&range, 0)
                            && last[16..] == range[16..] =>
                    {
                        let len = number(last, 8) + number(&range, 8);
                        last[8..16].copy_from_slice(&len.to_le_bytes());
                    }
                    _ => all.push(range),
                }
            }
        }
        all.concat()
    }

    fn metadata(&self) -> Vec<u8> {
        self.payload(self.field(128, 8))
    }

    /// The digest, if the image is sealed.
    fn digest(&self) -> Option<String> {
        let lines = self.log().concat();
        let last =
            lines.iter().rfind(|l| !is_chain(l)).filter(|l| l.starts_with("{\"event\":\"sealed\","))?;
        let seal: Value = serde_json::from_str(last).unwrap();
        let metadata: Value = serde_json::from_slice(&self.metadata()).unwrap();
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let is = json!({
            "event": "sealed",
            "uuid": hex(&self.uuid()),
            "size_bytes": self.field(64, 8),
            "logical_sector_bytes": self.field(76, 4),
            "physical_sector_bytes": self.field(80, 4),
            "metadata_blake3": blake3::hash(&self.metadata()).to_hex().to_string(),
            "map_blake3": blake3::hash(&self.map()).to_hex().to_string(),
            "blake3_rescued": metadata["blake3_rescued"],
            "sha256_zero_filled": metadata["sha256_zero_filled"],
        });
        (seal == is && self.field(12, 1) == 2 && metadata["blake3_rescued"].is_string()).then_some(())?;
        let mut chain = Chain::new(&self.uuid());
        for line in &lines {
            assert_eq!(chain.take(line), is_chain(line), "{line}");
        }
        Some(chain.hex())
    }

    /// The image with these records after it, which count in place of the old ones; all checksums are right.
    fn with(&self, log: &[Vec<String>], metadata: Option<&[u8]>, map: Option<&[u8]>) -> File {
        let mut new = self.clone();
        let mut superblock = self.0[self.superblock()..self.superblock() + 512].to_vec();
        let size = self.field(64, 8);
        let mut set = |at: usize, value: usize| {
            superblock[at..at + 8].copy_from_slice(&(value as u64).to_le_bytes());
        };
        if let Some(json) = metadata {
            set(128, new.append(METADATA, 0..0, json));
        }
        if let Some(ranges) = map {
            set(120, new.append(MAP, 0..size, &[&[0; 8], ranges].concat()));
        }
        let mut before = 0usize;
        for lines in log {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            before = new.append(EVENTS, 0..0, &[&before.to_le_bytes(), text.as_bytes()].concat());
        }
        set(136, before);
        let generation = self.field(56, 8) + 1;
        set(56, generation);
        set(88, new.0.len() + HEADER + 512);
        let sum = xxh3_64(&superblock[..504]);
        superblock[504..].copy_from_slice(&sum.to_le_bytes());
        new.append(CHECKPOINT, 0..size, &superblock);
        let slot = (generation % 2) * (64 << 10);
        new.0[slot..slot + 512].copy_from_slice(&superblock);
        new
    }

    fn append(&mut self, kind: u8, disk: Range<usize>, payload: &[u8]) -> usize {
        let at = self.0.len();
        let mut header = self.0[RECORDS..RECORDS + HEADER].to_vec();
        header[16..24].copy_from_slice(&(disk.start as u64).to_le_bytes());
        header[24..32].copy_from_slice(&(disk.len() as u64).to_le_bytes());
        header[32..40].copy_from_slice(&xxh3_64(payload).to_le_bytes());
        header[40..44].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[44..48].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[48..52].copy_from_slice(&(self.field(84, 4) as u32).to_le_bytes());
        header[52..56].copy_from_slice(&[kind, 0, 0, 0]);
        let sum = xxh3_64(&header[..56]);
        header[56..].copy_from_slice(&sum.to_le_bytes());
        self.0.extend([&header, payload].concat());
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        at
    }
}

fn is_chain(line: &str) -> bool {
    line.starts_with("{\"event\":\"chain\",\"head\":\"")
}

/// The chain, as docs/FORMAT.md says.
struct Chain([u8; 32]);

impl Chain {
    fn new(uuid: &[u8; 16]) -> Chain {
        Chain(*blake3::hash(uuid).as_bytes())
    }

    fn hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Takes the next line. Returns whether it is a value of the chain, and that is right.
    fn take(&mut self, line: &str) -> bool {
        if is_chain(line) {
            return line == format!("{{\"event\":\"chain\",\"head\":\"{}\"}}", self.hex());
        }
        self.0 = *blake3::hash(&[&self.0, line.as_bytes(), b"\n"].concat()).as_bytes();
        false
    }

    /// Returns the log with all values of the chain computed again.
    fn again(uuid: &[u8; 16], log: &[Vec<String>]) -> Vec<Vec<String>> {
        let mut chain = Chain::new(uuid);
        let mut right = |line: &String| {
            if is_chain(line) {
                return format!("{{\"event\":\"chain\",\"head\":\"{}\"}}", chain.hex());
            }
            chain.take(line);
            line.clone()
        };
        log.iter().map(|lines| lines.iter().map(&mut right).collect()).collect()
    }
}

/// A disk imaged in three runs, with a bad sector from a mapfile: its log has several records.
fn imaged(lab: &Lab, name: &str) -> File {
    lab.write("plain.raw", disk(3 << 20));
    lab.write("known.map", "0 + 1\n0 0x200000 ?\n0x200000 0x200 -\n0x200200 0xFFE00 ?\n");
    lab.cdi(["create", "--rescue", "plain.raw", name, "-s", "1M", "--from-mapfile", "known.map"]).ends(4);
    lab.cdi(["create", "--resume", "plain.raw", name, "-s", "2M"]).ends(4);
    lab.cdi(["create", "--resume", "plain.raw", name]).ends(4);
    File::open(lab, name)
}

fn digest(lab: &Lab, name: &str) -> Option<String> {
    let ran = lab.cdi(["info", "--json", name]);
    let json = ran.json();
    let digest = json["digest"].as_str().map(str::to_owned);
    // It is the last member.
    let last = ran.out.lines().rev().nth(1).unwrap();
    assert!(json.get("digest").is_some() && last.starts_with("  \"digest\": "), "{}", ran.out);
    digest
}

/// Checks that `verify` finds the change, with these words at an offset of a record, and that there is no digest.
fn is_found(lab: &Lab, name: &str, file: &File, what: &str) {
    lab.write("changed.cdimg", &file.0);
    let verified = lab.cdi(["verify", "--json", "changed.cdimg"]).ends(4).json();
    let errors = verified["errors"].as_array().unwrap();
    let found = errors.iter().find(|e| e["what"].as_str().unwrap().contains(what));
    let found = found.unwrap_or_else(|| panic!("{name}: no '{what}' in {verified}"));
    let at = found["file_offset_bytes"].as_u64().unwrap() as usize;
    assert_eq!((file.0[at + 52], &file.0[at + 1..at + 7]), (EVENTS, &b"CDIrec"[..]), "{name}");
    assert!(verified["digest"].is_null() && verified["ok"] == false, "{name}");
    let info = lab.cdi(["info", "changed.cdimg"]).ends(4);
    assert!(info.err.contains(what) && info.out.contains("digest          none: "), "{name}: {}", info.out);
    assert_eq!(digest(lab, "changed.cdimg"), None, "{name}");
}

const CHANGED: &str = "events were changed, removed, added or moved";

tests!(
    fn the_digest_is_what_the_document_says() {
        let lab = Lab::new();
        lab.image(4096, 512, &[(100, 3), (2000, 1)]);
        let plain = lab.write("plain.raw", disk(2 << 20));
        lab.cdi(["create", "plain.raw", "plain.cdimg"]).ends(0);
        lab.cdi(["create", "--reproducible", "plain.raw", "repro.cdimg"]).ends(0);
        imaged(&lab, "runs.cdimg");
        lab.cdi(["compact", "runs.cdimg", "compact.cdimg"]).ends(0);
        lab.cdi(["repair", "plain.cdimg", "repaired.cdimg"]).ends(0);
        let mut piped = lab.command();
        piped.args(["create", "-q", "-", "piped.cdimg"]).stdin(fs::File::open(plain).unwrap());
        assert!(piped.status().unwrap().success());
        let mut all = Vec::new();
        for name in
            ["disk", "plain", "repro", "runs", "compact", "repaired", "piped"].map(|n| format!("{n}.cdimg"))
        {
            let expect = File::open(&lab, &name).digest().unwrap_or_else(|| panic!("{name} is not sealed"));
            assert_eq!(digest(&lab, &name).as_ref(), Some(&expect), "{name}");
            let verified = lab.cdi(["verify", "--json", &name]).ends(0).json();
            assert_eq!(
                (verified["digest"].as_str(), &verified["unchained_log_records"]),
                (Some(&*expect), &json!(0))
            );
            assert!(lab.cdi(["info", &name]).ends(0).out.contains(&format!("digest          {expect}\n")));
            assert!(lab.cdi(["verify", &name]).ends(0).err.contains(&expect));
            // Chain values are no events.
            let events = lab.cdi(["info", "--events", &name]).ends(0).out;
            assert!(
                !events.contains("\"chain\"") && events.trim_end().lines().last().unwrap().contains("sealed")
            );
            all.push(expect);
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 7);
    }

    fn a_changed_log_is_found() {
        let lab = Lab::new();
        let file = imaged(&lab, "runs.cdimg");
        let log = file.log();
        assert!(log.len() > 3 && log.iter().all(|lines| is_chain(lines.last().unwrap())), "{log:?}");
        // What is as it was is accepted, wherever it is in the file.
        lab.write("same.cdimg", &file.with(&log, None, None).0);
        lab.cdi(["verify", "same.cdimg"]).ends(0);
        assert_eq!(digest(&lab, "same.cdimg"), file.digest());
        let mut cases = Vec::new();
        for record in 0..log.len() {
            let case = |name: &str, change: &dyn Fn(&mut Vec<Vec<String>>)| {
                let mut log = log.clone();
                change(&mut log);
                (format!("{name} {record}"), log)
            };
            cases.push(case("changed", &|log| log[record][0] = log[record][0].replacen(':', ": ", 1)));
            cases.push(case("removed", &|log| drop(log[record].remove(0))));
            cases.push(case("added", &|log| log[record].insert(0, "{\"event\":\"pass\"}".into())));
            cases.push(case("twice", &|log| {
                let line = log[record][0].clone();
                log[record].insert(0, line);
            }));
            if log[record].len() > 2 {
                cases.push(case("in another order", &|log| log[record].swap(0, 1)));
            }
            if record > 0 {
                cases.push(case("lost record", &|log| drop(log.remove(record - 1))));
                cases.push(case("records in another order", &|log| log.swap(record, record - 1)));
            }
        }
        for (name, log) in cases {
            is_found(&lab, &name, &file.with(&log, None, None), CHANGED);
        }
        // Of another image of the same disk.
        let other = imaged(&lab, "other.cdimg");
        is_found(&lab, "another image's", &file.with(&other.log(), None, None), CHANGED);
        // Without the last event, all values of the chain are right.
        let without: Vec<_> = log[..log.len() - 1].to_vec();
        is_found(
            &lab,
            "without the seal",
            &file.with(&without, None, None),
            "the seal at the end of the log is missing",
        );
    }

    fn what_is_not_as_it_was_sealed_is_found() {
        let lab = Lab::new();
        let file = imaged(&lab, "runs.cdimg");
        let log = file.log();
        let metadata: Value = serde_json::from_slice(&file.metadata()).unwrap();
        let with = |key: &str, value: &str| {
            let mut changed = metadata.clone();
            changed[key] = value.into();
            file.with(&log, Some(changed.to_string().as_bytes()), None)
        };
        let sealed = "changed after the image was sealed: ";
        is_found(&lab, "serial", &with("serial", "OTHER"), &format!("{sealed}the metadata"));
        let hash = "0".repeat(64);
        is_found(&lab, "hash", &with("blake3_rescued", &hash), &format!("{sealed}the stored BLAKE3 hash"));
        is_found(
            &lab,
            "hash",
            &with("sha256_zero_filled", &hash),
            &format!("{sealed}the stored SHA-256 hash"),
        );
        let map = file.map();
        assert_eq!(map.len(), 24);
        for (name, at, value) in [("status", 16, 5), ("tries", 17, 9), ("reason", 20, 6), ("start", 1, 4)] {
            let mut map = map.clone();
            map[at] = value;
            if name == "reason" {
                map[18] = 1;
            }
            is_found(&lab, name, &file.with(&log, None, Some(&map)), &format!("{sealed}the bad-block map"));
        }
        // The physical sector size, which is in the metadata, too; and a larger disk.
        let mut other = file.with(&log, Some(b"{}"), None);
        for at in [other.superblock(), other.0.len() - 512] {
            other.0[at + 80..at + 84].copy_from_slice(&4096u32.to_le_bytes());
            let sum = xxh3_64(&other.0[at..at + 504]);
            other.0[at + 504..at + 512].copy_from_slice(&sum.to_le_bytes());
        }
        is_found(&lab, "sectors", &other, &format!("{sealed}the physical sector size"));
        // A seal that says nothing is not one of this image.
        let mut empty = log.clone();
        *empty.iter_mut().flatten().rfind(|line| line.contains("sealed")).unwrap() =
            "{\"event\":\"sealed\",}".into();
        let empty = Chain::again(&file.uuid(), &empty);
        is_found(&lab, "empty", &file.with(&empty, None, None), &format!("{sealed}the metadata"));
    }

    /// As SECURITY.md says: the digest must be kept elsewhere, or be signed.
    fn a_forged_image_has_another_digest() {
        let lab = Lab::new();
        let file = imaged(&lab, "runs.cdimg");
        let mut metadata: Value = serde_json::from_slice(&file.metadata()).unwrap();
        metadata["serial"] = "OTHER".into();
        let json = metadata.to_string();
        let mut log = file.log();
        let seal = log.iter_mut().flatten().rfind(|line| line.contains("sealed")).unwrap();
        let (old, new) = (blake3::hash(&file.metadata()).to_hex(), blake3::hash(json.as_bytes()).to_hex());
        *seal = seal.replace(old.as_str(), new.as_str());
        let log = Chain::again(&file.uuid(), &log);
        let forged = file.with(&log, Some(json.as_bytes()), None);
        lab.write("forged.cdimg", &forged.0);
        lab.cdi(["verify", "forged.cdimg"]).ends(0);
        let forged = digest(&lab, "forged.cdimg");
        assert!(forged.is_some() && forged != file.digest());
    }

    fn images_of_earlier_versions_are_not_damaged() {
        let lab = Lab::new();
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v1/zstd.cdimg");
        assert!(lab.cdi(["verify", fixture]).ends(0).err.contains("no digest: a version"));
        assert_eq!(digest(&lab, fixture), None);
        // A log without the chain, as they wrote it.
        let file = imaged(&lab, "runs.cdimg");
        let old = |line: &&String| !is_chain(line) && !line.contains("\"sealed\"");
        let log: Vec<Vec<String>> =
            file.log().iter().map(|lines| lines.iter().filter(old).cloned().collect()).collect();
        let log: Vec<_> = log.into_iter().filter(|lines: &Vec<_>| !lines.is_empty()).collect();
        lab.write("old.cdimg", &file.with(&log, None, None).0);
        let verified = lab.cdi(["verify", "--json", "old.cdimg"]).ends(0).json();
        assert_eq!(verified["unchained_log_records"], json!(log.len()));
        assert!(verified["digest"].is_null());
        lab.cdi(["info", "old.cdimg"]).ends(0);
        // This version goes on: from here on the log is chained, and the image is sealed.
        fs::copy(lab.path("old.cdimg"), lab.path("on.cdimg")).unwrap();
        lab.cdi(["create", "--resume", "plain.raw", "on.cdimg"]).ends(4);
        let on = File::open(&lab, "on.cdimg");
        assert_eq!((digest(&lab, "on.cdimg"), on.digest().is_some()), (on.digest(), true));
        let verified = lab.cdi(["verify", "on.cdimg"]).ends(0);
        assert!(
            verified.err.contains(&format!("earlier version has written, without the chain: {}", log.len())),
            "{}",
            verified.err
        );
        // An earlier version goes on with a sealed image: it is not sealed any more, and not damaged.
        let more = [file.log(), vec![vec!["{\"event\":\"resumed\"}".to_owned()]]].concat();
        lab.write("more.cdimg", &file.with(&more, None, None).0);
        assert!(lab.cdi(["verify", "more.cdimg"]).ends(0).err.contains("no digest: a version"));
        assert_eq!(digest(&lab, "more.cdimg"), None);
    }

    fn a_rewritten_image_still_shows_its_earlier_digests() {
        let lab = Lab::new();
        let file = imaged(&lab, "runs.cdimg");
        lab.cdi(["compact", "runs.cdimg", "compact.cdimg"]).ends(0);
        lab.cdi(["create", "--resume", "plain.raw", "compact.cdimg", "--note", "again"]).ends(4);
        let new = File::open(&lab, "compact.cdimg");
        let mut chain = Chain::new(&new.uuid());
        let mut seals = Vec::new();
        for line in new.log().concat() {
            chain.take(&line);
            if line.contains("\"sealed\"") {
                seals.push(chain.hex());
            }
        }
        // Of three runs, of the compacted image, and of the last run.
        assert_eq!(seals.len(), 5);
        assert_eq!((Some(&seals[2]), seals.last().cloned()), (file.digest().as_ref(), new.digest()));
        // What it was made from is in the log of a new image.
        lab.cdi(["create", "runs.cdimg", "new.cdimg"]).ends(4);
        let events = lab.cdi(["info", "--events", "--json", "new.cdimg"]).ends(0).json();
        assert_eq!(events["events"][0]["source_digest"].as_str(), file.digest().as_deref());
    }

    fn a_change_is_not_forgotten_when_the_image_is_rewritten() {
        let lab = Lab::new();
        let file = imaged(&lab, "runs.cdimg");
        let mut metadata: Value = serde_json::from_slice(&file.metadata()).unwrap();
        metadata["notes"] = json!(["added"]);
        let changed = file.with(&file.log(), Some(metadata.to_string().as_bytes()), None);
        let what = "changed after the image was sealed: the metadata";
        lab.write("changed.cdimg", &changed.0);
        let refused = lab.cdi(["compact", "changed.cdimg", "out.cdimg"]).ends(3);
        assert!(refused.err.contains(what) && refused.err.contains("cdi repair"), "{}", refused.err);
        assert!(lab.read("changed.cdimg") == changed.0 && !lab.path("out.cdimg").exists());
        let last = |name: &str, event: &str, key: &str| {
            let events = lab.cdi(["info", "--events", "--json", name]).ends(0).json();
            let all = events["events"].as_array().unwrap();
            let found = all.iter().rfind(|e| e["event"] == event).unwrap();
            assert!(found[key].to_string().contains(what), "{name}: {events}");
        };
        assert!(lab.cdi(["repair", "changed.cdimg", "repaired.cdimg"]).ends(0).err.contains(what));
        last("repaired.cdimg", "repaired", "not_as_sealed");
        assert!(lab.cdi(["create", "changed.cdimg", "new.cdimg"]).ends(4).err.contains(what));
        last("new.cdimg", "ended", "source_not_as_sealed");
        assert!(lab.cdi(["create", "--resume", "plain.raw", "changed.cdimg"]).ends(4).err.contains(what));
        last("changed.cdimg", "not-as-sealed", "what");
        lab.cdi(["verify", "changed.cdimg"]).ends(0);
    }

    fn a_log_that_cannot_be_read_is_not_sealed() {
        let lab = Lab::new();
        let mut file = imaged(&lab, "runs.cdimg");
        let first = file.back(file.field(136, 8)).pop().unwrap();
        file.0[first + HEADER + 20] ^= 1;
        is_found(&lab, "damaged", &file, "checksum mismatch in the Events record");
        let resumed = lab.cdi(["create", "--resume", "plain.raw", "changed.cdimg"]).ends(4);
        assert!(resumed.err.contains("checksum mismatch in the Events record"), "{}", resumed.err);
        lab.cdi(["verify", "changed.cdimg"]).ends(4);
        assert_eq!(digest(&lab, "changed.cdimg"), None);
        // What is left of it is in the repaired image, with what is known of the rest.
        lab.cdi(["repair", "changed.cdimg", "repaired.cdimg"]).ends(0);
        let events = lab.cdi(["info", "--events", "repaired.cdimg"]).ends(0).out;
        assert!(events.contains("\"not_as_sealed\":[\"at byte "), "{events}");
        lab.cdi(["verify", "repaired.cdimg"]).ends(0);
    }

    fn an_image_without_all_of_it_has_no_digest() {
        let lab = Lab::new();
        lab.write("plain.raw", disk(2 << 20));
        lab.cdi(["create", "--rescue", "plain.raw", "part.cdimg", "--size", "1M", "-N", "-n"]).ends(4);
        let file = File::open(&lab, "part.cdimg");
        // An unfinished one: its state is "acquiring".
        let mut acquiring = file.with(&file.log(), None, None);
        for at in [acquiring.superblock(), acquiring.0.len() - 512] {
            acquiring.0[at + 12] = 1;
            let sum = xxh3_64(&acquiring.0[at..at + 504]);
            acquiring.0[at + 504..at + 512].copy_from_slice(&sum.to_le_bytes());
        }
        lab.write("acquiring.cdimg", &acquiring.0);
        assert!(lab.cdi(["info", "acquiring.cdimg"]).ends(0).out.contains("none: the image is unfinished"));
        // Nothing covers the data if there is no hash.
        lab.cdi(["create", "--resume", "plain.raw", "part.cdimg", "--no-hash"]).ends(0);
        assert!(
            lab.cdi(["info", "part.cdimg"]).ends(0).out.contains("none: the image has no hash of its data")
        );
        assert!(lab.cdi(["verify", "part.cdimg"]).ends(0).err.contains("the image has no hash of its data"));
        assert_eq!(digest(&lab, "part.cdimg"), None);
        // Other formats.
        assert!(!lab.cdi(["info", "plain.raw"]).ends(0).out.contains("digest"));
        assert_eq!(digest(&lab, "plain.raw"), None);
    }

    fn every_run_records_its_command_line() {
        let lab = Lab::new();
        let file = imaged(&lab, "runs.cdimg");
        drop(file);
        lab.cdi(["create", "plain.raw", "plain.cdimg", "--note", &"x".repeat(40 << 10)]).ends(0);
        lab.cdi(["compact", "runs.cdimg", "compact.cdimg"]).ends(0);
        lab.cdi(["repair", "compact.cdimg", "repaired.cdimg"]).ends(0);
        let events = lab.cdi(["info", "--events", "--json", "repaired.cdimg"]).ends(0).json();
        let all = events["events"].as_array().unwrap();
        for (event, words) in [
            (
                "begun",
                json!([
                    "create",
                    "--rescue",
                    "plain.raw",
                    "runs.cdimg",
                    "-s",
                    "1M",
                    "--from-mapfile",
                    "known.map"
                ]),
            ),
            ("resumed", json!(["create", "--resume", "plain.raw", "runs.cdimg", "-s", "2M"])),
            ("compacted", json!(["compact", "runs.cdimg", "compact.cdimg"])),
            ("repaired", json!(["repair", "compact.cdimg", "repaired.cdimg"])),
        ] {
            let found = all.iter().find(|e| e["event"] == event).unwrap();
            assert_eq!(
                (&found["options"], found["tool"].as_str().unwrap().starts_with("cdi ")),
                (&words, true)
            );
        }
        // A long one is cut off.
        let events = lab.cdi(["info", "--events", "--json", "plain.cdimg"]).ends(0).json();
        assert_eq!(
            events["events"][0]["options"],
            json!(["create", "plain.raw", "plain.cdimg", "--note", "…"])
        );
    }
);

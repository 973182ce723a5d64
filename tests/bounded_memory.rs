//! Long inputs: a map of very many ranges, notes, a gap in a damaged image. None of them takes memory or time that
//! grows without bounds, and all commands can be interrupted.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use cdi_base::error::{Error, Kind};
use cdi_image::cdimg::index::Geometry;
use cdi_image::cdimg::layout::{MAX_METADATA, RecordType};
use cdi_image::cdimg::record::{Head, Record, encode};
use cdi_image::cdimg::scan::decode_metadata;
use cdi_image::cdimg::writer::{NewImage, Writer};
use cdi_image::codec::Codec;
use cdi_image::image::OpenOptions;
use cdi_image::input::Input;
use cdi_image::metadata::Metadata;
use cdi_image::open::open;

use crate::common::{Lab, peak_memory};

/// How many ranges are bad: every second sector.
const RANGES: u64 = 200_000;

/// `many.cdimg`, of a disk of which every second sector is bad.
fn many(lab: &Lab) {
    let mut map = std::io::BufWriter::new(fs::File::create(lab.path("many.map")).unwrap());
    map.write_all(b"0x0 + 1\n").unwrap();
    for i in 0..RANGES {
        writeln!(map, "{:#x} 0x200 -\n{:#x} 0x200 +", i * 1024, i * 1024 + 512).unwrap();
    }
    map.into_inner().unwrap();
    fs::File::create(lab.path("many.raw")).unwrap().set_len(RANGES * 1024).unwrap();
    lab.cdi(["create", "-q", "many.raw", "many.cdimg", "--mapfile", "many.map"]).ends(4);
}

tests!(
    #[needs(Fuse)]
    fn a_mount_with_a_long_map_takes_little_memory() {
        let lab = Lab::new();
        many(&lab);
        lab.cdi(["mount", "-q", "many.cdimg", "mnt"]).ends(0);
        let list = lab.cdi(["list", "--json"]).json();
        let daemon = u32::try_from(list["mounts"][0]["pid"].as_u64().unwrap()).unwrap();
        let json = lab.read("mnt/badblocks.json");
        assert_eq!(fs::metadata(lab.path("mnt/badblocks.json")).unwrap().len(), json.len() as u64);
        assert!(json == lab.cdi(["map", "--bad", "--json", "many.cdimg"]).out.as_bytes());
        // From the middle on it is the same text.
        let mut part = vec![0; 100_000];
        let file = fs::File::open(lab.path("mnt/badblocks.json")).unwrap();
        file.read_exact_at(&mut part, 3_333_333).unwrap();
        drop(file);
        assert!(part == json[3_333_333..3_433_333]);
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let ranges = value["ranges"].as_array().unwrap();
        assert_eq!(
            (value["blocks"]["bad-sector"]["ranges"].as_u64(), ranges.len() as u64),
            (Some(RANGES), RANGES)
        );
        let expect = serde_json::json!({
            "first_sector": 2468, "sectors": 1, "offset_bytes": 2468 * 512, "length_bytes": 512, "status": "bad-sector"
        });
        assert_eq!(ranges[1234], expect);
        let map = fs::read_to_string(lab.path("mnt/badblocks.map")).unwrap();
        assert_eq!(crate::common::blocks(&map).len() as u64, 2 * RANGES);
        let most = peak_memory(daemon);
        assert!(most <= 64 << 10, "{most} KiB");
        lab.cdi(["unmount", "-q", "mnt"]).ends(0);
    }

    fn a_long_map_is_read_and_written_in_bounded_memory() {
        let lab = Lab::new();
        many(&lab);
        // Its peak memory is read before all of its output was read, while it is waiting.
        for words in [
            &["map", "--bad", "--json", "many.cdimg"][..],
            &["map", "--bad", "many.raw", "--mapfile", "many.map"],
        ] {
            let mut child = lab.command().args(words).stdout(Stdio::piped()).spawn().unwrap();
            let mut out = child.stdout.take().unwrap();
            out.read_exact(&mut vec![0; 8 << 20]).unwrap();
            let most = peak_memory(child.id());
            assert!(most <= 48 << 10, "{words:?}: {most} KiB");
            std::io::copy(&mut out, &mut std::io::sink()).unwrap();
            assert!(child.wait().unwrap().success());
        }
    }

    fn many_lost_ranges_are_repaired_quickly() {
        let lab = Lab::new();
        many(&lab);
        // Half of the records are gone.
        let image = fs::File::options().write(true).open(lab.path("many.cdimg")).unwrap();
        let len = image.metadata().unwrap().len();
        image.write_all_at(&vec![0; usize::try_from(len / 2).unwrap()], len / 4).unwrap();
        let start = Instant::now();
        let said = lab.cdi(["repair", "many.cdimg", "out.cdimg", "--json"]).ends(4).json();
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
        let lost = said["lost"].as_array().unwrap();
        assert!(lost.len() as u64 > RANGES / 4, "{}", lost.len());
        let bytes: u64 = lost.iter().map(|r| r["length_bytes"].as_u64().unwrap()).sum();
        assert_eq!(said["lost_bytes"].as_u64(), Some(bytes));
        let blocks = &lab.cdi(["info", "--json", "out.cdimg"]).json()["blocks"];
        assert_eq!(
            (blocks["bad-sector"]["ranges"].as_u64(), blocks["non-tried"]["bytes"].as_u64()),
            (Some(RANGES), Some(bytes))
        );
    }

    fn more_notes_than_an_image_holds_are_refused() {
        let lab = Lab::new();
        lab.write("disk.raw", [7; 4096]);
        let note = "n".repeat(100_000);
        let create = |count: usize| {
            let notes = std::iter::repeat_n(["--note", &note], count).flatten();
            lab.cdi(["create", "disk.raw", "disk.cdimg"].into_iter().chain(notes))
        };
        create(11).ends(2);
        assert!(!lab.path("disk.cdimg").exists());
        create(9).ends(0);
        lab.cdi(["info", "disk.cdimg"]).ends(0);
        // A reader looks at the length before anything else.
        let head = Head {
            kind: RecordType::Metadata,
            codec: Codec::Stored,
            uncompressed: MAX_METADATA + 1,
            disk_at: 0,
            disk_len: 0,
            detail: 0,
        };
        let record = Record { at: 0, header: encode(head, 1, 1, b"{}"), stored: b"{}".to_vec() };
        assert!(decode_metadata(&record).unwrap_err().what.contains("longer than"));
    }

    fn verify_and_repair_can_be_interrupted() {
        let lab = Lab::new();
        lab.image(8192, 512, &[]);
        let mut left = 3;
        let mut stop = move || {
            left -= 1;
            if left > 0 { Ok(()) } else { Err(Error::new(Kind::Interrupted, "interrupted")) }
        };
        let image = open(&lab.path("disk.cdimg"), &OpenOptions::default()).unwrap().image;
        let ended = image.check(&mut |flaw, _| panic!("{flaw}"), &mut stop);
        assert_eq!(ended.unwrap_err().kind, Kind::Interrupted);
        // 64 MiB of zeros after the records.
        let file = fs::File::options().write(true).open(lab.path("disk.cdimg")).unwrap();
        let len = file.metadata().unwrap().len();
        file.set_len(len + (64 << 20)).unwrap();
        let out = fs::File::options().read(true).write(true).create_new(true).open(lab.path("out")).unwrap();
        let input = Arc::new(Input::open(&lab.path("disk.cdimg")).unwrap());
        let (mut steps, mut last) = (0, 0);
        cdi_capture::repair::repair(&input, &out, &lab.path("out"), &[], &mut |at| {
            steps += u32::from(at > len);
            assert!(at >= last || at == input.len(), "{at} comes after {last}");
            last = at;
            Ok(())
        })
        .unwrap();
        assert!(steps >= 60, "{steps} steps");
    }

    fn names_never_send_control_characters_to_a_terminal() {
        let lab = Lab::new();
        let wild = "a\u{1b}[31m\u{202e}b\u{9b}5m\u{2066}.raw";
        lab.write(wild, [0; 4096]);
        let plain = |text: &str| !text.chars().any(|c| "\u{1b}\u{202e}\u{9b}\u{2066}".contains(c));
        for words in [
            &["info"][..],
            &["info", "--json"],
            &["verify"],
            &["verify", "--json"],
            &["info", "--events", "--json"],
        ] {
            let ran = lab.cdi(words.iter().chain(&[wild])).ends(0);
            assert!(plain(&ran.out) && plain(&ran.err), "{words:?}: {ran:?}");
            if words.contains(&"--json") {
                assert!(ran.json()["image"].as_str().unwrap().ends_with(wild), "{words:?}");
            }
        }
        let ran = lab.cdi(["info", "--json", &format!("no{wild}")]);
        assert!(ran.code != 0 && plain(&ran.err), "{ran:?}");
        let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
        assert!(error["error"]["path"].as_str().unwrap().ends_with(wild));
    }

    fn a_list_as_long_as_an_image_claims_takes_little_memory() {
        let lab = Lab::new();
        let size = 1u64 << 60;
        let new = NewImage {
            geometry: Geometry { disk_size: size, chunk_size: 4096 },
            logical_sector: 512,
            physical_sector: 512,
            uuid: [1; 16],
            salt: 1,
        };
        let path = lab.path("stored_hashes.cdimg");
        let file = std::fs::File::create_new(&path).unwrap();
        let metadata = Metadata { size_bytes: size, ..Metadata::default() };
        Writer::create(Box::new(file), &path, &new, metadata).unwrap().finish().unwrap();
        for words in [&["map", "--export-badblocks"][..], &["map", "--export-badblocks", "--json"]] {
            let mut command = lab.command();
            let mut child = command.args(words).arg(&path).stdout(Stdio::piped()).spawn().unwrap();
            let mut some = vec![0; 4 << 20];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut some).unwrap();
            let peak = peak_memory(child.id());
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(peak < 64 << 10, "{words:?}: {peak} KiB");
        }
        lab.cdi(["map".as_ref(), "--extents".as_ref(), "--json".as_ref(), path.as_os_str()]).ends(0);
        lab.cdi(["info".as_ref(), path.as_os_str()]).ends(0);
    }
);

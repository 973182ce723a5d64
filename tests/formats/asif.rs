//! Apple's sparse image format (ASIF).

use std::path::Path;
use std::process::Command;

use cdi_base::error::{Error, Kind, ReadError};
use cdi_image::disk::{Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open::open_source;

use super::{extracted, verified};
use crate::common::Lab;
use crate::makers::{Asif, asif};

/// Where the header has its fields.
const DIRECTORIES: usize = 0x10;
const SIZES: usize = 0x30;

tests!(
    fn chunks_tables_and_bits_are_read() {
        let lab = Lab::new();
        let truth = truth();
        // The disk's data is also at the end of the first table of 64 MiB and after it; so is a hole.
        let large = (130 << 20) + 1536;
        let end = large - 512;
        let parts = [(0, &truth[..]), ((64 << 20) - (1 << 19), &truth), (130 << 20, &truth[..1024])];
        let small = Asif { sector: 4096, chunk: 256 << 10, ..Asif::default() };
        for (how, size, parts) in [
            (Asif::default(), truth.len() as u64, &parts[..1]),
            (Asif { garbage: 0xEE, versions: [6, 7], ..Asif::default() }, large, &parts),
            (Asif { chunk: 64 << 10, versions: [5, 5], garbage: 0xEE, ..Asif::default() }, large, &parts),
            (Asif { garbage: 0xEE, ..small }, truth.len() as u64, &parts[..1]),
        ] {
            let mut whole = vec![0; size as usize];
            for (at, bytes) in parts {
                whole[*at as usize..][..bytes.len()].copy_from_slice(bytes);
            }
            lab.write("d.asif", asif(how, size, parts));
            assert!(extracted(&lab, "d.asif", 0) == whole, "chunks of {}", how.chunk);
            verified(&lab, "d.asif", 0);
            let info = lab.cdi(["info", "--json", "d.asif"]).ends(0).json();
            assert_eq!(
                (&info["format"], info["metadata"]["size_bytes"].as_u64()),
                (&"asif".into(), Some(size))
            );
            let metadata = &info["metadata"];
            assert_eq!(metadata["logical_sector_bytes"], how.sector);
            assert_eq!(metadata["stable_uuid"], "0bd3e5a7-73a1-4f0c-8bd1-fcf0b5ab1d4e");
            assert_eq!(metadata["image_guid"], "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0");
        }
        // Holes are found without reading what is in them.
        let opened = open(asif(Asif::default(), large, &parts[2..])).unwrap();
        let hole = opened.image().map(4096).unwrap();
        assert!(hole.origin.is_zero() && hole.disk == (4096..128 << 20), "{hole:?}");
        assert!(opened.image().map(end).unwrap().origin.is_zero());
    }

    /// As Apple's programs make them: with chunks of 1 MiB, up to 4 PiB.
    fn images_of_the_usual_sizes_are_read() {
        let truth = truth();
        let size = 300 << 30;
        let far = [0, 126 << 30, (127 << 30) + (2048 << 20), 299 << 30];
        let how = Asif { chunk: 1 << 20, max_size: 4 << 50, ..Asif::default() };
        let disk = open(asif(how, size, &far.map(|at| (at, &truth[..])))).unwrap();
        assert_eq!(disk.size(), size);
        let mut read = vec![0; truth.len()];
        for at in far {
            disk.read_at(&mut read, at).unwrap();
            assert!(read == truth, "at {at}");
        }
        disk.read_at(&mut read, 200 << 30).unwrap();
        assert!(read.iter().all(|b| *b == 0));
    }

    /// dissect.hypervisor does not read the bits, so sectors that were not written are zeros in the file; nor does it know
    /// tables that are missing.
    #[needs(Python("dissect.hypervisor"))]
    fn an_asif_is_what_dissect_reads() {
        const SCRIPT: &str = "import sys\n\
            from dissect.hypervisor.disk.asif import ASIF\n\
            image = ASIF(open(sys.argv[1], 'rb'))\n\
            disk = image.open()\n\
            print(image.internal_metadata['stable uuid'], image.guid, image.size, file=sys.stderr)\n\
            for place in sys.argv[2:]:\n\
            \x20   at, length = map(int, place.split(':'))\n\
            \x20   disk.seek(at)\n\
            \x20   sys.stdout.buffer.write(disk.read(length))\n";
        let lab = Lab::new();
        let truth = truth();
        for (chunk, sector, size, places) in [
            (32 << 10, 512, 3 << 20, [0, 1 << 20, 2 << 20]),
            (64 << 10, 512, (400 << 20) + 512, [0, (384 << 20) - (1 << 19), 399 << 20]),
            (1 << 20, 512, 200 << 30, [0, 130 << 30, 199 << 30]),
            (512 << 10, 4096, 200 << 30, [4 << 20, 24 << 30, 199 << 30]),
        ] {
            let how = Asif { chunk, sector, max_size: 1 << 40, versions: [1, 2], ..Asif::default() };
            let max_size = if chunk < 1 << 19 { 1 << 30 } else { how.max_size };
            let image = asif(Asif { max_size, ..how }, size, &places.map(|at| (at, &truth[..])));
            let file = lab.write("d.asif", &image);
            let script = |words: &[String]| {
                Command::new("python3").args(["-c", SCRIPT]).arg(&file).args(words).output().unwrap()
            };
            let theirs = script(&places.map(|at| format!("{at}:{}", truth.len())));
            let said = String::from_utf8_lossy(&theirs.stderr);
            let disk = open(image).unwrap();
            let more = &disk.metadata().more;
            let text = |key: &str| more[key].as_str().unwrap();
            assert_eq!(said.trim(), format!("{} {} {size}", text("stable_uuid"), text("image_guid")));
            let mut ours = vec![0; truth.len()];
            for (n, at) in places.into_iter().enumerate() {
                disk.read_at(&mut ours, at).unwrap();
                assert!(ours == theirs.stdout[n * ours.len()..][..ours.len()], "chunks of {chunk}, at {at}");
            }
        }
    }

    fn inconsistent_asif_images_are_refused_with_a_reason() {
        let image = asif(Asif::default(), 1 << 20, &[(0, &truth())]);
        let cases: &[(usize, &[u8], &str)] = &[
            (0, b"x", "not an ASIF image"),
            (4, &[0, 0, 0, 2], "at byte 4: unsupported version 2"),
            (12, &[0, 0, 1, 0], "at byte 12: unknown features are in use: flags 0x100"),
            (0x40, &[0, 0, 0, 0], "invalid sizes: chunks of 0 bytes"),
            (0x40, &[0, 0, 0x40, 0], "invalid sizes: chunks of 16384 bytes, sectors of 512 bytes"),
            (0x40, &[0, 0, 0x81, 0], "invalid sizes: chunks of 33024 bytes"),
            (0x44, &[0, 0], "sectors of 0 bytes"),
            (0x44, &[1, 0], "sectors of 256 bytes"),
            (0x46, &[0, 2], "image of 2 segments (not supported)"),
            (SIZES, &[0; 8], "invalid disk size: 0 sectors"),
            (SIZES, &[0xFF; 8], "invalid disk size: 18446744073709551615 sectors"),
            (SIZES + 8, &[0xFF; 8], "invalid disk size: 2048 sectors, at most 18446744073709551615"),
            (SIZES + 8, &[0; 8], "the disk of 2048 sectors is larger than its maximum of 0"),
            (SIZES + 8, &[0, 0x20, 0, 0, 0, 0, 0, 0], "at byte 56: more tables than supported"),
            (
                SIZES + 8,
                &[0, 0, 0, 8, 0, 0, 0, 0],
                "directory of 2097160 bytes at byte 512 extends past the end",
            ),
            (DIRECTORIES, &[0xFF; 8], "at byte 16: the directory of 136 bytes"),
            (DIRECTORIES + 8, &[0x7F; 8], "at byte 24: the directory of 136 bytes"),
            (512, &1u64.to_be_bytes(), "at byte 1024: both directories have version 1, but they differ"),
        ];
        for (at, value, words) in cases {
            let mut bytes = image.clone();
            bytes[*at..][..value.len()].copy_from_slice(value);
            let error = open(bytes).err().unwrap_or_else(|| panic!("{words}: opened"));
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.kind, Kind::BadImage);
        }
    }

    /// What is not known, or not there, is an error, where it is: never zeros, and never other bytes.
    fn unknown_states_and_missing_chunks_cannot_be_read() {
        let truth = truth();
        let image = asif(Asif { max_size: 64 << 20, ..Asif::default() }, 1 << 20, &[(0, &truth)]);
        let chunk = 32 << 10;
        let number = |at: usize| u64::from_be_bytes(*image[at..].first_chunk().unwrap());
        // The only table; in it, the entries of a chunk that was written in part, of one that was written, of none.
        let table = number(512 + 8) as usize * chunk;
        let entry = |status: u64| {
            let has = |n: &usize| number(table + n * 8) >> 62 == status;
            (0..32).find(has).unwrap()
        };
        let (none, whole) = (entry(0), entry(1));
        let partial = (0..32).rev().find(|n| number(table + n * 8) >> 62 == 3).unwrap();
        let bits_entry = table + 2048 * 8;
        let bits = number(bits_entry) as usize * chunk + partial * 16;
        let (at, value) = (|n: usize| table + n * 8, |n: usize| number(table + n * 8));
        let cases: &[(usize, u64, usize, bool)] = &[
            // No chunk, in each status; with a chunk, where there should be none.
            (at(none), 0, none, true),
            (at(none), 2 << 62, none, true),
            (at(none), 1 << 62, none, false),
            (at(none), 3 << 62, none, false),
            (at(none), 1, none, false),
            (at(none), 2 << 62 | 1, none, false),
            // A reserved bit; a chunk past the end of the file, one whose offset has more than 64 bits.
            (at(whole), value(whole) | 1 << 55, whole, false),
            (at(whole), (1 << 62) | (image.len() as u64 / 32768), whole, false),
            (at(whole), (1 << 62) | ((1 << 55) - 1), whole, false),
            // The list of bits is missing, not in the file, or has bits that are not known.
            (bits_entry, 0, partial, false),
            (bits_entry, 1 << 62 | 1, partial, false),
            (bits_entry, 1 << 40, partial, false),
            (bits, 0xAAAA_AAAA_AAAA_AAAA, partial, false),
            (bits, u64::MAX, partial, false),
            // A table past the end of the file.
            (512 + 8, 1 << 30, whole, false),
            (512 + 8, u64::MAX, whole, false),
        ];
        let mut buf = vec![0; chunk];
        for (at, value, slot, is_readable) in cases {
            let mut bytes = image.clone();
            bytes[*at..at + 8].copy_from_slice(&value.to_be_bytes());
            let disk = open(bytes).unwrap();
            let read = disk.read_at(&mut buf, (slot * chunk) as u64);
            match read {
                Ok(()) => assert!(*is_readable && buf == truth[slot * chunk..][..chunk], "{at}: {value:#x}"),
                Err(e) => assert!(!is_readable && matches!(e, ReadError::Corrupt { .. }), "{at}: {value:#x}"),
            }
        }
        // If the file is cut off, the chunks before that can still be read.
        let lab = Lab::new();
        let cut = image.len() - chunk;
        assert_eq!(table, cut, "the table is last");
        let sparse = asif(Asif { max_size: 64 << 20, ..Asif::default() }, 1 << 20, &[(0, &truth[..1 << 16])]);
        lab.write("cut.asif", &sparse[..sparse.len() - chunk]);
        assert!(lab.cdi(["extract", "cut.asif", "cut.raw"]).ends(4).err.contains("could not be read"));
    }

    fn damaged_metadata_of_an_asif_is_a_warning() {
        let image = asif(Asif::default(), 1 << 20, &[(0, &truth())]);
        let find = |what: &[u8]| image.windows(what.len()).position(|w| w == what).unwrap();
        for (at, words) in
            [(find(b"meta"), "its header is damaged"), (find(b"<plist"), "invalid property list")]
        {
            let mut bytes = image.clone();
            bytes[at] = b'?';
            let disk = open(bytes).unwrap();
            let warnings = disk.image().warnings();
            assert!(
                warnings.iter().any(|w| w.contains("metadata is ignored") && w.contains(words)),
                "{warnings:?}"
            );
        }
        let mut bytes = image;
        bytes[0x48..0x50].fill(0xFF);
        let disk = open(bytes).unwrap();
        assert!(disk.image().warnings()[0].contains("past the largest possible end of the disk"));
    }
);

fn open(image: Vec<u8>) -> Result<Disk, Error> {
    let opened = open_source(Box::new(image), Path::new("/nowhere/d.asif"), &OpenOptions::default());
    opened.map(|opened| Disk::new(opened, Options::default()))
}

/// A disk of 1 MiB in which some sectors are zeros, so that chunks are written in part.
fn truth() -> Vec<u8> {
    let mut disk = super::truth();
    for (n, sector) in disk[0x4_0000..0xA_0000].chunks_mut(512).enumerate() {
        if n % 7 == 0 || (n / 32) % 3 == 0 {
            sector.fill(0);
        }
    }
    disk
}

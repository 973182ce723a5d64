//! iBored's images, made by a writer of the tests' own.

use std::path::Path;

use cdi_image::disk::{Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open::open_source;

use crate::common::{Lab, Random, disk, seeds};
use crate::makers::iboredimg::image;

tests!(
    fn every_version_and_compression_is_read() {
        let lab = Lab::new();
        let truth = disk(1_500_000);
        for (version, method, chunk) in
            [(1, 1, 65536), (2, 1, 65536), (1, 2, 100_000), (2, 2, 1 << 20), (2, 1, 512)]
        {
            lab.write("d.iboredimg", image(&truth, version, method, chunk));
            let what = format!("version {version}, method {method}, chunks of {chunk}");
            lab.cdi(["extract", "--force", "d.iboredimg", "out.raw"]).ends(0);
            assert!(lab.read("out.raw") == truth, "{what}");
            lab.cdi(["verify", "d.iboredimg"]).ends(0);
            let info = lab.cdi(["info", "--json", "d.iboredimg"]).ends(0).json();
            assert_eq!(
                (&info["format"], &info["metadata"]["disk_info"]["model"]),
                (&"iboredimg".into(), &"an old disk".into())
            );
            assert_eq!(info["metadata"]["physical_sector_bytes"], 4096);
            // It is converted to a .cdimg, with its metadata.
            lab.cdi(["create", "--force", "d.iboredimg", "d.cdimg"]).ends(0);
            let made = lab.cdi(["info", "--json", "d.cdimg"]).ends(0).json();
            assert_eq!(made["metadata"]["disk_info"]["model"], "an old disk");
            lab.cdi(["extract", "--force", "d.cdimg", "out.raw"]).ends(0);
            assert!(lab.read("out.raw") == truth, "{what}");
        }
    }

    fn inconsistent_headers_are_refused_with_a_reason() {
        let fixture = image(&disk(300_000), 2, 1, 65536);
        let cases: &[(usize, &[u8], &str)] = &[
            (0x5B, &[0], "at byte 91: unsupported version 0"),
            (0x5B, &[3], "unsupported version 3 (supported: 1 and 2)"),
            (0x5C, &[0], "compression method 0"),
            (0x5C, &[3], "compression method 3"),
            (0x60, &[0; 8], "disk size: 0 bytes"),
            (0x60, &[0xFF; 8], "disk size: 18446744073709551615 bytes"),
            (0x60, &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], "is not within the file"),
            (0x68, &[0; 8], "unsupported chunk size: 0 bytes"),
            (0x68, &[0, 0, 0, 0x40, 0, 0, 0, 0], "unsupported chunk size: 1073741824 bytes"),
            (0x80, &[0; 8], "is not within the file"),
            (0x80, &[0xFF; 8], "is not within the file"),
        ];
        for (at, value, words) in cases {
            let mut bytes = fixture.clone();
            bytes[*at..at + value.len()].copy_from_slice(value);
            let error = open(bytes).err().unwrap_or_else(|| panic!("{words}: opened"));
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.kind, cdi_base::error::Kind::BadImage);
        }
        // Information that is lost costs itself.
        let mut bytes = fixture.clone();
        bytes[0x70..0x78].fill(0xFF);
        assert!(open(bytes).unwrap().image().warnings()[0].contains("the disk information"));
        assert!(open(fixture[..100].to_vec()).is_err());
    }

    /// The format cannot notice all damage; but it must not panic, hang, or fill the memory.
    fn a_damaged_image_does_no_harm() {
        let truth = disk(200_000);
        for (version, method) in [(1, 1), (2, 1), (1, 2), (2, 2)] {
            let fixture = image(&truth, version, method, 16384);
            for seed in seeds(20_000) {
                let random = &mut Random::new(seed);
                let mut bytes = fixture.clone();
                for _ in 0..=random.below(3) {
                    let len = bytes.len() as u64;
                    let at = if random.below(2) == 0 { random.below(256.min(len)) } else { random.below(len) }
                        as usize;
                    match random.below(4) {
                        0 => bytes[at] ^= 1 << random.below(8),
                        1 => bytes[at] = [0, 1, 0x7F, 0xFF][random.below(4) as usize],
                        2 => {
                            let end = (at + 64).min(bytes.len());
                            bytes[at..end].fill_with(|| random.next() as u8);
                        }
                        _ => bytes.truncate(at + 1),
                    }
                }
                let Ok(disk) = open(bytes) else { continue };
                let mut buf = [0; 4096];
                for _ in 0..6 {
                    let at = random.below(disk.size());
                    let len = (disk.size() - at).min(4096) as usize;
                    let _ = disk.read_at(&mut buf[..len], at);
                }
            }
        }
    }
);

fn open(bytes: Vec<u8>) -> Result<Disk, cdi_base::error::Error> {
    let opened = open_source(Box::new(bytes), Path::new("d.iboredimg"), &OpenOptions::default())?;
    Ok(Disk::new(opened, Options { cache: 1 << 20, ..Options::default() }))
}

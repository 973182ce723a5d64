//! iBored's images, made by a writer of the tests' own from the format's description.

use std::fs;
use std::io::Write;
use std::path::Path;

use cdi_image::disk::{Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open::open_source;

use crate::common::{Lab, Random, disk, seeds};

const IDENT: &[u8] =
    b"iBored compressed disk image\rhttp://github.com/tempelmann/iBored-compressed-disk-image\r\0";

/// zlib as version 1 has it: flushed, but not ended.
fn zlib(data: &[u8], ended: bool) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(data).unwrap();
    if ended {
        return encoder.finish().unwrap();
    }
    encoder.flush().unwrap();
    encoder.get_ref().clone()
}

/// Runs of eight bytes that repeat, and what is between them.
fn run_length(data: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut segment = |out: usize, pattern: &[u8]| {
        let len = (16 + pattern.len()).next_multiple_of(8);
        body.extend_from_slice(b"\0RLS");
        [len, out, pattern.len()].iter().for_each(|n| body.extend_from_slice(&(*n as u32).to_le_bytes()));
        body.extend_from_slice(pattern);
        body.resize(body.len().next_multiple_of(8), 0);
    };
    let mut at = 0;
    let mut literal = 0;
    while at < data.len() {
        let pattern = &data[at..(at + 8).min(data.len())];
        let run = data[at..].chunks(8).take_while(|c| pattern.starts_with(c)).map(<[u8]>::len).sum::<usize>();
        if run < 32 {
            at += pattern.len();
            continue;
        }
        if literal < at {
            segment(at - literal, &data[literal..at]);
        }
        segment(run, pattern);
        at += run;
        literal = at;
    }
    if literal < data.len() {
        segment(data.len() - literal, &data[literal..]);
    }
    let mut chunk = b"\0RLE".to_vec();
    [body.len() + 16, data.len(), 0].iter().for_each(|n| chunk.extend_from_slice(&(*n as u32).to_le_bytes()));
    [chunk, body].concat()
}

/// An image of `data`: its chunks last first, the table between, the information about the disk at the end.
fn image(data: &[u8], version: u8, method: u8, chunk: usize) -> Vec<u8> {
    let info = br#"{"model":"an old disk"}"#;
    let mut file = vec![0; 256];
    let mut offsets = Vec::new();
    let chunks: Vec<&[u8]> = data.chunks(chunk).collect();
    for part in chunks.iter().rev() {
        offsets.push(file.len() as u64);
        let compressed = if method == 1 { zlib(part, version == 2) } else { run_length(part) };
        if version == 2 {
            file.extend_from_slice(&(compressed.len() as u64).to_le_bytes());
        }
        file.extend_from_slice(&compressed);
    }
    let table = file.len() as u64;
    offsets.iter().rev().for_each(|o| file.extend_from_slice(&o.to_le_bytes()));
    let info_at = file.len() as u64;
    file.extend_from_slice(info);
    file[..IDENT.len()].copy_from_slice(IDENT);
    file[0x5A..0x5D].copy_from_slice(&[2, version, method]);
    file[0x5E..0x60].copy_from_slice(&256u16.to_le_bytes());
    for (at, n) in [(0x60, data.len() as u64), (0x68, chunk as u64), (0x70, info_at), (0x80, table)] {
        file[at..at + 8].copy_from_slice(&n.to_le_bytes());
    }
    file[0x78..0x7C].copy_from_slice(&(info.len() as u32).to_le_bytes());
    file[0x7C..0x80].copy_from_slice(&4096u32.to_le_bytes());
    file
}

tests!(
    fn every_version_and_method_reads() {
        let lab = Lab::new();
        let truth = disk(1_500_000);
        for (version, method, chunk) in
            [(1, 1, 65536), (2, 1, 65536), (1, 2, 100_000), (2, 2, 1 << 20), (2, 1, 512)]
        {
            lab.write("d.iboredimg", image(&truth, version, method, chunk));
            let what = format!("version {version}, method {method}, chunks of {chunk}");
            lab.cdi(["extract", "--force", "d.iboredimg", "out.raw"]).ends(0);
            assert!(fs::read(lab.path("out.raw")).unwrap() == truth, "{what}");
            lab.cdi(["verify", "d.iboredimg"]).ends(0);
            let info = lab.cdi(["info", "--json", "d.iboredimg"]).ends(0).json();
            assert_eq!(
                (&info["format"], &info["metadata"]["disk_info"]["model"]),
                (&"iboredimg".into(), &"an old disk".into())
            );
            assert_eq!(info["metadata"]["physical_sector_bytes"], 4096);
            // It becomes a .cdimg, with what is known of it.
            lab.cdi(["create", "--force", "d.iboredimg", "d.cdimg"]).ends(0);
            let made = lab.cdi(["info", "--json", "d.cdimg"]).ends(0).json();
            assert_eq!(made["metadata"]["disk_info"]["model"], "an old disk");
            lab.cdi(["extract", "--force", "d.cdimg", "out.raw"]).ends(0);
            assert!(fs::read(lab.path("out.raw")).unwrap() == truth, "{what}");
        }
    }

    fn what_does_not_add_up_is_refused_in_words() {
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
    fn damage_does_no_harm() {
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

//! Writes EnCase's second format (Ex01).

use std::io::Write;

use md5::{Digest, Md5};

use super::{adler, zlib};

/// An Ex01 in one segment, in chunks of 32 KiB: zlib, stored, and eight bytes over and over; read errors by sector.
pub fn ex01(disk: &[u8], errors: &[(u64, u32)]) -> Vec<u8> {
    ex01_segments(disk, errors, usize::MAX).remove(0)
}

/// The same with bzip2 in place of zlib.
pub fn ex01_bzip2(disk: &[u8]) -> Vec<u8> {
    let bzip2 = |bytes: &[u8]| {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let mut file = ex01_segment(disk, &[], 0, disk, 0, true, &bzip2);
    file[10] = 2;
    file
}

/// The same in segments of `per` chunks.
pub fn ex01_segments(disk: &[u8], errors: &[(u64, u32)], per: usize) -> Vec<Vec<u8>> {
    let parts: Vec<_> = disk.chunks(per.saturating_mul(32 << 10)).collect();
    let segment = |n: usize| ex01_segment(disk, errors, n * per, parts[n], n, n + 1 == parts.len(), &zlib);
    (0..parts.len()).map(segment).collect()
}

fn ex01_segment(
    disk: &[u8],
    errors: &[(u64, u32)],
    first: usize,
    part: &[u8],
    number: usize,
    last: bool,
    compress: &dyn Fn(&[u8]) -> Vec<u8>,
) -> Vec<u8> {
    const CHUNK: usize = 32 << 10;
    let mut file = b"EVF2\r\n\x81\0\x02\x01\x01\0".to_vec();
    file.extend((number as u32 + 1).to_le_bytes());
    file.resize(32, 7);
    let mut before = 0u64;
    let mut section = |file: &mut Vec<u8>, kind: u32, data: &[u8]| {
        file.extend_from_slice(data);
        let pad = file.len().next_multiple_of(16) - file.len();
        file.resize(file.len() + pad, 0);
        let at = file.len() as u64;
        let mut head = [kind.to_le_bytes(), [0; 4]].concat();
        head.extend(before.to_le_bytes());
        head.extend(((data.len() + pad) as u64).to_le_bytes());
        head.extend(64u32.to_le_bytes());
        head.extend((pad as u32).to_le_bytes());
        head.resize(60, 0);
        head.extend(adler(&head));
        file.extend(head);
        before = at;
    };
    let text = |text: String| {
        let units: Vec<u8> =
            std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        compress(&units)
    };
    let sectors = disk.len() / 512;
    let chunks = disk.len().div_ceil(CHUNK);
    if number == 0 {
        section(&mut file, 1, &text(format!("1\nmain\nsn\tmd\tts\tbp\nSER1\tMODEL\t{sectors}\t512\n\n")));
        section(&mut file, 2, &text(format!("1\nmain\ncn\tsb\ttb\nCASE\t64\t{chunks}\n\n")));
    }
    let (mut data, mut entries) = (Vec::new(), Vec::new());
    let from = file.len();
    for (n, chunk) in part.chunks(CHUNK).enumerate() {
        let (at, len, flags) = if chunk.chunks(8).all(|c| chunk.starts_with(c)) {
            (u64::from_le_bytes(chunk[..8].try_into().unwrap()), 0, 5u32)
        } else {
            let at = (from + data.len()) as u64;
            let (stored, flags) =
                if n % 3 == 0 { ([chunk, &adler(chunk)].concat(), 2) } else { (compress(chunk), 1) };
            data.extend_from_slice(&stored);
            data.resize(data.len().next_multiple_of(16), 0);
            (at, stored.len() as u32, flags)
        };
        entries.extend(at.to_le_bytes());
        entries.extend(len.to_le_bytes());
        entries.extend(flags.to_le_bytes());
    }
    section(&mut file, 3, &data);
    let listed = |head: &[u8], entries: &[u8]| {
        let mut data = head.to_vec();
        data.resize(16, 0);
        data.extend(adler(&data));
        data.resize(32, 0);
        data.extend_from_slice(entries);
        data.extend(adler(entries));
        data.resize(data.len() + 12, 0);
        data
    };
    let count = part.len().div_ceil(CHUNK) as u64;
    let head = [(first as u64).to_le_bytes(), count.to_le_bytes()].concat();
    section(&mut file, 4, &listed(&head, &entries));
    if !last {
        section(&mut file, 13, &[]);
        return file;
    }
    if !errors.is_empty() {
        let each = errors
            .iter()
            .flat_map(|(first, count)| [&first.to_le_bytes()[..], &count.to_le_bytes(), &[0; 4]].concat());
        section(&mut file, 5, &listed(&(errors.len() as u32).to_le_bytes(), &each.collect::<Vec<_>>()));
    }
    let md5 = Md5::digest(disk);
    section(&mut file, 8, &[&md5[..], &adler(&md5), &[0; 12]].concat());
    section(&mut file, 15, &[]);
    file
}

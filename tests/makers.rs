//! Writers of other programs' formats, by the formats' descriptions and not by the readers: for what nothing at hand makes.

use std::io::{Cursor, Write};

use crc::{CRC_32_ISCSI, CRC_32_ISO_HDLC, Crc};
use md5::{Digest, Md5};

fn crc32(bytes: &[u8]) -> u32 {
    Crc::<u32>::new(&CRC_32_ISO_HDLC).checksum(bytes)
}

pub fn adler(bytes: &[u8]) -> [u8; 4] {
    let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    (b << 16 | a).to_le_bytes()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let n = part.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - part.len()));
        for i in 0..4 {
            let letter = LETTERS[(n >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= part.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// Puts numbers to bytes.
macro_rules! put {
    ($out:expr, $($number:expr),+) => { $($out.extend(($number).to_be_bytes());)+ };
}

/// What a dmg's tables are in.
#[derive(Clone, Copy, PartialEq)]
pub enum Tables {
    PropertyList,
    ResourceFork,
}

/// A dmg with every kind of chunk that can be made here: zlib, bzip2, LZFSE, ADC, plain, zeros, free space.
/// `disk` is whole chunks of 64 KiB; its second is taken for zeros, its third for free space.
pub fn dmg(disk: &[u8], tables: Tables) -> Vec<u8> {
    const CHUNK: usize = 64 << 10;
    // Something before the data, as some images have it.
    let (mut file, shift) = (b"before".to_vec(), 6u64);
    let (mut entries, mut counted) = (Vec::new(), Vec::new());
    for (n, chunk) in disk.chunks(CHUNK).enumerate() {
        let (kind, stored): (u32, Vec<u8>) = match n {
            1 => (0, Vec::new()),
            2 => (2, Vec::new()),
            _ => match n % 5 {
                0 => (0x8000_0005, zlib(chunk)),
                1 => (0x8000_0006, {
                    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::new(1));
                    encoder.write_all(chunk).unwrap();
                    encoder.finish().unwrap()
                }),
                2 => (0x8000_0007, {
                    let mut out = Vec::new();
                    lzfse_rust::encode_bytes(chunk, &mut out).unwrap();
                    out
                }),
                3 => (
                    0x8000_0004,
                    chunk.chunks(128).flat_map(|p| [&[0x7F + p.len() as u8], p].concat()).collect(),
                ),
                _ => (1, chunk.to_vec()),
            },
        };
        if kind != 2 {
            counted.extend_from_slice(chunk);
        }
        put!(entries, kind, 0u32, (n * CHUNK / 512) as u64, (chunk.len() / 512) as u64);
        put!(entries, file.len() as u64 - shift, stored.len() as u64);
        file.extend(stored);
    }
    put!(entries, u32::MAX, 0u32, (disk.len() / 512) as u64, 0u64, 0u64, 0u64);
    let mut mish = b"mish".to_vec();
    put!(mish, 1u32, 0u64, (disk.len() / 512) as u64, shift, 0u32, 0u32);
    mish.resize(64, 0);
    put!(mish, 2u32, 32u32, crc32(&counted));
    mish.resize(200, 0);
    put!(mish, (entries.len() / 40) as u32);
    mish.extend(entries);
    let data_len = file.len() as u64;
    let data_crc = crc32(&file);
    let (mut list, mut fork) = ((0, 0), (0, 0));
    if tables == Tables::PropertyList {
        let text = format!(
            "<?xml version=\"1.0\"?><!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"x\"><plist version=\"1.0\"><dict>\
             <key>resource-fork</key><dict><key>blkx</key><array><dict><key>Data</key><data>{}</data><key>Name</key>\
             <string>whole disk (unknown : 0)</string></dict></array><key>plst</key><array/></dict></dict></plist>",
            base64(&mish)
        );
        list = (file.len() as u64, text.len() as u64);
        file.extend(text.into_bytes());
    } else {
        let mut bytes = Vec::new();
        put!(bytes, 16u32, 20 + mish.len() as u32, 4 + mish.len() as u32, 50u32, mish.len() as u32);
        bytes.extend_from_slice(&mish);
        bytes.extend([0; 24]);
        put!(bytes, 28u16, 50u16, 0u16);
        bytes.extend(b"blkx");
        put!(bytes, 0u16, 10u16, 0u16, 0xFFFFu16, 0u32, 0u32);
        fork = (file.len() as u64, bytes.len() as u64);
        file.extend(bytes);
    }
    let mut koly = b"koly".to_vec();
    put!(koly, 4u32, 512u32, 1u32, 0u64, 0u64, data_len, fork.0, fork.1, 1u32, 1u32);
    koly.resize(80, 0);
    put!(koly, 2u32, 32u32, data_crc);
    koly.resize(216, 0);
    put!(koly, list.0, list.1);
    koly.resize(352, 0);
    put!(koly, 2u32, 32u32, crc32(&crc32(&counted).to_be_bytes()));
    koly.resize(488, 0);
    put!(koly, 1u32, (disk.len() / 512) as u64);
    koly.resize(512, 0);
    file.extend(koly);
    file
}

/// A sparse image with bands of 512 bytes, so many that there is more than one node; bands of zeros are not there, and the
/// others lie the last first.
pub fn sparseimage(disk: &[u8]) -> Vec<u8> {
    let mut bands: Vec<usize> =
        (0..disk.len() / 512).filter(|n| disk[n * 512..][..512].iter().any(|b| *b != 0)).collect();
    bands.reverse();
    let (mut file, mut rest) = (Vec::new(), &bands[..]);
    loop {
        let first = file.is_empty();
        let (now, later) = rest.split_at(rest.len().min(if first { 1008 } else { 1010 }));
        let here = file.len() as u64;
        let next = if later.is_empty() { 0 } else { here + 4096 + now.len() as u64 * 512 };
        let mut node = b"sprs".to_vec();
        if first {
            put!(node, 3u32, 1u32, 1u32, (disk.len() / 512) as u32, next, (disk.len() / 512) as u64);
            node.resize(64, 0);
        } else {
            put!(node, 0u32, 1u32, next);
            node.resize(56, 0);
        }
        for n in now {
            put!(node, *n as u32 + 1);
        }
        node.resize(4096, 0);
        file.extend(node);
        now.iter().for_each(|n| file.extend_from_slice(&disk[n * 512..][..512]));
        rest = later;
        if rest.is_empty() {
            return file;
        }
    }
}

/// The files of a sparse bundle of 64 KiB bands: their names and bytes. Bands end with their last byte that is not zero.
pub fn sparsebundle(disk: &[u8]) -> Vec<(String, Vec<u8>)> {
    let list = format!(
        "<?xml version=\"1.0\"?><plist version=\"1.0\"><dict><key>band-size</key><integer>65536</integer>\
         <key>diskimage-bundle-type</key><string>com.apple.diskimage.sparsebundle</string><key>size</key>\
         <integer>{}</integer></dict></plist>",
        disk.len()
    );
    let bands = disk.chunks(65536).enumerate().filter_map(|(n, band)| {
        let end = band.iter().rposition(|b| *b != 0)? + 1;
        Some((format!("bands/{n:x}"), band[..end].to_vec()))
    });
    let mut files = vec![("Info.plist".into(), list.into_bytes()), ("token".into(), Vec::new())];
    files.extend(bands);
    files
}

/// zstd's seekable format, with checksums.
pub fn zstd_seekable(disk: &[u8], frame: usize) -> Vec<u8> {
    let (mut file, mut table) = (Vec::new(), Vec::new());
    for part in disk.chunks(frame) {
        let compressed = zstd::bulk::compress(part, 3).unwrap();
        let sum = xxhash_rust::xxh64::xxh64(part, 0) as u32;
        [compressed.len() as u32, part.len() as u32, sum].iter().for_each(|n| table.extend(n.to_le_bytes()));
        file.extend(compressed);
    }
    let count = (table.len() / 12) as u32;
    [0x184D_2A5E, table.len() as u32 + 9].iter().for_each(|n: &u32| file.extend(n.to_le_bytes()));
    file.extend(table);
    file.extend(count.to_le_bytes());
    file.push(0x80);
    file.extend(0x8F92_EAB1u32.to_le_bytes());
    file
}

/// An Ex01 in one segment, in chunks of 32 KiB: zlib, stored, and eight bytes over and over; read errors by sector.
pub fn ex01(disk: &[u8], errors: &[(u64, u32)]) -> Vec<u8> {
    ex01_segments(disk, errors, usize::MAX).remove(0)
}

/// The same in segments of `per` chunks.
pub fn ex01_segments(disk: &[u8], errors: &[(u64, u32)], per: usize) -> Vec<Vec<u8>> {
    let parts: Vec<_> = disk.chunks(per.saturating_mul(32 << 10)).collect();
    let segment = |n: usize| ex01_segment(disk, errors, n * per, parts[n], n, n + 1 == parts.len());
    (0..parts.len()).map(segment).collect()
}

fn ex01_segment(
    disk: &[u8],
    errors: &[(u64, u32)],
    first: usize,
    part: &[u8],
    number: usize,
    last: bool,
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
        zlib(&units)
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
                if n % 3 == 0 { ([chunk, &adler(chunk)].concat(), 2) } else { (zlib(chunk), 1) };
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

/// How an AFF4 image's chunks are compressed.
#[derive(Clone, Copy, PartialEq)]
pub enum Aff4 {
    Snappy,
    Lz4,
    Deflate,
    Stored,
    /// As it was before the standard: other names, other indices. CompressedChunk by snappy.
    Old,
}

/// An AFF4 image in one volume. Of the disk the 64 KiB at `unreadable` could not be read, and those at `unknown` were not
/// tried; what is zeros for whole 64 KiB is a gap in the map.
pub fn aff4(disk: &[u8], how: Aff4, unreadable: usize, unknown: usize) -> Vec<u8> {
    const CHUNK: usize = 4096;
    const PER_BEVY: usize = 64;
    const RUN: usize = 65536;
    let (volume, map, stream) = ("aff4://11111111-aaaa-bbbb-cccc-000000000001", "aff4://m-1", "aff4://s-1");
    let schema = if how == Aff4::Old { "http://afflib.org/2009/aff4#" } else { "http://aff4.org/Schema#" };
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    let mut entry = |at: usize, from: usize, target: u32| {
        [at as u64, RUN as u64, from as u64].iter().for_each(|n| entries.extend(n.to_le_bytes()));
        entries.extend(target.to_le_bytes());
    };
    for (n, run) in disk.chunks(RUN).enumerate() {
        match n * RUN {
            at if at == unreadable => entry(at, at, 1),
            at if at == unknown => entry(at, at, 2),
            _ if run.iter().all(|b| *b == 0) => {}
            _ if run.iter().all(|b| *b == b'a') => entry(n * RUN, n * RUN, 3),
            at => {
                entry(at, data.len(), 0);
                data.extend_from_slice(run);
            }
        }
    }
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut member = |name: String, bytes: &[u8]| {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    member("container.description".into(), volume.as_bytes());
    let escaped = |urn: &str| urn.replace(':', "%3A").replacen("//", "%2F%2F", 1);
    for (n, bevy) in data.chunks(CHUNK * PER_BEVY).enumerate() {
        let (mut compressed, mut index) = (Vec::new(), Vec::new());
        for chunk in bevy.chunks(CHUNK) {
            let mut one = match how {
                Aff4::Snappy | Aff4::Old => snap::raw::Encoder::new().compress_vec(chunk).unwrap(),
                Aff4::Lz4 => lz4_flex::block::compress(chunk),
                Aff4::Deflate => {
                    let mut encoder =
                        flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
                    encoder.write_all(chunk).unwrap();
                    encoder.finish().unwrap()
                }
                Aff4::Stored => chunk.to_vec(),
            };
            if one.len() >= CHUNK {
                one = chunk.to_vec();
            }
            if how != Aff4::Old {
                index.extend((compressed.len() as u64).to_le_bytes());
                index.extend((one.len() as u32).to_le_bytes());
            }
            compressed.extend(one);
            if how == Aff4::Old {
                index.extend((compressed.len() as u32).to_le_bytes());
            }
        }
        member(format!("{}/{n:08}", escaped(stream)), &compressed);
        let suffix = if how == Aff4::Old { "/index" } else { ".index" };
        member(format!("{}/{n:08}{suffix}", escaped(stream)), &index);
    }
    member(format!("{}/map", escaped(map)), &entries);
    let end = if how == Aff4::Old { "\r\n" } else { "\n" };
    let byte = if how == Aff4::Old {
        "http://afflib.org/2012/SymbolicStream#61".into()
    } else {
        format!("{schema}SymbolicStream61")
    };
    let names = [stream.into(), format!("{schema}UnreadableData"), format!("{schema}UnknownData"), byte];
    member(format!("{}/idx", escaped(map)), format!("{}{end}", names.join(end)).as_bytes());
    let method = match how {
        Aff4::Snappy | Aff4::Old => "<http://code.google.com/p/snappy/>",
        Aff4::Lz4 => "<https://code.google.com/p/lz4/>",
        Aff4::Deflate => "<https://tools.ietf.org/html/rfc1951>",
        Aff4::Stored => "<http://aff4.org/Schema#NullCompressor>",
    };
    let (size, held) = (disk.len(), data.len());
    let md5: String = Md5::digest(&data).iter().map(|b| format!("{b:02x}")).collect();
    let about = if how == Aff4::Old {
        format!(
            "<{map}> a aff4:Image , aff4:map ; aff4:size \"{size}\"^^xsd:long ; aff4:blockSize 512 .\n\
             <{stream}> a aff4:stream ; aff4:chunk_size {CHUNK} ; aff4:chunks_in_segment {PER_BEVY} ;\n\
             aff4:CompressionMethod {method} ; aff4:size {held} .\n"
        )
    } else {
        format!(
            "<aff4://i-1> a aff4:DiskImage , aff4:Image ; aff4:dataStream <{map}> ; aff4:size {size} ;\n\
             aff4:blockSize \"512\"^^xsd:int ; aff4:diskSerial \"SER . 1\" .\n\
             <{map}> a aff4:Map ; aff4:size {size} ; aff4:mapGapDefaultStream aff4:Zero .\n\
             <{stream}> a aff4:ImageStream ; aff4:chunkSize {CHUNK} ; aff4:chunksInSegment {PER_BEVY} ;\n\
             aff4:compressionMethod {method} ; aff4:size {held} ; aff4:hash \"{md5}\"^^aff4:MD5 .\n"
        )
    };
    let turtle = format!(
        "@prefix : <{volume}> .\n@prefix aff4: <{schema}> .\n@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .\n{about}"
    );
    member("information.turtle".into(), turtle.as_bytes());
    zip.set_comment(volume).unwrap();
    zip.finish().unwrap().into_inner()
}

/// Signs a structure of a VHDX whose checksum stands at byte 4.
pub fn vhdx_sign(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let sum = Crc::<u32>::new(&CRC_32_ISCSI).checksum(bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
}

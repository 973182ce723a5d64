//! Writes dmg images (UDIF).

use std::io::Write;

use super::{base64, crc32, put, zlib};

/// Where a dmg has its tables.
#[derive(Clone, Copy, PartialEq)]
pub enum Tables {
    PropertyList,
    ResourceFork,
}

/// A dmg with every kind of chunk that can be made here: zlib, bzip2, LZFSE, ADC, plain, zeros, free space.
/// `disk` is whole chunks of 64 KiB; its second is written as zeros, its third as free space.
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

/// A dmg in segments with at most `size` bytes of its data each, as hdiutil splits it: the first has the tables.
pub fn dmg_segments(whole: &[u8], size: usize) -> Vec<Vec<u8>> {
    let number = |at: usize| u64::from_be_bytes(whole[at..at + 8].try_into().unwrap()) as usize;
    let koly = whole.len() - 512;
    let data_len = number(koly + 32);
    let parts: Vec<&[u8]> = whole[..data_len].chunks(size).collect();
    let segment = |(n, data): (usize, &&[u8])| {
        let mut file = data.to_vec();
        let mut trailer = whole[koly..].to_vec();
        let mut set = |at: usize, bytes: &[u8]| trailer[at..at + bytes.len()].copy_from_slice(bytes);
        set(16, &((n * size) as u64).to_be_bytes());
        set(32, &(data.len() as u64).to_be_bytes());
        set(56, &(n as u32 + 1).to_be_bytes());
        set(60, &(parts.len() as u32).to_be_bytes());
        set(64, b"segments of one.");
        set(88, &crc32(data).to_be_bytes());
        for list in [40, 216] {
            let here = if n == 0 && number(koly + list + 8) > 0 { data.len() as u64 } else { 0 };
            set(list, &here.to_be_bytes());
            if n > 0 {
                set(list + 8, &[0; 8]);
            }
        }
        if n == 0 {
            file.extend_from_slice(&whole[data_len..koly]);
        }
        file.extend(trailer);
        file
    };
    parts.iter().enumerate().map(segment).collect()
}

//! Writes images of DiskCopy 6 (NDIF), and Mac files with two forks as one file or two.

use super::put;

/// The data fork and the resource fork of an image: ADC, plain and zero chunks of 64 KiB in turn. `disk` is whole chunks;
/// its second and third are written as zeros. `shift` is where the offsets of chunks begin in the data fork.
pub fn ndif(disk: &[u8], shift: usize) -> (Vec<u8>, Vec<u8>) {
    const CHUNK: usize = 64 << 10;
    let mut data = vec![0xEE; shift];
    let mut entries = Vec::new();
    for (n, chunk) in disk.chunks(CHUNK).enumerate() {
        let (kind, stored): (u32, Vec<u8>) = match n {
            1 | 2 => (0, Vec::new()),
            _ if n % 2 == 0 => (131, adc(chunk)),
            _ => (2, chunk.to_vec()),
        };
        put!(
            entries,
            ((n * CHUNK / 512) as u32) << 8 | kind,
            (data.len() - shift) as u32,
            stored.len() as u32
        );
        data.extend(stored);
    }
    put!(entries, ((disk.len() / 512) as u32) << 8 | 255, 0u32, 0u32);
    let mut table = vec![0, 11, 0, 0, 9];
    table.extend(b"My V\xF6lume");
    table.resize(68, 0);
    put!(table, (disk.len() / 512) as u32, (CHUNK / 512) as u32, shift as u32, checksum(disk));
    table.resize(124, 0);
    put!(table, (entries.len() / 12) as u32);
    table.extend(entries);
    (data, resource_fork(&table))
}

/// Literals, and where the bytes before repeat, copies of them: of 67 bytes or, when fewer are left, of 4 to 66.
fn adc(chunk: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < chunk.len() {
        let most = 67.min(chunk.len() - at);
        let same = |n: usize| at > 0 && chunk[at..at + n].iter().all(|b| *b == chunk[at - 1]);
        if most >= 4 && same(most) {
            out.extend([0x40 | (most as u8 - 4), 0, 0]);
            at += most;
        } else {
            let literal = &chunk[at..chunk.len().min(at + 128)];
            out.push(0x7F + literal.len() as u8);
            out.extend_from_slice(literal);
            at += literal.len();
        }
    }
    out
}

/// The CRC-32 of DiskCopy 6, bit by bit.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { 0x04C1_1DB7 } else { 0 })
    })
}

/// A resource fork with one resource, 'bcem' 128.
fn resource_fork(table: &[u8]) -> Vec<u8> {
    let mut fork = Vec::new();
    // Data begins at byte 256, as the Resource Manager writes it.
    let (len, map) = (table.len() as u32 + 4, 256 + 4 + table.len() as u32);
    put!(fork, 256u32, map, len, 50u32);
    fork.resize(256, 0);
    put!(fork, table.len() as u32);
    fork.extend_from_slice(table);
    fork.extend_from_within(0..16);
    fork.extend([0; 8]);
    put!(fork, 28u16, 50u16, 0u16);
    fork.extend(b"bcem");
    put!(fork, 0u16, 10u16, 128u16, 0xFFFFu16, 0u32, 0u32);
    fork
}

/// Both forks as MacBinary II.
pub fn mac_binary(data: &[u8], resources: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 128];
    file[1] = 10;
    file[2..12].copy_from_slice(b"volume.img");
    file[65..73].copy_from_slice(b"rohdddsk");
    file[83..87].copy_from_slice(&(data.len() as u32).to_be_bytes());
    file[87..91].copy_from_slice(&(resources.len() as u32).to_be_bytes());
    file[122..124].copy_from_slice(&[129, 129]);
    let sum = crc::Crc::<u16>::new(&crc::CRC_16_XMODEM).checksum(&file[..124]);
    file[124..126].copy_from_slice(&sum.to_be_bytes());
    for fork in [data, resources] {
        file.extend_from_slice(fork);
        file.resize(file.len().next_multiple_of(128), 0);
    }
    file
}

/// A resource fork in the file that goes with that of the data fork (AppleDouble), or with the data fork (AppleSingle).
pub fn apple(data: Option<&[u8]>, resources: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    put!(file, if data.is_some() { 0x0005_1600u32 } else { 0x0005_1607 }, 0x0002_0000u32);
    file.extend([0; 16]);
    let finder = [0; 32];
    let forks: Vec<(u32, &[u8])> =
        [(9, &finder[..]), (2, resources)].into_iter().chain(data.map(|data| (1, data))).collect();
    put!(file, forks.len() as u16);
    let mut at = 26 + 12 * forks.len();
    for (id, fork) in &forks {
        put!(file, *id, at as u32, fork.len() as u32);
        at += fork.len();
    }
    forks.iter().for_each(|(_, fork)| file.extend_from_slice(fork));
    file
}

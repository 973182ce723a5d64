//! Writes E01 images as X-Ways does: encrypted or not, compressed with zlib or with zstd.

use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use aes::{Aes128Enc, Aes256Enc};
use md5::{Digest, Md5};
use sha2::Sha256;

use super::{adler, zlib};

const CHUNK: usize = 32 << 10;

/// How an image is made.
#[derive(Clone, Copy)]
pub struct XWays<'a> {
    /// The bits of the key, or 0: not encrypted.
    pub bits: u32,
    pub passphrase: &'a str,
    /// Whether a passphrase can be checked.
    pub check: bool,
    /// Whether zstd compresses, and not zlib.
    pub zstd: bool,
    /// How many chunks a segment has.
    pub per: usize,
}

/// One segment, compressed with zlib and encrypted, as X-Ways makes it by default.
pub const USUAL: XWays<'_> =
    XWays { bits: 256, passphrase: "open sesame", check: true, zstd: false, per: usize::MAX };

/// The segments of an image of `disk`. Every third chunk is not compressed.
pub fn xways(disk: &[u8], how: &XWays<'_>) -> Vec<Vec<u8>> {
    let parts: Vec<_> = disk.chunks(how.per.saturating_mul(CHUNK)).collect();
    (0..parts.len()).map(|n| segment(disk, how, n, parts[n], n + 1 == parts.len())).collect()
}

/// How a segment is encrypted.
struct Sealed {
    method: u16,
    salt: [u8; 32],
    counter: [u8; 16],
    key: Vec<u8>,
    padded: [u8; 32],
}

impl Sealed {
    fn new(how: &XWays<'_>, segment: u8) -> Sealed {
        let mut padded = [0; 32];
        padded[..how.passphrase.len()].copy_from_slice(how.passphrase.as_bytes());
        let salt = std::array::from_fn(|n| (n as u8).wrapping_mul(31) ^ segment);
        let mut key = Sha256::digest([padded, salt].concat()).to_vec();
        if how.bits == 128 {
            key = (0..16).map(|n| key[n] ^ key[n + 16]).collect();
        }
        // Both halves are about to carry.
        let mut counter = [0xFF; 16];
        counter[0] = 0xF0 ^ segment;
        counter[7] = 0x7F;
        counter[15] = 0xFA;
        Sealed { method: (how.bits == 256).into(), salt, counter, key, padded }
    }

    fn section(&self, how: &XWays<'_>) -> Vec<u8> {
        let flags = 0x1000 | u16::from(self.method == 0) | u16::from(!how.check) << 1;
        let hash = |parts: &[&[u8]]| -> [u8; 32] { Sha256::digest(parts.concat()).into() };
        let mut before = hash(&[&self.padded]);
        let mut last = hash(&[&self.padded, &before]);
        for _ in 1..if self.method == 0 { 100_000 } else { 1 } {
            before = last;
            last = hash(&[&self.padded, &before]);
        }
        let check = if how.check { hash(&[&self.salt, &before, &last]) } else { [0; 32] };
        [&self.method.to_le_bytes()[..], &flags.to_le_bytes(), &self.salt, &self.counter, &check].concat()
    }

    /// Encrypts a chunk as it is stored.
    fn seal(&self, chunk: usize, stored: &mut [u8]) {
        let start = u64::from_le_bytes(self.counter[..8].try_into().unwrap()) + (chunk * CHUNK / 16) as u64;
        let mut counter = self.counter;
        counter[..8].copy_from_slice(&start.to_le_bytes());
        for part in stored.chunks_mut(16) {
            let mut block = Array::from(counter);
            if self.method == 0 {
                Aes128Enc::new_from_slice(&self.key).unwrap().encrypt_block(&mut block);
            } else {
                Aes256Enc::new_from_slice(&self.key).unwrap().encrypt_block(&mut block);
            }
            part.iter_mut().zip(block).for_each(|(byte, key)| *byte ^= key);
            // From the last byte to the first one, or the other way round in eight of them.
            let order: Vec<usize> = if self.method == 0 { (0..16).rev().collect() } else { (0..8).collect() };
            for n in order {
                counter[n] = counter[n].wrapping_add(1);
                if counter[n] != 0 {
                    break;
                }
            }
        }
    }
}

fn section(file: &mut Vec<u8>, name: &str, mark: &str, data: &[u8]) {
    let at = file.len() as u64;
    let is_last = matches!(name, "done" | "next");
    let mut header = name.as_bytes().to_vec();
    header.resize(16, 0);
    let len = 76 + data.len() as u64;
    header.extend(if is_last { at } else { at + len }.to_le_bytes());
    header.extend(if is_last { 0 } else { len }.to_le_bytes());
    header.extend(mark.as_bytes());
    header.resize(72, 0);
    header.extend(adler(&header));
    file.extend(header);
    file.extend_from_slice(data);
}

fn with_adler(bytes: &[u8]) -> Vec<u8> {
    [bytes, &adler(bytes)].concat()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).unwrap()
}

/// A chunk as it is stored, and whether it is compressed.
fn stored(chunk: &[u8], number: usize, how: &XWays<'_>) -> (Vec<u8>, bool) {
    match number % 3 {
        _ if how.zstd && chunk.iter().all(|b| *b == 0) => (vec![0], true),
        2 => (with_adler(chunk), false),
        _ if how.zstd => (zstd(chunk)[4..].to_vec(), true),
        _ => (zlib(chunk), true),
    }
}

fn segment(disk: &[u8], how: &XWays<'_>, number: usize, part: &[u8], last: bool) -> Vec<u8> {
    let mut file = b"EVF\x09\x0d\x0a\xff\0".to_vec();
    file.push(1 | if how.zstd { 0x20 } else { 0 } | if how.bits > 0 { 0x80 } else { 0 });
    file.extend((number as u16 + 1).to_le_bytes());
    file.extend([0; 2]);
    let mut volume = vec![1, 0, 0, 0];
    volume.extend((disk.len().div_ceil(CHUNK) as u32).to_le_bytes());
    volume.extend(64u32.to_le_bytes());
    volume.extend(512u32.to_le_bytes());
    volume.extend((disk.len() as u64 / 512).to_le_bytes());
    volume.resize(1048, 0);
    let volume = with_adler(&volume);
    if number == 0 {
        let text = b"1\r\nmain\r\na\te\tav\r\nSESAME\tALI\tXWF 21.9\r\n";
        let (mark, text) = if how.zstd { ("Zstd", zstd(text)) } else { ("", zlib(text)) };
        section(&mut file, "header", mark, &text);
        section(&mut file, "disk", "", &volume);
    } else {
        section(&mut file, "data", "", &volume);
    }
    let sealed = (how.bits > 0).then(|| Sealed::new(how, number as u8));
    if let Some(sealed) = &sealed {
        section(&mut file, "x_encryption", "", &sealed.section(how));
    }
    let first = number * how.per.min(disk.len());
    let (mut data, mut entries) = (Vec::new(), Vec::new());
    for (n, chunk) in (first..).zip(part.chunks(CHUNK)) {
        let (mut stored, is_compressed) = stored(chunk, n, how);
        if let Some(sealed) = &sealed {
            sealed.seal(n, &mut stored);
        }
        entries.extend((data.len() as u32 | u32::from(is_compressed) << 31).to_le_bytes());
        data.extend(stored);
    }
    let base = file.len() as u64 + 76;
    section(&mut file, "sectors", "", &data);
    let mut header = (entries.len() as u32 / 4).to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(base.to_le_bytes());
    header.extend([0; 4]);
    section(&mut file, "table", "", &[with_adler(&header), with_adler(&entries)].concat());
    if last {
        let mut hash = Md5::digest(disk).to_vec();
        hash.resize(32, 0);
        section(&mut file, "hash", "", &with_adler(&hash));
    }
    section(&mut file, if last { "done" } else { "next" }, "", &[]);
    file
}

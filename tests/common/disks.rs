//! The bytes of disks, and maps of their bad sectors.

/// Numbers that are random, and the same in every run with this seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Returns a disk whose sectors all differ and begin with their number. A third is text, a third is noise, a third
/// is zeros after the number.
pub fn disk(size: u64) -> Vec<u8> {
    let mut disk = vec![0; size as usize];
    for (lba, sector) in disk.chunks_mut(512).enumerate() {
        let mut random = Random::new(lba as u64 + 1);
        let head = format!("LBA {lba:012} ");
        let n = head.len().min(sector.len());
        sector[..n].copy_from_slice(&head.as_bytes()[..n]);
        match (lba / 97) % 3 {
            0 => sector[n..].iter_mut().for_each(|b| *b = b'a' + (random.next() % 4) as u8),
            1 => sector[n..].iter_mut().for_each(|b| *b = (random.next() >> 32) as u8),
            _ => {}
        }
    }
    disk
}

/// A ddrescue mapfile in which `ranges` (first sector, sectors) are bad.
pub fn mapfile(sectors: u64, sector: u64, ranges: &[(u64, u64)]) -> String {
    let mut text = "# made by a test\n0x0 + 1\n".to_owned();
    let mut at = 0;
    for &(first, count) in ranges {
        if first > at {
            text += &format!("{:#x} {:#x} +\n", at * sector, (first - at) * sector);
        }
        text += &format!("{:#x} {:#x} -\n", first * sector, count * sector);
        at = first + count;
    }
    if at < sectors {
        text += &format!("{:#x} {:#x} +\n", at * sector, (sectors - at) * sector);
    }
    text
}

/// The block lines of a mapfile, as numbers and letters; comments and the status line left out.
pub fn blocks(mapfile: &str) -> Vec<(u64, u64, String)> {
    let number = |t: &str| u64::from_str_radix(t.trim_start_matches("0x"), 16).unwrap();
    let lines = mapfile.lines().filter(|l| !l.starts_with('#')).skip(1);
    let words = lines.map(|l| l.split_whitespace().collect::<Vec<_>>());
    words.map(|w| (number(w[0]), number(w[1]), w[2].to_owned())).collect()
}

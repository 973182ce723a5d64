//! The parity of an image is what docs/FORMAT.md says, computed here from that document alone: a field, polynomials, and
//! where the blocks are.

use xxhash_rust::xxh3::xxh3_64;

use crate::common::Random;

use super::protected;

/// The Cantor basis.
const BASIS: [u32; 16] = [
    0x0001, 0xACCA, 0x3C0E, 0x163E, 0xC582, 0xED2E, 0x914C, 0x4012, 0x6C98, 0x10D8, 0x6A72, 0xB900, 0xFDB8,
    0xFB34, 0xFF38, 0x991E,
];

/// The field with 65,536 elements, by the numbers that stand for them.
struct Field {
    element: Vec<u32>,
    number: Vec<u16>,
}

impl Field {
    fn new() -> Field {
        let of = |n: u32| (0..16).filter(|bit| n >> bit & 1 == 1).fold(0, |sum, bit| sum ^ BASIS[bit]);
        let element: Vec<u32> = (0..65536).map(of).collect();
        let mut number = vec![0; 65536];
        element.iter().enumerate().for_each(|(n, e)| number[*e as usize] = n as u16);
        Field { element, number }
    }

    fn product(&self, a: u16, b: u16) -> u16 {
        let (mut a, b) = (self.element[a as usize], self.element[b as usize]);
        let mut product = 0;
        for bit in 0..16 {
            product ^= if b >> bit & 1 == 1 { a } else { 0 };
            a <<= 1;
            a ^= if a >> 16 == 1 { 0x1002D } else { 0 };
        }
        self.number[product as usize]
    }

    /// a to the power of 2^16 - 2.
    fn inverse(&self, a: u16) -> u16 {
        let mut power = a;
        let mut result = 1;
        for _ in 1..16 {
            power = self.product(power, power);
            result = self.product(result, power);
        }
        result
    }
}

fn le(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// The words of a block: in each 64 bytes, the low bytes of 32 words, then the high ones.
fn words(block: &[u8]) -> Vec<u16> {
    let of = |part: &[u8]| (0..32).map(|i| u16::from_le_bytes([part[i], part[32 + i]])).collect::<Vec<_>>();
    block.chunks(64).flat_map(of).collect()
}

tests!(
    fn parity_is_as_the_format_says() {
        let field = Field::new();
        for (size, parity) in [(200 << 10, "40%"), (1 << 20, "5%"), (300 << 10, "100%"), (4096, "0.01%")] {
            let (_lab, _, image) = protected(size, parity, &["--codec", "none"]);
            // The description is before the last checkpoint.
            let at = image.len() - 576 - 552;
            assert_eq!(&image[at..at + 8], b"\x89CDIpar\n");
            assert_eq!(le(&image, at + 544, 8), xxh3_64(&image[at..at + 544]));
            let [version, hundredths] = [8, 12].map(|o| le(&image, at + o, 4) as usize);
            let end = le(&image, at + 16, 8) as usize;
            let [span, group] = [24, 28].map(|o| le(&image, at + o, 4) as usize);
            assert_eq!((version, group), (1, 16384));
            let blocks = (end - 131_072).div_ceil(4096);
            assert!(blocks <= span, "this test reads one span");
            let groups = blocks.div_ceil(group);
            let data = blocks.div_ceil(groups);
            let recovery = (data * hundredths).div_ceil(10_000);
            let block = |n: usize| {
                let mut block = image[131_072 + n * 4096..end.min(131_072 + (n + 1) * 4096)].to_vec();
                block.resize(4096, 0);
                block
            };
            // Where a slot is.
            let first = (end + 64).next_multiple_of(4096);
            let slot = |n: usize| {
                let at = first + n / 255 * (256 * 4096) + (1 + n % 255) * 4096;
                &image[at..at + 4096]
            };
            let sums = (blocks + groups * recovery).div_ceil(509);
            let all = groups * recovery;
            let recovery_slot = |n: usize| n + if n < all / 2 { sums } else { 2 * sums };
            // Checksums, in three copies.
            for n in 0..blocks + all {
                let bytes = if n < blocks { block(n) } else { slot(recovery_slot(n - blocks)).to_vec() };
                for copy in [0, sums + all / 2, 2 * sums + all] {
                    let stored = slot(copy + n / 509);
                    assert_eq!(le(stored, n % 509 * 8, 8), xxh3_64(&bytes), "block {n}");
                    assert_eq!(le(stored, 4072, 8), le(&image, at + 544, 8));
                    assert_eq!(le(stored, 4080, 8), (n / 509) as u64);
                    assert_eq!(le(stored, 4088, 8), xxh3_64(&stored[..4088]));
                }
            }
            // Some of the recovery blocks, by interpolation.
            let m = recovery.next_power_of_two();
            let random = &mut Random::new(1);
            for _ in 0..4 {
                let j = random.below(recovery as u64) as usize;
                let mut sum = vec![0u16; 2048];
                for start in (0..data).step_by(m) {
                    let points: Vec<u16> = (0..m).map(|k| (start + m + k) as u16).collect();
                    for (k, x) in points.iter().enumerate().take_while(|(k, _)| start + k < data) {
                        let (mut up, mut down) = (1, 1);
                        for other in points.iter().filter(|other| *other != x) {
                            up = field.product(up, j as u16 ^ other);
                            down = field.product(down, x ^ other);
                        }
                        let factor = field.product(up, field.inverse(down));
                        let words = words(&block(start + k));
                        sum.iter_mut().zip(words).for_each(|(s, word)| *s ^= field.product(factor, word));
                    }
                }
                assert_eq!(sum, words(slot(recovery_slot(j))), "recovery block {j} of {recovery}");
            }
        }
    }

    fn an_image_with_parity_follows_the_rules_of_version_1() {
        let (_lab, _, image) = protected(4 << 20, "5%", &[]);
        let superblock = [0, 65536].into_iter().max_by_key(|at| le(&image, at + 56, 8)).unwrap();
        // No bit that must be understood, one that may be ignored, zeros where they are checked.
        assert_eq!((le(&image, superblock + 16, 8), le(&image, superblock + 24, 8)), (0, 1));
        assert!(image[superblock + 144..superblock + 504].iter().all(|b| *b == 0));
        let end = le(&image, superblock + 88, 8) as usize;
        assert_eq!((image[superblock + 12], end), (2, image.len()));
        assert_eq!(image[end - 512..], image[superblock..superblock + 512]);
        // Records follow one another, and those of unknown types may be skipped.
        let (mut at, mut parity) = (131_072, 0);
        while at < end {
            let header = &image[at..at + 64];
            assert_eq!(&header[..8], b"\x89CDIrec\n", "no record at {at}");
            assert_eq!(header[8..16], image[superblock + 48..superblock + 56]);
            assert_eq!(le(header, 56, 8), xxh3_64(&header[..56]));
            let stored = le(header, 40, 4) as usize;
            assert!(stored <= 16 << 20 && le(header, 44, 4) <= 16 << 20);
            assert_eq!(le(header, 32, 8), xxh3_64(&image[at + 64..at + 64 + stored]), "payload at {at}");
            parity += u32::from(header[52] == 128);
            assert!((1..=8).contains(&header[52]) || header[52] >= 128);
            at = (at + 64 + stored).next_multiple_of(8);
        }
        assert_eq!(at, end);
        assert!(parity >= 3);
    }
);

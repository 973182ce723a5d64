//! 20,000 seeded corruptions of each fixture. Each is right or an error; never a wrong byte, a panic, a hang or
//! much memory. To repeat one: `CDI_SEED=n cargo test --test all cdimg_damage`.

use std::time::{Duration, Instant};

use super::cdimg::{compare, fixture_disk, fixtures_list, open};
use crate::common::{Random, peak_memory, seeds};

const DAMAGES: u64 = 20_000;
/// In KiB.
const MAX_MEMORY: u64 = 256 << 10;

tests!(
    fn a_damaged_image_never_gives_a_wrong_byte() {
        let truth = fixture_disk();
        let before = peak_memory(std::process::id());
        for (name, fixture) in fixtures_list() {
            let seeds = seeds(DAMAGES);
            let halves =
                [seeds.start..seeds.start.midpoint(seeds.end), seeds.start.midpoint(seeds.end)..seeds.end];
            std::thread::scope(|scope| {
                for half in halves {
                    let (name, fixture, truth) = (&name, &fixture, &truth);
                    scope.spawn(move || half.for_each(|seed| one(name, fixture, truth, seed)));
                }
            });
        }
        let grown = peak_memory(std::process::id()).saturating_sub(before);
        assert!(grown < MAX_MEMORY, "{grown} KiB of memory more than before");
    }
);

fn one(name: &str, fixture: &[u8], truth: &[u8], seed: u64) {
    let bytes = damaged(fixture, seed);
    let what = format!("{name}, CDI_SEED={seed}");
    let start = Instant::now();
    if let Ok(disk) = open(bytes) {
        compare(&disk, truth, &what);
        // Checking reads every record; one in eight is enough to be quick.
        if seed.is_multiple_of(8) {
            disk.image().check(&mut |_, _| {}, &mut || Ok(())).unwrap();
        }
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{what}: took {:?}", start.elapsed());
}

/// Damage of one to four kinds; most of it where the structures are.
fn damaged(fixture: &[u8], seed: u64) -> Vec<u8> {
    let random = &mut Random::new(seed);
    let mut bytes = fixture.to_vec();
    for _ in 0..=random.below(4) {
        let len = bytes.len() as u64;
        if len < 2 {
            break;
        }
        // The gaps between the superblocks are zeros of no meaning.
        let at = match random.below(4) {
            0 => random.below(512.min(len)),
            1 => (65_536 + random.below(512)).min(len - 1),
            _ => 131_072.min(len - 1) + random.below((len - 131_072.min(len - 1)).max(1)),
        } as usize;
        let most = (bytes.len() - at) as u64;
        match random.below(8) {
            0..=2 => bytes[at] ^= 1 << random.below(8),
            3 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][random.below(5) as usize],
            4 => {
                let end = at + 1 + random.below(most.min(600)) as usize;
                bytes[at..end.min(len as usize)].iter_mut().for_each(|b| *b = random.next() as u8);
            }
            5 => {
                let end = at + 1 + random.below(most.min(8192)) as usize;
                bytes[at..end.min(len as usize)].fill(0);
            }
            6 => {
                // A copy of another part.
                let n = 1 + random.below(most.min(4096)) as usize;
                let from = random.below(len - n as u64 + 1) as usize;
                bytes.copy_within(from..from + n, at.min(len as usize - n));
            }
            _ => bytes.truncate(at + 1),
        }
    }
    bytes
}

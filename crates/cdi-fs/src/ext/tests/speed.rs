//! `cargo test --release -p cdi-fs ext::tests::speed -- --ignored --nocapture` measures the scan.

use std::fs;
use std::ops::Range;
use std::time::Instant;

use super::volumes::make;
use super::{Disk, open};
use crate::file_system::{Child, Damage, Record, Structure, Visitor};
use crate::volume::Volume;

#[derive(Default)]
struct Count(u64, u64);

impl Visitor for Count {
    fn record(&mut self, _: Record) -> bool {
        self.0 += 1;
        true
    }

    fn child(&mut self, _: Child) -> bool {
        self.1 += 1;
        true
    }

    fn lost_record(&mut self, _: u64, _: Range<u64>, _: Option<bool>, _: Damage) -> bool {
        true
    }

    fn structure(&mut self, _: Structure) -> bool {
        true
    }
}

#[test]
#[ignore = "takes a minute, and says nothing in a debug build"]
fn a_hundred_thousand_records_take_less_than_a_second() {
    let Some(made) = make(1024, "-t ext4 -b 4096 -N 110000") else { return };
    assert!(made.mount());
    for d in 0..100 {
        let dir = made.root().join(format!("directory {d}"));
        fs::create_dir(&dir).unwrap();
        for n in 0..1000 {
            fs::write(dir.join(format!("a file with a name {n}")), [1; 100]).unwrap();
        }
    }
    made.finish();
    let disk = Disk::new(made.bytes());
    let volume = Volume::new(&disk, 0..disk.bytes.len() as u64);
    let fs = open(&disk).unwrap();
    let begun = Instant::now();
    let mut count = Count::default();
    fs.scan(&volume, &mut count);
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} records, {} names in {seconds:.3} s", count.0, count.1);
    assert_eq!(count.1, 100_101);
    assert!(seconds < 1.0);
}

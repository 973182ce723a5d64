//! Sizes of clusters, sectors and records.

use super::made::{kinds, make};
use super::whole::check;

fn format(size: u64, mkntfs: &[&str]) {
    if let Some(mut made) = make(size, mkntfs, kinds) {
        check(&mut made);
    }
}

#[test]
fn clusters_of_512_bytes() {
    format(48, &["-c", "512"]);
}

#[test]
fn clusters_of_2_kib() {
    format(48, &["-c", "2048"]);
}

#[test]
fn clusters_of_64_kib() {
    format(96, &["-c", "65536"]);
}

#[test]
fn clusters_of_2_mib() {
    format(500, &["-Q", "-c", "2097152"]);
}

#[test]
fn sectors_and_records_of_4_kib() {
    format(64, &["-s", "4096"]);
}

#[test]
fn sectors_of_1_kib() {
    format(64, &["-s", "1024", "-c", "4096"]);
}

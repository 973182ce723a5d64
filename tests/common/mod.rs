//! What tests share.

#[macro_use]
mod needs;
mod disks;
mod lab;
mod loop_device;
mod readers;
mod server;

use std::fs;
use std::time::{Duration, Instant};

pub use disks::{Random, blocks, disk, mapfile};
pub use lab::{Lab, Ran, filter, leftovers, run};
pub use loop_device::{LoopDevice, MountedDisk};
pub use needs::{Need, Test, corpus, seeds};
pub use readers::{Aligned, open_direct, six_random_readers};
pub use server::Server;

/// Waits until a condition is true, at most ten seconds.
#[track_caller]
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The most memory that a process has had so far, in KiB.
pub fn peak_memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

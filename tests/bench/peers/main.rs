//! cdi next to what a user would choose instead, on one disk of real files, in one run: `cargo bench --bench peers`.
//!
//! Needs root, Linux and 25 GB of free space; takes about an hour. docs/BENCHMARKS.md says what is measured and how, and has
//! the figures of the last run. A peer that is not installed is named and left out.
//!
//!     cargo bench --bench peers -- [--dir DIR] [--from DIR] [--rounds N] [--only NAME,…] [--read-only] [--svg FILE]
//!     cargo bench --bench peers -- --half noise|empty [--only NAME,…] …   (creating only)

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, clippy::cast_possible_truncation)]
#![allow(unreachable_pub)]

mod disk;
mod plot;
mod read;
mod system;
mod table;
mod usage;

use std::path::PathBuf;
use std::time::Instant;

use disk::{Disk, Half};
use read::{Access, Workload};
use system::{Lab, Maker, System};
use table::{Cell, Made, Results};
use usage::Usage;

/// An image that took longer is not made again, in seconds.
const LONG: f64 = 30.0;

struct Words {
    dir: PathBuf,
    from: PathBuf,
    rounds: usize,
    only: Vec<String>,
    read_only: bool,
    half: Option<Half>,
    svg: PathBuf,
}

fn words() -> Words {
    let mut words = Words {
        svg: "target/peers.svg".into(),
        dir: std::env::temp_dir().join("cdi-bench-peers"),
        from: "/usr".into(),
        rounds: 3,
        only: Vec::new(),
        read_only: false,
        half: None,
    };
    let mut args = std::env::args().skip(1);
    let value = |args: &mut dyn Iterator<Item = String>, name: &str| {
        args.next().unwrap_or_else(|| panic!("{name} needs a value"))
    };
    while let Some(arg) = args.next() {
        match &*arg {
            "--dir" => words.dir = value(&mut args, &arg).into(),
            "--from" => words.from = value(&mut args, &arg).into(),
            "--rounds" => words.rounds = value(&mut args, &arg).parse().unwrap(),
            "--only" => words.only = value(&mut args, &arg).split(',').map(str::to_owned).collect(),
            "--read-only" => words.read_only = true,
            "--half" => words.half = Some(Half::named(&value(&mut args, &arg)).expect("noise or empty")),
            "--svg" => words.svg = value(&mut args, &arg).into(),
            // An argument of cargo.
            "--bench" => {}
            other => panic!("unknown argument {other}; see docs/BENCHMARKS.md"),
        }
    }
    words
}

fn main() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("this needs root: it mounts kernel file systems, attaches devices and drops caches");
        std::process::exit(6);
    }
    let words = words();
    let wanted = |name: &str| words.only.is_empty() || words.only.iter().any(|o| o == name);
    std::fs::create_dir_all(&words.dir).unwrap();
    let _kept = usage::KeptMemory::new();
    let mut dir = words.dir.clone();
    let mut disk = Disk::of_real_files(&words.dir, &words.from);
    if let Some(half) = words.half {
        dir.push(half.dir());
        std::fs::create_dir_all(&dir).unwrap();
        disk = disk.half(&dir, half);
    }
    let lab = Lab::new(&dir);
    let mut results = Results::new(&disk);

    let makers: Vec<&Maker> =
        system::MAKERS.iter().filter(|m| wanted(m.name) || m.is_needed(wanted)).collect();
    for maker in &makers {
        if let Some(lacks) = maker.lacks() {
            results.missing(maker.name, lacks);
        }
    }
    let makers: Vec<&Maker> = makers.into_iter().filter(|m| m.lacks().is_none()).collect();
    for round in 0..words.rounds {
        for maker in &makers {
            let there = lab.image(maker).exists();
            let slow = results.made(maker.name).is_some_and(|m: &Made| m.seconds.median() > LONG);
            if there && (words.read_only || slow) {
                continue;
            }
            eprintln!("round {}: {} makes its image", round + 1, maker.name);
            usage::drop_caches();
            let (usage, start) = (Usage::now(), Instant::now());
            maker.make(&lab, &disk);
            let (seconds, cpu) = (start.elapsed().as_secs_f64(), usage.cpu_since());
            results.add_made(maker.name, seconds, cpu, lab.image(maker).metadata().unwrap().len());
        }
    }

    let is_read = words.half.is_none();
    let systems: Vec<&System> = system::SYSTEMS.iter().filter(|s| is_read && wanted(s.name)).collect();
    for system in &systems {
        if let Some(lacks) = system.lacks() {
            results.missing(system.name, lacks);
        }
    }
    let systems: Vec<&System> = systems.into_iter().filter(|s| s.lacks().is_none()).collect();
    for round in 0..words.rounds {
        for workload in Workload::ALL {
            for access in [Access::Buffered, Access::Direct] {
                for system in &systems {
                    eprintln!("round {}: {} {} {}", round + 1, system.name, workload.name(), access.name());
                    let cell = measure(&lab, &disk, system, workload, access, round as u64);
                    results.add(system.name, workload, access, cell);
                }
            }
        }
    }
    print!("{}", results.tables());
    std::fs::create_dir_all(words.svg.parent().unwrap()).unwrap();
    std::fs::write(&words.svg, plot::svg(&results)).unwrap();
    eprintln!("the plot is {}", words.svg.display());
}

/// One measurement: the image is mounted again, with nothing of it in any cache. None if it cannot be read in this way.
fn measure(
    lab: &Lab,
    disk: &Disk,
    system: &System,
    workload: Workload,
    access: Access,
    round: u64,
) -> Option<Cell> {
    usage::drop_caches();
    let shown = system.show(lab, disk);
    let usage = Usage::now();
    let measured = read::run(&shown.path, disk, workload, access, round)?;
    let cell = Cell {
        rate: measured.rate(),
        p99: measured.p99(),
        cpu: usage.cpu_since(),
        memory: shown.daemon.map(usage::peak_memory),
    };
    Some(cell)
}

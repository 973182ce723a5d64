//! What parity costs, next to par2: an image of a disk of files is made with and without parity, protected, damaged, checked
//! and repaired. `cargo bench --bench parity` (needs 8 GB of room; par2 of the Debian package of the same name).
//!
//! `--from DIR` (default /usr) has the files, `--mib N` (default 1024) is how much of them the disk holds, `--rounds N`
//! (default 3) how often each is measured. What is read has been read before; what is written is synced.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// The size of the losses, in bytes.
const BLOCK: u64 = 4096;

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let (mut from, mut mib, mut rounds) = ("/usr".to_owned(), 1024u64, 3);
    while let Some(word) = words.next() {
        let value = words.next().unwrap();
        match word.as_str() {
            "--from" => from = value,
            "--mib" => mib = value.parse().unwrap(),
            "--rounds" => rounds = value.parse().unwrap(),
            other => panic!("{other}?"),
        }
    }
    let dir = std::env::temp_dir().join(format!("cdi-bench-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let make = format!(
        "find {from} -xdev -type f | sort | tar -cf - -T - 2>/dev/null | head -c {}M > disk.raw",
        mib
    );
    run(&dir, &["sh", "-c", &make], &[]);
    let cdi = env!("CARGO_BIN_EXE_cdi");
    let has_par2 = Command::new("par2").arg("-V").stdout(Stdio::null()).status().is_ok();
    let mut times: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut measure = |name: &'static str, argv: &[&str], codes: &[i32]| {
        let seconds = run(&dir, argv, codes);
        match times.iter_mut().find(|(other, _)| *other == name) {
            Some((_, all)) => all.push(seconds),
            None => times.push((name, vec![seconds])),
        }
    };
    for _ in 0..rounds {
        for file in ["plain.cdimg", "with.cdimg", "disk.cdimg"] {
            let _ = fs::remove_file(dir.join(file));
        }
        measure("create", &[cdi, "create", "disk.raw", "plain.cdimg"], &[0]);
        measure("create --parity 5%", &[cdi, "create", "disk.raw", "with.cdimg", "--parity", "5%"], &[0]);
        fs::copy(dir.join("plain.cdimg"), dir.join("disk.cdimg")).unwrap();
        run(&dir, &["sync"], &[]);
        measure("protect", &[cdi, "protect", "disk.cdimg"], &[0]);
        if has_par2 {
            let _ = run(&dir, &["sh", "-c", "rm -f par2.*; cp plain.cdimg par2.cdimg; sync"], &[]);
            measure("par2create -r5", &["par2create", "-q", "-q", "-r5", "par2.cdimg"], &[0]);
        }
        // 4 % in single blocks; and 1 %, because par2 loses a block of its own, which is longer, for each.
        for (percent, verify, repair, par2) in [
            (4, "verify, 4 % lost", "repair, 4 % lost", None),
            (1, "verify, 20 blocks lost", "repair, 20 blocks lost", Some("par2repair, 20 blocks lost")),
        ] {
            let count = |len: u64| if percent == 4 { len / BLOCK * 4 / 100 } else { 20 };
            fs::copy(dir.join("disk.cdimg"), dir.join("damaged.cdimg")).unwrap();
            damage(&dir.join("damaged.cdimg"), count);
            let _ = fs::remove_file(dir.join("new.cdimg"));
            measure(verify, &[cdi, "verify", "damaged.cdimg"], &[4]);
            measure(repair, &[cdi, "repair", "damaged.cdimg", "new.cdimg"], &[0]);
            if let Some(name) = par2.filter(|_| has_par2) {
                damage(&dir.join("par2.cdimg"), count);
                measure(name, &["par2repair", "-q", "-q", "par2.cdimg.par2"], &[0]);
            }
        }
    }
    let size = |file: &str| fs::metadata(dir.join(file)).unwrap().len() as f64 / f64::from(1 << 20);
    println!(
        "disk {mib} MiB, image {:.0} MiB, with parity {:.0} MiB",
        size("plain.cdimg"),
        size("with.cdimg")
    );
    for (name, mut all) in times {
        all.sort_by(f64::total_cmp);
        println!("{name:<28} {:6.2} s   {all:.2?}", all[all.len() / 2]);
    }
    fs::remove_dir_all(&dir).unwrap();
}

/// Runs a program. Returns the time in seconds.
fn run(dir: &Path, argv: &[&str], codes: &[i32]) -> f64 {
    let start = Instant::now();
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).current_dir(dir).env("CDI_RUNTIME_DIR", dir.join("run"));
    let ended = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(codes.is_empty() || codes.contains(&ended.code().unwrap()), "{argv:?}: {ended}");
    start.elapsed().as_secs_f64()
}

/// Overwrites blocks of a file, as many as `count` says of its length, at places that are the same in every run.
fn damage(path: &Path, count: impl Fn(u64) -> u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    let blocks = len / BLOCK;
    let mut random = 88_172_645_463_325_252u64;
    for _ in 0..count(len) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        file.write_all_at(&[0xA5; BLOCK as usize], random % blocks * BLOCK).unwrap();
    }
    file.sync_all().unwrap();
}

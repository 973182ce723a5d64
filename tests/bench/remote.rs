//! A raw image on a web server, next to other programs that show it as a file: `cargo bench --bench remote -- [DIR [MIB]]`.
//! Each has the same nginx, with 10 ms of delay in each direction. Needs Linux, /dev/fuse, nginx, and what is to be
//! compared: nbdkit with its curl plugin and nbdfuse, rclone. What is not installed is left out.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// The delay in each direction.
const DELAY: Duration = Duration::from_millis(10);
/// Rounds; the medians are printed.
const ROUNDS: usize = 3;
/// Random reads of 4 KiB in a round, by one reader and by each of eight.
const RANDOM: [(usize, usize); 2] = [(1, 100), (8, 100)];

/// Copies one direction of a connection, later.
fn later(mut from: TcpStream, mut to: TcpStream) {
    let (send, parts) = sync_channel::<(Instant, Vec<u8>)>(1 << 10);
    std::thread::spawn(move || {
        let mut buf = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buf) {
            if send.send((Instant::now() + DELAY, buf[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    std::thread::spawn(move || {
        let parts: Receiver<_> = parts;
        for (due, part) in parts {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&part).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// Listens, and passes connections on to `port` with a delay. The new port.
fn delayed(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            for stream in [&client, &server] {
                stream.set_nodelay(true).unwrap();
            }
            later(client.try_clone().unwrap(), server.try_clone().unwrap());
            later(server, client);
        }
    });
    own
}

fn spawn(words: &[&str]) -> Option<Child> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().ok()
}

fn run(words: &[&str]) -> bool {
    spawn(words).is_some_and(|mut child| child.wait().unwrap().success())
}

fn drop_caches() {
    let _ = fs::write("/proc/sys/vm/drop_caches", "1");
}

fn wait_for(path: &Path) -> bool {
    let start = Instant::now();
    while !path.exists() {
        if start.elapsed() > Duration::from_secs(10) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Reads the whole file; MiB a second.
fn sequential(path: &Path) -> f64 {
    drop_caches();
    let (start, mut buf, mut all) = (Instant::now(), vec![0; 1 << 20], 0);
    let mut file = File::open(path).unwrap();
    while let Ok(count @ 1..) = file.read(&mut buf) {
        all += count;
    }
    all as f64 / start.elapsed().as_secs_f64() / f64::from(1 << 20)
}

/// Random reads of 4 KiB, past the kernel's cache; reads a second.
fn random(path: &Path, readers: usize, reads: usize, round: u64) -> f64 {
    drop_caches();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for reader in 0..readers {
            scope.spawn(move || {
                let mut open = File::options();
                let file = open.read(true).custom_flags(nix::fcntl::OFlag::O_DIRECT.bits()).open(path);
                let file = file.or_else(|_| File::open(path)).unwrap();
                let blocks = file.metadata().unwrap().len() / 4096;
                let mut seed = round * 1000 + reader as u64 + 1;
                let mut buf = vec![0; 8192];
                let from = buf.as_ptr().align_offset(4096);
                for _ in 0..reads {
                    seed =
                        seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    file.read_exact_at(&mut buf[from..from + 4096], (seed >> 20) % blocks * 4096).unwrap();
                }
            });
        }
    });
    (readers * reads) as f64 / start.elapsed().as_secs_f64()
}

/// A program that shows the image as a file.
struct Peer {
    name: &'static str,
    file: PathBuf,
    start: Vec<Vec<String>>,
    end: Vec<String>,
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn peers(dir: &Path, port: u16) -> Vec<Peer> {
    let (d, mnt) = (dir.display(), dir.join("mnt"));
    let m = mnt.display();
    let url = format!("http://127.0.0.1:{port}/disk.raw");
    let cdi = env!("CARGO_BIN_EXE_cdi");
    vec![
        Peer {
            name: "cdi",
            file: mnt.join("disk.raw"),
            start: vec![words(&format!("{cdi} mount --mapfile none {url} {m}"))],
            end: words(&format!("{cdi} unmount {m}")),
        },
        Peer {
            name: "nbdkit curl, nbdfuse",
            file: mnt.join("nbd"),
            start: vec![
                words(&format!("nbdkit -U {d}/s -P {d}/pid curl url={url}")),
                words(&format!("nbdfuse -r {m}/nbd nbd+unix:///?socket={d}/s")),
            ],
            end: words(&format!("fusermount3 -u {m}")),
        },
        Peer {
            name: "rclone mount",
            file: mnt.join("disk.raw"),
            start: vec![words(&format!(
                "rclone mount --read-only --config /dev/null --http-url http://127.0.0.1:{port} :http: {m}"
            ))],
            end: words(&format!("fusermount3 -u {m}")),
        },
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    let dir = args.next().map_or_else(|| std::env::temp_dir().join("cdi-bench-remote"), PathBuf::from);
    let size = args.next().map_or(256, |text| text.parse::<u64>().unwrap()) << 20;
    fs::create_dir_all(dir.join("www")).unwrap();
    fs::create_dir_all(dir.join("mnt")).unwrap();
    let raw = dir.join("www/disk.raw");
    let mut out = File::create(&raw).unwrap();
    let mut noise = File::open("/dev/urandom").unwrap().take(size);
    std::io::copy(&mut noise, &mut out).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let d = dir.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|n| format!("{n}_temp_path {d}/{n};"))
        .concat();
    let config = format!(
        "daemon off; user root; pid {d}/nginx.pid; error_log {d}/nginx.err; events {{}}
         http {{ access_log off; sendfile on; {temporary} server {{ listen 127.0.0.1:{port}; root {d}/www; autoindex on; }} }}"
    );
    fs::write(dir.join("nginx.conf"), config).unwrap();
    let mut nginx = spawn(&["nginx", "-c", dir.join("nginx.conf").to_str().unwrap()]).expect("nginx");
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let port = delayed(port);

    println!("{:24}{:>14}{:>16}{:>16}", "", "whole, MiB/s", "4 KiB, 1 reader", "4 KiB, 8 readers");
    let peers = peers(&dir, port);
    let mut results: Vec<[Vec<f64>; 3]> = peers.iter().map(|_| Default::default()).collect();
    for round in 0..ROUNDS {
        for (peer, result) in peers.iter().zip(&mut results) {
            let mut children = Vec::new();
            let mut up = true;
            for start in &peer.start {
                let start: Vec<&str> = start.iter().map(String::as_str).collect();
                match start[0] {
                    "nbdkit" | "cdi" => up &= run(&start),
                    other if other.ends_with("/cdi") => up &= run(&start),
                    _ => children.extend(spawn(&start)),
                }
            }
            if up && wait_for(&peer.file) {
                // Random reads come first, so that no cache has what they want.
                for (n, (readers, reads)) in RANDOM.into_iter().enumerate() {
                    result[n + 1].push(random(&peer.file, readers, reads, round as u64));
                }
                result[0].push(sequential(&peer.file));
            }
            run(&peer.end.iter().map(String::as_str).collect::<Vec<_>>());
            children.iter_mut().for_each(|child| drop(child.wait()));
            if let Ok(pid) = fs::read_to_string(dir.join("pid")) {
                run(&["kill", pid.trim()]);
                let _ = fs::remove_file(dir.join("pid"));
                let _ = fs::remove_file(dir.join("s"));
            }
        }
    }
    for (peer, result) in peers.iter().zip(results) {
        if result[0].is_empty() {
            println!("{:24}not there", peer.name);
            continue;
        }
        let [whole, one, eight] = result.map(median);
        println!("{:24}{whole:14.1}{one:16.1}{eight:16.1}", peer.name);
    }
    nginx.kill().unwrap();
    nginx.wait().unwrap();
    fs::remove_dir_all(dir.join("www")).unwrap();
}

//! The directory over NFS, read by libnfs and its tools, and by a test client that does what those do not: it guesses names,
//! forges handles, writes, and sends malformed requests.

pub mod client;
mod finder;
mod macos_client;
mod requests;

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use cdi_serve::nfs;
use cdi_serve::tree::Tree;

use crate::common::{Lab, Ran, Random, Server, Test, run, wait_until};
use client::{Client, Head, MOUNT, NFS, number, opened, own, path, string, unix, words};

const SECTORS: u64 = 8192;
const BAD: [(u64, u64); 3] = [(1001, 1), (3000, 20), (8191, 1)];

/// The tests, by module.
pub const MODULES: &[&[Test]] = &[TESTS, finder::TESTS, macos_client::TESTS, requests::TESTS];

/// Another machine: a network namespace, connected to this one.
struct OtherMachine {
    name: String,
}

impl OtherMachine {
    const OURS: &str = "10.213.7.1";

    fn new() -> OtherMachine {
        let name = format!("cdi-test-{}", std::process::id());
        let ours = format!("cdi{}", std::process::id());
        run("ip", ["netns", "add", &name]);
        let other = OtherMachine { name };
        run("ip", ["link", "add", &ours, "type", "veth", "peer", "name", "eth0", "netns", &other.name]);
        run("ip", ["addr", "add", "10.213.7.1/30", "dev", &ours]);
        run("ip", ["link", "set", &ours, "up"]);
        for words in [&["addr", "add", "10.213.7.2/30", "dev", "eth0"][..], &["link", "set", "eth0", "up"]] {
            run("ip", [&["-n", &*other.name], words].concat());
        }
        other
    }

    fn run(&self, words: &[&str]) -> std::process::Output {
        // Not 'ip netns exec', which also copies all mounts: those of other tests would outlive them.
        Command::new("nsenter").arg(format!("--net=/run/netns/{}", self.name)).args(words).output().unwrap()
    }
}

impl Drop for OtherMachine {
    fn drop(&mut self) {
        // Its end of the connection goes with it, and ours with that.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

fn with_name(url: &str, name: &str) -> String {
    url.replace('?', &format!("/{name}?"))
}

tests!(
    #[needs(Program("nfs-ls"), Program("nfs-cat"))]
    fn nfs_ls_and_nfs_cat_see_the_folder() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &[]);
        let server = Server::start(&lab, &["--nfs"]);
        let names = run("nfs-ls", [&server.url]);
        for name in ["disk.raw", "badblocks.json", "badblocks.map", "info.json"] {
            assert!(names.contains(name), "{names}");
        }
        let cat = |name: &str| {
            let url = server.url.replace('?', &format!("/{name}?"));
            Command::new("nfs-cat").arg(url).output().unwrap()
        };
        assert!(cat("disk.raw").stdout == truth);
        // The same but for the digest, for which the log would have to be read.
        let mut info = lab.cdi(["info", "disk.cdimg", "--json"]).json();
        assert!(info.as_object_mut().unwrap().remove("digest").unwrap().is_string());
        let shown: serde_json::Value = serde_json::from_slice(&cat("info.json").stdout).unwrap();
        assert_eq!(shown, info);
        assert!(!cat(".DS_Store").status.success());
        assert_eq!(server.end(), 0);
        // A copy of a failing disk ends at the first bad sector.
        fs::remove_file(lab.path("disk.cdimg")).unwrap();
        lab.image(SECTORS, 512, &BAD);
        let server = Server::start(&lab, &["--nfs"]);
        let copied = Command::new("nfs-cat").arg(server.url.replace('?', "/disk.raw?")).output().unwrap();
        assert!(!copied.status.success() && copied.stdout.len() <= 1001 * 512);
        assert_eq!(server.end(), 0);
    }

    #[needs(Header("nfsc/libnfs.h"), Program("cc"))]
    fn libnfs_fails_on_exactly_the_bad_sectors() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &BAD);
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nfs_read.c");
        let program = lab.path("nfs_read");
        run("cc", ["-O1", "-o", program.to_str().unwrap(), source, "-lnfs"]);
        let server = Server::start(&lab, &["--nfs"]);
        let bad = |lba: u64| BAD.iter().any(|(first, n)| (*first..first + n).contains(&lba));
        // Every sector around the bad ones by itself, then longer reads over them and next to them.
        let mut ranges: Vec<(u64, u64)> =
            [995..1010, 2995..3025, 8185..8192].into_iter().flatten().map(|lba| (lba, 1)).collect();
        ranges.extend([
            (993, 8),
            (1002, 8),
            (994, 8),
            (0, 1001),
            (1002, 1998),
            (3019, 2),
            (3020, 2000),
            (7000, 1192),
        ]);
        let args = ranges.iter().flat_map(|(first, n)| [(first * 512).to_string(), (n * 512).to_string()]);
        let url = server.url.replace('?', "/disk.raw?");
        let said: Ran = Command::new(&program).arg(url).args(args).output().unwrap().into();
        let said = said.ends(0).out;
        let mut lines = said.lines();
        for (first, n) in ranges {
            let bytes = &truth[first as usize * 512..][..n as usize * 512];
            let sum = bytes.iter().fold(0u64, |sum, b| sum.wrapping_mul(31).wrapping_add(u64::from(*b)));
            let expect = if (first..first + n).any(bad) {
                "error".to_owned()
            } else {
                format!("ok {} {sum}", bytes.len())
            };
            assert_eq!(lines.next(), Some(&*expect), "sectors {first}+{n}");
        }
        assert_eq!(lines.next(), Some("error 30"), "a file was made");
        assert_eq!(server.end(), 0);
    }

    fn a_handle_survives_a_restart_and_fits_no_other_image() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &BAD);
        let mut server = Server::start(&lab, &["--nfs"]);
        let url = server.url.clone();
        let port = url.split("mountport=").nth(1).unwrap();
        let mut client = Client::connect(&url);
        let (status, root) = client.mount(path(&url));
        assert_eq!(status, 0);
        let (_, disk) = client.lookup(&root, "disk.raw", own());
        assert!(client.read(&disk, 512, 512, own()).unwrap() == truth[512..1024]);
        let before = client.ask(NFS, 1, own(), &string(&disk));
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        drop(client);

        let server = Server::start(&lab, &["--nfs", "--port", port]);
        assert_eq!(server.url, url);
        let mut client = Client::connect(&url);
        assert!(client.read(&disk, 1024, 512, own()).unwrap() == truth[1024..1536]);
        assert_eq!(client.ask(NFS, 1, own(), &string(&disk)), before, "the attributes are the same");
        assert_eq!(server.end(), 0);

        // Another image under the same name is another export, and the handle is stale.
        fs::remove_file(lab.path("disk.cdimg")).unwrap();
        lab.image(SECTORS, 512, &[]);
        let server = Server::start(&lab, &["--nfs"]);
        let mut client = Client::connect(&server.url);
        assert_ne!(path(&server.url), path(&url));
        assert_eq!(client.read(&disk, 0, 512, own()), Err(70));
        // And so is one of another user: his secret is his own.
        let export = path(&server.url).to_owned();
        assert_eq!(client.mount(&export).0, 0);
        assert_eq!(server.end(), 0);
        fs::rename(lab.path("run"), lab.path("former")).unwrap();
        let server = Server::start(&lab, &["--nfs"]);
        assert_ne!(path(&server.url), export);
        assert_eq!(server.end(), 0);
    }

    fn clients_without_the_export_name_get_nothing() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &BAD);
        let server = Server::start(&lab, &["--nfs"]);
        let mut client = Client::connect(&server.url);
        let export = path(&server.url);
        for guess in [
            "/",
            "",
            "/cdi-",
            &export[..export.len() - 1],
            "/disk.raw",
            &format!("{export}x"),
            &"/".repeat(1024),
        ] {
            assert_eq!(client.mount(guess).0, 13, "{guess}");
        }
        // Nothing lists the export.
        assert_eq!(client.ask(MOUNT, 5, own(), &[]), words(&[0]));
        assert_eq!(client.ask(MOUNT, 2, own(), &[]), words(&[0]));
        // Not even a client with a handle can derive another one.
        let (_, root) = client.mount(export);
        let (_, disk) = client.lookup(&root, "disk.raw", own());
        let mut random = Random::new(7);
        for _ in 0..200 {
            let mut guess = disk.clone();
            guess[random.below(40) as usize] ^= 1 << random.below(8);
            assert_eq!(client.read(&guess, 0, 512, own()), Err(70));
        }
        for guess in [vec![], vec![0; 40], disk[..39].to_vec(), [disk.clone(), vec![0; 8]].concat()] {
            assert_eq!(client.read(&guess, 0, 512, own()), Err(70));
        }
        // Another user of this machine, as a kernel reports it; and a client that gives no user.
        assert_eq!(client.read(&disk, 0, 512, own() + 1), Err(13));
        assert_eq!(client.lookup(&root, "disk.raw", own() + 1).0, 13);
        let nobody = Head { rpc: 2, program: NFS, version: 3, procedure: 6, credential: words(&[0, 0]) };
        let args = [string(&disk), vec![0; 8], words(&[512])].concat();
        assert_eq!(number(&client.call(&nobody, &args), 16), 13);
        assert_eq!(server.end(), 0);

        let server = Server::start(&lab, &["--nfs", "--allow-other"]);
        let mut client = Client::connect(&server.url);
        let (_, disk) = client.lookup(&root, "disk.raw", own() + 1);
        assert!(client.read(&disk, 0, 512, own() + 1).unwrap() == truth[..512]);
        assert_eq!(server.end(), 0);
    }

    /// An old Mac, on which cdi does not run, is served by another machine: here, by another network namespace.
    #[needs(Loop, Program("nfs-cat"), Program("nbdinfo"), Program("ip"), Program("nsenter"))]
    fn another_machine_is_served_only_when_asked_for() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &[]);
        let other = OtherMachine::new();
        let (listen, address) = ("--listen", OtherMachine::OURS);
        let here = Server::start(&lab, &["--nfs"]);
        assert!(here.url.starts_with("nfs://127.0.0.1/"), "{}", here.url);
        let reachable = here.url.replace("127.0.0.1", address);
        assert!(
            !other.run(&["timeout", "20", "nfs-cat", &with_name(&reachable, "disk.raw")]).status.success()
        );
        drop(here);
        let server = Server::start(&lab, &["--nfs", listen, address]);
        assert!(server.url.starts_with(&format!("nfs://{address}/")), "{}", server.url);
        let seen = other.run(&["timeout", "60", "nfs-cat", &with_name(&server.url, "disk.raw")]);
        assert!(seen.stdout == truth, "{}", String::from_utf8_lossy(&seen.stderr));
        // Users of another machine have other numbers.
        let nobody = ["setpriv", "--reuid", "65534", "--clear-groups", "nfs-cat"];
        let seen = other.run(&[&nobody[..], &[&*with_name(&server.url, "info.json")]].concat());
        assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
        drop(server);
        let server = Server::start(&lab, &["--nbd", "0", listen, address]);
        let seen = other.run(&["nbdinfo", "--size", &server.url]);
        assert_eq!(String::from_utf8_lossy(&seen.stdout).trim(), (SECTORS * 512).to_string());
        drop(server);
        lab.cdi(["serve", "disk.cdimg", "--nbd", "socket", listen, address]).ends(2);
        assert!(!lab.path("socket").exists());
    }

    /// The address of this machine alone gives no other user more than without the option.
    #[needs(Program("nfs-ls"))]
    fn what_crosses_a_network_is_no_secret_here() {
        let lab = Lab::new();
        lab.image(SECTORS, 512, &[]);
        let ls = |url: &str| run("nfs-ls", [url]);
        let name = |url: &str| url.split("/cdi-").nth(1).unwrap().split('?').next().unwrap().to_owned();
        let here = Server::start(&lab, &["--nfs"]);
        let own = name(&here.url);
        drop(here);
        for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let server = Server::start(&lab, &["--nfs", "--listen", address]);
            let listed = ls(&server.url);
            assert!(listed.contains("-r--------") && !listed.contains("-r--r--r--"), "{address}: {listed}");
            assert_eq!(name(&server.url), own, "{address}");
        }
        let server = Server::start(&lab, &["--nfs", "--listen", "0.0.0.0"]);
        assert!(ls(&server.url.replace("0.0.0.0", "127.0.0.1")).contains("-r--r--r--"));
        assert_ne!(name(&server.url), own);
        for address in ["224.0.0.1", "255.255.255.255", "localhost", ""] {
            lab.cdi(["serve", "disk.cdimg", "--nfs", "--listen", address]).ends(2);
        }
    }

    /// A mount of the system is for the kernel alone as long as its connection lasts: on macOS every user may ask the system for
    /// the handles of its mounts.
    fn a_mount_of_the_system_serves_one_client() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &[]);
        let opened = cdi_image::open::open(&lab.path("disk.cdimg"), &Default::default()).unwrap();
        let disk = cdi_image::disk::Disk::new(opened, Default::default());
        let tree = std::sync::Arc::new(Tree::new(std::sync::Arc::new(disk), Default::default(), false));
        let (export, _may_be_gone) = nfs::Export::new(tree, &[7; 32], nfs::Clients::System).unwrap();
        let (listener, port) = nfs::bind(Ipv4Addr::LOCALHOST.into(), 0).unwrap();
        let url = export.url((Ipv4Addr::LOCALHOST, port).into());
        std::thread::spawn(move || nfs::serve(std::sync::Arc::new(export), listener));

        let mut kernel = Client::connect(&url);
        let (_, root) = kernel.mount(path(&url));
        let (_, disk) = kernel.lookup(&root, "disk.raw", own());
        let mut stranger = Client::connect(&url);
        for _ in 0..3 {
            assert_eq!(stranger.read(&disk, 0, 512, own()), Err(10_008));
            assert_eq!(stranger.lookup(&root, "disk.raw", own()).0, 10_008);
            assert!(kernel.read(&disk, 512, 512, own()).unwrap() == truth[512..1024]);
        }
        // The kernel reconnects.
        drop(kernel);
        let mut kernel = Client::connect(&url);
        wait_until("the old connection is seen to have ended", || {
            let mut kernel = kernel.0.try_clone().map(Client).unwrap();
            kernel.read(&disk, 0, 512, own()).is_ok()
        });
        assert_eq!(stranger.read(&disk, 0, 512, own()), Err(10_008));
        assert!(kernel.read(&disk, 0, 512, own()).is_ok());
    }

    /// Reads of an image that does not answer return "try later" in time; everything else continues.
    #[needs(Fuse)]
    fn a_hung_source_delays_only_its_own_reads() {
        /// Farther from what was read than any readahead goes.
        const FAR: u64 = 24 << 20;
        let lab = Lab::new();
        let truth = lab.image(65536, 512, &[]);
        lab.cdi(["mount", "disk.cdimg", "m"]).ends(0);
        let pid = lab.cdi(["list", "--json"]).json()["mounts"][0]["pid"].to_string();
        let server = Server::of(&lab, &["m/disk.raw", "--nfs"]);
        let mut client = Client::connect(&server.url);
        let (_, root) = client.mount(path(&server.url));
        let (_, disk) = client.lookup(&root, "disk.raw", own());
        assert!(client.read(&disk, 0, 512, own()).unwrap() == truth[..512]);
        run("kill", ["-STOP", &pid]);
        let start = Instant::now();
        let read = Head { rpc: 2, program: NFS, version: 3, procedure: 6, credential: unix(own()) };
        for n in 0..12u64 {
            let offset = FAR + (n << 16);
            client.send(
                n as u32,
                &read,
                &[string(&disk), offset.to_be_bytes().to_vec(), words(&[512])].concat(),
            );
        }
        let look = Head { rpc: 2, program: NFS, version: 3, procedure: 1, credential: unix(own()) };
        client.send(99, &look, &string(&disk));
        // Thirteen answers, in any order.
        let (mut later, mut looks) = (0, 0);
        while later + looks < 13 {
            let reply = client.reply();
            if number(&reply, 0) == 99 {
                looks += 1;
                assert_eq!(number(&reply, 24), 0);
                assert!(start.elapsed().as_secs() < 9, "a look took {:?}", start.elapsed());
            } else {
                assert_eq!(number(&reply, 24), 10_008);
                later += 1;
            }
        }
        assert_eq!((later, looks), (12, 1));
        // Half a minute after the source was asked it is an error: the last call is made well before and waits past that.
        if std::env::var_os("CDI_LONG").is_some() {
            for (at, expect) in [(10, 10_008), (27, 5)] {
                std::thread::sleep(Duration::from_secs(at).saturating_sub(start.elapsed()));
                assert_eq!(client.read(&disk, FAR, 512, own()), Err(expect), "after {at} s");
            }
            assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
        }
        run("kill", ["-CONT", &pid]);
        wait_until("it is read", || {
            let mut client = client.0.try_clone().map(Client).unwrap();
            client.read(&disk, FAR, 512, own()).is_ok_and(|bytes| bytes == truth[FAR as usize..][..512])
        });
        assert_eq!(server.end(), 0);
        lab.cdi(["unmount", "m"]).ends(0);
    }

    fn writes_fail_with_read_only() {
        let lab = Lab::new();
        let before = lab.image(SECTORS, 512, &BAD);
        let image = lab.read("disk.cdimg");
        let (server, mut client, root, disk) = opened(&lab);
        for procedure in [2, 7, 8, 9, 10, 11, 12, 13, 14, 15, 21] {
            let reply = client.ask(NFS, procedure, own(), &[string(&disk), vec![0xAA; 70_000]].concat());
            assert_eq!(number(&reply, 0), 30, "procedure {procedure}");
            assert!(reply[4..].iter().all(|b| *b == 0));
        }
        for name in [".DS_Store", "._disk.raw", ".Trashes", ".fseventsd", ".Spotlight-V100", "nothing"] {
            assert_eq!(client.lookup(&root, name, own()).0, 2, "{name}");
        }
        assert_eq!(client.lookup(&disk, "x", own()).0, 20, "a file is no folder");
        assert_eq!(client.read(&root, 0, 512, own()), Err(21), "a folder is no file");
        // ACCESS grants only reading.
        let reply = client.ask(NFS, 4, own(), &[string(&disk), words(&[0x3f])].concat());
        assert_eq!(number(&reply, 8 + 84), 1);
        // At the end and past it.
        assert!(client.read(&disk, SECTORS * 512 - 1536, 4096, own()) == Err(5), "the last sector is bad");
        assert_eq!(client.read(&disk, SECTORS * 512 - 1024, 512, own()).unwrap().len(), 512);
        assert_eq!(client.read(&disk, SECTORS * 512, 512, own()), Ok(vec![]));
        assert_eq!(client.read(&disk, u64::MAX, u32::MAX, own()), Ok(vec![]));
        assert_eq!(client.read(&disk, 4000 * 512, u32::MAX, own()).unwrap(), before[4000 * 512..][..1 << 20]);
        // With bad sectors, the preferred read size is a page.
        let info = client.ask(NFS, 19, own(), &string(&root));
        assert_eq!((number(&info, 8 + 84), number(&info, 8 + 84 + 4)), (1 << 20, 4096));
        assert_eq!(server.end(), 0);
        assert!(lab.read("disk.cdimg") == image);
    }

    fn directories_are_listed_in_pieces() {
        let lab = Lab::new();
        lab.image(SECTORS, 512, &[]);
        let server = Server::start(&lab, &["--nfs"]);
        let mut client = Client::connect(&server.url);
        let (_, root) = client.mount(path(&server.url));
        for (procedure, sizes) in [(16, [160, 4096]), (17, [400, 8192])] {
            for size in sizes {
                let (mut names, mut cookie) = (Vec::new(), 0u64);
                loop {
                    let counts = if procedure == 16 { vec![size] } else { vec![size, size] };
                    let args =
                        [string(&root), cookie.to_be_bytes().to_vec(), vec![0; 8], words(&counts)].concat();
                    let reply = client.ask(NFS, procedure, own(), &args);
                    assert!(
                        number(&reply, 0) == 0 && reply.len() <= size as usize,
                        "{} of {size}",
                        reply.len()
                    );
                    let mut at = 8 + 84 + 8;
                    while number(&reply, at) == 1 {
                        let len = number(&reply, at + 12) as usize;
                        names.push(String::from_utf8(reply[at + 16..][..len].to_vec()).unwrap());
                        at += 16 + len.next_multiple_of(4);
                        cookie = u64::from_be_bytes(reply[at..at + 8].try_into().unwrap());
                        at += 8 + if procedure == 17 { 4 + 84 + 4 + 4 + 40 } else { 0 };
                    }
                    if number(&reply, at + 4) == 1 {
                        break;
                    }
                }
                assert_eq!(names, [".", "..", "disk.raw", "badblocks.json", "badblocks.map", "info.json"]);
            }
        }
        let args = [string(&root), vec![0; 16], words(&[20])].concat();
        assert_eq!(number(&client.ask(NFS, 16, own(), &args), 0), 10_005, "too small for any");
        assert_eq!(server.end(), 0);
    }
);

//! The disk over NBD, read by nbdinfo, nbdcopy, nbdfuse, qemu-img and ddrescue, and by a test client for requests that
//! those do not send.

mod client;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::common::{Lab, Ran, Server, blocks, mapfile, peak_memory, run, wait_until};
use client::{Chunk, Client, comes};

const SECTORS: u64 = 8192;
const NBD: &[&str] = &["--nbd", "s"];
const BAD: [(u64, u64); 3] = [(1001, 1), (3000, 20), (8191, 1)];

tests!(
    #[needs(Program("nbdinfo"))]
    fn nbdinfo_sees_size_zeros_and_bad_sectors() {
        let lab = Lab::new();
        let mut disk = crate::common::disk(SECTORS * 512);
        disk[1 << 20..2 << 20].fill(0);
        lab.write("disk.raw", &disk);
        lab.write("disk.map", mapfile(SECTORS, 512, &[(2100, 2), (4000, 8)]));
        lab.cdi(["create", "disk.raw", "disk.cdimg", "--mapfile", "disk.map"]).ends(4);
        let server = Server::start(&lab, NBD);
        let json: serde_json::Value = serde_json::from_str(&run("nbdinfo", ["--json", &server.url])).unwrap();
        let export = &json["exports"][0];
        assert_eq!(
            (&export["export-size"], &export["is_read_only"]),
            (&(SECTORS * 512).into(), &true.into()),
            "{json}"
        );
        assert_eq!(json["structured"], true);
        let map = |context: &str| -> Vec<(u64, u64, u64)> {
            let text = run("nbdinfo", [&format!("--map={context}"), "--json", &server.url]);
            let runs: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
            runs.iter()
                .map(|r| {
                    (
                        r["offset"].as_u64().unwrap(),
                        r["length"].as_u64().unwrap(),
                        r["type"].as_u64().unwrap(),
                    )
                })
                .collect()
        };
        let bad = [
            (0, 2100 * 512, 0),
            (2100 * 512, 1024, 4),
            (2102 * 512, 1898 * 512, 0),
            (4000 * 512, 4096, 4),
            (4008 * 512, 4184 * 512, 0),
        ];
        assert_eq!(map("cdi:status"), bad);
        // Zeros need no reading, but for the sectors in them that fail.
        let zeros: u64 = map("base:allocation").iter().filter(|r| r.2 == 3).map(|r| r.1).sum();
        assert_eq!(zeros, (1 << 20) - 4096 - 1024);
        assert_eq!(server.end(), 0);
    }

    #[needs(Program("nbdcopy"), Program("qemu-img"))]
    fn nbdcopy_and_qemu_img_copy_a_good_disk() {
        let lab = Lab::new();
        let truth = lab.image(40_000, 512, &[]);
        let server = Server::start(&lab, NBD);
        run("nbdcopy", [&server.url, lab.path("copy.raw").to_str().unwrap()]);
        assert!(lab.read("copy.raw") == truth);
        let raw = lab.path("disk.raw");
        let args = ["compare", "-f", "raw", "-F", "raw", &server.url, raw.to_str().unwrap()];
        assert!(run("qemu-img", args).contains("identical"));
        assert_eq!(server.end(), 0);
        // With a bad sector a copy fails, unless the sector is to be filled.
        fs::remove_file(lab.path("disk.cdimg")).unwrap();
        let truth = lab.image(SECTORS, 512, &BAD);
        let server = Server::start(&lab, NBD);
        let ran: Ran = Command::new("nbdcopy")
            .args([&server.url, "bad.raw"])
            .current_dir(&lab.dir)
            .output()
            .unwrap()
            .into();
        assert!(ran.code != 0 && ran.err.contains("Input/output error"), "{ran:?}");
        assert_eq!(server.end(), 0);
        let server = Server::start(&lab, &["--nbd", "s", "--bad", "zero"]);
        run("nbdcopy", [&server.url, lab.path("zero.raw").to_str().unwrap()]);
        let mut expect = truth;
        BAD.iter().for_each(|(first, n)| expect[*first as usize * 512..(first + n) as usize * 512].fill(0));
        assert!(lab.read("zero.raw") == expect);
        assert_eq!(server.end(), 0);
    }

    #[needs(Fuse, Program("nbdfuse"), Program("ddrescue"), Program("fusermount3"))]
    fn ddrescue_finds_the_image_s_map_over_nbdfuse() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &BAD);
        let server = Server::start(&lab, NBD);
        let file = lab.write("nbd", "");
        let mut client =
            Command::new("nbdfuse").arg(&file).arg(&server.url).stderr(Stdio::null()).spawn().unwrap();
        wait_until("nbdfuse has mounted", || fs::metadata(&file).is_ok_and(|m| m.len() == SECTORS * 512));
        let paths = [file.clone(), lab.path("r.raw"), lab.path("r.map")];
        assert!(
            Command::new("ddrescue").args(["-q", "-d", "-b512"]).args(&paths).status().unwrap().success()
        );
        run("fusermount3", ["-u".as_ref(), file.as_os_str()]);
        client.wait().unwrap();
        let map = blocks(&fs::read_to_string(lab.path("r.map")).unwrap());
        assert_eq!(map, blocks(&mapfile(SECTORS, 512, &BAD)));
        let rescued = lab.read("r.raw");
        for (at, len, status) in map {
            let range = at as usize..(at + len) as usize;
            assert!(status != "+" || rescued[range.clone()] == truth[range]);
        }
        assert_eq!(server.end(), 0);
    }

    fn an_error_names_its_byte_and_the_bytes_before_it_arrive() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &BAD);
        let server = Server::start(&lab, NBD);
        let mut client = Client::connect(&lab, true);
        // Over a bad sector: the bytes before it, and then the offset that failed.
        client.send(0, 0, 7, 1000 * 512, 4096);
        let (flags, kind, cookie, payload) = client.chunk();
        assert_eq!((flags, kind, cookie, payload.len()), (0, 1, 7, 8 + 512));
        assert!(
            payload[..8] == (1000 * 512u64).to_be_bytes() && payload[8..] == truth[1000 * 512..1001 * 512]
        );
        let (flags, kind, _, payload) = client.chunk();
        assert_eq!((flags, kind), (1, 0x8002));
        assert_eq!(
            (&payload[..4], &payload[payload.len() - 8..]),
            (&5u32.to_be_bytes()[..], &(1001 * 512u64).to_be_bytes()[..])
        );
        // All or nothing, if that is asked for.
        client.send(1 << 2, 0, 8, 1000 * 512, 4096);
        assert_eq!(client.chunk().1, 0x8002);
        // Without structured replies: an error, and no bytes.
        let mut plain = Client::connect(&lab, false);
        for (offset, error) in [(1001 * 512, 5u32), (0, 0)] {
            plain.send(0, 0, 9, offset, 512);
            let mut reply = [0; 16];
            plain.0.read_exact(&mut reply).unwrap();
            assert_eq!(reply[..8], [&0x6744_6698u32.to_be_bytes()[..], &error.to_be_bytes()].concat());
        }
        let mut sector = [0; 512];
        plain.0.read_exact(&mut sector).unwrap();
        assert!(sector[..] == truth[..512]);
        assert_eq!(server.end(), 0);
    }

    fn many_requests_in_flight_are_all_answered() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &BAD);
        let server = Server::start(&lab, NBD);
        let mut client = Client::connect(&lab, true);
        let mut writer = Client(client.0.try_clone().unwrap());
        let requests: Vec<u64> = (0..2000).map(|i| i * 37 % SECTORS).collect();
        let asked = requests.clone();
        let sender = std::thread::spawn(move || {
            for lba in asked {
                writer.send(0, 0, lba, lba * 512, 512);
            }
        });
        let mut left: std::collections::BTreeSet<u64> = requests.iter().copied().collect();
        assert_eq!(left.len(), requests.len());
        while !left.is_empty() {
            let (flags, kind, lba, payload) = client.chunk();
            let bad = BAD.iter().any(|(first, n)| (*first..first + n).contains(&lba));
            assert_eq!((flags, kind), (1, if bad { 0x8002 } else { 1 }), "sector {lba}");
            assert!(bad || payload[8..] == truth[lba as usize * 512..][..512]);
            assert!(left.remove(&lba), "sector {lba} was answered twice");
        }
        sender.join().unwrap();
        assert_eq!(server.end(), 0);
    }

    fn only_reads_are_served_and_malformed_requests_do_no_harm() {
        let lab = Lab::new();
        lab.image(SECTORS, 512, &BAD);
        let server = Server::start(&lab, NBD);
        let mut client = Client::connect(&lab, true);
        let error = |chunk: Chunk| {
            assert_eq!((chunk.0, chunk.1), (1, 0x8001));
            u32::from_be_bytes(chunk.3[..4].try_into().unwrap())
        };
        client.send(0, 1, 1, 0, 1024);
        client.0.write_all(&[0xAA; 1024]).unwrap();
        assert_eq!(error(client.chunk()), 1, "a write");
        for (kind, offset, len, errno) in [
            (4, 0, 512, 1),
            (6, 0, 512, 1),
            (0, 0, 0, 22),
            (0, SECTORS * 512, 1, 22),
            (0, u64::MAX, 512, 22),
            (0, 0, u32::MAX, 22),
            (7, 0, 512, 22),
            (3, 0, 0, 22),
            (99, 0, 0, 22),
        ] {
            client.send(0, kind, 2, offset, len);
            assert_eq!(error(client.chunk()), errno, "{kind} at {offset}+{len}");
        }
        // Garbage ends its own connection and no other.
        for garbage in [vec![0; 100_000], b"GET / HTTP/1.1\r\n\r\n".repeat(100), vec![0xFF; 28]] {
            let mut stream = UnixStream::connect(lab.path("s")).unwrap();
            let _ = stream.write_all(&garbage);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
        let mut other = Client::connect(&lab, true);
        other.0.write_all(&[0x11; 28]).unwrap();
        assert_eq!(other.0.read(&mut [0; 1]).unwrap(), 0, "the connection ends");
        client.send(0, 0, 3, 0, 512);
        assert_eq!(client.chunk().3.len(), 520);
        assert_eq!(server.end(), 0);
    }

    fn clients_that_read_no_replies_take_no_memory_and_block_nobody() {
        const MAX_LEN: u32 = 32 << 20;
        let lab = Lab::new();
        fs::File::create(lab.path("disk.raw")).unwrap().set_len(u64::from(MAX_LEN)).unwrap();
        // Bytes that have to be read, and memory that has to be there for them.
        let raw = fs::File::options().write(true).open(lab.path("disk.raw")).unwrap();
        (0..MAX_LEN / 4096).for_each(|i| {
            std::os::unix::fs::FileExt::write_all_at(&raw, b"x", u64::from(i) * 4096).unwrap();
        });
        for structured in [false, true] {
            let server = Server::of(&lab, &["disk.raw", "--nbd", "s"]);
            // All the places that there are, each with more requests than are taken at once.
            let mut greedy: Vec<Client> =
                (0..32).map(|_| Client::try_connect(&lab, structured).unwrap()).collect();
            for client in &mut greedy {
                (0..32).for_each(|n| client.send(if structured { 1 << 2 } else { 0 }, 0, n, 0, MAX_LEN));
            }
            comes("another client gets a place", || Client::reads_at_all(&lab));
            let most = peak_memory(server.child.id());
            assert!(most <= 256 << 10, "structured {structured}: {most} KiB");
            assert_eq!(server.end(), 0);
        }
    }

    fn idle_connections_make_room_for_others() {
        let lab = Lab::new();
        lab.image(SECTORS, 512, &BAD);
        let server = Server::start(&lab, NBD);
        // One that has shaken hands, and then waits.
        let mut quiet = Client::connect(&lab, true);
        // Clients that send nothing do not use the others' places, and are not kept forever.
        let strangers: Vec<UnixStream> =
            (0..64).map(|_| UnixStream::connect(lab.path("s")).unwrap()).collect();
        assert!(Client::reads_at_all(&lab), "strangers keep nobody out");
        let start = std::time::Instant::now();
        for mut stranger in strangers {
            stranger.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
            stranger.read_to_end(&mut Vec::new()).unwrap();
        }
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
        // It has waited longer than that, and no other client needed its place.
        quiet.send(0, 0, 7, 0, 512);
        assert_eq!(quiet.chunk().3.len(), 520);
        // Where all places are taken, a client that is idle makes room, and one that is not does not.
        let _idle: Vec<Client> = (1..32).map(|_| Client::connect(&lab, true)).collect();
        comes("one of them makes room", || {
            let mut busy = Client(quiet.0.try_clone().unwrap());
            busy.send(0, 0, 7, 0, 512);
            assert_eq!(busy.chunk().3.len(), 520);
            Client::reads_at_all(&lab)
        });
        assert_eq!(server.end(), 0);
    }

    fn long_reads_arrive_completely_with_and_without_structured_replies() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &[(5000, 1)]);
        let server = Server::start(&lab, NBD);
        let (from, len) = (77 * 512, 2_000_000u32);
        let expect = &truth[from..from + len as usize];
        let mut plain = Client::connect(&lab, false);
        plain.send(0, 0, 9, from as u64, len);
        let mut reply = vec![0; 16 + len as usize];
        plain.0.read_exact(&mut reply).unwrap();
        assert!(reply[4..8] == [0; 4] && reply[16..] == *expect);
        // The next reply follows immediately: an error comes without any bytes.
        plain.send(0, 0, 10, from as u64, 3_000_000);
        plain.0.read_exact(&mut reply[..16]).unwrap();
        assert_eq!(reply[4..16], [0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 10]);
        let mut client = Client::connect(&lab, true);
        let mut read = |flags: u16, len: u32| {
            client.send(flags, 0, 3, from as u64, len);
            let (mut bytes, mut chunks) = (Vec::new(), 0);
            loop {
                let (flags, kind, _, payload) = client.chunk();
                chunks += 1;
                if kind == 1 {
                    assert_eq!(payload[..8], ((from + bytes.len()) as u64).to_be_bytes());
                    bytes.extend_from_slice(&payload[8..]);
                }
                if flags & 1 == 1 {
                    return (bytes, chunks, kind);
                }
            }
        };
        let (bytes, chunks, kind) = read(0, len);
        assert!(bytes == *expect && chunks > 1 && kind == 1);
        let (bytes, chunks, kind) = read(1 << 2, len);
        assert!(bytes == *expect && (chunks, kind) == (1, 1));
        // All that is before a bad sector, and then its place.
        let (bytes, _, kind) = read(0, 3_000_000);
        assert!(bytes == truth[from..5000 * 512] && kind == 0x8002);
        assert_eq!(read(1 << 2, 3_000_000), (Vec::new(), 1, 0x8002));
        assert_eq!(server.end(), 0);
    }

    fn the_socket_belongs_to_the_user_and_is_removed_with_the_server() {
        let lab = Lab::new();
        lab.image(SECTORS, 512, &[]);
        let server = Server::start(&lab, NBD);
        assert_eq!(fs::metadata(lab.path("s")).unwrap().permissions().mode() & 0o777, 0o600);
        lab.cdi(["serve", "disk.cdimg", "--nbd", "s"]).ends(5);
        assert_eq!(server.end(), 0);
        assert!(!lab.path("s").exists());
        lab.cdi(["serve", "disk.cdimg"]).ends(2);
        lab.cdi(["serve", "disk.cdimg", "--nbd", "no/such/folder"]).ends(1);
        // A port of this machine.
        let mut child = lab
            .command()
            .args(["serve", "disk.cdimg", "--nbd", "0", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        while !text.ends_with("}\n") {
            std::io::BufRead::read_line(&mut out, &mut text).unwrap();
        }
        let url =
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["url"].as_str().unwrap().to_owned();
        let mut stream = std::net::TcpStream::connect(url.strip_prefix("nbd://").unwrap()).unwrap();
        let mut hello = [0; 8];
        stream.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"NBDMAGIC");
        run("kill", ["-INT".to_owned(), child.id().to_string()]);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
);

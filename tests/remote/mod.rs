//! Images on other systems: web servers that do what they should and such that do not, nginx, and S3.

mod faults;
mod s3;
mod web;

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cdi_capture::options::new_image;
use cdi_image::cdimg::writer::Writer;
use cdi_image::codec::Codec;
use cdi_image::metadata::Metadata;
use web::{Deed, Web, size_of};

use crate::common::{Lab, Ran, Test, disk, peak_memory, run, wait_until};

/// What the program prints about an image, without its address.
fn said(ran: &Ran, image: &str) -> String {
    ran.out.replace(image, "IMAGE")
}

/// A lab with the image of a disk of 6 MiB, and a server for its files.
fn served() -> (Lab, Vec<u8>, Web) {
    let lab = Lab::new();
    let truth = lab.image(12288, 512, &[(100, 3), (9000, 1)]);
    let web = Web::new(&lab.dir);
    (lab, truth, web)
}

/// Reads the raw disk at `url`; gives how it ended, and the bytes.
fn extract(lab: &Lab, url: &str) -> (Ran, Vec<u8>) {
    let ran = lab.cdi(["extract", url, "out.raw", "--force"]);
    let bytes = fs::read(lab.path("out.raw")).unwrap_or_default();
    let _ = fs::remove_file(lab.path("out.raw"));
    (ran, bytes)
}

tests!(
    fn every_verb_reads_an_image_at_an_address() {
        let (lab, truth, web) = served();
        fs::create_dir(lab.path("sub")).unwrap();
        fs::rename(lab.path("disk.cdimg"), lab.path("sub/My disk#1.cdimg")).unwrap();
        let (url, path) = (web.url("sub/My%20disk%231.cdimg"), "sub/My disk#1.cdimg");
        for verb in [&["info"][..], &["map"], &["map", "--bad"], &["verify"], &["files"]] {
            let [local, remote] = [path, &url].map(|image| lab.cdi([verb, &[image]].concat()));
            assert_eq!(local.code, remote.code, "{verb:?}: {}", remote.err);
            if verb != ["verify"] {
                assert_eq!(said(&local, path), said(&remote, &url), "{verb:?}");
            }
        }
        let (ran, bytes) = extract(&lab, &url);
        ran.ends(4);
        assert!(bytes.len() == truth.len() && bytes[..51200] == truth[..51200] && bytes[51200] == 0);
        lab.cdi(["create", &url, "again.cdimg"]).ends(4);
        let hash =
            |image: &str| lab.cdi(["info", "--json", image]).json()["metadata"]["blake3_rescued"].clone();
        assert_eq!(hash("again.cdimg"), hash(path));
        let source = lab.cdi(["info", "--json", "again.cdimg"]).json()["metadata"]["source"].clone();
        assert!(source == *url || source.as_str().is_some_and(|s| s.ends_with("disk.raw")), "{source}");
    }

    fn the_map_next_to_a_remote_raw_image_is_used() {
        let (lab, truth, web) = served();
        let ran = lab.cdi(["map", "--bad", &web.url("disk.raw")]).ends(0);
        assert_eq!(ran.out.lines().count(), lab.cdi(["map", "--bad", "disk.raw"]).out.lines().count());
        assert!(ran.err.contains("using the bad sectors listed in disk.map"), "{}", ran.err);
        // One that cannot be had is not taken for none.
        web.does(|_, request| match &*request.path {
            "disk.map" => Deed::Status("403 Forbidden"),
            _ => Deed::Right,
        });
        let ran = lab.cdi(["info", &web.url("disk.raw")]).ends(1);
        assert!(ran.err.contains("disk.map") && ran.err.contains("access denied"), "{}", ran.err);
        lab.cdi(["info", &web.url("disk.raw"), "--mapfile", "none"]).ends(0);
        web.does(|_, _| Deed::Right);
        let at = web.url("disk.map");
        fs::rename(lab.path("disk.raw"), lab.path("other.raw")).unwrap();
        lab.cdi(["extract", &web.url("other.raw"), "out.raw", "--mapfile", &at]).ends(4);
        assert_eq!(lab.read("out.raw")[9001 * 512..], truth[9001 * 512..]);
    }

    #[needs(Program("qemu-img"))]
    fn segments_pieces_and_parents_are_found_next_to_it() {
        let lab = Lab::new();
        let truth = disk(4 << 20);
        lab.write("base.raw", &truth);
        let web = Web::new(&lab.dir);
        for (n, piece) in truth.chunks(1_500_000).enumerate() {
            lab.write(&format!("disk.{:03}", n + 1), piece);
        }
        let (ran, bytes) = extract(&lab, &web.url("disk.001"));
        ran.ends(0);
        assert!(bytes == truth, "pieces");
        // One is missing in the middle, of files that cannot be listed, or cannot be asked for.
        fs::rename(lab.path("disk.002"), lab.path("kept")).unwrap();
        let ran = lab.cdi(["info", &web.url("disk.001")]).ends(3);
        assert!(ran.err.contains("piece 'disk.002' is missing, but 'disk.003' is present"), "{}", ran.err);
        fs::rename(lab.path("kept"), lab.path("disk.002")).unwrap();
        web.does(|_, request| match &*request.path {
            "disk.003" => Deed::Status("403 Forbidden"),
            _ => Deed::Right,
        });
        let ran = lab.cdi(["info", &web.url("disk.001")]).ends(1);
        assert!(ran.err.contains("disk.003") && ran.err.contains("access denied"), "{}", ran.err);
        web.does(|_, _| Deed::Right);
        let at = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        run("qemu-img", ["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", &at("top.qcow2")]);
        let (ran, bytes) = extract(&lab, &web.url("top.qcow2"));
        ran.ends(0);
        assert!(bytes == truth, "parent");
        // Its path is that of another system.
        let elsewhere = ["-b", "/nowhere/base.raw", "-F", "raw"];
        let size = truth.len().to_string();
        run(
            "qemu-img",
            [&["create", "-q", "-u", "-f", "qcow2"][..], &elsewhere, &[&at("far.qcow2"), &size]].concat(),
        );
        let (ran, bytes) = extract(&lab, &web.url("far.qcow2"));
        ran.ends(0);
        assert!(bytes == truth, "parent by its name");
        // A parent elsewhere, with the image here.
        fs::create_dir(lab.path("far")).unwrap();
        fs::rename(lab.path("base.raw"), lab.path("far/base.raw")).unwrap();
        let ran = lab.cdi(["info", "top.qcow2"]);
        assert!(ran.code == 3, "{}", ran.err);
        lab.cdi(["extract", "top.qcow2", "out.raw", "--allow-parent", &web.url("far/")]).ends(0);
        assert!(lab.read("out.raw") == truth, "parent elsewhere");
    }

    fn an_image_of_eight_tib_opens_with_six_requests() {
        let lab = Lab::new();
        let size = 8u64 << 40;
        let metadata = Metadata { size_bytes: size, ..Metadata::default() };
        let path = lab.path("disk.cdimg");
        let file = fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let new = new_image(size, 32 << 10, 512, 4096).unwrap();
        let mut writer = Writer::create(Box::new(file), &path, &new, metadata).unwrap();
        writer.put_fill(0..size, [0; 8]).unwrap();
        // Far apart, so that each has nodes of its own.
        for n in 0..500u64 {
            writer.put_data(n * (16 << 30), 32 << 10, Codec::Stored, &[n as u8; 32 << 10]).unwrap();
        }
        writer.finish().unwrap();
        let web = Web::new(&lab.dir);
        lab.cdi(["info", &web.url("disk.cdimg")]).ends(0);
        let count = web.requests().len();
        assert!(count <= 6, "{count}: {:?}", web.requests());
    }

    fn requests_that_fail_are_repeated() {
        let (lab, truth, web) = served();
        let faults = [
            Deed::Status("503 Slow Down"),
            Deed::Status("429 Too Many Requests"),
            Deed::Status("500 Internal Server Error"),
            Deed::Closed,
            Deed::Cut(0),
            Deed::Cut(70_000),
            Deed::Late(Duration::from_millis(700)),
            Deed::Shifted,
        ];
        for fault in faults {
            let does = fault.clone();
            // Every third request fails.
            web.does(move |n, _| if n % 3 == 0 { does.clone() } else { Deed::Right });
            let (ran, bytes) = extract(&lab, &web.url("disk.raw"));
            assert_eq!(ran.code, 4, "{fault:?}: {}", ran.err);
            assert!(
                bytes[..51200] == truth[..51200] && bytes[9001 * 512..] == truth[9001 * 512..],
                "{fault:?}"
            );
        }
    }

    fn an_answer_of_another_length_is_never_used() {
        let (lab, _, web) = served();
        web.does(|_, request| if request.method == "GET" { Deed::Longer } else { Deed::Right });
        let start = Instant::now();
        let ran = lab.cdi(["info", &web.url("disk.cdimg")]);
        assert!(ran.code == 1 && start.elapsed() < Duration::from_secs(90), "{ran:?}");
        assert!(ran.err.contains("not as long as the range"), "{}", ran.err);
    }

    #[needs(Fuse)]
    fn memory_does_not_depend_on_what_a_server_claims() {
        let lab = Lab::new();
        lab.write("disk.raw", disk(64 << 20));
        let web = Web::new(&lab.dir);
        let url = web.url("disk.raw");
        lab.cdi(["mount", &url, "mnt", "--mapfile", "none"]).ends(0);
        let pid = lab.cdi(["list", "--json"]).json()["mounts"][0]["pid"].as_u64().unwrap();
        let mounted = fs::File::open(lab.path("mnt/disk.raw")).unwrap();
        for (n, length) in ["Content-Length: 99999999999999\r\n", ""].into_iter().enumerate() {
            web.does(move |_, _| Deed::Endless(length));
            assert!(mounted.read_exact_at(&mut [0; 512], (20 + 10 * n as u64) << 20).is_err());
            let ran = lab.cdi(["info", &url]);
            assert!(ran.code == 1, "{ran:?}");
        }
        web.does(|_, _| Deed::Right);
        mounted.read_exact_at(&mut [0; 512], 50 << 20).unwrap();
        assert!(peak_memory(pid as u32) < 256 << 10, "{} KiB", peak_memory(pid as u32));
        drop(mounted);
        lab.cdi(["unmount", "mnt"]).ends(0);
    }

    fn a_server_without_ranges_is_named() {
        let (lab, _, web) = served();
        web.does(|_, _| Deed::Whole);
        let ran = lab.cdi(["info", &web.url("disk.cdimg")]).ends(1);
        assert!(
            ran.err.contains("whole files only") && ran.err.contains("download the file first"),
            "{}",
            ran.err
        );
    }

    fn an_address_that_leads_nowhere_is_an_error_at_once() {
        let (lab, _, web) = served();
        let start = Instant::now();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let closed = format!("http://127.0.0.1:{port}/disk.raw");
        for (url, why) in [
            (closed.as_str(), "Connection refused"),
            (&web.url("nothing.raw"), "there is no such file"),
            (&web.url("sub/"), "there is no such file"),
            ("https://nothing.invalid/disk.raw", "lookup"),
            ("http://127.0.0.1:1/", "names no file"),
        ] {
            let ran = lab.cdi(["info", url]);
            assert!(ran.code == 1 || ran.code == 2, "{url}: {ran:?}");
            assert!(ran.err.contains(why), "{url}: {}", ran.err);
        }
        assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    }

    fn addresses_without_encryption_need_no_certificates() {
        let (lab, _, web) = served();
        let without = |words: [&str; 3]| {
            let mut command = lab.command();
            command.args(words).env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent");
            Ran::from(command.output().unwrap())
        };
        without(["info", "--json", &web.url("disk.raw")]).ends(0);
        let ran = without(["info", "--json", "https://127.0.0.1:1/disk.raw"]).ends(1);
        assert!(ran.err.contains("ca-certificates"), "{}", ran.err);
    }

    fn a_file_that_has_changed_fails_every_read_after() {
        let (lab, _, web) = served();
        for deed in [Deed::Version("\"another\""), Deed::Status("412 Precondition Failed")] {
            let does = deed.clone();
            web.does(
                move |n, request| {
                    if n > 0 && request.path == "disk.raw" { does.clone() } else { Deed::Right }
                },
            );
            let ran = lab.cdi(["verify", &web.url("disk.raw"), "--mapfile", "none"]);
            assert!(ran.code != 0, "{deed:?}");
            assert!(ran.err.contains("has changed since it was opened"), "{}", ran.err);
        }
        // Without a name of the version, the time counts.
        web.does(|n, _| {
            Deed::Dated(["Thu, 26 Nov 2026 20:00:00 GMT", "Thu, 26 Nov 2026 20:00:01 GMT"][n.min(1)])
        });
        let ran = lab.cdi(["verify", &web.url("disk.raw"), "--mapfile", "none"]);
        assert!(ran.code != 0 && ran.err.contains("has changed"), "{}", ran.err);
        web.does(|_, _| Deed::Dated("Thu, 26 Nov 2026 20:00:00 GMT"));
        lab.cdi(["verify", &web.url("disk.raw"), "--mapfile", "none"]).ends(0);
        // A weak name cannot be a condition, and is compared.
        web.does(|_, _| Deed::Version("W/\"1\""));
        lab.cdi(["verify", &web.url("disk.raw"), "--mapfile", "none"]).ends(0);
        assert!(web.requests().iter().all(|r| !r.text.contains("if-match")));
    }

    #[needs(Fuse)]
    fn a_mounted_image_that_changes_fails_and_comes_back_with_another_mount() {
        let lab = Lab::new();
        let truth = disk(64 << 20);
        lab.write("disk.raw", &truth);
        let web = Web::new(&lab.dir);
        let url = web.url("disk.raw");
        lab.cdi(["mount", &url, "mnt", "--mapfile", "none"]).ends(0);
        let list = lab.cdi(["list"]).ends(0).out;
        assert!(list.contains(&url), "{list}");
        let mounted = fs::File::open(lab.path("mnt/disk.raw")).unwrap();
        let mut sector = [0; 512];
        mounted.read_exact_at(&mut sector, 0).unwrap();
        assert_eq!(sector, truth[..512]);
        // Another file under the same name.
        let other: Vec<u8> = truth.iter().map(|b| !b).collect();
        lab.write("new", &other);
        fs::rename(lab.path("new"), lab.path("disk.raw")).unwrap();
        let failed = mounted.read_exact_at(&mut sector, 30 << 20).unwrap_err();
        assert!(failed.raw_os_error().is_some(), "{failed}");
        assert!(mounted.read_exact_at(&mut sector, 40 << 20).is_err());
        drop(mounted);
        lab.cdi(["unmount", &url]).ends(0);
        lab.cdi(["mount", &url, "mnt", "--mapfile", "none"]).ends(0);
        fs::File::open(lab.path("mnt/disk.raw")).unwrap().read_exact_at(&mut sector, 5 << 20).unwrap();
        assert_eq!(sector, other[5 << 20..][..512]);
        lab.cdi(["unmount", "mnt"]).ends(0);
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Fuse)]
    fn a_mounted_image_survives_an_outage() {
        let lab = Lab::new();
        let truth = disk(64 << 20);
        lab.write("disk.raw", &truth);
        let web = Web::new(&lab.dir);
        lab.cdi(["mount", &web.url("disk.raw"), "mnt", "--mapfile", "none"]).ends(0);
        web.does(|_, _| Deed::Closed);
        let mounted = fs::File::open(lab.path("mnt/disk.raw")).unwrap();
        let reads = std::thread::spawn(move || {
            let mut sector = [0; 512];
            mounted.read_exact_at(&mut sector, 30 << 20).map(|()| sector)
        });
        wait_until("it is tried again", || web.requests().len() > 6);
        web.does(|_, _| Deed::Right);
        assert_eq!(reads.join().unwrap().unwrap(), truth[30 << 20..][..512]);
        let stats = lab.cdi(["stats", "mnt", "--json"]).json();
        let remote = &stats["stats"][0]["remote"];
        assert!(remote["fetched"].as_u64().unwrap() >= 2 && remote["failed"] == 0, "{stats}");
        lab.cdi(["unmount", "mnt"]).ends(0);
    }

    fn the_cache_on_disk_survives_and_is_checked() {
        let (lab, truth, web) = served();
        let url = web.url("disk.raw");
        let words = ["verify", &url, "--mapfile", "none", "--remote-cache", "blocks,64M", "--hash", "sha256"];
        let hash = |ran: &Ran| ran.out.lines().find(|l| l.starts_with("SHA-256")).unwrap().to_owned();
        web.does(|_, _| Deed::Right);
        let first = lab.cdi(words).ends(0);
        let gets = || web.requests().iter().filter(|r| r.method == "GET").count();
        assert_eq!(gets(), 6);
        web.does(|_, _| Deed::Right);
        assert_eq!(hash(&lab.cdi(words).ends(0)), hash(&first));
        assert_eq!(gets(), 1, "the version is asked for, and nothing else");
        // Damage is noticed, and fetched again.
        for entry in fs::read_dir(lab.path("blocks")).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
        web.does(|_, _| Deed::Right);
        let ran = lab.cdi(words).ends(0);
        assert_eq!((hash(&ran), gets()), (hash(&first), 6));
        assert!(ran.err.contains("damaged"), "{}", ran.err);
        // Another version has blocks of its own.
        let other: Vec<u8> = truth.iter().map(|b| !b).collect();
        lab.write("new", &other);
        fs::rename(lab.path("new"), lab.path("disk.raw")).unwrap();
        web.does(|_, _| Deed::Right);
        assert_ne!(hash(&lab.cdi(words).ends(0)), hash(&first));
        assert_eq!(gets(), 6);
        assert!(size_of(&lab.path("blocks")) < 64 << 20);
        let ran = lab.cdi(["info", &url, "--remote-cache", "blocks,1M"]).ends(2);
        assert!(ran.err.contains("at least 64M"), "{}", ran.err);
    }

    fn nothing_is_written_to_an_address() {
        let (lab, _, web) = served();
        for words in [
            &["create", "disk.raw", "s3://bucket/new.cdimg"][..],
            &["extract", "disk.cdimg", &web.url("new.raw")],
            &["compact", "disk.cdimg", &web.url("new.cdimg")],
            &["map", "disk.cdimg", "--export-mapfile", "gs://bucket/new.map"],
        ] {
            let ran = lab.cdi(words).ends(2);
            assert!(ran.err.contains("writing to another system is not supported"), "{words:?}: {}", ran.err);
        }
        let ran = lab.cdi(["index", &web.url("disk.raw")]).ends(2);
        assert!(ran.err.contains("nothing can be written next to"), "{}", ran.err);
    }

    fn a_credential_in_an_address_is_refused_and_not_repeated() {
        let lab = Lab::new();
        for url in
            ["https://me:geheim@example.org/disk.raw", "https://example.org/disk.raw?X-Amz-Signature=geheim"]
        {
            for verb in ["info", "mount", "verify"] {
                let ran = lab.cdi([verb, url]).ends(2);
                assert!(ran.err.contains("not accepted") && !ran.err.contains("geheim"), "{}", ran.err);
            }
        }
    }

    #[needs(Program("nginx"))]
    fn nginx_serves_it() {
        let (lab, truth, _) = served();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let nginx = Nginx::start(&lab, port);
        let url = |path: &str| format!("http://127.0.0.1:{port}/{path}");
        wait_until("nginx listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        for path in ["disk.raw", "moved/disk.raw"] {
            let (ran, bytes) = extract(&lab, &url(path));
            assert!(ran.code == 4, "{path}: {}", ran.err);
            assert!(bytes[9001 * 512..] == truth[9001 * 512..], "{path}");
        }
        let ran = lab.cdi(["info", &url("noranges/disk.raw")]).ends(1);
        assert!(ran.err.contains("whole files only"), "{}", ran.err);
        // More than it allows at once.
        let (ran, bytes) = extract(&lab, &url("busy/disk.raw"));
        assert!(ran.code == 4 && bytes[9001 * 512..] == truth[9001 * 512..], "{}", ran.err);
        let (ran, bytes) = extract(&lab, &url("slow/disk.cdimg"));
        assert!(ran.code == 4 && bytes[9001 * 512..] == truth[9001 * 512..], "{}", ran.err);
        drop(nginx);
    }

    #[needs(Program("nginx"), Program("openssl"), Fuse)]
    fn a_confined_daemon_reads_by_tls_and_name() {
        let lab = Lab::new();
        let truth = disk(64 << 20);
        lab.write("disk.raw", &truth);
        let at = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        let request =
            ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"];
        let names = ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:FALSE"];
        let files = ["-keyout".into(), at("key.pem"), "-out".into(), at("cert.pem")];
        let words = request.iter().chain(&names).map(|word| (*word).to_owned()).chain(files);
        assert!(Command::new("openssl").args(words).output().unwrap().status.success());
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let nginx = Nginx::start_with(
            &lab,
            port,
            &format!(" ssl; ssl_certificate {}; ssl_certificate_key {}", at("cert.pem"), at("key.pem")),
        );
        wait_until("nginx listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        let url = format!("https://localhost:{port}/disk.raw");
        // Nobody vouches for it.
        let ran = lab.cdi(["info", &url]).ends(1);
        assert!(ran.err.to_lowercase().contains("certificate"), "{}", ran.err);
        let mut command = lab.command();
        command.args(["mount", &url, "mnt", "--mapfile", "none", "--remote-cache", "blocks,128M"]);
        Ran::from(command.env("SSL_CERT_FILE", at("cert.pem")).output().unwrap()).ends(0);
        assert!(lab.read("mnt/disk.raw") == truth);
        let record = lab.cdi(["list", "--json"]).json()["mounts"][0].clone();
        for thread in fs::read_dir(format!("/proc/{}/task", record["pid"])).unwrap() {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap_or_default();
            let filtered = status.lines().any(|line| line == "Seccomp:\t2");
            assert!(filtered || status.is_empty() || record["confined"].is_null(), "{status}");
        }
        assert!(size_of(&lab.path("blocks")) >= 60 << 20, "blocks are kept");
        lab.cdi(["unmount", "mnt"]).ends(0);
        drop(nginx);
    }
);

/// nginx, for the files of a lab.
struct Nginx(Child);

impl Nginx {
    fn start(lab: &Lab, port: u16) -> Nginx {
        Nginx::start_with(lab, port, "")
    }

    /// With these words about the port.
    fn start_with(lab: &Lab, port: u16, listen: &str) -> Nginx {
        let dir = lab.dir.display();
        let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {dir}/{name};\n"))
            .concat();
        let config = format!(
            "daemon off; {user} pid {dir}/nginx.pid; error_log {dir}/nginx.err;
             events {{}}
             http {{
                 access_log off; {temporary}
                 limit_req_zone $server_name zone=all:1m rate=10r/s;
                 server {{
                     listen 127.0.0.1:{port}{listen}; root {dir};
                     location /noranges/ {{ alias {dir}/; max_ranges 0; }}
                     location /moved/ {{ rewrite ^/moved/(.*)$ /$1 redirect; }}
                     location /busy/ {{ alias {dir}/; limit_req zone=all; limit_req_status 429; }}
                     location /slow/ {{ alias {dir}/; limit_rate 1m; }}
                 }}
             }}"
        );
        let path = lab.write("nginx.conf", config);
        let mut command = Command::new("nginx");
        command.arg("-c").arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Nginx(command.spawn().unwrap())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it.
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// The tests of this directory.
pub const MODULES: &[&[Test]] = &[TESTS, faults::TESTS, s3::TESTS];

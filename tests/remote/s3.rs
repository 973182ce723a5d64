//! Images in S3, on the server of moto.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::common::{Lab, Ran, disk, run};

/// A server, and what must be in the environment.
struct Server {
    child: Child,
    port: u16,
}

const SECRET: &str = "geheimgeheimgeheim";

impl Server {
    fn start() -> Server {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("python3");
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        let quiet = Stdio::null;
        let child = command.stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn().unwrap();
        let start = std::time::Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed().as_secs() < 60, "moto does not listen");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        Server { child, port }
    }

    /// Uploads files of the lab, by name and key.
    fn put(&self, lab: &Lab, files: &[(&str, &str)]) {
        let script = "import boto3, sys
s = boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1',
    aws_access_key_id='id', aws_secret_access_key='x')
try: s.create_bucket(Bucket='cases')
except s.exceptions.BucketAlreadyOwnedByYou: pass
for pair in sys.argv[2:]:
    name, key = pair.split('=')
    s.upload_file(name, 'cases', key)
";
        let pairs = files.iter().map(|(name, key)| format!("{}={key}", lab.path(name).display()));
        let words = ["-c".into(), script.into(), self.endpoint()].into_iter().chain(pairs);
        run("python3", words);
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn command(&self, lab: &Lab, words: &[&str]) -> Command {
        let mut command = lab.command();
        let set = [
            ("AWS_ENDPOINT_URL", self.endpoint().as_str()),
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_REGION", "us-east-1"),
        ]
        .map(|(name, value)| (name, value.to_owned()));
        command.envs(set).args(words);
        command
    }

    fn cdi(&self, lab: &Lab, words: &[&str]) -> Ran {
        self.command(lab, words).output().unwrap().into()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

tests!(
    #[needs(Fuse, Loop, Python("moto"), Program("ewfacquire"), Program("e2fsck"), Program("mke2fs"))]
    fn an_e01_in_s3_is_attached_and_its_file_system_is_whole() {
        let lab = Lab::new();
        fs::create_dir(lab.path("files")).unwrap();
        for n in 0..50 {
            lab.write(&format!("files/{n}"), disk(100_000 + n));
        }
        let at = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        run("mke2fs", ["-q", "-t", "ext4", "-d", &at("files"), &at("disk.raw"), "24M"]);
        run("ewfacquire", ["-u", "-q", "-t", &at("disk"), "-S", "2097152", "-c", "none", &at("disk.raw")]);
        let mut segments: Vec<_> = fs::read_dir(&lab.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        segments.retain(|name| name.to_str().unwrap().contains(".E"));
        assert!(segments.len() > 10, "{segments:?}");
        let server = Server::start();
        let files: Vec<(String, String)> = segments
            .iter()
            .map(|name| (name.to_str().unwrap().to_owned(), format!("2026/My case #1/{}", name.display())))
            .collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (&**a, &**b)).collect();
        server.put(&lab, &files);
        let url = "s3://cases/2026/My case #1/disk.E01";
        let ran = server.cdi(&lab, &["attach", url]).ends(0);
        let device = ran.out.trim().to_owned();
        run("e2fsck", ["-fn", &device]);
        assert!(fs::read(&device).unwrap() == lab.read("disk.raw"));
        // Nothing of the secret is anywhere.
        let list = server.cdi(&lab, &["list", "--json"]).ends(0).out;
        assert!(list.contains(url) && !list.contains(SECRET), "{list}");
        let mut folders = vec![lab.path("run")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap()) {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() && !entry.path().ends_with("mnt") {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    let text = String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).into_owned();
                    assert!(!text.contains(SECRET), "{}", entry.path().display());
                }
            }
        }
        server.cdi(&lab, &["detach", url]).ends(0);
        server.cdi(&lab, &["verify", url]).ends(0);
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Python("moto"))]
    fn maps_and_directories_in_s3_are_found() {
        let lab = Lab::new();
        let truth = lab.image(8192, 512, &[(100, 3)]);
        let server = Server::start();
        server.put(
            &lab,
            &[("disk.raw", "a/disk.raw"), ("disk.map", "a/disk.map"), ("disk.cdimg", "disk.cdimg")],
        );
        let ran = server.cdi(&lab, &["extract", "s3://cases/a/disk.raw", "out.raw"]).ends(4);
        assert!(
            ran.err.contains("disk.map") && lab.read("out.raw")[103 * 512..] == truth[103 * 512..],
            "{}",
            ran.err
        );
        server.cdi(&lab, &["verify", "s3://cases/disk.cdimg"]).ends(0);
        let ran = server.cdi(&lab, &["info", "s3://cases/a"]).ends(1);
        assert!(ran.err.contains("cannot open"), "{}", ran.err);
        let ran = server.cdi(&lab, &["info", "s3://nothing/disk.raw"]);
        assert!(ran.code == 1, "{ran:?}");
        // A sparse bundle is a directory.
        let list = r#"<?xml version="1.0"?><plist version="1.0"><dict>
            <key>CFBundleInfoDictionaryVersion</key><string>6.0</string>
            <key>band-size</key><integer>1048576</integer>
            <key>bundle-backingstore-version</key><integer>1</integer>
            <key>diskimage-bundle-type</key><string>com.apple.diskimage.sparsebundle</string>
            <key>size</key><integer>4194304</integer></dict></plist>"#;
        lab.write("Info.plist", list);
        lab.write("0", &truth[..1 << 20]);
        lab.write("2", &truth[2 << 20..3 << 20]);
        server.put(
            &lab,
            &[
                ("Info.plist", "b/my.sparsebundle/Info.plist"),
                ("0", "b/my.sparsebundle/bands/0"),
                ("2", "b/my.sparsebundle/bands/2"),
            ],
        );
        server.cdi(&lab, &["extract", "s3://cases/b/my.sparsebundle", "bundle.raw"]).ends(0);
        let mut expected = truth.clone();
        expected[1 << 20..2 << 20].fill(0);
        expected[3 << 20..].fill(0);
        assert!(lab.read("bundle.raw") == expected);
    }

    #[needs(Python("moto"))]
    fn credentials_come_from_the_files_of_amazons_program() {
        let lab = Lab::new();
        lab.image(2048, 512, &[]);
        let server = Server::start();
        server.put(&lab, &[("disk.cdimg", "disk.cdimg")]);
        lab.write(
            "credentials",
            format!("[case]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = {SECRET}\n"),
        );
        lab.write(
            "config",
            format!("[profile case]\nregion = us-east-1\nendpoint_url = {}\n", server.endpoint()),
        );
        let from_files = |profile: &str| -> Ran {
            let mut command = lab.command();
            for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
                command.env_remove(name);
            }
            command.env("AWS_SHARED_CREDENTIALS_FILE", lab.path("credentials"));
            command.env("AWS_CONFIG_FILE", lab.path("config")).env("AWS_PROFILE", profile);
            command.args(["info", "s3://cases/disk.cdimg"]).output().unwrap().into()
        };
        from_files("case").ends(0);
        lab.write("config", "[profile made]\nsso_session = x\n");
        let ran = from_files("made").ends(1);
        assert!(ran.err.contains("export-credentials"), "{}", ran.err);
    }
);

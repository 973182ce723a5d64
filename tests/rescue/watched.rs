//! What is seen of the imaging: the page of `--watch` and `watch`, and the health of the drive.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::failing_disk::{DISK, FailingDisk, lab, map_of};
use crate::common::{Lab, wait_until};

/// A stand-in for smartctl: each call, eight more sectors are reallocated, and the third time the drive is too hot.
fn smartctl(lab: &Lab) {
    let count = lab.path("asked");
    let script = format!(
        "#!/bin/sh\nn=$(cat {0} 2>/dev/null || echo 0); n=$((n+1)); echo $n > {0}\n\
         echo \"$@\" >> {0}.words\n\
         cat <<END\n{{\"smartctl\": {{\"exit_status\": 64}}, \"smart_status\": {{\"passed\": true}},\n\
         \"temperature\": {{\"current\": $((58 + n)), \"op_limit_max\": 59}}, \"power_on_time\": {{\"hours\": 27694}},\n\
         \"ata_smart_attributes\": {{\"table\": [{{\"id\": 5, \"raw\": {{\"value\": $((n * 8))}}}}]}}}}\nEND\nexit 64\n",
        count.display()
    );
    fs::create_dir(lab.path("bin")).unwrap();
    let path = lab.write("bin/smartctl", script);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Starts a command with `bin` in its path, and its output in files.
fn start(lab: &Lab, name: &str, words: &[&str]) -> Child {
    let file = |end: &str| fs::File::create(lab.path(&format!("{name}.{end}"))).unwrap();
    let path = format!("{}:{}", lab.path("bin").display(), std::env::var("PATH").unwrap());
    let (out, err) = (file("out"), file("err"));
    lab.command().args(words).env("PATH", path).stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap()
}

fn said(lab: &Lab, name: &str) -> String {
    fs::read_to_string(lab.path(name)).unwrap_or_default()
}

/// The URL that a command has printed.
fn url(lab: &Lab, name: &str) -> String {
    wait_until("the page is served", || said(lab, name).contains("http://"));
    let text = said(lab, name);
    let start = text.find("http://").unwrap();
    text[start..].split_whitespace().next().unwrap().to_owned()
}

/// Asks a web server. Returns the status and the body.
fn get(url: &str) -> (u16, String) {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Content-Security-Policy: default-src 'none'"), "{head}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The state in a page.
fn state(page: &str) -> Value {
    let start = page.find("id=\"state\">").unwrap() + "id=\"state\">".len();
    let json = &page[start..start + page[start..].find("</script>").unwrap()];
    serde_json::from_str(json).unwrap()
}

tests!(
    #[needs(DISK)]
    fn the_imaging_can_be_watched() {
        let (lab, _) = lab(&[(5000, 2)]);
        smartctl(&lab);
        let disk = FailingDisk::new(&lab, &["delay"], &["rdelay=15ms"]);
        let create =
            ["create", disk.path(), "disk.cdimg", "--model", "</script><b>", "--watch", "0", "--json"];
        let mut child = start(&lab, "create", &create);
        let served = url(&lab, "create.err").trim_matches(['"', '}', ',']).to_owned();
        let (status, page) = get(&served);
        assert_eq!(status, 200);
        assert!(!page.contains("<b>"));
        let token = served.split_once("token=").unwrap().1;
        let json = served.replace("/?", "/state.json?");
        wait_until("something is read", || {
            let (_, body) = get(&json);
            serde_json::from_str::<Value>(&body).unwrap()["rescued_bytes"]
                .as_u64()
                .is_some_and(|n| n > 1 << 20)
        });
        let body: Value = serde_json::from_str(&get(&json).1).unwrap();
        assert_eq!(body["state"], "imaging");
        assert_eq!(body["live"], format!("state.json?token={token}"));
        assert_eq!((&body["model"], &body["size_bytes"]), (&json!("</script><b>"), &json!(16 << 20)));
        assert_eq!(body["map"].as_str().unwrap().len(), 1024);
        assert_eq!(body["health"]["reallocated_sectors"], 8);
        assert!(body["history"].as_array().is_some_and(|points| !points.is_empty()));
        // Nobody else gets it.
        for other in
            [served.replace(token, "0"), served.replace("?token=", "?x="), served.replace("/?", "/x?")]
        {
            assert!(matches!(get(&other).0, 403 | 404), "{other}");
        }
        assert_eq!(child.wait().unwrap().code(), Some(4), "{}", said(&lab, "create.err"));
        // The drive was asked before and after, and what has become worse is said.
        assert!(said(&lab, "create.err").contains("reallocated sectors grew from 8 to 16"));
        assert!(said(&lab, "create.err").contains("above its limit of 59"));
        assert_eq!(said(&lab, "asked.words").lines().count(), 2);
        assert!(said(&lab, "asked.words").starts_with(&format!("-j -x {}", disk.path())));
        let health = lab.cdi(["info", "--health", "--json", "disk.cdimg"]).ends(0).json();
        let all = health["health"].as_array().unwrap();
        assert_eq!((all.len(), &all[1]["reallocated_sectors"]), (2, &json!(16)));
        assert_eq!(all[1]["warnings"].as_array().unwrap().len(), 2);
        let text = lab.cdi(["info", "--health", "disk.cdimg"]).ends(0).out;
        assert!(text.contains("reallocated sectors  8 ") && text.contains("grew from 8 to 16"), "{text}");
        let events = lab.cdi(["info", "--events", "--json", "disk.cdimg"]).ends(0).json();
        let first = events["events"].as_array().unwrap().iter().find(|e| e["event"] == "health").unwrap();
        assert_eq!(first["smartctl"]["power_on_time"]["hours"], 27694);
    }

    /// Nobody waits for a smartctl that hangs.
    #[needs(DISK)]
    fn a_hanging_smartctl_delays_nothing() {
        let (lab, _) = lab(&[]);
        fs::create_dir(lab.path("bin")).unwrap();
        let path = lab.write("bin/smartctl", "#!/bin/sh\nexec sleep 9\n");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        let disk = FailingDisk::new(&lab, &[], &[]);
        let began = std::time::Instant::now();
        let mut child = start(&lab, "create", &["create", disk.path(), "disk.cdimg"]);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(began.elapsed().as_secs() < 8, "{:?}", began.elapsed());
        let health = lab.cdi(["info", "--health", "disk.cdimg"]).ends(0);
        assert!(health.err.contains("no report"), "{}", health.err);
        // It ends by itself.
        std::thread::sleep(std::time::Duration::from_secs(9).saturating_sub(began.elapsed()));
    }

    #[needs(DISK)]
    fn a_page_in_a_file_shows_the_image_at_the_end() {
        let (lab, _) = lab(&[(5000, 2)]);
        let disk = FailingDisk::new(&lab, &[], &[]);
        lab.write("other.html", "mine");
        let ran = lab.cdi(["create", disk.path(), "disk.cdimg", "--watch", "other.html"]).ends(5);
        assert!(ran.err.contains("other.html"), "{}", ran.err);
        lab.cdi(["create", disk.path(), "disk.cdimg", "--watch", "page.txt", "--force"]).ends(2);
        assert_eq!(lab.read("other.html"), b"mine");
        lab.cdi(["create", disk.path(), "disk.cdimg", "--force", "--watch", "page.html"]).ends(4);
        let page = state(&said(&lab, "page.html"));
        assert_eq!((&page["state"], &page["refresh_seconds"]), (&json!("finished"), &Value::Null));
        assert_eq!(page["left_bytes"]["bad-sector"], 1024);
        // The same of the image itself.
        lab.cdi(["map", "--html", "map.html", "disk.cdimg"]).ends(0);
        let map = state(&said(&lab, "map.html"));
        assert_eq!((&map["state"], &map["left_bytes"]["bad-sector"]), (&json!("image"), &json!(1024)));
        assert!(map["map"].as_str().unwrap().contains('X'));
        lab.cdi(["map", "--html", "map.html", "disk.cdimg"]).ends(5);
        assert!(lab.cdi(["map", "--html", "-", "disk.cdimg"]).ends(0).out.contains("</html>"));
        let watched = lab.cdi(["watch", "disk.cdimg", "watch.html", "--json"]).ends(4).json();
        assert_eq!(watched["state"], "finished");
        assert_eq!(state(&said(&lab, "watch.html"))["refresh_seconds"], Value::Null);
        lab.cdi(["watch", "disk.raw"]).ends(3);
    }

    #[needs(DISK)]
    fn an_image_that_another_process_makes_can_be_watched() {
        let (lab, _) = lab(&[(5000, 2)]);
        let disk = FailingDisk::new(&lab, &["delay"], &["rdelay=15ms"]);
        let mut child = start(&lab, "create", &["create", disk.path(), "disk.cdimg"]);
        wait_until("the image is there", || lab.path("disk.cdimg").exists());
        let mut watch = start(&lab, "watch", &["watch", "disk.cdimg", "0"]);
        let url = url(&lab, "watch.err").replace("/?", "/state.json?");
        let (status, body) = get(&url);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["state"]), (200, &json!("imaging")));
        assert_eq!(child.wait().unwrap().code(), Some(4));
        assert_eq!(watch.wait().unwrap().code(), Some(4));
        assert!(said(&lab, "watch.out").starts_with("finished: 16.0 MiB of 16.0 MiB rescued (99.99 %)"));
        assert_eq!(map_of(&lab, "disk.cdimg").iter().filter(|b| b.2 == "-").count(), 1);
    }

    /// In a browser: the page asks for the state itself, and says so when the program has ended.
    #[needs(DISK, Program("chromium"))]
    fn a_browser_shows_the_page() {
        let (lab, _) = lab(&[(5000, 2)]);
        let disk = FailingDisk::new(&lab, &["delay"], &["rdelay=15ms"]);
        let mut child = start(&lab, "create", &["create", disk.path(), "disk.cdimg", "--watch", "0"]);
        let url = url(&lab, "create.err");
        let shown = |url: &str| {
            let profile = format!("--user-data-dir={}", lab.path("profile").display());
            let words = ["--headless", "--no-sandbox", "--disable-gpu", &profile, "--dump-dom"];
            let out = Command::new("chromium")
                .args(words)
                .args(["--virtual-time-budget=5000", "--enable-logging=stderr", "--v=0", url])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(!said.contains("Content Security Policy") && !said.contains("Uncaught"), "{said}");
            String::from_utf8(out.stdout).unwrap()
        };
        let page = shown(&url);
        assert!(page.contains("Copying, pass 1") && page.contains("role=\"slider\""), "{page}");
        assert_eq!(child.wait().unwrap().code(), Some(4));
        lab.cdi(["map", "--html", "map.html", "disk.cdimg"]).ends(0);
        let page = shown(&format!("file://{}", lab.path("map.html").display()));
        // Without the script.
        let page = page.split("<script").next().unwrap();
        assert!(page.contains("99.99 %") && !page.contains("undefined") && !page.contains("NaN"), "{page}");
    }
);

//! Servers that do not give what is asked of them: that says nothing about the image.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::web::{Deed, Request, Web};
use super::{extract, served};
use crate::common::{Lab, Ran, disk, run, wait_until};

const SECRET: &str = "geheimgeheimgeheim";

/// A command that reads s3://cases/… from a server of ours, which needs no signature. The bucket is a directory.
fn from_s3(lab: &Lab, web: &Web, words: &[&str]) -> Command {
    let mut command = lab.command();
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    let endpoint = web.url("");
    command.env("AWS_ENDPOINT_URL", endpoint.trim_end_matches('/')).env("AWS_REGION", "us-east-1");
    command.env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE").env("AWS_SECRET_ACCESS_KEY", SECRET);
    command.args(words);
    command
}

fn is_list(request: &Request) -> bool {
    request.path.contains("list-type=")
}

/// Whether it is a read of what no image needs to be opened: the block in the middle.
fn is_late(request: &Request) -> bool {
    request.range.is_some_and(|(start, _)| start == 3 << 20)
}

tests!(
    fn a_server_without_head_hides_no_files() {
        let (lab, truth, web) = served();
        for (n, piece) in truth.chunks(1_500_000).enumerate() {
            lab.write(&format!("split.{:03}", n + 1), piece);
        }
        for status in ["405 Method Not Allowed", "501 Not Implemented"] {
            web.does(move |_, r| if r.method == "HEAD" { Deed::Status(status) } else { Deed::Right });
            let (ran, bytes) = extract(&lab, &web.url("disk.raw"));
            assert!(ran.code == 4 && bytes[9001 * 512..] == truth[9001 * 512..], "{status}: {}", ran.err);
            assert!(ran.err.contains("disk.map"), "{}", ran.err);
            let (ran, bytes) = extract(&lab, &web.url("split.001"));
            assert!(ran.code == 0 && bytes == truth, "{status}: {}", ran.err);
        }
        // A file for which everything is refused is not known to be missing.
        for name in ["disk.map", "split.002", "split.003"] {
            web.does(
                move |_, r| {
                    if r.path == name { Deed::Status("405 Method Not Allowed") } else { Deed::Right }
                },
            );
            let image = if name == "disk.map" { "disk.raw" } else { "split.001" };
            let ran = lab.cdi(["info", &web.url(image)]).ends(1);
            assert!(ran.err.contains(name) && ran.err.contains("405"), "{}", ran.err);
        }
    }

    fn a_fault_in_the_middle_is_no_damage() {
        let (lab, _, web) = served();
        lab.cdi(["create", "disk.raw", "stored.cdimg", "--codec", "none"]).ends(4);
        let faults = [
            Deed::Status("403 Forbidden"),
            Deed::Status("404 Not Found"),
            Deed::Status("412 Precondition Failed"),
            Deed::Version("\"another\""),
        ];
        for fault in faults {
            for image in ["disk.raw", "stored.cdimg"] {
                let url = web.url(image);
                let start = Instant::now();
                for words in [
                    &["verify", &url][..],
                    &["create", &url, "out.cdimg"],
                    &["extract", &url, "out.raw"],
                    &["extract", &url, "-"],
                    &["files", &url, "--copy", "copied"],
                    &["repair", &url, "repaired.cdimg"],
                ] {
                    if words[0] == "repair" && image == "disk.raw" {
                        continue;
                    }
                    let does = fault.clone();
                    web.does(move |_, r| if is_late(r) { does.clone() } else { Deed::Right });
                    let ran = lab.cdi(words).ends(1);
                    assert!(ran.err.contains(&url), "{words:?} {fault:?}: {}", ran.err);
                    assert!(!ran.err.contains("affects") && !ran.out.contains("affects"), "{ran:?}");
                    for name in ["out.cdimg", "out.raw", "out.raw.map", "repaired.cdimg"] {
                        assert!(!lab.path(name).exists(), "{words:?} {fault:?}: {name}");
                    }
                }
                let ran = lab.cdi(["verify", "--json", &url]).ends(1);
                assert!(ran.err.contains("\"failed\"") && ran.out.is_empty(), "{ran:?}");
                assert!(start.elapsed() < Duration::from_secs(30), "{fault:?}: {:?}", start.elapsed());
            }
        }
        assert_eq!(lab.leftovers(), "");
    }

    fn what_waits_for_a_server_can_be_interrupted() {
        let (lab, _, web) = served();
        let url = web.url("disk.raw");
        for words in [
            &["create", &url, "out.cdimg"][..],
            &["verify", &url],
            &["extract", &url, "out.raw"],
            &["files", &url],
        ] {
            web.does(|_, r| if is_late(r) { Deed::Late(Duration::from_secs(30)) } else { Deed::Right });
            let mut command = lab.command();
            let child = command.args(words).args(["--mapfile", "none"]);
            let child = child
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            wait_until("it waits for the server", || web.requests().iter().any(is_late));
            std::thread::sleep(Duration::from_millis(300));
            let start = Instant::now();
            kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
            let ran = Ran::from(child.wait_with_output().unwrap());
            assert!(start.elapsed() < Duration::from_secs(5), "{words:?}: {:?}", start.elapsed());
            assert_eq!(ran.code, 130, "{words:?}: {}", ran.err);
        }
        assert!(!lab.path("out.cdimg").exists() && !lab.path("out.raw").exists());
    }

    #[needs(Program("ewfacquire"))]
    fn a_segment_that_a_server_does_not_give_is_not_missing() {
        let lab = Lab::new();
        fs::create_dir(lab.path("cases")).unwrap();
        lab.write("d.raw", disk(4 << 20));
        let at = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        run("ewfacquire", ["-u", "-q", "-t", &at("cases/d"), "-S", "1048576", "-c", "none", &at("d.raw")]);
        let web = Web::new(&lab.dir);
        let (denied, wrong) = (Deed::Status("403 Forbidden"), Deed::Status("503 Slow Down"));
        // The list, and what is done for the second and the third segment.
        for (list, two, three, name) in [
            (&denied, &Deed::Right, &denied, "d.E03"),
            (&wrong, &Deed::Status("404 Not Found"), &wrong, "d.E03"),
            (&denied, &wrong, &Deed::Right, "d.E02"),
        ] {
            let (list, two, three) = (list.clone(), two.clone(), three.clone());
            web.does(move |_, r| match &*r.path {
                _ if is_list(r) => list.clone(),
                "cases/d.E02" => two.clone(),
                "cases/d.E03" => three.clone(),
                _ => Deed::Right,
            });
            let command = &mut from_s3(&lab, &web, &["create", "s3://cases/d.E01", "out.cdimg"]);
            let ran = Ran::from(command.output().unwrap());
            assert!(ran.code == 1 && ran.err.contains(name), "{ran:?}");
            assert!(!ran.err.contains("missing or empty") && !lab.path("out.cdimg").exists(), "{ran:?}");
        }
        // On a web server, what cannot be looked for ends the search.
        web.does(|_, r| match &*r.path {
            "cases/d.E02" => Deed::Status("404 Not Found"),
            path if path > "cases/d.E02" && path.contains(".E") => Deed::Status("500 Internal Server Error"),
            _ => Deed::Right,
        });
        let ran = lab.cdi(["info", &web.url("cases/d.E01")]).ends(1);
        assert!(
            ran.err.contains("d.E03") && web.requests().len() < 20,
            "{}: {}",
            web.requests().len(),
            ran.err
        );
        // It is missing indeed.
        web.does(|_, r| if r.path.ends_with(".E03") { Deed::Status("404 Not Found") } else { Deed::Right });
        lab.cdi(["info", &web.url("cases/d.E01")]).ends(4);
    }

    fn pieces_are_found_where_listing_is_denied() {
        let lab = Lab::new();
        let truth = disk(4 << 20);
        fs::create_dir(lab.path("cases")).unwrap();
        for (n, piece) in truth.chunks(1_500_000).enumerate() {
            lab.write(&format!("cases/disk.{:03}", n + 1), piece);
        }
        let web = Web::new(&lab.dir);
        let words = ["extract", "s3://cases/disk.001", "out.raw", "--force"];
        web.does(|_, r| if is_list(r) { Deed::Status("403 Forbidden") } else { Deed::Right });
        Ran::from(from_s3(&lab, &web, &words).output().unwrap()).ends(0);
        assert!(lab.read("out.raw") == truth);
        fs::remove_file(lab.path("out.raw")).unwrap();
        // Whether there is a third piece is not known.
        web.does(|_, r| {
            let is_denied = is_list(r) || r.path.ends_with(".003");
            if is_denied { Deed::Status("403 Forbidden") } else { Deed::Right }
        });
        let words = ["extract", "s3://cases/disk.001", "out.raw", "--mapfile", "none"];
        let ran = Ran::from(from_s3(&lab, &web, &words).output().unwrap()).ends(1);
        assert!(ran.err.contains("disk.003") && !lab.path("out.raw").exists(), "{}", ran.err);
    }

    fn a_server_with_an_answer_for_every_name_is_noticed() {
        let lab = Lab::new();
        lab.write("piece", disk(1 << 20));
        let web = Web::new(&lab.dir);
        web.does(|_, _| Deed::Serves("piece"));
        let ran = lab.cdi(["info", &web.url("disk.000"), "--mapfile", "none"]).ends(1);
        assert!(ran.err.contains("4096 pieces"), "{}", ran.err);
        assert!(web.requests().len() < 5000, "{}", web.requests().len());
    }

    fn settings_that_cannot_be_sent_are_named() {
        let (lab, _, web) = served();
        for (name, value) in [
            ("AWS_SESSION_TOKEN", "geheim\n"),
            ("AWS_ACCESS_KEY_ID", "geheim\n"),
            ("AWS_REGION", "geheim\n"),
            ("AWS_ENDPOINT_URL", "127.0.0.1:5611"),
            ("AWS_ENDPOINT_URL", "http://geheim host"),
        ] {
            let mut command = from_s3(&lab, &web, &["info", "s3://cases/disk.cdimg"]);
            let ran = Ran::from(command.env(name, value).output().unwrap()).ends(1);
            assert!(ran.err.contains(name) && !ran.err.contains("geheim"), "{}", ran.err);
            assert!(!ran.err.contains("panicked"), "{}", ran.err);
        }
    }

    fn credentials_stay_on_their_server() {
        let (lab, _, web) = served();
        let other = Web::new(&lab.dir);
        let place = other.url("disk.cdimg");
        web.does(move |_, _| Deed::Redirect(place.clone()));
        let mut command = from_s3(&lab, &web, &["info", "s3://cases/disk.cdimg"]);
        let ran = Ran::from(command.env("AWS_SESSION_TOKEN", SECRET).output().unwrap()).ends(1);
        assert!(other.requests().is_empty() && ran.err.contains("redirects to another"), "{}", ran.err);
        assert!(!ran.err.contains(SECRET), "{}", ran.err);
        // A web server gets no credentials, and the next one does not learn of it.
        lab.cdi(["info", &web.url("disk.cdimg")]).ends(0);
        assert!(!other.requests().is_empty());
        assert!(other.requests().iter().all(|r| !r.text.to_lowercase().contains("referer")));
        // On the same server it is followed.
        let here = web.url("cases/disk.raw");
        fs::create_dir(lab.path("cases")).unwrap();
        fs::copy(lab.path("disk.raw"), lab.path("cases/disk.raw")).unwrap();
        web.does(
            move |_, r| if r.path == "cases/x.raw" { Deed::Redirect(here.clone()) } else { Deed::Right },
        );
        let words = ["verify", "s3://cases/x.raw", "--mapfile", "none"];
        Ran::from(from_s3(&lab, &web, &words).output().unwrap()).ends(0);
    }

    fn an_answer_is_not_repeated_word_by_word() {
        let (lab, _, web) = served();
        web.does(|_, _| {
            Deed::Says(
                "400 Bad Request",
                "<Error><Code>InvalidToken</Code><Message>The token is malformed</Message><Token-0>geheimgeheimgeheim</Token-0></Error>",
            )
        });
        let ran =
            Ran::from(from_s3(&lab, &web, &["info", "s3://cases/disk.cdimg"]).output().unwrap()).ends(1);
        assert!(ran.err.contains("InvalidToken: The token is malformed"), "{}", ran.err);
        assert!(!ran.err.contains("geheim"), "{}", ran.err);
    }

    fn no_verb_repeats_what_is_secret_in_an_address() {
        let lab = Lab::new();
        lab.image(2048, 512, &[]);
        for url in [
            "http://me:geheim@127.0.0.1:1/disk.raw",
            "https://127.0.0.1:1/disk.raw?X-Amz-Signature=geheim",
            "s3://cases/disk.raw?X-Amz-Signature=geheim",
            "az://cases/disk.raw?sig=geheim",
            "ftp://me:geheim@127.0.0.1:1/disk.raw",
        ] {
            for words in [
                &["info", url][..],
                &["info", "-vv", url],
                &["info", "--json", url],
                &["create", "--rescue", url, "new.cdimg"],
                &["create", "--resume", url, "new.cdimg"],
                &["unmount", url],
                &["detach", url],
                &["stats", url],
                &["index", url],
                &["info", "--badblocks", url, "--block-size", "512", "disk.raw"],
                &["info", "--mapfile", url, "disk.raw"],
                &["info", "--allow-parent", url, "disk.raw"],
                &["create", "disk.raw", url],
                &["extract", "disk.raw", url],
                &["mount", "disk.raw", url],
                &["list", url],
            ] {
                let ran = lab.cdi(words);
                assert!(ran.code != 0 || words.contains(&"--allow-parent"), "{words:?}: {ran:?}");
                assert!(!ran.err.contains("geheim") && !ran.out.contains("geheim"), "{words:?}: {ran:?}");
            }
        }
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Fuse)]
    fn a_file_that_is_missing_for_a_moment_is_read_again() {
        let lab = Lab::new();
        let truth = disk(64 << 20);
        lab.write("disk.raw", &truth);
        let web = Web::new(&lab.dir);
        lab.cdi(["mount", &web.url("disk.raw"), "mnt", "--mapfile", "none"]).ends(0);
        let mounted = fs::File::open(lab.path("mnt/disk.raw")).unwrap();
        let mut sector = [0; 512];
        mounted.read_exact_at(&mut sector, 5 << 20).unwrap();
        web.does(|_, _| Deed::Status("404 Not Found"));
        assert!(mounted.read_exact_at(&mut sector, 30 << 20).is_err());
        web.does(|_, _| Deed::Right);
        mounted.read_exact_at(&mut sector, 40 << 20).unwrap();
        assert_eq!(sector, truth[40 << 20..][..512]);
        drop(mounted);
        lab.cdi(["unmount", "mnt"]).ends(0);
        assert_eq!(lab.leftovers(), "");
    }
);

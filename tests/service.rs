//! The service: several images, a child that is killed, an image that appears later, a configuration that is
//! invalid, an image that hangs, a service that dies; and, with a stand-in for systemctl, the calls of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Lab, Ran, run, wait_until};

/// A service that is ended with the test.
struct Service<'a> {
    lab: &'a Lab,
    child: Child,
}

impl Service<'_> {
    fn start<'a>(lab: &'a Lab, images: &Value) -> Service<'a> {
        configure(lab, images);
        let mut command = lab.command();
        command.args(["-q", "service", "run", "--config", "service.json"]).stderr(Stdio::null());
        Service { lab, child: command.spawn().unwrap() }
    }

    fn signal(&self, signal: &str) {
        run("kill", [signal.to_owned(), self.child.id().to_string()]);
    }

    fn end(mut self) {
        self.signal("-TERM");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        assert_eq!(self.lab.leftovers(), "");
        assert_eq!(self.lab.cdi(["list", "--json"]).json()["mounts"], json!([]));
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = std::process::Command::new("kill").arg(self.child.id().to_string()).status();
            let _ = self.child.wait();
        }
    }
}

fn configure(lab: &Lab, images: &Value) {
    lab.write("service.new", json!({ "version": 1, "images": images }).to_string());
    fs::rename(lab.path("service.new"), lab.path("service.json")).unwrap();
}

fn status(lab: &Lab) -> Value {
    lab.cdi(["service", "status", "--json"]).json()["service"].clone()
}

fn phases(lab: &Lab) -> Vec<String> {
    let images = status(lab)["images"].as_array().cloned().unwrap_or_default();
    images.iter().map(|i| i["phase"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn wait_for(lab: &Lab, expect: &[&str]) {
    let start = Instant::now();
    while phases(lab) != expect {
        assert!(start.elapsed() < Duration::from_secs(20), "not {expect:?} but {:#}", status(lab));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A lab with `disk.cdimg` and as many copies of it as there are names.
fn lab(names: &[&str]) -> (Lab, Vec<u8>) {
    let lab = Lab::new();
    let disk = lab.image(4096, 512, &[(100, 1)]);
    for name in names {
        fs::copy(lab.path("disk.cdimg"), lab.path(name)).unwrap();
    }
    (lab, disk)
}

tests!(
    #[needs(Loop, Fuse)]
    fn images_are_attached_kept_attached_and_detached() {
        let (lab, disk) = lab(&["a.cdimg", "b.cdimg"]);
        let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        let images = json!([
            { "image": path("a.cdimg") },
            { "image": path("b.cdimg"), "dir": path("b"), "attach": false, "bad": "zero" },
            { "image": path("later.cdimg"), "dir": path("later"), "attach": false },
        ]);
        let service = Service::start(&lab, &images);
        wait_for(&lab, &["up", "up", "waiting"]);
        let ran = lab.cdi(["service", "status"]).ends(1);
        assert!(ran.out.contains("waiting") && ran.out.contains("image file not found"), "{}", ran.out);
        let device = status(&lab)["images"][0]["device"].as_str().unwrap().to_owned();
        assert!(device.starts_with("/dev/loop"));
        let read = lab.read("b/disk.raw");
        assert!(
            read[..51200] == disk[..51200]
                && read[51200..51712] == [0; 512]
                && read[51712..] == disk[51712..]
        );

        // The disk that was not plugged in.
        fs::copy(lab.path("disk.cdimg"), lab.path("x")).unwrap();
        fs::rename(lab.path("x"), lab.path("later.cdimg")).unwrap();
        wait_for(&lab, &["up", "up", "up"]);
        lab.cdi(["service", "status"]).ends(0);
        assert!(lab.path("later/disk.raw").exists());

        // A child is killed: it comes again, the others do not notice.
        let before = status(&lab);
        let pid = |state: &Value, n: usize| state["images"][n]["pid"].as_i64().unwrap();
        run("kill", ["-KILL".to_owned(), pid(&before, 1).to_string()]);
        wait_until("it is up again", || {
            let now = status(&lab);
            now["images"][1]["phase"] == "up" && now["images"][1]["pid"] != before["images"][1]["pid"]
        });
        assert!(lab.read("b/disk.raw") == read);
        assert_eq!(pid(&status(&lab), 0), pid(&before, 0));

        // Unmounted manually it stays unmounted, until the configuration is read again.
        lab.cdi(["unmount", "b"]).ends(0);
        wait_for(&lab, &["up", "detached", "up"]);
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(phases(&lab), ["up", "detached", "up"]);
        lab.cdi(["service", "start", "--config", "service.json"]).ends(0);
        wait_for(&lab, &["up", "up", "up"]);

        // One goes, one changes, one stays as it is.
        let images = json!([
            { "image": path("a.cdimg") },
            { "image": path("b.cdimg"), "dir": path("b"), "attach": false },
        ]);
        configure(&lab, &images);
        service.signal("-HUP");
        wait_until("it is gone", || !lab.path("later/disk.raw").exists());
        wait_for(&lab, &["up", "up"]);
        assert!(fs::read(lab.path("b/disk.raw")).is_err(), "bad sectors are errors by now");
        assert_eq!(status(&lab)["images"][0]["device"], device);

        // There is one service.
        lab.cdi(["service", "run", "--config", "service.json"]).ends(5);
        service.end();
        assert!(!Path::new("/sys/block").join(&device[5..]).join("loop").exists());
        let ran = lab.cdi(["service", "status", "--json"]).ends(1);
        assert_eq!(ran.json()["running"], false);
    }

    #[needs(Fuse)]
    fn a_failing_image_does_not_stop_the_others() {
        let (lab, _) = lab(&["good.cdimg"]);
        let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        lab.write("bad.cdimg", [7; 5000]);
        let images = json!([
            { "image": path("bad.cdimg"), "dir": path("bad"), "attach": false },
            { "image": path("good.cdimg"), "dir": path("good"), "attach": false },
        ]);
        let service = Service::start(&lab, &images);
        wait_for(&lab, &["failed", "up"]);
        let ran = lab.cdi(["service", "status"]).ends(1);
        assert!(ran.out.contains("failed") && ran.out.contains("bad.cdimg"), "{}", ran.out);
        assert!(
            status(&lab)["images"][0]["why"].as_str().unwrap().contains("the superblock is damaged"),
            "{:#}",
            status(&lab)
        );
        // It is tried again, and not all the time.
        std::thread::sleep(Duration::from_secs(4));
        let failures = status(&lab)["images"][0]["failures"].as_u64().unwrap();
        assert!((2..=4).contains(&failures), "{failures} tries");
        // It is mended.
        fs::copy(lab.path("disk.cdimg"), lab.path("x")).unwrap();
        fs::rename(lab.path("x"), lab.path("bad.cdimg")).unwrap();
        wait_for(&lab, &["up", "up"]);
        service.end();
    }

    #[needs(Fuse)]
    fn an_invalid_configuration_is_reported_and_changes_nothing() {
        let (lab, _) = lab(&[]);
        let image = lab.path("disk.cdimg");
        lab.write("service.json", "{\n  \"version\": 1,\n  \"images\": [ { \"img\": \"/a\" } ]\n}");
        for verb in ["run", "start"] {
            let ran = lab.cdi(["service", verb, "--config", "service.json"]).ends(2);
            assert!(ran.err.contains("service.json: line 3, column 21: unknown field `img`"), "{}", ran.err);
        }
        lab.cdi(["service", "run", "--config", "no.json"]).ends(1);
        let images = json!([{ "image": image, "dir": lab.path("mnt"), "attach": false }]);
        let service = Service::start(&lab, &images);
        wait_for(&lab, &["up"]);
        lab.write("service.json", "{ \"version\": 1, \"images\": [,] }");
        service.signal("-HUP");
        wait_until("it is told", || status(&lab)["config_error"].is_string());
        let ran = lab.cdi(["service", "status"]).ends(1);
        assert!(ran.out.contains("line 1, column 28"), "{}", ran.out);
        assert!(lab.path("mnt/disk.raw").exists());
        configure(&lab, &images);
        service.signal("-HUP");
        wait_until("it is right", || status(&lab)["config_error"].is_null());
        assert_eq!(phases(&lab), ["up"]);
        service.end();
    }

    #[needs(Loop, Fuse)]
    fn after_the_service_dies_the_next_one_takes_over() {
        let (lab, _) = lab(&[]);
        let images = json!([{ "image": lab.path("disk.cdimg") }]);
        let mut service = Service::start(&lab, &images);
        wait_for(&lab, &["up"]);
        let before = status(&lab)["images"][0].clone();
        service.child.kill().unwrap();
        service.child.wait().unwrap();
        // Readers of the disk notice nothing.
        assert!(fs::File::open(before["device"].as_str().unwrap()).is_ok());
        lab.cdi(["service", "status"]).ends(1);
        let service = Service::start(&lab, &images);
        wait_for(&lab, &["up"]);
        let now = status(&lab)["images"][0].clone();
        assert_eq!((&now["device"], &now["pid"]), (&before["device"], &before["pid"]));
        assert_eq!((&now["taken_over"], &before["taken_over"]), (&json!(true), &json!(false)));
        // It dies: it is the service's own from now on.
        run("kill", ["-KILL".to_owned(), now["pid"].to_string()]);
        wait_until("it is up again", || {
            let image = status(&lab)["images"][0].clone();
            image["phase"] == "up" && image["pid"] != now["pid"]
        });
        assert_eq!(status(&lab)["images"][0]["taken_over"], false);
        service.end();
        // An image that was taken over is also detached at the end.
        let mut service = Service::start(&lab, &images);
        wait_for(&lab, &["up"]);
        service.child.kill().unwrap();
        service.child.wait().unwrap();
        let service = Service::start(&lab, &images);
        wait_for(&lab, &["up"]);
        assert_eq!(status(&lab)["images"][0]["taken_over"], true);
        service.end();
        // With other options by now it is not taken over, but detached and attached again.
        let mut service = Service::start(&lab, &json!([{ "image": lab.path("disk.cdimg"), "bad": "zero" }]));
        wait_for(&lab, &["up"]);
        service.child.kill().unwrap();
        service.child.wait().unwrap();
        let service = Service::start(&lab, &images);
        wait_for(&lab, &["up"]);
        let image = status(&lab)["images"][0].clone();
        assert_eq!(image["taken_over"], false);
        assert!(fs::read(image["device"].as_str().unwrap()).is_err(), "bad sectors are errors again");
        service.end();
        // Images attached manually are not touched.
        lab.cdi(["attach", "disk.cdimg"]).ends(0);
        let service = Service::start(&lab, &images);
        wait_for(&lab, &["failed"]);
        assert!(status(&lab)["images"][0]["why"].as_str().unwrap().contains("already attached"));
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
        wait_for(&lab, &["up"]);
        service.end();
    }

    /// An image on a file system that does not answer does not block the others.
    #[needs(Fuse)]
    fn a_hung_image_does_not_block_the_others() {
        let (lab, _) = lab(&[]);
        lab.cdi(["mount", "disk.cdimg", "m"]).ends(0);
        let pid = lab.cdi(["list", "--json"]).json()["mounts"][0]["pid"].to_string();
        run("kill", ["-STOP", &pid]);
        let images = json!([
            { "image": lab.path("m/disk.raw"), "dir": lab.path("h"), "attach": false, "cache": "2M" },
            { "image": lab.path("disk.cdimg"), "dir": lab.path("d"), "attach": false },
        ]);
        let service = Service::start(&lab, &images);
        wait_until("the other one is up", || phases(&lab).get(1).is_some_and(|phase| phase == "up"));
        assert_ne!(phases(&lab)[0], "up");
        configure(&lab, &json!([images[0]]));
        service.signal("-HUP");
        wait_until("it still hears", || phases(&lab).len() == 1);
        run("kill", ["-CONT", &pid]);
        wait_for(&lab, &["up"]);
        configure(&lab, &json!([]));
        service.signal("-HUP");
        wait_for(&lab, &[]);
        lab.cdi(["unmount", "m"]).ends(0);
        service.end();
    }

    /// The state of an earlier service is not that of this one.
    fn the_state_of_an_earlier_service_is_not_trusted() {
        let (lab, _) = lab(&[]);
        let mut bystander = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::create_dir(lab.path("run")).unwrap();
        fs::set_permissions(lab.path("run"), fs::Permissions::from_mode(0o700)).unwrap();
        let state = json!({ "pid": bystander.id(), "config": "/x", "config_error": null, "images": [] });
        lab.write("run/service.state", state.to_string());
        let service = Service::start(&lab, &json!([]));
        wait_until("it runs", || {
            configure(&lab, &json!([]));
            lab.cdi(["service", "start", "--config", "service.json"]).code == 0
        });
        assert!(bystander.try_wait().unwrap().is_none(), "somebody else got a signal");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        service.end();
    }

    #[needs(Loop, Fuse)]
    fn an_image_in_use_is_detached_after_a_timeout() {
        let (lab, _) = lab(&[]);
        let service = Service::start(&lab, &json!([{ "image": lab.path("disk.cdimg") }]));
        wait_for(&lab, &["up"]);
        let device = status(&lab)["images"][0]["device"].as_str().unwrap().to_owned();
        let mut user = std::process::Command::new("sleep")
            .arg("60")
            .stdin(fs::File::open(&device).unwrap())
            .spawn()
            .unwrap();
        let start = Instant::now();
        service.signal("-TERM");
        wait_for(&lab, &["stopping"]);
        let mut service = service;
        assert_eq!(service.child.wait().unwrap().code(), Some(0));
        let took = start.elapsed().as_secs();
        assert!((14..40).contains(&took), "{took} s");
        user.kill().unwrap();
        user.wait().unwrap();
        let gone = || !Path::new("/sys/block").join(&device[5..]).join("loop").exists();
        wait_until("the device is gone", gone);
        assert_eq!(lab.leftovers(), "");
    }

    /// A user's own service, and root's where the tests run as root.
    fn systemd_is_called_in_order() {
        let lab = Lab::new();
        fs::set_permissions(&lab.dir, fs::Permissions::from_mode(0o777)).unwrap();
        fs::create_dir(lab.path("bin")).unwrap();
        let log = lab.path("log");
        lab.write("bin/systemctl", format!("#!/bin/sh\necho systemctl \"$@\" >> '{}'\n", log.display()));
        fs::set_permissions(lab.path("bin/systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        // A program where every user may run it.
        fs::copy(env!("CARGO_BIN_EXE_cdi"), lab.path("bin/cdi")).unwrap();
        let cdi = |args: &[&str], path: &str| -> Ran {
            let mut command = std::process::Command::new(lab.path("bin/cdi"));
            command
                .args(["service"])
                .args(args)
                .env("PATH", path)
                .env("HOME", lab.path("home"))
                .current_dir(&lab.dir);
            command.env_remove("XDG_CONFIG_HOME").env("CDI_RUNTIME_DIR", lab.path("run"));
            if nix::unistd::geteuid().is_root() {
                command.uid(65534).gid(65534);
            }
            command.output().unwrap().into()
        };
        let path = format!("{}:/bin:/usr/bin", lab.path("bin").display());
        let said = |expect: &str| {
            assert_eq!(fs::read_to_string(&log).unwrap_or_default(), expect);
            let _ = fs::remove_file(&log);
        };
        cdi(&["start"], &path).ends(1);
        cdi(&["install"], &path).ends(0);
        said("systemctl --user daemon-reload\nsystemctl --user enable cdi.service\n");
        let unit = fs::read_to_string(lab.path("home/.config/systemd/user/cdi.service")).unwrap();
        let command = format!(
            "ExecStart=\"{}\" service run --config \"{}\"\n",
            lab.path("bin/cdi").display(),
            lab.path("home/.config/cdi/service.json").display()
        );
        assert!(unit.contains(&command), "{unit}");
        // Again is fine, and a configuration that is there stays.
        let config = lab.path("home/.config/cdi/service.json");
        fs::write(&config, "{ \"version\": 1, \"images\": [] } ").unwrap();
        cdi(&["install"], &path).ends(0);
        assert!(fs::read_to_string(&config).unwrap().ends_with("} "));
        let _ = fs::remove_file(&log);
        cdi(&["start"], &path).ends(0);
        cdi(&["stop"], &path).ends(0);
        said("systemctl --user start cdi.service\nsystemctl --user stop cdi.service\n");
        fs::write(&config, "{").unwrap();
        cdi(&["start"], &path).ends(2);
        said("");
        cdi(&["uninstall"], &path).ends(0);
        said(
            "systemctl --user stop cdi.service\nsystemctl --user disable cdi.service\nsystemctl --user daemon-reload\n",
        );
        assert!(!lab.path("home/.config/systemd/user/cdi.service").exists() && config.exists());
        cdi(&["uninstall"], &path).ends(0);
        fs::write(&config, "{ \"version\": 1, \"images\": [] } ").unwrap();
        cdi(&["start"], &path).ends(2);
        // Without systemd, the message says what to do instead.
        let ran = cdi(&["install"], "/nowhere").ends(6);
        assert!(ran.err.contains("cdi service run"), "{}", ran.err);
    }
);

//! Mounts with other commands at the same time, other mounts at the same place and other programs' devices; odd names.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{Lab, LoopDevice, Ran, run, wait_until};

fn served(lab: &Lab) -> usize {
    let list = lab.cdi(["list", "--json"]).ends(0).json();
    let mounts = list["mounts"].as_array().unwrap().clone();
    assert!(mounts.iter().all(|m| m["alive"] == true), "{mounts:?}");
    mounts.len()
}

fn tmpfs(at: &Path) {
    run("mount", [OsStr::new("-t"), OsStr::new("tmpfs"), OsStr::new("none"), at.as_os_str()]);
}

fn child_ended(child: &mut std::process::Child) -> bool {
    child.try_wait().unwrap().is_some()
}

tests!(
    #[needs(Fuse)]
    fn mounting_right_after_unmounting_works() {
        let lab = Lab::new();
        lab.image(2048, 512, &[(1, 1)]);
        lab.cdi(["mount", "disk.cdimg", "mnt"]).ends(0);
        for round in 0..25 {
            let down = lab.command().args(["unmount", "mnt"]).stderr(Stdio::piped()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(round % 20));
            let up = lab.cdi(["mount", "disk.cdimg", "mnt"]);
            Ran::from(down.wait_with_output().unwrap()).ends(0);
            // It may have come too early; then it is as if it had not been.
            if up.code != 0 {
                assert_eq!(up.code, 5, "round {round}: {}", up.err);
                lab.cdi(["mount", "disk.cdimg", "mnt"]).ends(0);
            }
            assert_eq!(served(&lab), 1, "round {round}");
            assert!(lab.path("mnt/disk.raw").exists());
        }
        lab.cdi(["unmount", "mnt"]).ends(0);
        assert_eq!(lab.leftovers(), "");
    }

    /// A lookup keeps a mount busy for a moment: unmounting is tried again.
    #[needs(Fuse)]
    fn a_passing_lookup_does_not_keep_a_mount_busy() {
        let lab = Lab::new();
        lab.image(2048, 512, &[(1, 1)]);
        for round in 0..10 {
            lab.cdi(["mount", "disk.cdimg", "mnt"]).ends(0);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let start = Instant::now();
                        while start.elapsed() < Duration::from_millis(200) {
                            let _ = fs::metadata(lab.path("mnt/none"));
                        }
                    });
                }
                let ran = lab.cdi(["unmount", "mnt"]);
                assert_eq!(ran.code, 0, "round {round}: {}", ran.err);
            });
        }
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Fuse, Loop)]
    fn many_commands_at_once_after_a_death_succeed() {
        let lab = Lab::new();
        lab.image(2048, 512, &[(1, 1)]);
        for round in 0..8 {
            lab.cdi(["attach", "disk.cdimg"]).ends(0);
            let pid = lab.cdi(["list", "--json"]).json()["mounts"][0]["pid"].as_i64().unwrap();
            run("kill", ["-KILL".to_owned(), pid.to_string()]);
            // Until it is dead it serves.
            wait_until("it is dead", || lab.cdi(["list", "--json"]).json()["mounts"][0]["alive"] == false);
            let mut all =
                vec![lab.command().args(["attach", "disk.cdimg"]).stdout(Stdio::null()).spawn().unwrap()];
            for i in 0..4 {
                all.push(
                    lab.command().args(["-q", "mount", "disk.cdimg", &format!("m{i}")]).spawn().unwrap(),
                );
            }
            for child in &mut all {
                assert_eq!(child.wait().unwrap().code(), Some(0), "round {round}");
            }
            assert_eq!(served(&lab), 5, "round {round}");
            lab.cdi(["detach", "disk.cdimg"]).ends(0);
            assert_eq!((served(&lab), lab.leftovers()), (0, String::new()), "round {round}");
        }
    }

    #[needs(Fuse, Loop)]
    fn a_mount_over_our_mount_is_reported() {
        let lab = Lab::new();
        lab.image(2048, 512, &[]);
        fs::create_dir(lab.path("p")).unwrap();
        lab.cdi(["attach", "disk.cdimg", "p/m"]).ends(0);
        // On our folder: nothing is begun.
        tmpfs(&lab.path("p/m"));
        let ran = lab.cdi(["detach", "disk.cdimg"]).ends(5);
        assert!(ran.err.contains("something else is mounted over it"), "{}", ran.err);
        assert_eq!(served(&lab), 1);
        run("umount", [lab.path("p/m")]);
        // Over the folder above: said, and no endless loop.
        tmpfs(&lab.path("p"));
        let ran = lab.cdi(["detach", "disk.cdimg"]).ends(5);
        assert!(ran.err.contains("mounted over one of its parent directories"), "{}", ran.err);
        run("umount", [lab.path("p")]);
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Fuse, Loop)]
    fn mounts_of_others_at_our_mount_point_stay() {
        let lab = Lab::new();
        lab.image(2048, 512, &[]);
        fs::create_dir(lab.path("mnt")).unwrap();
        lab.cdi(["mount", "disk.cdimg", "mnt"]).ends(0);
        let pid = lab.cdi(["list", "--json"]).json()["mounts"][0]["pid"].as_i64().unwrap();
        run("kill", ["-KILL".to_owned(), pid.to_string()]);
        wait_until("the daemon is gone", || !Path::new(&format!("/proc/{pid}")).exists());
        run("umount", [lab.path("mnt")]);
        // A stale record now names a directory that belongs to others.
        tmpfs(&lab.path("mnt"));
        fs::write(lab.path("mnt/theirs"), "theirs").unwrap();
        lab.cdi(["mount", "disk.cdimg", "other"]).ends(0);
        assert_eq!(lab.read("mnt/theirs"), b"theirs");
        run("umount", [lab.path("mnt")]);
        lab.cdi(["unmount", "other"]).ends(0);
        assert_eq!(served(&lab), 0);
    }

    #[needs(Fuse, Loop)]
    fn a_device_that_another_device_uses_is_left_alone() {
        let lab = Lab::new();
        lab.image(2048, 512, &[]);
        let device = lab.attach(&[]);
        let upper = LoopDevice::new(&device, &["--read-only"]);
        let ran = lab.cdi(["detach", "disk.cdimg"]);
        let name = device.file_name().unwrap().to_str().unwrap();
        let autoclear = fs::read_to_string(format!("/sys/block/{name}/loop/autoclear")).unwrap();
        assert_eq!((ran.code, autoclear.trim()), (5, "0"), "{}", ran.err);
        assert!(ran.err.contains(&upper.path), "{}", ran.err);
        drop(upper);
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
    }

    #[needs(Fuse)]
    fn a_daemon_keeps_no_descriptor_of_its_caller() {
        let lab = Lab::new();
        lab.image(2048, 512, &[]);
        // A pipe that the daemon inherits would never end.
        let script =
            format!("{{ {} mount disk.cdimg mnt 3>&1 >/dev/null 2>&1; }} | cat", env!("CARGO_BIN_EXE_cdi"));
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .env("CDI_RUNTIME_DIR", lab.path("run"))
            .current_dir(&lab.dir)
            .spawn()
            .unwrap();
        wait_until("it is mounted", || lab.path("mnt/disk.raw").exists());
        let start = std::time::Instant::now();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed().as_secs() > 5 {
                child.kill().unwrap();
                lab.cdi(["unmount", "mnt"]).ends(0);
                panic!("the pipe does not end");
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        lab.cdi(["unmount", "mnt"]).ends(0);
    }

    #[needs(Fuse)]
    fn a_relative_runtime_directory_is_one_directory() {
        let lab = Lab::new();
        lab.image(2048, 512, &[]);
        let cdi = |words: &[&str]| {
            Ran::from(lab.command().args(words).env("CDI_RUNTIME_DIR", "run").output().unwrap())
        };
        cdi(&["mount", "disk.cdimg", "mnt"]).ends(0);
        assert_eq!(served(&lab), 1);
        cdi(&["unmount", "disk.cdimg"]).ends(0);
        assert_eq!(lab.leftovers(), "");
        assert!(!Path::new("/run/mnt").exists() || Path::new("/run/mnt").read_dir().is_ok());
    }

    #[needs(Fuse)]
    fn image_names_may_contain_anything() {
        let lab = Lab::new();
        lab.image(2048, 512, &[(1, 1)]);
        let odd: [&[u8]; 5] = [
            b"a b,c.cdimg",
            b"-dash.cdimg",
            b"line\nbreak.cdimg",
            b"\x1b[31mred.cdimg",
            b"not\xffutf8.cdimg",
        ];
        for name in odd {
            let name = Path::new(".").join(OsStr::from_bytes(name));
            fs::copy(lab.path("disk.cdimg"), lab.dir.join(&name)).unwrap();
            let words = |verb: &str| vec![OsString::from(verb), name.clone().into_os_string()];
            lab.cdi(words("mount").into_iter().chain(["mnt".into()])).ends(0);
            let list = lab.cdi(["list"]).ends(0).out;
            assert!(list.lines().count() == 2 && !list.contains('\u{1b}'), "{list:?}");
            assert_eq!(served(&lab), 1);
            lab.cdi(words("unmount")).ends(0);
            lab.cdi(words("unmount").into_iter().chain(["--json".into()])).ends(0);
            assert_eq!(lab.leftovers(), "", "{name:?}");
            lab.cdi(words("info")).ends(0);
        }
    }

    #[needs(Fuse, Loop)]
    fn detach_refuses_during_exec_and_a_signal_ends_it() {
        let lab = Lab::new();
        lab.image(2048, 512, &[(1, 1)]);
        let child = lab
            .command()
            .args(["exec", "disk.cdimg", "--", "sh", "-c", "exec sleep 60", "{}"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let sleeping = || {
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()))
                .is_ok_and(|c| !c.trim().is_empty())
        };
        wait_until("it is attached", || lab.cdi(["list"]).out.contains("/dev/loop") && sleeping());
        let ran = lab.cdi(["detach", "disk.cdimg"]).ends(5);
        assert!(ran.err.contains("in use by a command ('cdi exec'"), "{}", ran.err);
        // A signal to cdi alone reaches the command.
        run("kill", ["-TERM".to_owned(), child.id().to_string()]);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(128 + 15), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Fuse, Loop)]
    fn an_interrupted_demo_leaves_nothing() {
        for wait in [0, 20, 60, 100] {
            let lab = Lab::new();
            fs::create_dir(lab.path("tmp")).unwrap();
            let mut child = lab
                .command()
                .arg("demo")
                .env("TMPDIR", lab.path("tmp"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let start = std::time::Instant::now();
            while fs::read_dir(lab.path("tmp")).unwrap().count() == 0 && !child_ended(&mut child) {
                assert!(start.elapsed().as_secs() < 10);
            }
            std::thread::sleep(std::time::Duration::from_millis(wait));
            let _ =
                Command::new("kill").args(["-TERM", &child.id().to_string()]).stderr(Stdio::null()).status();
            let code = child.wait().unwrap().code();
            assert!(code == Some(130) || code == Some(0), "{code:?}");
            assert_eq!(fs::read_dir(lab.path("tmp")).unwrap().count(), 0, "after {wait} ms");
            assert_eq!(lab.leftovers(), "");
        }
    }

    #[needs(Fuse, Loop)]
    fn of_two_simultaneous_attaches_one_succeeds() {
        let lab = Lab::new();
        lab.image(2048, 512, &[]);
        for _ in 0..3 {
            let attach =
                || lab.command().args(["-q", "attach", "disk.cdimg"]).stderr(Stdio::null()).spawn().unwrap();
            let mut both = [attach(), attach()];
            let mut codes: Vec<_> = both.iter_mut().map(|c| c.wait().unwrap().code().unwrap()).collect();
            codes.sort_unstable();
            assert_eq!(codes, [0, 5]);
            assert_eq!(lab.cdi(["list", "--json"]).ends(0).json()["mounts"].as_array().unwrap().len(), 1);
            lab.cdi(["detach", "disk.cdimg"]).ends(0);
            lab.cdi(["detach", "disk.cdimg"]).ends(0);
        }
        let ran = lab.cdi(["detach", "disc.cdimg"]).ends(1);
        assert!(ran.err.contains("'cdi list'"), "{}", ran.err);
        lab.attach(&[]);
        let ran = lab.cdi(["detach", "disk.cdimgg"]).ends(1);
        assert!(ran.err.contains("disk.cdimg?"), "{}", ran.err);
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Fuse)]
    fn a_mount_in_the_foreground_ends_once_it_is_no_longer_in_use() {
        let lab = Lab::new();
        lab.image(2048, 512, &[]);
        fs::create_dir(lab.path("m")).unwrap();
        let mut child =
            lab.command().args(["-q", "mount", "disk.cdimg", "m", "--foreground"]).spawn().unwrap();
        wait_until("it is mounted", || lab.path("m/disk.raw").exists());
        let open = fs::File::open(lab.path("m/disk.raw")).unwrap();
        run("kill", ["-TERM", &child.id().to_string()]);
        sleep(Duration::from_millis(1500));
        assert!(child.try_wait().unwrap().is_none(), "it was in use");
        drop(open);
        wait_until("it has gone", || !Path::new(&format!("/proc/{}/fd/0", child.id())).exists());
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert_eq!(lab.leftovers(), "");
    }
);

//! What a process that serves a disk has given up, as the kernel says; that it serves everything even so; and that what
//! it made is removed.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Lab, Ran, Random, Server, run, wait_until};
use crate::makers;

/// A user without any privileges.
const NOBODY: u32 = 65534;

/// A field of the status of each thread of a process.
fn of_each_thread(pid: u64, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let status = tasks.filter_map(|task| fs::read_to_string(task.join("status")).ok());
    let value = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    status.map(value).collect()
}

/// Asserts that each thread of the process is confined. `capabilities`: what root keeps.
#[track_caller]
fn assert_confined(pid: u64, capabilities: &str) {
    let all = |field: &str, value: &str| of_each_thread(pid, field).iter().all(|v| v == value);
    assert!(of_each_thread(pid, "Seccomp").len() > 3);
    assert!(all("NoNewPrivs", "1"), "{:?}", of_each_thread(pid, "NoNewPrivs"));
    assert!(all("Seccomp", "2"), "{:?}", of_each_thread(pid, "Seccomp"));
    for field in ["CapEff", "CapPrm", "CapInh"] {
        let held = of_each_thread(pid, field);
        let root = nix::unistd::geteuid().is_root() && field != "CapInh";
        let wanted = if root { capabilities } else { "0000000000000000" };
        assert!(held.iter().all(|v| v == wanted), "{field}: {held:?}");
    }
}

const NONE: &str = "0000000000000000";
/// Root goes on to open the files of the image, of any owner (CAP_DAC_READ_SEARCH).
const READS_FILES: &str = "0000000000000004";

/// The mount in a lab, as `list --json` has it.
fn mounted(lab: &Lab) -> serde_json::Value {
    lab.cdi(["list", "--json"]).ends(0).json()["mounts"][0].clone()
}

fn pid(lab: &Lab) -> u64 {
    mounted(lab)["pid"].as_u64().unwrap()
}

fn noise(len: usize) -> Vec<u8> {
    let random = &mut Random::new(11);
    (0..len).map(|_| (random.next() >> 40) as u8).collect()
}

/// The helper of a process.
fn helper(pid: u64) -> u64 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split(' ').next().unwrap().parse().unwrap()
}

fn is_there(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

tests!(
    #[needs(Fuse)]
    fn a_daemon_keeps_no_privileges() {
        let lab = Lab::new();
        let disk = lab.image(20_000, 512, &[]);
        fs::create_dir(lab.path("m")).unwrap();
        lab.cdi(["mount", "disk.cdimg", "m", "--files"]).ends(0);
        let (daemon, held) = (pid(&lab), mounted(&lab)["confined"].clone());
        assert_confined(daemon, NONE);
        assert!(held["landlock"].as_u64().unwrap() > 0 && held["seccomp"] == true, "{held}");
        assert!(held["capabilities"] == true, "{held}");
        assert!(lab.read("m/disk.raw") == disk);
        // Threads that were started by now, for readers and for the scan, are confined as well.
        let _ = fs::read_dir(lab.path("m/files"));
        assert_confined(daemon, NONE);
        lab.cdi(["stats", "m"]).ends(0);
        let helper = helper(daemon);
        lab.cdi(["unmount", "m"]).ends(0);
        wait_until("both processes have ended", || !is_there(daemon) && !is_there(helper));
    }

    #[needs(Fuse, Loop)]
    fn an_attached_image_is_served_without_privileges() {
        let lab = Lab::new();
        let disk = lab.image(20_000, 512, &[(100, 1)]);
        let device = lab.attach(&[]);
        assert_confined(pid(&lab), NONE);
        let mut run = Command::new("dd");
        let read = run.arg(format!("if={}", device.display())).args(["bs=1M", "skip=1", "status=none"]);
        assert!(read.output().unwrap().stdout == disk[1 << 20..]);
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
    }

    #[needs(Fuse)]
    fn files_of_an_image_are_opened_when_they_are_read() {
        let lab = Lab::new();
        let truth = noise(300 * 4096);
        // More than are kept open.
        for (n, piece) in truth.chunks(4096).enumerate() {
            lab.write(&format!("disk.{:03}", n + 1), piece);
        }
        // A bundle's files are not even looked for before.
        fs::create_dir_all(lab.path("b.sparsebundle/bands")).unwrap();
        for (name, bytes) in makers::sparsebundle(&truth) {
            lab.write(&format!("b.sparsebundle/{name}"), bytes);
        }
        fs::create_dir(lab.path("m")).unwrap();
        for image in ["disk.001", "b.sparsebundle"] {
            lab.cdi(["mount", image, "m"]).ends(0);
            assert_confined(pid(&lab), READS_FILES);
            assert!(lab.read("m/disk.raw")[..truth.len()] == truth, "{image}");
            lab.cdi(["unmount", "m"]).ends(0);
        }
    }

    fn a_server_keeps_no_privileges() {
        let lab = Lab::new();
        lab.image(2000, 512, &[]);
        for options in [&["--nbd", "socket"][..], &["--nbd", "0"], &["--nfs"]] {
            let server = Server::start(&lab, options);
            let pid = u64::from(server.child.id());
            wait_until("its threads are confined", || {
                of_each_thread(pid, "Seccomp").iter().all(|v| v == "2")
            });
            assert_confined(pid, NONE);
            assert_eq!(server.end(), 0);
            assert!(!lab.path("socket").exists());
        }
    }

    #[needs(Program("nbdcopy"))]
    fn clients_read_from_a_confined_server() {
        let lab = Lab::new();
        let disk = lab.image(20_000, 512, &[]);
        let server = Server::start(&lab, &["--nbd", "socket"]);
        let pid = u64::from(server.child.id());
        run("nbdcopy", [server.url.as_ref(), lab.path("copy.raw").as_os_str()]);
        assert!(lab.read("copy.raw") == disk);
        assert_confined(pid, NONE);
    }

    fn the_socket_of_a_killed_server_is_removed() {
        let lab = Lab::new();
        lab.image(2000, 512, &[]);
        let mut server = Server::start(&lab, &["--nbd", "socket"]);
        let helper = helper(server.child.id().into());
        assert!(lab.path("socket").exists());
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        wait_until("the socket is gone", || !lab.path("socket").exists() && !is_there(helper));
    }

    fn a_socket_whose_name_is_no_text_is_served_without_privileges() {
        let lab = Lab::new();
        lab.image(2000, 512, &[]);
        let socket = lab.dir.join(OsStr::from_bytes(b"so\xffck"));
        let mut command = lab.command();
        command.args(["-q", "serve", "disk.cdimg", "--nbd"]).arg(&socket);
        let mut server = started(&mut command);
        assert_confined(server.id().into(), NONE);
        assert!(socket.exists());
        run("kill", ["-TERM".to_owned(), server.id().to_string()]);
        assert_eq!(server.wait().unwrap().code(), Some(0));
        assert!(!socket.exists());
    }

    #[needs(Fuse, Loop, Program("mkfifo"))]
    fn what_a_daemon_keeps_is_reported() {
        let lab = Lab::new();
        let dmg = makers::dmg(&noise(100 * 512), makers::Tables::PropertyList);
        let how = makers::encrypted::USUAL;
        lab.write("a.dmg", makers::encrypted::encrypted(&dmg, &how));
        fs::create_dir(lab.path("m")).unwrap();
        // A program that cannot be started once more: nothing is executed from where it is any more.
        let program = lab.write("program", "");
        run("mount", ["--bind".as_ref(), Path::new(env!("CARGO_BIN_EXE_cdi")), &program]);
        run("mkfifo", [lab.path("pass")]);
        let mut mount = Command::new(&program);
        mount.args(["mount", "a.dmg", "m", "--passphrase-file", "pass"]).current_dir(&lab.dir);
        mount.env("CDI_RUNTIME_DIR", lab.path("run")).stderr(Stdio::piped());
        let mount = mount.spawn().unwrap();
        // Opened by both.
        let mut pass = fs::File::options().write(true).open(lab.path("pass")).unwrap();
        run("mount", ["-o".as_ref(), Path::new("remount,bind,noexec"), &program]);
        pass.write_all(how.passphrases[0].as_bytes()).unwrap();
        drop(pass);
        let ran = Ran::from(mount.wait_with_output().unwrap()).ends(0);
        assert!(ran.err.contains("keeps its privileges: cannot start the process"), "{}", ran.err);
        let (daemon, held) = (pid(&lab), mounted(&lab)["confined"].clone());
        assert!(of_each_thread(daemon, "Seccomp").iter().any(|v| v == "0"));
        assert_eq!(held, serde_json::json!({ "landlock": 0, "seccomp": false, "capabilities": false }));
        lab.cdi(["unmount", "m"]).ends(0);
        run("umount", [&program]);
    }

    fn the_files_of_the_caller_are_closed() {
        let lab = Lab::new();
        lab.image(2000, 512, &[]);
        let script =
            format!("exec 9<disk.raw; exec {} -q serve disk.cdimg --nbd socket", env!("CARGO_BIN_EXE_cdi"));
        let mut server = Command::new("sh");
        server.args(["-c", &script]).current_dir(&lab.dir).env("CDI_RUNTIME_DIR", lab.path("run"));
        let mut server = started(&mut server);
        for process in [server.id().into(), helper(server.id().into())] {
            let open =
                fs::read_dir(format!("/proc/{process}/fd")).unwrap().map(|entry| entry.unwrap().path());
            let files: Vec<_> = open.filter_map(|fd| fs::read_link(fd).ok()).collect();
            assert!(!files.is_empty() && !files.contains(&lab.path("disk.raw")), "{files:?}");
        }
        run("kill", ["-TERM".to_owned(), server.id().to_string()]);
        server.wait().unwrap();
    }

    fn no_user_becomes_a_helper() {
        let lab = Lab::new();
        lab.image(2000, 512, &[]);
        let mut command = lab.command();
        Ran::from(command.args(["info", "disk.cdimg"]).env("CDI_HELPER", "1").output().unwrap()).ends(0);
        // What is no daemon is not obeyed.
        lab.cdi(["[helper]", "unmount"]).ends(1);
    }

    #[needs(Fuse)]
    fn a_helper_obeys_its_parent_alone() {
        let lab = Lab::new();
        let disk = lab.image(2000, 512, &[]);
        fs::create_dir(lab.path("m")).unwrap();
        lab.cdi(["mount", "disk.cdimg", "m"]).ends(0);
        let record = fs::read_dir(lab.path("run")).unwrap().map(|entry| entry.unwrap().path());
        let record = record.into_iter().find(|path| path.extension().is_some_and(|x| x == "json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
        // A stranger, and then the process that has started it.
        for (daemon, obeyed) in [(pid(&lab), false), (u64::from(std::process::id()), true)] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let mut command = lab.command();
            let mut child = command.arg("[helper]").stdin(OwnedFd::from(theirs)).spawn().unwrap();
            drop(command);
            let start = serde_json::json!({ "job": { "Mount": record }, "daemon": daemon, "verbose": 0 });
            writeln!(ours, "{start}\n{}", serde_json::json!({ "Remove": { "force": true } })).unwrap();
            assert!(child.wait().unwrap().success());
            let seen = fs::read(lab.path("m/disk.raw"));
            assert!(if obeyed { seen.is_err() } else { seen.unwrap() == disk });
        }
        wait_until("nothing is left", || lab.leftovers().is_empty());
    }

    #[needs(Fuse, Loop)]
    fn a_daemon_that_comes_too_late_leaves_another_mount_alone() {
        let lab = Lab::new();
        let disk = lab.image(2000, 512, &[]);
        fs::create_dir(lab.path("m")).unwrap();
        lab.cdi(["mount", "disk.cdimg", "m"]).ends(0);
        let daemon = pid(&lab);
        let device = |dir: &str| fs::metadata(lab.path(dir)).unwrap().dev();
        let before = device("m");
        run("kill", ["-STOP".to_owned(), daemon.to_string()]);
        // The program umount would look at it first, and wait for the daemon.
        nix::mount::umount(&lab.path("m")).unwrap();
        let other = |words: &[&str]| {
            let mut command = lab.command();
            command.args(words).env("CDI_RUNTIME_DIR", lab.path("other"));
            Ran::from(command.output().unwrap()).ends(0)
        };
        // A mount gets the lowest device number that is free: others take that of the one that is gone.
        let mut others = Vec::new();
        loop {
            other(&["mount", "disk.cdimg", "m"]);
            if device("m") != before {
                break;
            }
            other(&["unmount", "m"]);
            let dir = format!("n{}", others.len());
            fs::create_dir(lab.path(&dir)).unwrap();
            other(&["mount", "disk.cdimg", &dir]);
            others.push(dir);
        }
        run("kill", ["-CONT".to_owned(), daemon.to_string()]);
        wait_until("the daemon has ended", || !is_there(daemon));
        assert!(lab.read("m/disk.raw") == disk);
        // Those who clean up after it leave it alone as well.
        lab.cdi(["mount", "disk.cdimg", "m"]).ends(5);
        assert!(lab.read("m/disk.raw") == disk);
        other(&["unmount", "m"]);
        others.iter().for_each(|dir| drop(other(&["unmount", dir])));
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Fuse)]
    fn a_stopped_helper_does_not_hold_up_unmounting() {
        let lab = Lab::new();
        lab.image(2000, 512, &[]);
        fs::create_dir(lab.path("m")).unwrap();
        lab.cdi(["mount", "disk.cdimg", "m"]).ends(0);
        let helper = helper(pid(&lab));
        run("kill", ["-STOP".to_owned(), helper.to_string()]);
        let start = Instant::now();
        lab.cdi(["unmount", "m"]).ends(0);
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        run("kill", ["-CONT".to_owned(), helper.to_string()]);
        wait_until("the helper has ended", || !is_there(helper));
    }

    #[needs(Fuse)]
    fn a_command_of_exec_keeps_its_privileges() {
        let lab = Lab::new();
        lab.image(2000, 512, &[]);
        // The process that serves the disk confines itself when the command runs.
        let script = "grep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status
                      for n in 1 2 3 4 5 6 7 8 9; do
                        grep -q 'Seccomp:.2' /proc/$PPID/status && break; sleep 0.2
                      done
                      grep Seccomp: /proc/$PPID/status; exit 7";
        let ran = lab.cdi(["exec", "disk.cdimg", "--", "sh", "-c", script]).ends(7);
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let own = own.lines().find(|line| line.starts_with("CapEff")).unwrap();
        let lines: Vec<&str> = ran.out.lines().collect();
        assert_eq!(lines, [own, "NoNewPrivs:\t0", "Seccomp:\t0", "Seccomp:\t2"]);
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Fuse)]
    fn a_signal_to_exec_reaches_the_command() {
        let lab = Lab::new();
        lab.image(2000, 512, &[]);
        let script = "trap 'exit 9' TERM; touch up; while :; do sleep 0.1; done";
        let mut exec = lab.command();
        let mut exec = exec.args(["exec", "disk.cdimg", "--", "sh", "-c", script]).spawn().unwrap();
        wait_until("the command runs", || lab.path("up").exists());
        wait_until("it is confined", || of_each_thread(exec.id().into(), "Seccomp").iter().all(|v| v == "2"));
        run("kill", ["-TERM".to_owned(), exec.id().to_string()]);
        assert_eq!(exec.wait().unwrap().code(), Some(9));
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(FuseForAll, Program("fusermount3"), Program("setpriv"))]
    fn the_daemon_of_an_ordinary_user_unmounts_at_a_signal() {
        let lab = Lab::new();
        let disk = lab.image(2000, 512, &[]);
        for dir in ["m", "run"] {
            fs::create_dir(lab.path(dir)).unwrap();
            std::os::unix::fs::chown(lab.path(dir), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        as_nobody(&lab, &["mount", "disk.cdimg", "m"]);
        let daemon = mounted_by(&lab, "m");
        assert!(of_each_thread(daemon, "NoNewPrivs").iter().all(|v| v == "1"));
        let mut read = nobody();
        let read = read.args(["cat", "m/disk.raw"]).current_dir(&lab.dir).output().unwrap();
        assert!(read.stdout == disk);
        run("kill", ["-TERM".to_owned(), daemon.to_string()]);
        wait_until("it is unmounted", || lab.leftovers().is_empty() && !is_there(daemon));
    }

    #[needs(Fuse)]
    fn a_daemon_without_its_helper_ends_and_the_next_command_cleans_up() {
        let lab = Lab::new();
        lab.image(2000, 512, &[]);
        fs::create_dir(lab.path("m")).unwrap();
        lab.cdi(["mount", "disk.cdimg", "m"]).ends(0);
        let daemon = pid(&lab);
        let helper = helper(daemon);
        run("kill", ["-TERM".to_owned(), helper.to_string()]);
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(is_there(helper), "it leaves signals to the daemon");
        run("kill", ["-KILL".to_owned(), helper.to_string()]);
        wait_until("the helper is dead", || !is_there(helper));
        run("kill", ["-TERM".to_owned(), daemon.to_string()]);
        wait_until("the daemon is dead", || !is_there(daemon));
        lab.cdi(["unmount", "m"]).ends(0);
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Program("setpriv"))]
    fn the_memory_of_a_process_with_a_passphrase_is_private() {
        let lab = Lab::new();
        let how = makers::encrypted::USUAL;
        let dmg = makers::dmg(&noise(100 * 512), makers::Tables::PropertyList);
        lab.write("a.dmg", makers::encrypted::encrypted(&dmg, &how));
        lab.write("pass", how.passphrases[0]);
        lab.image(2000, 512, &[]);
        let owner = |words: &[&str]| {
            let mut command = nobody();
            command.arg(env!("CARGO_BIN_EXE_cdi")).args(["-q", "serve"]).args(words).current_dir(&lab.dir);
            command.env("CDI_RUNTIME_DIR", lab.path("own"));
            let mut server = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
            let mut url = String::new();
            let out = server.stdout.take().unwrap();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut url).unwrap();
            assert!(url.starts_with("nbd"), "{url}");
            // What other processes may not look into belongs to root.
            let owner = fs::metadata(format!("/proc/{}/environ", server.id())).unwrap().uid();
            server.kill().unwrap();
            server.wait().unwrap();
            owner
        };
        fs::create_dir(lab.path("own")).unwrap();
        std::os::unix::fs::chown(lab.path("own"), Some(NOBODY), Some(NOBODY)).unwrap();
        assert_eq!(owner(&["disk.cdimg", "--nbd", "0"]), NOBODY);
        assert_eq!(owner(&["a.dmg", "--passphrase-file", "pass", "--nbd", "0"]), 0);
    }

    fn doctor_says_what_is_enforced() {
        let lab = Lab::new();
        let findings = lab.cdi(["doctor", "--json"]).json();
        let findings = findings["findings"].as_array().unwrap();
        let found = findings.iter().find(|f| f["what"] == "confinement").unwrap();
        let held = cdi_system::confine::enforceable();
        let text = found["found"].as_str().unwrap();
        assert_eq!(text.contains("system calls filtered"), held.seccomp, "{text}");
        assert_eq!(text.contains(&format!("Landlock {}", held.landlock)), held.landlock > 0, "{text}");
    }
);

/// Starts a server, and waits until it has printed its URL.
fn started(command: &mut Command) -> std::process::Child {
    let mut server = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut url = Vec::new();
    let out = server.stdout.take().unwrap();
    std::io::BufRead::read_until(&mut std::io::BufReader::new(out), b'\n', &mut url).unwrap();
    assert!(url.starts_with(b"nbd"), "{}", String::from_utf8_lossy(&url));
    server
}

fn nobody() -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()]);
    command
}

/// Runs the program as a user without privileges, in a runtime directory of the lab.
#[track_caller]
fn as_nobody(lab: &Lab, words: &[&str]) {
    let mut command = nobody();
    command.arg(env!("CARGO_BIN_EXE_cdi")).args(words).current_dir(&lab.dir);
    command.env("CDI_RUNTIME_DIR", lab.path("run")).env("XDG_CACHE_HOME", lab.path("cache"));
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// The process that serves what is mounted at `dir`, by its record.
fn mounted_by(lab: &Lab, dir: &str) -> u64 {
    let records = fs::read_dir(lab.path("run")).unwrap().map(|entry| entry.unwrap().path());
    let records = records.filter(|path| path.extension().is_some_and(|x| x == "json"));
    let records = records.map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap());
    let at = |record: &serde_json::Value| {
        record["mountpoint"].as_str().map(Path::new) == Some(lab.path(dir).as_path())
    };
    records.into_iter().find(at).unwrap()["pid"].as_u64().unwrap()
}

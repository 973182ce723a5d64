//! The macOS code, on Linux: NFS mounted by `mount_nfs`, the device made by `hdiutil` or `diskutil`. These are
//! stand-ins (tests/standins), which print what the real ones print (tests/macos/fixtures) and check their arguments.
//! They test the logic: the calls, their order, and the cleanup. Whether macOS behaves as they do can only be tested on a
//! Mac (tests/macos.sh).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::{Lab, Need, Ran, run, wait_until};
use crate::nfs::client;

const NEEDS: Need = Need::All(&[
    Need::Loop,
    Need::Fuse,
    Need::Program("nfs-ls"),
    Need::Program("cc"),
    Need::Header("nfsc/libnfs.h"),
]);
const SECTORS: u64 = 4096;
const VIA: [&str; 4] = ["--via", "nfs", "--with", "hdiutil"];

/// A lab with the stand-ins before everything else on the path.
struct Mac {
    lab: Lab,
}

impl Mac {
    fn new(sector: u64) -> Mac {
        let lab = Lab::new();
        let disk = lab.image(SECTORS * 512 / sector, sector, &[]);
        fs::create_dir(lab.path("mac")).unwrap();
        lab.write("mac/first", &disk[..4096]);
        lab.write("mac/size", disk.len().to_string());
        lab.write("mac/block", sector.to_string());
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nfs_copy.c");
        run("cc", ["-O1", "-o", lab.path("nfs_copy").to_str().unwrap(), source, "-lnfs"]);
        Mac { lab }
    }

    fn cdi<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Ran {
        let standins = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/standins");
        let path = format!("{standins}:{}", std::env::var("PATH").unwrap());
        let mut command: Command = self.lab.command();
        command.args(args).env("PATH", path).env("STANDIN", self.lab.path("mac"));
        command.env("CDI", env!("CARGO_BIN_EXE_cdi")).env("NFS_COPY", self.lab.path("nfs_copy"));
        command.output().unwrap().into()
    }

    fn attach(&self, options: &[&str]) -> Ran {
        self.cdi(["attach", "disk.cdimg"].iter().chain(&VIA).chain(options).copied())
    }

    /// Returns the calls of the stand-ins since the last time.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.lab.path("mac/log")).unwrap_or_default();
        let _ = fs::remove_file(self.lab.path("mac/log"));
        log
    }

    /// Returns what hdiutil and diskutil have attached.
    fn attached(&self) -> String {
        ["mac/attached", "mac/ioreg"]
            .map(|list| fs::read_to_string(self.lab.path(list)).unwrap_or_default())
            .concat()
    }

    /// Nothing is mounted, attached, running or recorded.
    #[track_caller]
    fn is_clean(&self) {
        assert_eq!((self.attached(), self.lab.leftovers()), (String::new(), String::new()));
        assert_eq!(self.cdi(["list", "--json"]).ends(0).json()["mounts"], serde_json::json!([]));
        assert!(fs::read_dir(self.lab.path("run/mnt")).into_iter().flatten().next().is_none());
    }
}

tests!(
    #[needs(NEEDS)]
    fn hdiutil_attaches_the_disk_that_mount_nfs_mounts() {
        let mac = Mac::new(512);
        let ran = mac.attach(&[]).ends(0);
        assert_eq!(ran.out, "/dev/disk4\n");
        assert!(ran.err.contains("/dev/rdisk4"), "{}", ran.err);
        let dir = mac.lab.path("run/mnt/disk");
        let log = mac.log();
        let mut lines = log.lines();
        let mounting = lines.next().unwrap();
        let options: Vec<&str> = mounting.split(' ').nth(2).unwrap().split(',').collect();
        for option in ["vers=3", "tcp", "rdonly", "soft", "intr", "locallocks", "nobrowse", "deadtimeout=30"]
        {
            assert!(options.contains(&option), "{mounting}");
        }
        assert!(options.contains(&"rsize=131072") && !options.contains(&"hard"), "{mounting}");
        let attaching = format!(
            "hdiutil attach -imagekey diskimage-class=CRawDiskImage -nomount -readonly -noverify -noautofsck \
             -noautoopen -plist {}/disk.raw",
            dir.display()
        );
        assert_eq!(lines.next(), Some(&*attaching));
        assert_eq!(lines.next(), Some("diskutil info -plist /dev/disk4"));
        assert_eq!(lines.next(), None);

        let mount = mac.cdi(["list", "--json"]).json()["mounts"][0].clone();
        assert_eq!((&mount["via"], &mount["with"]), (&"nfs".into(), &"hdiutil".into()));
        assert!(fs::read(dir.join("disk.raw")).unwrap() == fs::read(mac.lab.path("disk.raw")).unwrap());
        // The list of mounts contains the export's name; it cannot be mounted a second time.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = mounts.lines().find(|l| l.contains(&*dir.to_string_lossy())).unwrap();
        let export = mounts.split(" - tmpfs 127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap();
        let port = options.iter().find_map(|o| o.strip_prefix("port=")).unwrap();
        let url = format!("nfs://127.0.0.1{export}?version=3&nfsport={port}&mountport={port}");
        assert!(!Command::new("nfs-ls").arg(url).output().unwrap().status.success());

        mac.attach(&[]).ends(5);
        mac.cdi(["detach", "/dev/disk4"]).ends(0);
        assert_eq!(mac.log(), "hdiutil detach /dev/disk4\n");
        mac.is_clean();

        // Sectors of 4096 bytes, and the file systems on the disk mounted.
        let mac = Mac::new(4096);
        mac.attach(&["--mount"]).ends(0);
        let log = mac.log();
        assert!(log.contains(" -mount optional ") && log.contains(" -blocksize 4096 "), "{log}");
        assert!(!log.contains("-nomount"), "{log}");
        mac.cdi(["detach", "disk.cdimg"]).ends(0);
        mac.is_clean();
        // Where errors are to be exact, reads are small.
        let lab = &mac.lab;
        lab.write("disk.map", crate::common::mapfile(SECTORS / 8, 4096, &[(3, 1)]));
        fs::remove_file(lab.path("disk.cdimg")).unwrap();
        lab.cdi(["create", "disk.raw", "disk.cdimg", "--mapfile", "disk.map"]).ends(4);
        lab.write("mac/refuse-mount", "");
        mac.attach(&[]).ends(6);
        assert!(mac.log().contains(",rsize=4096,wsize=4096,"));
    }

    #[needs(NEEDS)]
    fn a_busy_device_is_retried_and_kept_unless_forced() {
        let mac = Mac::new(512);
        mac.attach(&[]).ends(0);
        mac.log();
        mac.lab.write("mac/busy", "1\n2\n");
        mac.cdi(["detach", "disk.cdimg"]).ends(0);
        assert_eq!(mac.log(), "hdiutil detach /dev/disk4\n".repeat(3));
        mac.is_clean();
        // It stays busy: it is not detached. With --force it is.
        mac.attach(&[]).ends(0);
        mac.lab.write("mac/busy", "1\n".repeat(100));
        let ran = mac.cdi(["detach", "disk.cdimg"]).ends(5);
        assert!(ran.err.contains("Resource busy") && ran.err.contains("--force"), "{}", ran.err);
        assert_eq!(mac.cdi(["list", "--json"]).json()["mounts"][0]["alive"], true);
        mac.log();
        mac.cdi(["detach", "disk.cdimg", "--force"]).ends(0);
        assert!(mac.log().ends_with("hdiutil detach /dev/disk4 -force\n"));
        mac.is_clean();
        // Not even by force: said, and tried again by the next command.
        mac.attach(&[]).ends(0);
        mac.lab.write("mac/stubborn", "");
        mac.cdi(["detach", "disk.cdimg", "--force"]).ends(5);
        assert_eq!(mac.cdi(["list", "--json"]).json()["mounts"][0]["device"], "/dev/disk4");
        fs::remove_file(mac.lab.path("mac/stubborn")).unwrap();
        mac.cdi(["detach", "disk.cdimg"]).ends(0);
        mac.is_clean();
    }

    #[needs(NEEDS)]
    fn diskutil_is_used_where_hdiutil_is_not() {
        let mac = Mac::new(512);
        let options = ["--via", "nfs", "--with", "diskutil"];
        let ran = mac.cdi(["attach", "disk.cdimg"].iter().chain(&options).copied()).ends(0);
        assert_eq!(ran.out, "/dev/disk7\n");
        let dmg = mac.lab.path("run/mnt/disk/disk.dmg");
        let log = mac.log();
        assert!(
            log.contains(&format!("diskutil image --plist attach --readOnly --noMount {}\n", dmg.display())),
            "{log}"
        );
        mac.cdi(["detach", "disk.cdimg"]).ends(0);
        assert_eq!(mac.log(), "diskutil eject /dev/disk7\n");
        mac.is_clean();
        // It knows no sector size: one that is not right is refused.
        let mac = Mac::new(4096);
        mac.lab.write("mac/block", "512");
        let ran = mac.cdi(["attach", "disk.cdimg"].iter().chain(&options).copied()).ends(6);
        assert!(ran.err.contains("sectors of 512 bytes instead of 4096"), "{}", ran.err);
        assert_eq!(fs::read_to_string(mac.lab.path("mac/ioreg")).unwrap(), "");
        mac.is_clean();
    }

    /// tests/macos.sh can only be run on a Mac; here, with stand-ins, its mistakes are found. What fails must be what needs
    /// a real device, or the kernel's NFS.
    #[needs(NEEDS, Need::Program("bash"), Need::Program("perl"))]
    fn the_script_for_a_mac_runs_to_its_end() {
        const NOT_HERE: &[&str] = &[
            "mount lists it as NFS",
            "disk.dmg is the same file",
            "the file that disables Spotlight exists",
            "the bad sector is an error",
            "disk.raw exists",
            "diskutil knows it",
            "the volume is mounted",
            "its files are right",
            "imaging a mounted disk is refused",
            "create reads the device; the bad sector is lost",
            "wrong bytes near a bad sector",
            "diskutil reports 4096 bytes",
            // A mount of the stand-ins is a tmpfs, with zeros for bad sectors.
            "nothing was left in the directory",
            "over the bad sector fails",
            "leaves no file of the disk's size",
            "it is hidden",
            "its directory is hidden",
        ];
        const PROGRAMS: &[(&str, &str)] = &[
            ("uname", "case ${1-} in -s) echo Darwin ;; -m) echo arm64 ;; *) exec /bin/uname \"$@\" ;; esac"),
            ("sw_vers", "case ${1-} in -productVersion) echo 99.1 ;; *) echo 99A1 ;; esac"),
            ("sysctl", "echo 4096"),
            ("sudo", "exit 1"),
            (
                "stat",
                "[ \"${1-}\" = -f ] || exec /usr/bin/stat \"$@\"\n\
                 case $2 in %z) format=%s ;; *) format=%i ;; esac\nexec /usr/bin/stat -c $format \"$3\"",
            ),
            (
                "cdi",
                "verb=${1-}\n[ \"$verb\" != -q ] || verb=${2-}\nmore=\n\
                 case $verb in mount | attach) case \" $* \" in *' --via '*) ;; *) more='--via nfs' ;; esac ;; esac\n\
                 case $verb in attach) case \" $* \" in *' --with '*) ;; *) more=\"$more --with hdiutil\" ;; esac ;; esac\n\
                 exec \"$REAL_CDI\" \"$@\" $more",
            ),
        ];
        let mac = Mac::new(512);
        for unwanted in ["first", "size", "block"] {
            fs::remove_file(mac.lab.path(&format!("mac/{unwanted}"))).unwrap();
        }
        fs::create_dir(mac.lab.path("bin")).unwrap();
        for (name, text) in PROGRAMS {
            mac.lab.write(&format!("bin/{name}"), format!("#!/bin/sh\n{text}\n"));
            fs::set_permissions(mac.lab.path(&format!("bin/{name}")), fs::Permissions::from_mode(0o755))
                .unwrap();
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path =
            [mac.lab.path("bin"), root.join("tests/standins")].map(|p| p.display().to_string()).join(":");
        let out = mac.lab.path("out");
        let mut script = Command::new("bash");
        script
            .arg(root.join("tests/macos.sh"))
            .env("PATH", format!("{path}:{}", std::env::var("PATH").unwrap()));
        script.env("STANDIN", mac.lab.path("mac")).env("NFS_COPY", mac.lab.path("nfs_copy"));
        script.env("NFS_COPY_ZEROS", "1").env("CDI_DRY_RUN", "1").env("CDI_OUT", &out);
        script.env("CDI", mac.lab.path("bin/cdi")).env("REAL_CDI", env!("CARGO_BIN_EXE_cdi"));
        script.env("TMPDIR", mac.lab.path("")).env_remove("GITHUB_STEP_SUMMARY");
        // Every detach waits for five seconds here: the server does not hear of it.
        let long = std::env::var_os("CDI_LONG").is_some();
        script.env("CDI_SKIP", if long { "tests" } else { "tests granularity images stalls nested finder" });
        let ran = script.output().unwrap();
        let text = [ran.stdout, ran.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        for mistake in ["unbound variable", "command not found", "syntax error", "bad substitution"] {
            assert!(!text.contains(mistake), "{mistake}:\n{text}");
        }
        assert!(text.contains("== summary"), "{text}");
        let results = fs::read_to_string(out.join("results.txt")).unwrap();
        for failed in results.lines().filter_map(|line| line.strip_prefix("FAILED\t")) {
            assert!(NOT_HERE.iter().any(|known| failed.contains(known)), "{failed}\n{text}");
        }
        let passed = results.lines().filter(|line| line.starts_with("ok\t")).count();
        assert!(passed > if long { 100 } else { 50 }, "{passed}\n{text}");
        // What it writes for the stand-ins is what they have printed.
        for name in ["hdiutil-attach", "hdiutil-info-hdiutil", "hdiutil-info-diskutil"] {
            let read = |dir: &Path| fs::read_to_string(dir.join(format!("{name}.txt"))).unwrap();
            let written = read(&out.join("tests/macos/fixtures/99.1-arm64"));
            assert_eq!(written, read(&root.join("tests/macos/fixtures/documented")), "{name}");
        }
        assert_eq!((mac.attached(), mac.lab.leftovers()), (String::new(), String::new()));
    }

    /// Whatever a Mac has printed (tests/macos/fixtures), for an image whose name is not as in a URL.
    #[needs(NEEDS)]
    fn every_recorded_output_is_understood() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/macos/fixtures");
        let systems = fs::read_dir(&fixtures).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir());
        for system in systems {
            for (with, device) in [("hdiutil", "/dev/disk4"), ("diskutil", "/dev/disk7")] {
                // Older systems do not have 'diskutil image attach'.
                if !system.join(format!("{with}-attach.txt")).exists() {
                    continue;
                }
                let mac = Mac::new(512);
                mac.lab.write("mac/version", system.file_name().unwrap().to_str().unwrap());
                let image = "a disk & its ä.cdimg";
                fs::rename(mac.lab.path("disk.cdimg"), mac.lab.path(image)).unwrap();
                let ran = mac.cdi(["attach", image, "--via", "nfs", "--with", with]).ends(0);
                assert_eq!(ran.out, format!("{device}\n"), "{} with {with}", system.display());
                assert_eq!(mac.cdi(["list", "--json"]).json()["mounts"][0]["device"], device);
                mac.cdi(["detach", image]).ends(0);
                mac.is_clean();
            }
        }
    }

    #[needs(NEEDS)]
    fn the_extension_mounts() {
        let mac = Mac::new(512);
        let options = ["attach", "disk.cdimg", "--via", "fskit", "--with", "hdiutil"];
        let ran = mac.cdi(options).ends(6);
        assert!(ran.err.contains("is disabled!") && ran.err.contains("switched on"), "{}", ran.err);
        mac.is_clean();
        mac.lab.write("mac/enabled", "");
        mac.log();
        assert_eq!(mac.cdi(options).ends(0).out, "/dev/disk4\n");
        let (image, dir) = (mac.lab.path("disk.cdimg"), mac.lab.path("run/mnt/disk"));
        let asked = format!("mount -F -o rdonly,nobrowse -t cdi {} {}\n", image.display(), dir.display());
        assert!(mac.log().starts_with(&asked));
        assert_eq!(mac.cdi(["list", "--json"]).json()["mounts"][0]["via"], "fskit");
        mac.cdi(["detach", "disk.cdimg"]).ends(0);
        mac.is_clean();
        // Where other users could reach it, an option must allow that.
        let there = ["mount", "disk.cdimg", "open", "--via", "fskit"];
        let ran = mac.cdi(there).ends(2);
        assert!(ran.err.contains("every user") && !mac.lab.path("open").exists(), "{}", ran.err);
        mac.cdi(there.iter().chain(&["--allow-other"]).copied()).ends(0);
        mac.cdi(["unmount", "open"]).ends(0);
        fs::create_dir(mac.lab.path("own")).unwrap();
        fs::set_permissions(mac.lab.path("own"), fs::Permissions::from_mode(0o700)).unwrap();
        mac.cdi(["mount", "disk.cdimg", "own/m", "--via", "fskit"]).ends(0);
        mac.cdi(["unmount", "own/m"]).ends(0);
        mac.is_clean();
        // Users without access are refused.
        for option in ["--bad=zero", "--cache=2M", "--errno=medium", "--suspect=read", "--format=cdimg"] {
            let ran = mac.cdi(options.iter().chain(&[option]).copied()).ends(2);
            assert!(ran.err.contains("does not work with --via fskit"), "{}", ran.err);
        }
        mac.is_clean();
    }

    #[needs(NEEDS)]
    fn a_failed_attach_leaves_nothing() {
        let mac = Mac::new(512);
        for (what, said) in
            [("refuse-mount", "Operation not permitted"), ("refuse-attach", "image not recognized")]
        {
            mac.lab.write(&format!("mac/{what}"), "");
            let ran = mac.attach(&[]).ends(6);
            assert!(ran.err.contains(said), "{}", ran.err);
            fs::remove_file(mac.lab.path(&format!("mac/{what}"))).unwrap();
            mac.is_clean();
        }
        mac.lab.write("mac/private", "");
        let ran = mac.attach(&[]).ends(6);
        assert!(ran.err.contains("Network Volumes"), "{}", ran.err);
        fs::remove_file(mac.lab.path("mac/private")).unwrap();
        mac.is_clean();
        // A device of another size is not the disk.
        mac.lab.write("mac/size", "1024");
        let ran = mac.attach(&[]).ends(6);
        assert!(ran.err.contains("device has 1024 bytes instead of"), "{}", ran.err);
        mac.is_clean();
        // A device without any information is attached anyway.
        fs::remove_file(mac.lab.path("mac/size")).unwrap();
        mac.attach(&[]).ends(0);
        mac.cdi(["detach", "disk.cdimg"]).ends(0);
        mac.is_clean();
    }

    /// The program that read the file for the device ends later than the device.
    #[needs(NEEDS)]
    fn detach_waits_for_the_systems_helper() {
        let mac = Mac::new(512);
        mac.attach(&[]).ends(0);
        mac.lab.write("mac/lingers", "");
        mac.cdi(["detach", "disk.cdimg"]).ends(0);
        mac.is_clean();
    }

    #[needs(NEEDS)]
    fn after_a_death_the_next_command_cleans_up() {
        let mac = Mac::new(512);
        mac.attach(&[]).ends(0);
        let pid = mac.cdi(["list", "--json"]).json()["mounts"][0]["pid"].as_i64().unwrap();
        run("kill", ["-KILL".to_owned(), pid.to_string()]);
        wait_until("it is dead", || mac.cdi(["list", "--json"]).json()["mounts"][0]["alive"] == false);
        mac.log();
        assert_eq!(mac.attach(&[]).ends(0).out, "/dev/disk4\n");
        let log = mac.log();
        assert!(log.starts_with("hdiutil detach /dev/disk4\nmount_nfs "), "{log}");
        mac.cdi(["detach", "disk.cdimg"]).ends(0);
        mac.is_clean();
        // SIGTERM, as a service sends it: device, folder, daemon.
        mac.attach(&[]).ends(0);
        let pid = mac.cdi(["list", "--json"]).json()["mounts"][0]["pid"].as_i64().unwrap();
        run("kill", ["-TERM".to_owned(), pid.to_string()]);
        wait_until("it has ended", || !Path::new(&format!("/proc/{pid}")).exists());
        mac.is_clean();
    }

    /// A device of an earlier disk that is still attached under the same path is never mistaken for this one.
    #[needs(NEEDS)]
    fn a_stale_device_is_never_mistaken_for_this_one() {
        let mac = Mac::new(512);
        mac.lab.write(
            "mac/attached",
            format!("/dev/disk9 {}\n", mac.lab.path("run/mnt/disk/disk.raw").display()),
        );
        assert_eq!(mac.attach(&[]).ends(0).out, "/dev/disk4\n");
        assert!(mac.log().contains("hdiutil detach /dev/disk9\nhdiutil attach "));
        mac.cdi(["detach", "disk.cdimg"]).ends(0);
        mac.is_clean();
        mac.lab.write(
            "mac/attached",
            format!("/dev/disk9 {}\n", mac.lab.path("run/mnt/disk/disk.raw").display()),
        );
        mac.lab.write("mac/stubborn", "");
        let ran = mac.attach(&[]).ends(5);
        assert!(ran.err.contains("/dev/disk9"), "{}", ran.err);
        assert!(!mac.log().contains("hdiutil attach"));
        mac.lab.write("mac/attached", "");
        mac.cdi(["detach", "disk.cdimg"]).ends(0);
        mac.is_clean();
    }

    /// If attached devices cannot be listed, nothing is detached and nothing is forgotten.
    #[needs(NEEDS)]
    fn a_mount_is_not_forgotten_when_the_system_cannot_be_asked() {
        let mac = Mac::new(512);
        mac.attach(&[]).ends(0);
        mac.lab.write("mac/mute", "");
        mac.log();
        mac.cdi(["detach", "disk.cdimg"]).ends(6);
        assert!(!mac.log().contains("detach"));
        fs::remove_file(mac.lab.path("mac/mute")).unwrap();
        assert_eq!(mac.cdi(["list", "--json"]).json()["mounts"][0]["alive"], true);
        mac.cdi(["detach", "disk.cdimg"]).ends(0);
        mac.is_clean();
    }

    #[needs(NEEDS)]
    fn a_reused_device_number_is_left_alone() {
        let mac = Mac::new(512);
        mac.attach(&[]).ends(0);
        // A user ejected it, and its number went to another image.
        mac.lab.write("mac/attached", "/dev/disk4 /Users/me/other.dmg\n");
        mac.log();
        mac.cdi(["detach", "disk.cdimg"]).ends(0);
        assert_eq!((mac.log(), mac.attached()), (String::new(), "/dev/disk4 /Users/me/other.dmg\n".into()));
        mac.lab.write("mac/attached", "");
        mac.is_clean();
    }

    /// What `cdi mount` presents is for people to browse; what `cdi attach` mounts is not.
    #[needs(NEEDS)]
    fn the_finder_shows_what_mount_mounts_and_not_what_attach_does() {
        let mac = Mac::new(512);
        let line = |args: &[&str]| {
            mac.cdi(args.iter().copied()).ends(0);
            mac.cdi(["detach", "--all"]).ends(0);
            let log = mac.log();
            let line = log.lines().find(|l| l.starts_with("mount")).unwrap().to_owned();
            let options = line.split(' ').skip_while(|w| *w != "-o").nth(1).unwrap();
            (options.split(',').any(|o| o == "nobrowse"), line)
        };
        let attach = ["attach", "disk.cdimg", "--via", "nfs", "--with", "hdiutil"];
        let mount = ["mount", "disk.cdimg", "--via", "nfs"];
        assert!(!line(&mount).0 && line(&[&mount[..], &["--no-browse"]].concat()).0);
        assert!(line(&attach).0 && !line(&[&attach[..], &["--browse"]].concat()).0);
        assert!(!line(&[&mount[..], &["--no-browse", "--browse"]].concat()).0, "the last one counts");
        mac.lab.write("mac/enabled", "");
        let fskit = ["mount", "disk.cdimg", "--via", "fskit"];
        assert!(!line(&fskit).0 && line(&[&fskit[..], &["--no-browse"]].concat()).0);
        // The volume has the image's name; a comma would begin another server.
        fs::rename(mac.lab.path("disk.cdimg"), mac.lab.path("Old, äß 1.cdimg")).unwrap();
        let (_, line) = line(&["mount", "Old, äß 1.cdimg", "m", "--via", "nfs"]);
        assert!(line.ends_with(&format!("/Old_ äß 1 {}", mac.lab.path("m").display())), "{line}");
        mac.is_clean();
    }

    /// `hdiutil attach DIR/disk.raw` typed by hand, and the volume ejected in the Finder.
    #[needs(NEEDS)]
    fn a_mount_is_attached_by_hand_and_ejected() {
        let mac = Mac::new(512);
        mac.cdi(["mount", "disk.cdimg", "m", "--via", "nfs"]).ends(0);
        let mounting = mac.log();
        let hdiutil = |args: &[&str]| {
            let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/standins/hdiutil"));
            command.args(args).env("STANDIN", mac.lab.path("mac")).current_dir(&mac.lab.dir).output().unwrap()
        };
        let typed = ["attach", "-imagekey", "diskimage-class=CRawDiskImage", "m/disk.raw"];
        assert!(hdiutil(&typed).status.success());
        assert!(hdiutil(&["detach", "/dev/disk4"]).status.success());
        // The Finder has the system unmount it; its NFS client tells the server.
        let pid = mac.cdi(["list", "--json"]).json()["mounts"][0]["pid"].as_i64().unwrap();
        run("umount", [mac.lab.path("m")]);
        let port = mounting.split("port=").nth(1).unwrap().split(',').next().unwrap();
        let export = mounting.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap();
        let mut kernel = client::Client::connect(&format!("nfsport={port}&"));
        assert_eq!(kernel.mount(export).0, 13, "it cannot be mounted again");
        kernel.ask(client::MOUNT, 3, client::own(), &client::string(export.as_bytes()));
        wait_until("the daemon has ended", || !Path::new(&format!("/proc/{pid}")).exists());
        assert!(!mac.lab.path("m").exists(), "the directory was made for the mount");
        mac.is_clean();
        // Unmounting it once more is no error.
        mac.cdi(["unmount", "m"]).ends(0);
    }
);

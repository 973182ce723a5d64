//! Packages for users: what can be tried of them without the program that installs them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::common::{Lab, Ran, run, wait_until};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

tests!(
    /// The formula installs the program, completions, man pages and the service's files, and its own test passes; Homebrew
    /// is a stand-in.
    #[needs(Program("ruby"))]
    fn the_homebrew_formula_installs_and_passes_its_test() {
        let check = root().join("packaging/homebrew/check.rb");
        let ran: Ran =
            Command::new("ruby").arg("-w").arg(check).arg(env!("CARGO_BIN_EXE_cdi")).output().unwrap().into();
        let ran = ran.ends(0);
        assert!(ran.out.contains("installed and tested"), "{}{}", ran.out, ran.err);
        assert!(!ran.err.contains("warning"), "{}", ran.err);
    }

    /// mount(8) finds the helper in /sbin, of a root directory of its own.
    #[needs(Fuse, Loop, Program("chroot"), Program("ldd"), Program("findmnt"))]
    fn mount_8_mounts_an_image_and_umount_8_ends_it() {
        let jail = Jail::new();
        let truth = jail.lab.image(8192, 512, &[(1001, 1)]);
        for (from, to) in
            [("disk.cdimg", "a disk.cdimg"), ("disk.raw", "disk.raw"), ("disk.map", "other.txt")]
        {
            fs::rename(jail.lab.path(from), jail.dir().join(to)).unwrap();
        }
        fs::create_dir(jail.dir().join("mnt")).unwrap();
        fs::create_dir(jail.dir().join("other")).unwrap();
        jail.run(&["mount", "-t", "cdi", "/a disk.cdimg", "/mnt"]).says("");
        let found = jail.run(&["findmnt", "-n", "-o", "FSTYPE,SOURCE,OPTIONS", "/mnt"]).ends(0).out;
        assert!(found.starts_with("fuse.cdi") && found.contains("/a disk.cdimg"), "{found}");
        assert!(found.contains("ro,nosuid,nodev,noexec"), "{found}");
        let disk = fs::read(jail.dir().join("mnt/disk.raw"));
        assert!(disk.is_err(), "the bad sector is an error");
        jail.run(&["umount", "/mnt"]).says("");
        jail.nothing_is_mounted();
        // By fstab, also a second time; with options, and spaces as fstab has them.
        let fstab = "/a\\040disk.cdimg /mnt cdi defaults,nofail,_netdev,x-systemd.automount,allow_other,bad=zero 0 0\n\
            /disk.raw /other cdi noauto,user,mapfile=/other.txt,errno=medium 0 0\n";
        fs::write(jail.dir().join("fstab"), fstab).unwrap();
        jail.run(&["mount", "-T", "/fstab", "-a"]).says("");
        jail.run(&["mount", "-T", "/fstab", "-a"]).says("");
        let mut expect = truth.clone();
        expect[1001 * 512..][..512].fill(0);
        assert!(fs::read(jail.dir().join("mnt/disk.raw")).unwrap() == expect);
        assert!(!jail.dir().join("other/disk.raw").exists());
        jail.run(&["mount", "-T", "/fstab", "/other"]).says("");
        let bad = fs::read_to_string(jail.dir().join("other/badblocks.json")).unwrap();
        assert!(bad.contains("1001"), "{bad}");
        assert_eq!(
            jail.run(&["findmnt", "-n", "-t", "fuse.cdi", "-o", "TARGET"]).ends(0).out,
            "/mnt\n/other\n"
        );
        jail.run(&["umount", "-a", "-t", "fuse.cdi"]).says("");
        jail.nothing_is_mounted();
        // Also by the name of the type that findmnt shows.
        jail.run(&["mount", "-t", "fuse.cdi", "-o", "ro", "/disk.raw", "/mnt"]).says("");
        jail.run(&["umount", "/mnt"]).says("");
        jail.nothing_is_mounted();
    }

    #[needs(Fuse, Loop, Program("chroot"), Program("ldd"))]
    fn what_mount_8_cannot_mount_is_an_error_of_mount_8() {
        let jail = Jail::new();
        jail.lab.image(64, 512, &[]);
        fs::rename(jail.lab.path("disk.cdimg"), jail.dir().join("disk.cdimg")).unwrap();
        fs::create_dir(jail.dir().join("mnt")).unwrap();
        fs::write(jail.dir().join("broken.cdimg"), "not an image").unwrap();
        let fails = |words: &[&str], code: i32, what: &str| {
            let ran = jail.run(words).ends(code);
            assert!(ran.err.contains(what), "{words:?}: {}", ran.err);
            assert!(!jail.dir().join("mnt/disk.raw").exists(), "{words:?}");
        };
        fails(&["mount", "-t", "cdi", "/none.cdimg", "/mnt"], 32, "none.cdimg");
        fails(&["mount", "-t", "cdi", "/broken.cdimg", "/mnt"], 32, "broken.cdimg");
        fails(
            &["mount", "-t", "cdi", "-o", "colour=red", "/disk.cdimg", "/mnt"],
            1,
            "unknown mount option 'colour'",
        );
        fails(&["mount", "-t", "cdi", "-o", "partition=9", "/disk.cdimg", "/mnt"], 1, "partition");
        // Only asked whether it could be.
        jail.run(&["mount", "--fake", "-t", "cdi", "/disk.cdimg", "/mnt"]).ends(0);
        assert!(!jail.dir().join("mnt/disk.raw").exists());
        // Options of another kind of file system, which mount(8) is asked to tolerate.
        jail.run(&["mount", "-s", "-t", "cdi", "-o", "colour=red", "/disk.cdimg", "/mnt"]).says("");
        let ran = jail.run(&["mount", "-t", "cdi", "-o", "remount", "/mnt", "/mnt"]).ends(1);
        assert!(ran.err.contains("cannot be remounted"), "{}", ran.err);
        jail.run(&["umount", "/mnt"]).says("");
        jail.nothing_is_mounted();
    }

    /// For `loop`, `offset=` and `sizelimit=`, mount(8) makes a loop device of the file and passes that on.
    #[needs(Fuse, Loop, Program("losetup"))]
    fn a_loop_device_is_not_taken_for_the_image() {
        let lab = Lab::new();
        lab.image(64, 512, &[(9, 1)]);
        fs::create_dir(lab.path("mnt")).unwrap();
        symlink(env!("CARGO_BIN_EXE_cdi"), lab.path("mount.cdi")).unwrap();
        for name in ["disk.cdimg", "disk.raw"] {
            let device = run("losetup", ["-f".into(), "--show".into(), "-r".into(), lab.path(name)]);
            let device = device.trim();
            let mut mount = Command::new(lab.path("mount.cdi"));
            mount
                .args([device, "mnt", "-o", "rw"])
                .current_dir(&lab.dir)
                .env("CDI_RUNTIME_DIR", lab.path("run"));
            let ran = Ran::from(mount.output().unwrap());
            run("losetup", ["-d", device]);
            let ran = ran.ends(1);
            assert!(
                ran.err.contains("a loop device has the bytes of the file")
                    && ran.err.contains("start=BYTES"),
                "{}",
                ran.err
            );
        }
    }

    /// The automounter is one of the test's own.
    #[needs(Fuse, Loop, Program("python3"), Program("setsid"))]
    fn an_automounter_s_mount_does_not_wait_for_itself() {
        let lab = Lab::new();
        lab.image(64, 512, &[]);
        fs::create_dir(lab.path("auto")).unwrap();
        symlink(env!("CARGO_BIN_EXE_cdi"), lab.path("mount.cdi")).unwrap();
        let mount = |image: &str| -> Ran {
            let mut automounter = Command::new("python3");
            automounter.arg(root().join("tests/python/automounter.py"));
            automounter.args(["auto", "./mount.cdi", image, "auto", "-o", "rw"]);
            automounter.current_dir(&lab.dir).env("CDI_RUNTIME_DIR", lab.path("run"));
            automounter.output().unwrap().into()
        };
        let ran = mount("disk.cdimg").ends(0);
        assert!(ran.out.contains("disk.raw") && ran.err.is_empty(), "{}{}", ran.out, ran.err);
        let ran = mount("none.cdimg").ends(32);
        assert!(ran.err.contains("none.cdimg"), "{}{}", ran.out, ran.err);
    }

    /// What dpkg would unpack: everything that the documents promise, owned by root, with paths that exist.
    #[needs(Program("cargo-deb"), Program("dpkg-deb"), Program("python3"))]
    fn the_deb_has_what_it_should() {
        let deb = package("deb");
        let list = run("dpkg-deb", ["-c".as_ref(), deb.as_os_str()]);
        for name in CONTENTS {
            assert!(
                list.lines()
                    .any(|l| l.contains(name) && [" root/root ", " 0/0 "].iter().any(|o| l.contains(o))),
                "{name}:\n{list}"
            );
        }
        let link = list.lines().find(|l| l.contains("./usr/sbin/mount.cdi ")).unwrap_or_default();
        assert!(link.starts_with('l') && link.ends_with(" -> ../bin/cdi"), "{link}");
        let control = run("dpkg-deb", ["-f".as_ref(), deb.as_os_str()]);
        for word in ["Package: cdi\n", "fuse3", "mount", concat!("Version: ", env!("CARGO_PKG_VERSION"))] {
            assert!(control.contains(word), "{word}: {control}");
        }
        // No script runs as root when it is installed: dpkg's triggers do what is needed.
        let lab = Lab::new();
        run("dpkg-deb", ["-e".as_ref(), deb.as_os_str(), lab.path("control").as_os_str()]);
        for script in ["preinst", "postinst", "prerm", "postrm"] {
            assert!(!lab.path("control").join(script).exists(), "{script}");
        }
        run("dpkg-deb", ["-x".as_ref(), deb.as_os_str(), lab.path("files").as_os_str()]);
        let unit = fs::read_to_string(lab.path("files/usr/lib/systemd/system/cdi.service")).unwrap();
        assert!(unit.contains("ExecStart=/usr/bin/cdi service run\n"), "{unit}");
        assert!(
            unit.contains("WantedBy=multi-user.target") && unit.contains("\nEnvironment=HOME=%h\n"),
            "{unit}"
        );
    }

    /// The same for rpm, and that its scripts do no more than make and remove the links.
    #[needs(Program("cargo-generate-rpm"), Program("rpm"), Program("python3"))]
    fn the_rpm_has_what_it_should() {
        let rpm = package("rpm");
        let ask = |what: &str| run("rpm", ["-qp".as_ref(), what.as_ref(), rpm.as_os_str()]);
        let list = ask("--list");
        let links = ["/usr/sbin/mount.cdi", "/usr/share/doc/cdi/copyright"];
        for name in CONTENTS.iter().filter(|name| !links.iter().any(|l| name.contains(l))) {
            let name = name.trim_start_matches('.').replace("vendor-completions/_cdi", "site-functions/_cdi");
            assert!(list.lines().any(|l| l.contains(&name)), "{name}:\n{list}");
        }
        let requires = ask("--requires");
        for word in ["fuse3\n", "util-linux\n", "libc.so.6"] {
            assert!(requires.contains(word), "{word}: {requires}");
        }
        let scripts = ask("--scripts");
        assert!(
            scripts.contains("ln -sf ../bin/cdi /usr/sbin/$name")
                && scripts.contains("rm -f /usr/sbin/mount.cdi"),
            "{scripts}"
        );
    }

    #[needs(Program("desktop-file-validate"), Program("update-mime-database"), Program("gio"))]
    fn desktops_know_the_type_of_an_image() {
        let lab = Lab::new();
        run("desktop-file-validate", [root().join("packaging/desktop/cdi-attach.desktop")]);
        fs::create_dir_all(lab.path("share/mime/packages")).unwrap();
        fs::copy(root().join("packaging/desktop/cdi.xml"), lab.path("share/mime/packages/cdi.xml")).unwrap();
        run("update-mime-database", [lab.path("share/mime")]);
        lab.image(64, 512, &[]);
        // By its name, and by its magic.
        fs::copy(lab.path("disk.cdimg"), lab.path("unnamed")).unwrap();
        for name in ["disk.cdimg", "unnamed"] {
            let mut gio = Command::new("gio");
            gio.args(["info", "-a", "standard::content-type"])
                .arg(lab.path(name))
                .env("XDG_DATA_HOME", lab.path("share"));
            let ran = Ran::from(gio.output().unwrap()).ends(0);
            assert!(ran.out.contains("application/x-cdimg"), "{name}: {}", ran.out);
        }
    }

    /// What is to be filled in before a release is marked, and nowhere else.
    fn placeholders_are_marked() {
        for name in [
            "Cargo.toml",
            "packaging/homebrew/cdi.rb",
            "flake.nix",
            ".github/workflows/release.yml",
            "README.md",
        ] {
            let text = fs::read_to_string(root().join(name)).unwrap();
            let mut marked = false;
            for (number, line) in text.lines().enumerate() {
                marked = match line.trim_start() {
                    l if l.contains("End of the placeholders") => false,
                    l if l.starts_with("# PLACEHOLDER") => true,
                    _ => marked,
                };
                assert!(
                    marked || !line.contains("OWNER"),
                    "{name}:{}: a placeholder that is not marked",
                    number + 1
                );
            }
        }
    }
);

/// What packages have, besides the program.
const CONTENTS: [&str; 14] = [
    "./usr/bin/cdi",
    "./usr/sbin/mount.cdi",
    "./usr/share/man/man1/cdi.1.gz",
    "./usr/share/man/man1/cdi-attach.1.gz",
    "./usr/share/man/man8/mount.cdi.8.gz",
    "./usr/share/bash-completion/completions/cdi",
    "./usr/share/zsh/vendor-completions/_cdi",
    "./usr/share/fish/vendor_completions.d/cdi.fish",
    "./usr/lib/systemd/system/cdi.service",
    "./usr/lib/systemd/user/cdi.service",
    "./usr/share/mime/packages/cdi.xml",
    "./usr/share/applications/cdi-attach.desktop",
    "./usr/share/doc/cdi/copyright",
    "./usr/share/doc/cdi/libraries.txt.gz",
];

/// Makes a package of the program under test, and returns its path. One at a time: they share a directory.
fn package(kind: &str) -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new(root().join("packaging/build"));
    // Without what debuggers need: compressing that takes minutes.
    let lab = Lab::new();
    let program = lab.path("cdi");
    run("strip", ["-o".as_ref(), program.as_os_str(), env!("CARGO_BIN_EXE_cdi").as_ref()]);
    let ran = Ran::from(command.arg(kind).env("CDI", program).output().unwrap()).ends(0);
    root().join(ran.out.trim())
}

impl Ran {
    /// Asserts success, and what is printed.
    #[track_caller]
    fn says(self, text: &str) {
        let ran = self.ends(0);
        assert_eq!((ran.out.as_str(), ran.err.as_str()), (text, ""));
    }
}

/// A root directory with what mount(8) needs, and the program as its helper.
struct Jail {
    lab: Lab,
}

impl Jail {
    fn new() -> Jail {
        let jail = Jail { lab: Lab::new() };
        for dir in ["sbin", "usr/bin", "dev", "proc", "tmp", "run"] {
            fs::create_dir_all(jail.dir().join(dir)).unwrap();
        }
        let program = jail.copy(Path::new(env!("CARGO_BIN_EXE_cdi")), "usr/bin/cdi");
        assert!(program.exists());
        for name in ["mount.cdi", "mount.fuse.cdi"] {
            symlink("../usr/bin/cdi", jail.dir().join("sbin").join(name)).unwrap();
        }
        for name in ["mount", "umount", "findmnt"] {
            let from = run("sh", ["-c", &format!("command -v {name}")]);
            jail.copy(Path::new(from.trim()), &format!("usr/bin/{name}"));
        }
        for name in ["null", "fuse"] {
            fs::write(jail.dir().join("dev").join(name), "").unwrap();
            run("mount", ["--bind".into(), Path::new("/dev").join(name), jail.dir().join("dev").join(name)]);
        }
        run("mount", ["-t".into(), "proc".into(), "proc".into(), jail.dir().join("proc")]);
        jail
    }

    fn dir(&self) -> PathBuf {
        self.lab.path("root")
    }

    /// Copies a program, and the libraries that it needs.
    fn copy(&self, program: &Path, to: &str) -> PathBuf {
        let to = self.dir().join(to);
        fs::copy(program, &to).unwrap();
        let ran = Ran::from(Command::new("ldd").arg(program).output().unwrap());
        for library in ran.out.split_whitespace().filter(|word| word.starts_with('/')) {
            let copy = self.dir().join(&library[1..]);
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(library, copy).unwrap();
        }
        to
    }

    fn run(&self, words: &[&str]) -> Ran {
        let mut command = Command::new("chroot");
        command.arg(self.dir()).args(words).env_clear().env("PATH", "/usr/bin:/sbin");
        command.output().unwrap().into()
    }

    #[track_caller]
    fn nothing_is_mounted(&self) {
        let list = || self.run(&["cdi", "list", "--json"]).ends(0).json()["mounts"].as_array().unwrap().len();
        wait_until("the records are gone", || list() == 0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours =
            mounts.lines().filter(|l| l.contains("fuse.cdi") && l.contains(self.dir().to_str().unwrap()));
        assert_eq!(ours.count(), 0, "{mounts}");
    }
}

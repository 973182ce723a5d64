//! A real file system with thousands of files, through the device and through the folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Lab, Ran, Random, run};

/// Creates a tree of files and an ext4 of it, `disk.raw`. Returns the contents of each file.
fn make(lab: &Lab, files: u64) -> BTreeMap<PathBuf, Vec<u8>> {
    let random = &mut Random::new(files);
    let mut contents = BTreeMap::new();
    for i in 0..files {
        let dir = format!("dir{:02}", i % 40);
        let len = if i % 100 == 0 { random.below(3 << 20) } else { random.below(12_000) };
        let bytes: Vec<u8> = match i % 3 {
            0 => (0..len).map(|_| random.next() as u8).collect(),
            _ => format!("file {i} says: {}\n", random.next())
                .into_bytes()
                .into_iter()
                .cycle()
                .take(len as usize)
                .collect(),
        };
        let path = Path::new(&dir).join(format!("file{i:05}"));
        fs::create_dir_all(lab.path("tree").join(&dir)).unwrap();
        fs::write(lab.path("tree").join(&path), &bytes).unwrap();
        contents.insert(path, bytes);
    }
    let disk = fs::File::create(lab.path("disk.raw")).unwrap();
    disk.set_len(128 << 20).unwrap();
    run(
        "mkfs.ext4",
        ["-q", "-b", "4096", "-d"]
            .iter()
            .map(std::ffi::OsStr::new)
            .chain([lab.path("tree").as_os_str(), lab.path("disk.raw").as_os_str()]),
    );
    contents
}

tests!(
    #[needs(Fuse, Loop, Program("mkfs.ext4"), Program("e2fsck"))]
    fn thousands_of_files_on_ext4_read_correctly_from_the_device() {
        let lab = Lab::new();
        let contents = make(&lab, 4000);
        lab.cdi(["create", "disk.raw", "disk.cdimg"]).ends(0);
        let device = lab.attach(&[]);
        let check: Ran = Command::new("e2fsck").args(["-f", "-n"]).arg(&device).output().unwrap().into();
        check.ends(0);
        fs::create_dir(lab.path("fs")).unwrap();
        run("mount", [Path::new("-o"), Path::new("ro,noload"), &device, &lab.path("fs")]);
        for (path, bytes) in &contents {
            assert!(fs::read(lab.path("fs").join(path)).unwrap() == *bytes, "{path:?}");
        }
        // detach first unmounts file systems on the device.
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(
        FuseForAll,
        Loop,
        Program("mkfs.ext4"),
        Program("fuse2fs"),
        Program("fusermount3"),
        Program("setpriv")
    )]
    fn an_ordinary_user_reads_ext4_correctly_with_fuse2fs() {
        let lab = Lab::new();
        let contents = make(&lab, 1000);
        lab.cdi(["create", "disk.raw", "disk.cdimg"]).ends(0);
        for dir in ["run-user", "home", "home/fs"] {
            fs::create_dir(lab.path(dir)).unwrap();
            std::os::unix::fs::chown(lab.path(dir), Some(65534), Some(65534)).unwrap();
        }
        fs::set_permissions(lab.path("run-user"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
        fs::copy(env!("CARGO_BIN_EXE_cdi"), lab.path("cdi")).unwrap();
        let nobody = |words: &[&str]| -> Ran {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).args(words);
            command
                .env("CDI_RUNTIME_DIR", lab.path("run-user"))
                .current_dir(&lab.dir)
                .output()
                .unwrap()
                .into()
        };
        nobody(&["./cdi", "mount", "disk.cdimg", "home/mnt"]).ends(0);
        nobody(&["fuse2fs", "-o", "ro,norecovery,fakeroot", "home/mnt/disk.raw", "home/fs"]).ends(0);
        let (some, _) = contents.iter().find(|(_, b)| b.len() > 4000).unwrap();
        let copied = nobody(&["cp", "-r", "home/fs", "home/copy"]);
        nobody(&["fusermount3", "-u", "home/fs"]).ends(0);
        // lost+found belongs to root; everything else must come.
        assert!(copied.code == 0 || copied.err.lines().all(|l| l.contains("lost+found")), "{}", copied.err);
        for (path, bytes) in &contents {
            assert!(fs::read(lab.path("home/copy").join(path)).unwrap() == *bytes, "{path:?} (and {some:?})");
        }
        nobody(&["./cdi", "unmount", "home/mnt"]).ends(0);
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Fuse, Loop, Program("mkfs.ext4"), Program("debugfs"))]
    fn with_a_bad_sector_one_file_fails_and_all_others_read_correctly() {
        let lab = Lab::new();
        let contents = make(&lab, 600);
        // A sector in the middle of a large file is bad.
        let (victim, bytes) = contents.iter().max_by_key(|(_, b)| b.len()).unwrap();
        let block = bytes.len() / 4096 / 2;
        let ask = format!("bmap /{} {block}", victim.display());
        let said = run("debugfs", ["-R", &ask, lab.path("disk.raw").to_str().unwrap()]);
        let sector = said.trim().parse::<u64>().unwrap() * 8 + 3;
        lab.write("disk.map", crate::common::mapfile((128 << 20) / 512, 512, &[(sector, 1)]));
        lab.cdi(["create", "disk.raw", "disk.cdimg", "--mapfile", "disk.map"]).ends(4);
        let device = lab.attach(&[]);
        fs::create_dir(lab.path("fs")).unwrap();
        run("mount", [Path::new("-o"), Path::new("ro,noload"), &device, &lab.path("fs")]);
        let failing: Vec<_> = contents
            .iter()
            .filter(|(path, bytes)| match fs::read(lab.path("fs").join(path)) {
                Ok(got) => {
                    assert!(got == **bytes, "{path:?} is wrong");
                    false
                }
                Err(e) => e.raw_os_error() == Some(5),
            })
            .map(|(path, _)| path)
            .collect();
        assert_eq!(failing, [victim]);
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
        assert_eq!(lab.leftovers(), "");
    }
);

//! `files/` in the mounted directory: the file systems inside the disk are those that others see, and what is damaged fails.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{
    Aligned, Lab, LoopDevice, MountedDisk, Ran, Random, Server, mapfile, open_direct, run, wait_until,
};
use crate::nfs::client::{Client, own, path};

const MIB: u64 = 1 << 20;
/// Where the partitions of `disk.raw` begin and how long they are, in MiB.
const PLACES: [(u64, u64); 3] = [(1, 64), (65, 48), (113, 40)];
const SIZE: u64 = 154 * MIB;

/// Makes a tree of files in `tree`.
fn make_tree(lab: &Lab) -> PathBuf {
    let random = &mut Random::new(5);
    let tree = lab.path("tree");
    for dir in ["docs/deep/deeper", "empty", "ünï", "a b"] {
        fs::create_dir_all(tree.join(dir)).unwrap();
    }
    for i in 0..200 {
        let len = [0, 1, 500, 4096, 5000, 70_000][random.below(6) as usize];
        let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        fs::write(tree.join(format!("docs/file{i:03}")), bytes).unwrap();
    }
    let big: Vec<u8> = (0..3 * MIB).map(|_| random.next() as u8).collect();
    fs::write(tree.join("docs/deep/deeper/big"), big).unwrap();
    fs::write(tree.join("a b/new\nline"), "x").unwrap();
    fs::write(tree.join("ünï/Файл"), "hello\n").unwrap();
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    sparse.set_len(5 * MIB).unwrap();
    sparse.write_all_at(b"in the middle", 2 * MIB).unwrap();
    symlink("docs/file001", tree.join("link")).unwrap();
    symlink("x/".repeat(100), tree.join("long link")).unwrap();
    fs::hard_link(tree.join("docs/file002"), tree.join("hard")).unwrap();
    let old = fs::File::options().write(true).open(tree.join("docs/file003")).unwrap();
    old.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(86_400 * 400)).unwrap();
    tree
}

fn empty(lab: &Lab, name: &str, size: u64) -> String {
    fs::File::create(lab.path(name)).unwrap().set_len(size).unwrap();
    lab.path(name).to_str().unwrap().to_owned()
}

/// Makes `ext.raw`, an ext4 of the tree.
fn make_ext4(lab: &Lab, tree: &Path, size: u64) -> String {
    let ext = empty(lab, "ext.raw", size);
    run("mke2fs", ["-q", "-t", "ext4", "-b", "1024", "-L", "Linux", "-d", tree.to_str().unwrap(), &ext]);
    ext
}

/// Makes `disk.raw`, a GPT with an ext4, an NTFS and a FAT32 of the tree; each also as a file of its own.
fn make_disk(lab: &Lab, tree: &Path) {
    make_ext4(lab, tree, PLACES[0].1 * MIB);
    let ntfs = empty(lab, "ntfs.raw", PLACES[1].1 * MIB);
    run("mkntfs", ["-q", "-F", "-L", "Windows", &ntfs]);
    let mounted = Other::ntfs(lab, &ntfs, "ntfs");
    run("cp", ["-a", &format!("{}/.", tree.display()), mounted.0.to_str().unwrap()]);
    drop(mounted);
    let fat = empty(lab, "fat.raw", PLACES[2].1 * MIB);
    run("mkfs.fat", ["-F", "32", "-n", "STICK", &fat]);
    run("mcopy", ["-s", "-m", "-i", &fat, tree.join("docs").to_str().unwrap(), "::/"]);
    let disk = empty(lab, "disk.raw", SIZE);
    let table: String =
        PLACES.iter().map(|(at, len)| format!("start={}, size={len}MiB\n", at * 2048)).collect();
    let table = lab.write("table", format!("label: gpt\n{table}"));
    let sfdisk: Ran = Command::new("sfdisk")
        .args(["-q", "--no-reread", &disk])
        .stdin(fs::File::open(table).unwrap())
        .output()
        .unwrap()
        .into();
    sfdisk.ends(0);
    let disk = fs::File::options().write(true).open(disk).unwrap();
    for (name, (at, _)) in ["ext.raw", "ntfs.raw", "fat.raw"].into_iter().zip(PLACES) {
        disk.write_all_at(&lab.read(name), at * MIB).unwrap();
    }
}

/// A file system that another program has mounted; unmounted with the test.
struct Other(PathBuf);

impl Other {
    fn ntfs(lab: &Lab, image: &str, dir: &str) -> Other {
        let dir = lab.path(dir);
        fs::create_dir_all(&dir).unwrap();
        run("ntfs-3g", [image, dir.to_str().unwrap()]);
        Other(dir)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Mounts an image with `--files`. Returns the directory `files`.
fn mount(lab: &Lab, image: &str, options: &[&str]) -> PathBuf {
    lab.cdi([&["mount", image, "mnt", "--files"], options].concat()).ends(0);
    lab.path("mnt/files")
}

#[track_caller]
fn same(one: &Path, other: &Path) {
    let diff: Ran =
        Command::new("diff").args(["-r", "--no-dereference"]).args([one, other]).output().unwrap().into();
    diff.ends(0);
}

fn names(dir: &Path) -> Vec<String> {
    let all = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut all: Vec<String> = all.collect();
    all.sort();
    all
}

/// Where the blocks of a file of `ext.raw` are, in bytes: what debugfs says.
fn blocks(lab: &Lab, path: &str) -> Vec<u64> {
    let ext = lab.path("ext.raw");
    let text = run("debugfs", ["-R", &format!("blocks \"{path}\""), ext.to_str().unwrap()]);
    text.split_whitespace().map(|n| n.parse::<u64>().unwrap() * 1024).collect()
}

/// A file system whose every read takes a while: a file in a directory that is mounted for the test.
struct Slow(Child, PathBuf);

impl Slow {
    fn new(lab: &Lab, file: &str, delay: &str) -> Slow {
        let (dir, socket) = (lab.path("slow"), lab.path("socket"));
        fs::create_dir(&dir).unwrap();
        let nbdfuse = format!("nbdfuse {}/disk.raw --unix $unixsocket", dir.display());
        let delay = format!("delay-read={delay}");
        let words =
            ["-r", "-U", socket.to_str().unwrap(), "--filter=delay", "file", file, &delay, "--run", &nbdfuse];
        let child =
            Command::new("nbdkit").args(words).current_dir(&lab.dir).stdout(Stdio::null()).spawn().unwrap();
        let slow = Slow(child, dir.join("disk.raw"));
        wait_until("the slow disk is there", || slow.1.exists());
        slow
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.1.parent().unwrap()).status();
        let _ = self.0.wait();
    }
}

tests!(
    #[needs(
        Fuse,
        Loop,
        Program("ntfs-3g"),
        Program("mkntfs"),
        Program("mke2fs"),
        Program("mcopy"),
        Program("sfdisk")
    )]
    fn files_are_those_that_other_programs_see() {
        let lab = Lab::new();
        let tree = make_tree(&lab);
        make_disk(&lab, &tree);
        let files = mount(&lab, "disk.raw", &[]);
        assert_eq!(names(&files), ["1-ext4-Linux", "2-ntfs-Windows", "3-fat32-STICK"]);
        let device = LoopDevice::new(&lab.path("ext.raw"), &["--read-only"]);
        let kernel = MountedDisk::mount(device, lab.path("kernel"));
        same(&lab.path("kernel"), &files.join("1-ext4-Linux"));
        let attributes = |path: PathBuf| {
            let m = fs::symlink_metadata(path).unwrap();
            (m.file_type(), m.len(), m.mtime(), m.nlink())
        };
        for name in ["docs/file003", "hard", "sparse", "link", "long link"] {
            let ours = attributes(files.join("1-ext4-Linux").join(name));
            assert_eq!(ours, attributes(lab.path("kernel").join(name)), "{name}");
        }
        drop(kernel);
        let other = Other::ntfs(&lab, lab.path("ntfs.raw").to_str().unwrap(), "ntfs");
        same(&other.0, &files.join("2-ntfs-Windows"));
        drop(other);
        fs::create_dir(lab.path("fat")).unwrap();
        let fat = lab.path("fat.raw");
        run(
            "mcopy",
            ["-s", "-m", "-n", "-i", fat.to_str().unwrap(), "::/", lab.path("fat").to_str().unwrap()],
        );
        same(&lab.path("fat"), &files.join("3-fat32-STICK"));
        let (file, dir) = (files.join("1-ext4-Linux/hard"), files.join("1-ext4-Linux"));
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o400);
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o500);
        assert!(fs::write(dir.join("new"), "x").is_err() && fs::read_dir(files.join("4")).is_err());
        lab.cdi(["unmount", "mnt"]).ends(0);
        // Without the option, there is no such directory.
        lab.cdi(["mount", "disk.raw", "mnt"]).ends(0);
        assert!(!lab.path("mnt/files").exists());
        lab.cdi(["unmount", "mnt"]).ends(0);
    }

    #[needs(Fuse, Program("mke2fs"), Program("debugfs"))]
    fn exactly_the_damaged_part_of_a_file_fails() {
        let lab = Lab::new();
        let tree = make_tree(&lab);
        let ext = make_ext4(&lab, &tree, 64 * MIB);
        let all = blocks(&lab, "/docs/deep/deeper/big");
        // The second sector of a block in the middle.
        let (at, sector) = (all.len() as u64 / 2 * 1024 + 512, all[all.len() / 2] / 512 + 1);
        lab.write("ext.map", mapfile(64 * 2048, 512, &[(sector, 1)]));
        for (errno, options) in
            [(5, &["--errno", "io"]), (61, &["--errno", "medium"]), (5, &["--bad", "zero"])]
        {
            let files =
                mount(&lab, &ext, &[&["--mapfile", "ext.map"], &options[..]].concat()).join("ext4-Linux");
            let path = "docs/deep/deeper/big";
            let truth = fs::read(tree.join(path)).unwrap();
            // Buffered, its page fails; with O_DIRECT, its sector.
            let file = fs::File::open(files.join(path)).unwrap();
            let mut page = vec![0; 4096];
            for from in (0..truth.len() as u64).step_by(4096) {
                match file.read_exact_at(&mut page, from) {
                    Ok(()) => assert!(page == truth[from as usize..][..4096], "{from}"),
                    Err(e) => assert_eq!((e.raw_os_error(), from / 4096), (Some(errno), at / 4096)),
                }
                assert!(from / 4096 != at / 4096 || file.read_exact_at(&mut page, from).is_err());
            }
            drop(file);
            let file = open_direct(&files.join(path));
            let mut buffer = Aligned::new(512);
            for from in (at - 8192..at + 8192).step_by(512) {
                let read = file.read_exact_at(buffer.get(), from);
                assert_eq!(read.is_err(), from == at, "{from}");
                assert!(from == at || *buffer.get() == truth[from as usize..][..512]);
            }
            drop(file);
            // Every other file is whole.
            fs::rename(tree.join(path), lab.path("big")).unwrap();
            let diff: Ran = Command::new("diff")
                .args(["-r", "--no-dereference"])
                .args([&tree, &files])
                .output()
                .unwrap()
                .into();
            assert_eq!(diff.out.lines().count(), 2, "{}", diff.out);
            fs::rename(lab.path("big"), tree.join(path)).unwrap();
            lab.cdi(["unmount", "mnt"]).ends(0);
        }
    }

    #[needs(
        Fuse,
        Program("mke2fs"),
        Program("sfdisk"),
        Program("mkntfs"),
        Program("ntfs-3g"),
        Program("mcopy")
    )]
    fn a_volume_that_is_lost_is_no_empty_one() {
        let lab = Lab::new();
        let tree = make_tree(&lab);
        make_disk(&lab, &tree);
        // The boot sector of NTFS and its copy.
        let (at, len) = (PLACES[1].0 * 2048, PLACES[1].1 * 2048);
        lab.write("disk.map", mapfile(SIZE / 512, 512, &[(at, 16), (at + len - 8, 8)]));
        let files = mount(&lab, "disk.raw", &[]);
        assert_eq!(names(&files), ["1-ext4-Linux", "2", "3-fat32-STICK"]);
        let error = fs::read_dir(files.join("2")).and_then(|mut dir| dir.next().unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5));
        assert!(fs::read(files.join("1-ext4-Linux/docs/file010")).is_ok());
        lab.cdi(["unmount", "mnt"]).ends(0);
        // A part alone.
        lab.write("disk.map", mapfile(SIZE / 512, 512, &[]));
        let files = mount(&lab, "disk.raw", &["--partition", "2"]);
        assert_eq!(names(&files), ["ntfs-Windows"]);
        lab.cdi(["unmount", "mnt"]).ends(0);
    }

    #[needs(Fuse, Program("mke2fs"), Program("debugfs"))]
    fn what_lost_its_directory_is_in_lost_and_found() {
        let lab = Lab::new();
        let tree = make_tree(&lab);
        let ext = make_ext4(&lab, &tree, 64 * MIB);
        // All of the directory `docs`, and so the names in it.
        let bad: Vec<(u64, u64)> = blocks(&lab, "/docs").into_iter().map(|at| (at / 512, 2)).collect();
        lab.write("ext.map", mapfile(64 * 2048, 512, &bad));
        let files = mount(&lab, &ext, &["--mapfile", "ext.map"]).join("ext4-Linux");
        // Whatever else says its names: nothing does on ext4, so each has its number for a name.
        let mut found: Vec<Vec<u8>> = names(&files.join("lost+found"))
            .iter()
            .map(|name| files.join("lost+found").join(name))
            .filter(|path| path.is_file())
            .map(|path| fs::read(path).unwrap())
            .collect();
        let mut truth: Vec<Vec<u8>> = names(&tree.join("docs"))
            .iter()
            .map(|name| tree.join("docs").join(name))
            .filter(|path| path.is_file() && !path.ends_with("file002"))
            .map(|path| fs::read(path).unwrap())
            .collect();
        found.sort();
        truth.sort();
        assert!(found == truth, "{} files of {}", found.len(), truth.len());
        // A directory keeps what is in it.
        let dirs = names(&files.join("lost+found"));
        let deep = dirs.iter().find(|name| files.join("lost+found").join(name).is_dir()).unwrap();
        let big = files.join("lost+found").join(deep).join("deeper/big");
        assert!(fs::read(big).unwrap() == fs::read(tree.join("docs/deep/deeper/big")).unwrap());
        assert!(fs::read(files.join("hard")).unwrap() == fs::read(tree.join("hard")).unwrap());
        lab.cdi(["unmount", "mnt"]).ends(0);
    }

    #[needs(Fuse, Program("mkntfs"), Program("ntfs-3g"), Program("ntfsinfo"))]
    fn a_file_of_which_only_the_name_is_left_is_not_an_empty_one() {
        let lab = Lab::new();
        let ntfs = empty(&lab, "ntfs.raw", 32 * MIB);
        run("mkntfs", ["-q", "-F", &ntfs]);
        let mounted = Other::ntfs(&lab, &ntfs, "ntfs");
        fs::create_dir(mounted.0.join("dir")).unwrap();
        for i in 0..500 {
            fs::write(mounted.0.join(format!("dir/file{i:03}")), format!("this is {i}")).unwrap();
        }
        fs::write(mounted.0.join("dir/empty"), "").unwrap();
        drop(mounted);
        // Twelve records of the MFT, by the signature of each and its name.
        let disk = fs::read(&ntfs).unwrap();
        let name: Vec<u8> = "file123".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let record = (0..disk.len() / 1024)
            .find(|r| {
                let record = &disk[r * 1024..][..1024];
                record.starts_with(b"FILE") && record.windows(name.len()).any(|w| w == name)
            })
            .unwrap() as u64;
        lab.write("ntfs.map", mapfile(32 * 2048, 512, &[(record * 2, 24)]));
        let dir = mount(&lab, &ntfs, &["--mapfile", "ntfs.map"]).join("ntfs/dir");
        assert_eq!(names(&dir).len(), 501);
        let mut lost = 0;
        for name in names(&dir) {
            let len = fs::metadata(dir.join(&name)).unwrap().len();
            match fs::read(dir.join(&name)) {
                Ok(bytes) if name == "empty" => assert!(bytes.is_empty()),
                Ok(bytes) => {
                    let number: u32 = name[4..].parse().unwrap();
                    assert_eq!(String::from_utf8(bytes).unwrap(), format!("this is {number}"));
                }
                Err(e) => {
                    assert_eq!((e.raw_os_error(), len), (Some(5), 1), "{name}");
                    lost += 1;
                }
            }
        }
        assert_eq!(lost, 12);
        lab.cdi(["unmount", "mnt"]).ends(0);
    }

    #[needs(Fuse, Program("mke2fs"), Program("debugfs"))]
    fn names_of_strange_bytes_and_encrypted_files_are_shown() {
        let lab = Lab::new();
        let tree = lab.path("tree");
        fs::create_dir(&tree).unwrap();
        // The file system has bytes, its list UTF-8: the first two become the same name, the last one is too long.
        let long = [&b"\xe4"[..]; 255].concat();
        let all: [&[u8]; 7] = [b"\xff\xfe", b"\xfe\xff", b"-rf", b"a\\b:c*?", b"\x01\x1b[31m", b" ", &long];
        for (i, name) in all.iter().enumerate() {
            fs::write(tree.join(OsStr::from_bytes(name)), format!("number {i}")).unwrap();
        }
        fs::write(tree.join("secret"), "x".repeat(5000)).unwrap();
        let ext = make_ext4(&lab, &tree, 8 * MIB);
        // The flag that the contents are encrypted.
        run("debugfs", ["-w", "-R", "set_inode_field secret flags 0x80800", &ext]);
        let files = mount(&lab, &ext, &[]).join("ext4-Linux");
        let mut found = Vec::new();
        for name in names(&files).iter().filter(|name| *name != "lost+found" && *name != "secret") {
            assert!(name.len() <= 255);
            found.push(fs::read_to_string(files.join(name)).unwrap());
        }
        found.sort();
        assert_eq!(found, (0..all.len()).map(|i| format!("number {i}")).collect::<Vec<_>>());
        assert!(files.join("\u{fffd}\u{fffd}").exists() && files.join("\u{fffd}\u{fffd}~2").exists());
        assert_eq!(fs::metadata(files.join("secret")).unwrap().len(), 5000);
        assert_eq!(fs::read(files.join("secret")).unwrap_err().raw_os_error(), Some(5));
        lab.cdi(["unmount", "mnt"]).ends(0);
    }

    #[needs(Program("mke2fs"), Program("nfs-ls"), Program("nfs-cat"))]
    fn nfs_has_the_same_files_and_the_same_handles_after_a_restart() {
        let lab = Lab::new();
        let tree = make_tree(&lab);
        let ext = make_ext4(&lab, &tree, 64 * MIB);
        let words = [&ext, "--nfs", "--files", "--mapfile", "none"];
        let server = Server::of(&lab, &words);
        let at = |server: &Server, path: &str| server.url.replace('?', &format!("/files/{path}?"));
        let listed = run("nfs-ls", ["-R".to_owned(), at(&server, "ext4-Linux")]);
        let truth = run("find", [tree.to_str().unwrap(), "-mindepth", "1", "-printf", "."]);
        // "lost+found", and a name of two lines.
        assert_eq!(listed.lines().count(), truth.len() + 2, "{listed}");
        for path in ["docs/file007", "docs/deep/deeper/big", "sparse", "hard", "ünï/Файл"] {
            let read =
                Command::new("nfs-cat").arg(at(&server, &format!("ext4-Linux/{path}"))).output().unwrap();
            assert!(read.status.success() && read.stdout == fs::read(tree.join(path)).unwrap(), "{path}");
        }
        let missing = Command::new("nfs-cat").arg(at(&server, "ext4-Linux/none")).output().unwrap();
        assert!(!missing.status.success());
        let mut client = Client::connect(&server.url);
        let mut handle = client.mount(path(&server.url)).1;
        for name in ["files", "ext4-Linux", "docs", "file007"] {
            handle = client.lookup(&handle, name, own()).1;
        }
        assert_eq!(server.end(), 0);
        // The first thing that the new server is asked for.
        let server = Server::of(&lab, &words);
        let mut client = Client::connect(&server.url);
        let read = client.read(&handle, 0, 100_000, own()).unwrap();
        assert!(read == fs::read(tree.join("docs/file007")).unwrap());
        // No handles but those that were given out; no file where a directory is wanted.
        let last = handle.len() - 1;
        handle[last] ^= 1;
        assert_eq!(client.read(&handle, 0, 1, own()), Err(70));
        let within = |name: &str| format!("{}/files/ext4-Linux/{name}", path(&server.url));
        let mounts = ["docs", "docs/../docs/deep/", "none", "docs/file007", "link"]
            .map(|name| client.mount(&within(name)).0);
        assert_eq!(mounts, [0, 0, 2, 20, 20]);
        assert_eq!(client.mount("/cdi-of-others/files/ext4-Linux").0, 13);
        assert_eq!(server.end(), 0);
    }

    #[needs(Fuse, Program("mke2fs"), Program("nbdkit"), Program("nbdfuse"), Program("nfs-cat"))]
    fn a_scan_that_takes_long_holds_up_nothing_else() {
        let lab = Lab::new();
        let ext = empty(&lab, "ext.raw", 256 * MIB);
        run(
            "mke2fs",
            [
                "-q",
                "-t",
                "ext4",
                "-N",
                "200000",
                "-E",
                "lazy_itable_init=0",
                "-O",
                "^uninit_bg,^metadata_csum",
                &ext,
            ],
        );
        let slow = Slow::new(&lab, &ext, "200ms");
        let image = slow.1.to_str().unwrap();
        lab.cdi(["mount", image, "mnt", "--files"]).ends(0);
        let mut find = Command::new("find")
            .arg(lab.path("mnt/files"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut list = Command::new("ls")
            .arg(lab.path("mnt/files/ext4"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_secs(2));
        let since = Instant::now();
        let disk = fs::File::open(lab.path("mnt/disk.raw")).unwrap();
        let mut bytes = vec![0; 4096];
        for n in 0..4 {
            disk.read_exact_at(&mut bytes, n * 50 * MIB).unwrap();
        }
        drop(disk);
        assert_eq!(names(&lab.path("mnt/files")), ["ext4"]);
        assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
        assert!(list.try_wait().unwrap().is_none(), "the scan was too quick for this test");
        // In use, and unmounted all the same.
        lab.cdi(["unmount", "mnt"]).ends(5);
        let since = Instant::now();
        lab.cdi(["unmount", "--force", "mnt"]).ends(0);
        assert!(since.elapsed() < Duration::from_secs(10));
        assert!(!find.wait().unwrap().success() && !list.wait().unwrap().success());

        // Over NFS: "try again later", and not before six seconds.
        let server = Server::of(&lab, &[image, "--nfs", "--files"]);
        let url = |path: &str| server.url.replace('?', &format!("/{path}?"));
        let mut list = Command::new("nfs-ls")
            .arg(url("files/ext4"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let since = Instant::now();
        assert!(Command::new("nfs-cat").arg(url("info.json")).output().unwrap().status.success());
        assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
        assert!(list.try_wait().unwrap().is_none());
        assert!(!list.wait().unwrap().success());
        assert_eq!(server.end(), 0);
    }

    #[needs(Fuse, Loop, Program("mkfs.ext4"))]
    fn directories_of_many_files_are_listed_quickly() {
        let lab = Lab::new();
        let ext = empty(&lab, "ext.raw", 128 * MIB);
        run("mkfs.ext4", ["-q", "-N", "120000", &ext]);
        let kernel = MountedDisk::mount(LoopDevice::new(&lab.path("ext.raw"), &[]), lab.path("kernel"));
        fs::create_dir(lab.path("kernel/many")).unwrap();
        for i in 0..100_000 {
            fs::File::create(lab.path("kernel/many").join(i.to_string())).unwrap();
        }
        drop(kernel);
        let files = mount(&lab, &ext, &[]).join("ext4");
        let since = Instant::now();
        assert_eq!(fs::read_dir(files.join("many")).unwrap().count(), 100_000);
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
        let since = Instant::now();
        for i in (0..100_000).step_by(100) {
            assert!(files.join(format!("many/{i}")).exists());
        }
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
        lab.cdi(["unmount", "mnt"]).ends(0);
    }
);

//! The systems that are compared: programs that create an image, and programs that mount it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::disk::Disk;

/// Where images and mounts are.
pub struct Lab {
    dir: PathBuf,
}

/// Something that makes an image of the disk.
pub struct Maker {
    pub name: &'static str,
    program: &'static str,
    file: &'static str,
    /// Its command: `@disk` is the disk, `@image` the image, `@stem` that without its suffix, `@dir` the folder of both.
    command: &'static str,
}

/// Something that shows an image as a file or a device.
pub struct System {
    pub name: &'static str,
    program: &'static str,
    image: Option<&'static str>,
    show: fn(&Lab, &Disk, &str) -> Shown,
}

/// A mounted image, which is unmounted when this is dropped.
pub struct Shown {
    pub path: PathBuf,
    /// The process that serves it.
    pub daemon: Option<u32>,
    end: Vec<Box<dyn FnOnce()>>,
}

const CDI: &str = env!("CARGO_BIN_EXE_cdi");

pub const MAKERS: &[Maker] = &[
    Maker { name: "cdi", program: CDI, file: "disk.cdimg", command: "-q create @disk @image" },
    Maker {
        name: "cdi --codec lz4",
        program: CDI,
        file: "lz4.cdimg",
        command: "-q create --codec lz4 @disk @image",
    },
    // As a disk is read that may be failing.
    Maker {
        name: "cdi --rescue",
        program: CDI,
        file: "rescue.cdimg",
        command: "-q create --rescue @disk @image",
    },
    maker("ddrescue", "ddrescue", "copy.raw", "-q @disk @image"),
    maker(
        "qemu-img zstd",
        "qemu-img",
        "zstd.qcow2",
        "convert -c -m 2 -W -O qcow2 -o compression_type=zstd @disk @image",
    ),
    maker("qemu-img zlib", "qemu-img", "zlib.qcow2", "convert -c -m 2 -W -O qcow2 @disk @image"),
    maker("zstd -3 -T2", "zstd", "disk.zst", "-q -3 -T2 -f @disk -o @image"),
    maker(
        "mksquashfs zstd",
        "mksquashfs",
        "zstd.sqfs",
        "@disk @image -comp zstd -processors 2 -noappend -quiet -no-progress",
    ),
    maker(
        "mksquashfs gzip",
        "mksquashfs",
        "gzip.sqfs",
        "@disk @image -comp gzip -processors 2 -noappend -quiet -no-progress",
    ),
    maker(
        "mksquashfs lz4",
        "mksquashfs",
        "lz4.sqfs",
        "@disk @image -comp lz4 -processors 2 -noappend -quiet -no-progress",
    ),
    maker("mkfs.erofs lz4", "mkfs.erofs", "lz4.erofs", "-zlz4 @image @stem.d"),
    maker("ewfacquire", "ewfacquire", "disk.E01", "-q -u -t @stem -c deflate:fast -f encase6 -S 7EiB @disk"),
    // It adds .z01 to the name.
    maker("zffacquire", "zffacquire", "disk.z01", "physical -i @disk -o @stem"),
];

const fn maker(
    name: &'static str,
    program: &'static str,
    file: &'static str,
    command: &'static str,
) -> Maker {
    Maker { name, program, file, command }
}

pub const SYSTEMS: &[System] = &[
    System { name: "plain file", program: "mount", image: None, show: plain },
    System { name: "cdi disk.raw", program: CDI, image: Some("disk.cdimg"), show: cdi_file },
    System { name: "cdi device", program: CDI, image: Some("disk.cdimg"), show: cdi_device },
    System { name: "cdi lz4 disk.raw", program: CDI, image: Some("lz4.cdimg"), show: cdi_file },
    System { name: "qemu zlib", program: "qemu-storage-daemon", image: Some("zlib.qcow2"), show: qemu },
    System { name: "qemu zstd", program: "qemu-storage-daemon", image: Some("zstd.qcow2"), show: qemu },
    System { name: "ewfmount", program: "ewfmount", image: Some("disk.E01"), show: ewfmount },
    System { name: "xmount", program: "xmount", image: Some("disk.E01"), show: xmount },
    System { name: "zffmount", program: "zffmount", image: Some("disk.z01"), show: zffmount },
    System { name: "squashfuse zstd", program: "squashfuse", image: Some("zstd.sqfs"), show: squashfuse },
    System { name: "squashfs zstd", program: "mount", image: Some("zstd.sqfs"), show: kernel },
    System { name: "squashfs gzip", program: "mount", image: Some("gzip.sqfs"), show: kernel },
    System { name: "squashfs lz4", program: "mount", image: Some("lz4.sqfs"), show: kernel },
    System { name: "erofs lz4", program: "mount", image: Some("lz4.erofs"), show: kernel },
];

impl Lab {
    pub fn new(dir: &Path) -> Lab {
        Lab { dir: dir.canonicalize().unwrap() }
    }

    pub fn image(&self, maker: &Maker) -> PathBuf {
        self.dir.join(maker.file)
    }

    /// An empty folder to mount at.
    fn mountpoint(&self) -> PathBuf {
        let dir = self.dir.join("mnt");
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }
}

fn is_there(program: &str) -> bool {
    Path::new(program).is_absolute()
        || std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|dir| dir.join(program).is_file())
}

impl Maker {
    pub fn lacks(&self) -> Option<&'static str> {
        (!is_there(self.program)).then_some(self.program)
    }

    /// Whether one of the systems that are wanted reads its image.
    pub fn is_needed(&self, wanted: impl Fn(&str) -> bool) -> bool {
        SYSTEMS.iter().any(|s| s.image == Some(self.file) && wanted(s.name))
    }

    pub fn make(&self, lab: &Lab, disk: &Disk) {
        let image = lab.image(self);
        let _ = std::fs::remove_file(&image);
        let stem = image.with_extension("");
        // mkfs.erofs takes folders only.
        let folder = image.with_extension("d");
        if self.command.contains("@stem.d") {
            let _ = std::fs::create_dir(&folder);
            let _ = std::fs::hard_link(&disk.path, folder.join("disk.raw"));
        }
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let words = self.command.split(' ').map(|word| {
            word.replace("@disk", &text(&disk.path))
                .replace("@image", &text(&image))
                .replace("@stem", &text(&stem))
        });
        run(Command::new(self.program).args(words));
        // What is not on the disk is not made.
        std::fs::File::open(&image).unwrap().sync_all().unwrap();
        let _ = std::fs::remove_dir_all(&folder);
    }
}

impl System {
    pub fn lacks(&self) -> Option<&'static str> {
        let maker = MAKERS.iter().find(|m| Some(m.file) == self.image);
        if is_there(self.program) { maker.and_then(Maker::lacks) } else { Some(self.program) }
    }

    pub fn show(&self, lab: &Lab, disk: &Disk) -> Shown {
        let image = self.image.map(|image| lab.dir.join(image)).unwrap_or_default();
        (self.show)(lab, disk, image.to_str().unwrap())
    }
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.end.drain(..).for_each(|end| end());
    }
}

fn plain(_: &Lab, disk: &Disk, _: &str) -> Shown {
    Shown { path: disk.path.clone(), daemon: None, end: Vec::new() }
}

fn cdi(lab: &Lab, verb: &str, words: &[&str]) -> serde_json::Value {
    let mut command = Command::new(CDI);
    command.env("CDI_RUNTIME_DIR", lab.dir.join("run")).args(["-q", "--json", verb]).args(words);
    serde_json::from_slice(&run(&mut command)).unwrap()
}

fn cdi_shown(lab: &Lab, verb: &str, image: &str) -> (serde_json::Value, Shown) {
    let mnt = lab.mountpoint();
    let record = cdi(lab, verb, &[image, mnt.to_str().unwrap()]);
    let (runtime, dir) = (lab.dir.join("run"), mnt.clone());
    let unmount = move || {
        run(Command::new(CDI).env("CDI_RUNTIME_DIR", runtime).args(["-q", "unmount"]).arg(dir));
    };
    let shown = Shown {
        path: mnt.join("disk.raw"),
        daemon: record["pid"].as_u64().map(|pid| pid as u32),
        end: vec![Box::new(unmount)],
    };
    (record, shown)
}

fn cdi_file(lab: &Lab, _: &Disk, image: &str) -> Shown {
    cdi_shown(lab, "mount", image).1
}

fn cdi_device(lab: &Lab, _: &Disk, image: &str) -> Shown {
    let (record, mut shown) = cdi_shown(lab, "attach", image);
    shown.path = record["device"].as_str().unwrap().into();
    shown
}

/// Waits until `path` is there and as long as the disk, for at most ten seconds.
fn wait_for(path: &Path) {
    let start = Instant::now();
    while !std::fs::metadata(path).is_ok_and(|meta| meta.len() == Disk::SIZE) {
        assert!(start.elapsed() < Duration::from_secs(10), "{} does not come", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn unmount(dir: PathBuf) -> Box<dyn FnOnce()> {
    Box::new(move || {
        run(Command::new("umount").arg(dir));
    })
}

/// A daemon in the foreground, which is ended by a signal.
fn daemon(mut command: Command) -> (u32, Box<dyn FnOnce()>) {
    let mut child: Child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    let end = move || {
        run(Command::new("kill").arg(pid.to_string()));
        child.wait().unwrap();
    };
    (pid, Box::new(end))
}

fn qemu(lab: &Lab, _: &Disk, image: &str) -> Shown {
    let path = lab.dir.join("exported");
    std::fs::write(&path, "").unwrap();
    let mut command = Command::new("qemu-storage-daemon");
    command.args(["--blockdev", &format!("driver=file,node-name=file,filename={image}")]);
    command.args(["--blockdev", "driver=qcow2,node-name=disk,file=file,read-only=on"]);
    let export = format!("type=fuse,id=export,node-name=disk,mountpoint={},writable=off", path.display());
    command.args(["--export", &export]);
    let (pid, end) = daemon(command);
    wait_for(&path);
    Shown { path, daemon: Some(pid), end: vec![end] }
}

/// A program that mounts by FUSE and goes into the background; the disk appears as `name`.
fn background(lab: &Lab, name: &str, program: &str, words: &[&str]) -> Shown {
    let mnt = lab.mountpoint();
    run(Command::new(program).args(words).arg(&mnt));
    let path = mnt.join(name);
    wait_for(&path);
    let pid = run(Command::new("pgrep").args(["-n", "-x", program]));
    let pid = String::from_utf8(pid).unwrap().trim().parse().ok();
    Shown { path, daemon: pid, end: vec![unmount(mnt)] }
}

fn ewfmount(lab: &Lab, _: &Disk, image: &str) -> Shown {
    background(lab, "ewf1", "ewfmount", &[image])
}

fn xmount(lab: &Lab, _: &Disk, image: &str) -> Shown {
    background(lab, "disk.dd", "xmount", &["--in", "ewf", image, "--out", "raw"])
}

fn zffmount(lab: &Lab, _: &Disk, image: &str) -> Shown {
    let mnt = lab.mountpoint();
    let path = mnt.join("object_1/zff_image.dd");
    let mut command = Command::new("zffmount");
    command.args(["-l", "error", "-i", image, "-m"]).arg(&mnt);
    let (pid, end) = daemon(command);
    wait_for(&path);
    // It ends when its file system is unmounted and it has got a signal.
    Shown { path, daemon: Some(pid), end: vec![unmount(mnt), end] }
}

fn squashfuse(lab: &Lab, _: &Disk, image: &str) -> Shown {
    background(lab, "disk.raw", "squashfuse", &[image])
}

fn kernel(lab: &Lab, _: &Disk, image: &str) -> Shown {
    let mnt = lab.mountpoint();
    run(Command::new("mount").args(["-o", "loop,ro", image]).arg(&mnt));
    let path = mnt.join("disk.raw");
    wait_for(&path);
    Shown { path, daemon: None, end: vec![unmount(mnt)] }
}

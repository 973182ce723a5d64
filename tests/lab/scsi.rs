//! Disks of scsi_debug, with real medium errors: imaged by `create` and by `ddrescue -d`.

use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::libc::{EIO, ENODATA, O_DIRECT};

use crate::checks::{Checks, Ran, must, run as run_program, wait_until};
use crate::disks::{PAGE, SECTOR, SECTORS, Sectors, contents, ddrescue, disk, read};
use crate::mounts::{Mount, setting};

const DRIVER: &str = "/sys/bus/pseudo/drivers/scsi_debug";

/// A disk of scsi_debug.
pub struct Disk {
    pub path: PathBuf,
}

impl Disk {
    /// Creates a disk with `bytes`, and then lets the sectors fail that the parameters of the module name.
    pub fn new(bytes: &[u8], parameters: &[&str]) -> Disk {
        must("modprobe", &["sd_mod"]);
        let size = format!("dev_size_mb={}", bytes.len() >> 20);
        must("modprobe", &[&["scsi_debug", &size, "delay=0"], parameters].concat());
        let disk = Disk { path: find() };
        let device = fs::File::options().write(true).custom_flags(O_DIRECT).open(&disk.path).unwrap();
        let mut buffer = vec![0; (1 << 20) + PAGE];
        let aligned = buffer.as_ptr().align_offset(PAGE);
        for (n, part) in bytes.chunks(1 << 20).enumerate() {
            buffer[aligned..aligned + part.len()].copy_from_slice(part);
            device.write_all_at(&buffer[aligned..aligned + part.len()], (n as u64) << 20).unwrap();
        }
        drop(device);
        // Only now: a write to a sector that fails would repair it.
        driver("opts", "2");
        disk
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let removed = || run_program(Command::new("modprobe").args(["-r", "scsi_debug"])).code == 0;
        assert!(wait_until(removed), "scsi_debug is in use");
    }
}

/// Returns the path of the only disk.
fn find() -> PathBuf {
    assert!(wait_until(|| disks().next().is_some_and(|d| d.exists())), "scsi_debug made no disk");
    disks().next().unwrap()
}

fn disks() -> impl Iterator<Item = PathBuf> {
    let blocks = fs::read_dir("/sys/block").unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
    blocks
        .filter(|name| {
            fs::read_to_string(format!("/sys/block/{name}/device/model"))
                .is_ok_and(|m| m.trim() == "scsi_debug")
        })
        .map(|name| Path::new("/dev").join(name))
}

fn driver(attribute: &str, value: &str) {
    fs::write(format!("{DRIVER}/{attribute}"), value).unwrap();
}

/// Makes each command of the disk take this many milliseconds.
pub fn set_delay(ms: u32) {
    driver("ndelay", &format!("{}", ms * 1_000_000));
}

/// Images a disk with `create` and with `ddrescue -d`, and compares maps and bytes.
pub fn check_imaging(
    c: &mut Checks,
    what: &str,
    device: &Path,
    options: &[&str],
    bytes: &[u8],
    bad: &Sectors,
    of_ddrescue: &Sectors,
) -> Ran {
    let image = "disk.cdimg";
    let _ = fs::remove_file(image);
    let name = device.to_str().unwrap();
    let created = c.cdi(&[&["create", "--json", name, image], options].concat());
    c.code(&format!("{what}: create"), &created, 4);
    c.same(&format!("{what}: create ended"), created.json()["ended"].as_str(), Some("finished"));
    let got = contents(c, image);
    c.same(&format!("{what}: map of create"), &got.failed, bad);
    c.same(&format!("{what}: sectors with wrong bytes"), got.wrong(bytes), 0);
    let sector = format!("-b{}", setting(device, "queue/logical_block_size"));
    let rescued = ddrescue(name, &["-d", &sector]);
    c.same(&format!("{what}: map of ddrescue -d"), &rescued.failed, of_ddrescue);
    c.same(&format!("{what}: ddrescue's sectors with wrong bytes"), rescued.wrong(bytes), 0);
    created
}

pub fn run(c: &mut Checks) {
    medium_errors(c);
    named_sectors(c);
    deleted(c);
    large_sectors(c);
    emulated_sectors(c);
}

fn medium_errors(c: &mut Checks) {
    let bytes = disk(SECTORS);
    let bad = Sectors::new(&[(4660, 10)]);
    let disk = Disk::new(&bytes, &["medium_error_start=4660", "medium_error_count=10"]);
    let got = read(&disk.path, bytes.len(), SECTOR, true);
    c.same("medium errors: unreadable by sectors", &got.failed, &bad);
    c.same("medium errors: errno", got.errnos.into_iter().collect(), vec![ENODATA]);
    let created = check_imaging(c, "medium errors", &disk.path, &[], &bytes, &bad, &bad);
    let created = created.json();
    c.same("medium errors: model", created["metadata"]["model"].as_str(), Some("scsi_debug"));
    c.same(
        "medium errors: bytes left",
        created["left_bytes"]["bad-sector"].as_u64(),
        Some(10 * SECTOR as u64),
    );
    let map = c.cdi(&["map", "--bad", "--json", "disk.cdimg"]).json();
    // MEDIUM ERROR, UNRECOVERED READ ERROR; the disk names the sector.
    let sense = serde_json::json!({ "sense": { "key": 3, "asc": 0x11, "ascq": 0 } });
    c.same("medium errors: recorded reason", map["ranges"][0]["reason"].clone(), sense);
    // Each sector alone, and the first read, of many.
    c.same("medium errors: failed reads", created["failed_reads"].as_u64(), Some(11));
}

/// What the disk says about a large read saves reads.
fn named_sectors(c: &mut Checks) {
    let bytes = disk(SECTORS);
    let bad = Sectors::new(&[(4660, 600)]);
    let disk = Disk::new(&bytes, &["medium_error_start=4660", "medium_error_count=600"]);
    let created = check_imaging(c, "named sectors", &disk.path, &[], &bytes, &bad, &bad).json();
    let events = c.cdi(&["info", "--events", "--json", "disk.cdimg"]).json();
    let all = events["events"].as_array().cloned().unwrap_or_default();
    let named = all.iter().filter(|e| e["event"] == "read-error" && e["first_bad_bytes"].is_u64()).count();
    let wrong = all.iter().filter(|e| e["event"] == "wrong-sector-named").count();
    let failed = created["failed_reads"].as_u64().unwrap_or(0);
    println!("     {failed} failed reads, {named} sectors named, {wrong} of them wrong");
    c.same("named sectors: most are named", named > 500, true);
    c.same("named sectors: none is wrong", wrong, 0);
    // One for each sector, the first read, and those that prove what the disk says, one in 32.
    c.same("named sectors: failed reads", (600..=626).contains(&failed), true);
}

/// A disk that is removed while it is imaged, and comes back.
fn deleted(c: &mut Checks) {
    let bytes = disk(4 * SECTORS);
    let bad = Sectors::new(&[(2000, 3)]);
    let mut scsi = Disk::new(&bytes, &["medium_error_start=2000", "medium_error_count=3"]);
    // Each command takes a third of a second.
    set_delay(300);
    let image = "deleted.cdimg";
    let create = c
        .cdi_command(&["create", "--json", scsi.name(), image])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    sleep(Duration::from_secs(3));
    let host = fs::canonicalize(format!("/sys/block/{}/device", &scsi.name()[5..])).unwrap();
    let host = host
        .ancestors()
        .find(|d| d.file_name().is_some_and(|n| n.display().to_string().starts_with("host")))
        .unwrap();
    let scan = host.join(format!("scsi_host/{}/scan", host.file_name().unwrap().display()));
    fs::write(format!("/sys/block/{}/device/delete", &scsi.name()[5..]), "1").unwrap();
    let output = create.wait_with_output().unwrap();
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if output.status.code() != Some(7) {
        println!("     {}", String::from_utf8_lossy(&output.stderr));
    }
    c.same("disk removed: exit code", output.status.code(), Some(7));
    c.same("disk removed: ended", result["ended"].as_str(), Some("gone"));
    let rescued = result["rescued_bytes"].as_u64().unwrap_or(0);
    c.same("disk removed: some of it was read", rescued > 0 && rescued < bytes.len() as u64 - 1536, true);
    let got = contents(c, image);
    c.same("disk removed: sectors with wrong bytes", got.wrong(&bytes), 0);
    let left = &result["left_bytes"];
    let wrongly = left["bad-sector"].as_u64().unwrap_or(0);
    c.same("disk removed: no sector is bad for it", wrongly <= 1536, true);

    set_delay(0);
    fs::write(&scan, "- - -").unwrap();
    scsi.path = find();
    let resumed = c.cdi(&["create", "--json", "--resume", scsi.name(), image]);
    c.code("disk is back: create --resume", &resumed, 4);
    let got = contents(c, image);
    c.same("disk is back: map", &got.failed, &bad);
    c.same("disk is back: sectors with wrong bytes", got.wrong(&bytes), 0);

    // The same by itself.
    set_delay(300);
    let image = "waited.cdimg";
    let create = c
        .cdi_command(&["create", "--json", "--wait", "60", scsi.name(), image])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    sleep(Duration::from_secs(3));
    fs::write(format!("/sys/block/{}/device/delete", &scsi.name()[5..]), "1").unwrap();
    sleep(Duration::from_secs(3));
    set_delay(0);
    fs::write(&scan, "- - -").unwrap();
    let output = create.wait_with_output().unwrap();
    scsi.path = find();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    c.same("disk is waited for: exit code", output.status.code(), Some(4));
    c.same("disk is waited for: it is said", said.contains("the disk is back"), true);
    let got = contents(c, image);
    c.same("disk is waited for: map", &got.failed, &bad);
    c.same("disk is waited for: sectors with wrong bytes", got.wrong(&bytes), 0);
}

/// Sectors of 4096 bytes (4Kn).
fn large_sectors(c: &mut Checks) {
    let bytes = disk(2 * SECTORS);
    let bad = Sectors::new(&[(512 * 8, 3 * 8)]);
    let disk = Disk::new(&bytes, &["sector_size=4096", "medium_error_start=512", "medium_error_count=3"]);
    let created = check_imaging(c, "4Kn", &disk.path, &[], &bytes, &bad, &bad).json();
    let size = created["metadata"]["logical_sector_bytes"].as_u64();
    c.same("4Kn: sector size in the image", size, Some(4096));
    drop(disk);
    let mount = Mount::attach(c, "4Kn: attach", &["disk.cdimg"]);
    let device = mount.device();
    c.same("4Kn: sector size of the device", setting(&device, "queue/logical_block_size"), "4096".into());
    let got = read(&device, bytes.len(), PAGE, true);
    c.same("4Kn: unreadable on the device", &got.failed, &bad);
    c.same("4Kn: errno", got.errnos.iter().copied().collect(), vec![EIO]);
    c.same("4Kn: sectors with wrong bytes", got.wrong(&bytes), 0);
    mount.detach(c, "4Kn: detach");
}

/// Logical sectors of 512 bytes in physical ones of 4096 (512e).
fn emulated_sectors(c: &mut Checks) {
    let bytes = disk(SECTORS);
    let one = Sectors::new(&[(100, 1)]);
    let disk = Disk::new(&bytes, &["physblk_exp=3", "medium_error_start=100", "medium_error_count=1"]);
    // Such a drive cannot read less than a physical sector; retry passes read logical ones.
    let created = check_imaging(c, "512e", &disk.path, &[], &bytes, &one.whole(PAGE), &one).json();
    let size = created["metadata"]["physical_sector_bytes"].as_u64();
    c.same("512e: physical sector size in the image", size, Some(4096));
    check_imaging(c, "512e, -r 1", &disk.path, &["-r", "1"], &bytes, &one, &one);
}

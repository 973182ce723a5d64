use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use cdi_image::open::open;

use cdi_image::disk::Disk;

use super::*;

/// A FAT12 with one file, `A.TXT`, of this text.
fn fat(text: &[u8; 5]) -> Vec<u8> {
    let mut bytes = vec![0; 128 * 512];
    bytes[..11].copy_from_slice(b"\xeb\x3c\x90MSDOS5.0");
    // Sector size, sectors in a cluster, reserved ones, tables, entries of the root, sectors, kind of medium, size of a table.
    bytes[11..24].copy_from_slice(&[0, 2, 1, 1, 0, 1, 16, 0, 128, 0, 0xf8, 1, 0]);
    bytes[38..62].copy_from_slice(b"\x29abcdNO NAME    FAT12   ");
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes[512..517].copy_from_slice(&[0xf8, 0xff, 0xff, 0xff, 0x0f]);
    bytes[1024..1035].copy_from_slice(b"A       TXT");
    bytes[1024 + 26] = 2;
    bytes[1024 + 28] = 5;
    bytes[1536..1541].copy_from_slice(text);
    bytes
}

/// `files` of a disk with two volumes.
fn two(max_weight: usize) -> Files {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("cdi-files-{}-{}.raw", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let mut disk = vec![0; 400 * 512];
    for (n, (at, text)) in [(64, b"first"), (200, b"other")].into_iter().enumerate() {
        disk[446 + n * 16 + 4] = 1;
        disk[446 + n * 16 + 8] = at;
        disk[446 + n * 16 + 12] = 128;
        disk[usize::from(at) * 512..][..128 * 512].copy_from_slice(&fat(text));
    }
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(&path, disk).unwrap();
    let disk = Disk::new(open(&path, &Default::default()).unwrap(), Default::default());
    std::fs::remove_file(&path).unwrap();
    let disk = Arc::new(disk);
    let disk = Served::from(disk);
    Files { scans: Scans::new(disk.clone(), max_weight), disk, records: Records::default() }
}

/// Returns the number of the file in each volume.
fn both(files: &Files) -> [u64; 2] {
    ["1-fat12", "2-fat12"].map(|volume| {
        let volume = files.find(Files::TOP, volume).unwrap();
        files.find(volume, "A.TXT").unwrap()
    })
}

fn read(files: &Files, file: u64) -> Vec<u8> {
    assert_eq!(files.attributes(file).unwrap().kind, EntryKind::File(5));
    let mut text = vec![0; 5];
    files.read(file, &mut text, 0).unwrap();
    text
}

#[test]
fn nothing_is_scanned_before_somebody_looks() {
    let files = two(1000);
    assert!(files.wait(Files::TOP, true).is_none() && files.wait(77, false).is_none());
    assert_eq!(files.attributes(Files::TOP).unwrap().kind, EntryKind::Directory);
    let wait = files.wait(Files::TOP, false).unwrap();
    assert!(wait.until(Instant::now() + Duration::from_secs(60)));
    assert!(files.wait(Files::TOP, false).is_none());
    let volume = files.find(Files::TOP, "1-fat12").unwrap();
    assert!(files.wait(volume, true).is_none());
    let (done, is_done) = channel();
    files.wait(volume, false).unwrap().then(move || done.send(()).unwrap());
    is_done.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(files.wait(volume, false).is_none());
    // The other one was not scanned by that.
    assert!(files.wait(files.find(Files::TOP, "2-fat12").unwrap(), false).is_some());
}

#[test]
fn numbers_are_the_same_after_a_restart_and_when_a_volume_was_dropped() {
    let numbers = both(&two(1000));
    // The first thing that is asked for is a file; and only one volume is kept.
    let files = two(0);
    for _ in 0..3 {
        assert_eq!(read(&files, numbers[0]), b"first");
        assert_eq!(read(&files, numbers[1]), b"other");
    }
    assert_eq!(both(&files), numbers);
    assert_eq!(files.parent(numbers[1]), Some(files.find(Files::TOP, "2-fat12").unwrap()));
}

#[test]
fn every_number_means_one_thing() {
    let files = two(1000);
    let numbers = both(&files);
    for number in numbers {
        assert_eq!(Node::of(number).map(|node| node.number(0)), Some(number));
    }
    let volume = numbers[0] >> VOLUME_SHIFT;
    for number in
        [0, 1, 9, 1 << 39, u64::MAX, numbers[0] + 1, (volume + 2) << VOLUME_SHIFT, volume << VOLUME_SHIFT | 5]
            .into_iter()
            .chain((1..16).map(|kind| volume << VOLUME_SHIFT | kind << KIND_SHIFT | 0xffff_ffff))
    {
        assert_eq!(files.attributes(number), Err(Failure::Missing), "{number:#x}");
        assert!(files.read(number, &mut [0; 1], 0).is_err() && files.target(number).is_err());
        assert!(
            files.list(number, 0, &mut |_, _, _, _| true).is_err() && files.find(number, "A.TXT").is_err()
        );
    }
    assert_eq!(files.find(numbers[0], "x"), Err(Failure::NotDirectory));
    assert_eq!(files.target(numbers[0]), Err(Failure::NotLink));
    assert_eq!(files.read(numbers[0], &mut [0; 6], 0), Err(LOST));
}

#[test]
fn many_threads_wait_for_one_scan_and_none_for_ever() {
    for max_weight in [1000, 0] {
        let files = two(max_weight);
        let numbers = both(&two(1000));
        thread::scope(|scope| {
            for n in 0..8 {
                let files = &files;
                scope.spawn(move || {
                    for i in n..n + 20 {
                        let (number, text) = [(numbers[0], b"first"), (numbers[1], b"other")][i % 2];
                        if let Some(wait) = files.wait(number, false)
                            && i % 3 == 0
                        {
                            let (done, is_done) = channel();
                            wait.then(move || done.send(()).unwrap());
                            is_done.recv_timeout(Duration::from_secs(60)).unwrap();
                        }
                        assert_eq!(read(files, number), text);
                    }
                });
            }
        });
        let scans = files.scans.count();
        assert!(if max_weight > 0 { scans == 3 } else { scans >= 3 }, "{scans}");
    }
}

#[test]
fn the_last_records_and_the_scan_end_with_the_directory() {
    let files = two(1000);
    let wait = files.wait(Files::TOP, false).unwrap();
    let scans = Arc::clone(&files.scans);
    drop(files);
    wait.until(Instant::now() + Duration::from_secs(1));
    // What was not begun is not begun any more, and nobody waits for it.
    assert!(scans.layout().is_err() || scans.listing(0).is_err());
}

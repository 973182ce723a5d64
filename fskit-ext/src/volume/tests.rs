use std::fs;
use std::os::unix::fs::PermissionsExt;

use cdi_serve::tree::{BADBLOCKS, DEVICE, DISK, FILES, INFO, MAPFILE};

use super::testing::{TempDir, disk_of, fixture, volume};
use super::*;

/// The bad sectors of the fixtures (tests/formats/cdimg.rs), and the number of sectors.
const BAD: [(i64, i64); 4] = [(3, 1), (1001, 2), (1600, 300), (2562, 1)];
const SECTORS: i64 = 2563;

fn is_bad(sector: i64) -> bool {
    BAD.iter().any(|(first, count)| (*first..first + count).contains(&sector))
}

#[test]
fn a_sector_is_readable_if_and_only_if_it_is_not_bad() {
    for image in ["zstd.cdimg", "deflate.cdimg", "stored.cdimg"] {
        let (volume, disk) = (volume(&fixture(image)), disk_of(&fixture(image)));
        let (mut got, mut wanted) = ([1; 512], [2; 512]);
        for sector in 0..SECTORS {
            let read = volume.read(DISK, sector * 512, &mut got);
            if is_bad(sector) {
                assert_eq!(read, Err(Errno::EIO), "{image}, sector {sector}");
            } else {
                assert_eq!(read, Ok(512), "{image}, sector {sector}");
                disk.read_at(&mut wanted, u64::try_from(sector).unwrap() * 512).unwrap();
                assert_eq!(got, wanted, "{image}, sector {sector}");
            }
        }
    }
}

#[test]
fn a_read_is_whole_or_an_error() {
    let volume = volume(&fixture("zstd.cdimg"));
    let mut buf = vec![0; 4096];
    // One bad sector makes the read fail, whether it is the first, the last or between: 1001 is bad, and eight are
    // read.
    for sector in [1001, 1000, 998, 994] {
        assert_eq!(volume.read(DISK, sector * 512, &mut buf), Err(Errno::EIO), "sector {sector}");
    }
    assert_eq!(volume.read(DISK, 4 * 512 + 1, &mut buf), Ok(4096));
}

#[test]
fn reads_at_any_offset_return_the_right_bytes() {
    let volume = volume(&fixture("example.cdimg"));
    let raw = fs::read(fixture("example.raw")).unwrap();
    let readable = |at: usize, len: usize| {
        let mut buf = vec![0; len];
        let sectors = at / 512..(at + len).div_ceil(512);
        let bad = volume.tree().disk().image().unwrap().failing_ranges().next(at as u64);
        let bad = bad.is_some_and(|r| r.start < (sectors.end * 512) as u64);
        match volume.read(DISK, i64::try_from(at).unwrap(), &mut buf) {
            Ok(n) => assert_eq!(buf[..n], raw[at..at + n], "{len} at {at}"),
            Err(e) => assert!(bad && e == Errno::EIO, "{len} at {at}: {e:?}"),
        }
    };
    for at in [0, 1, 511, 512, 513, 4096, 5000] {
        for len in [1, 2, 511, 512, 1024, 3000] {
            readable(at, len);
        }
    }
}

#[test]
fn reads_at_and_beyond_the_end_return_nothing() {
    let volume = volume(&fixture("example.cdimg"));
    let size = i64::try_from(volume.tree().disk().size()).unwrap();
    let mut buf = [7; 100];
    assert_eq!(volume.read(DISK, size, &mut buf), Ok(0));
    assert_eq!(volume.read(DISK, size + 1, &mut buf), Ok(0));
    assert_eq!(volume.read(DISK, i64::MAX, &mut buf), Ok(0));
    assert_eq!(buf, [7; 100]);
    assert_eq!(volume.read(DISK, size - 10, &mut buf), Ok(10));
    assert_eq!(volume.read(DISK, 0, &mut []), Ok(0));
    for id in [BADBLOCKS, MAPFILE, INFO] {
        let len = i64::try_from(volume.attributes(id).unwrap().size).unwrap();
        assert!(len > 0);
        assert_eq!(volume.read(id, len, &mut buf), Ok(0));
        assert_eq!(volume.read(id, i64::MAX, &mut buf), Ok(0));
    }
}

#[test]
fn reads_of_unreadable_items_and_offsets_are_refused() {
    let volume = volume(&fixture("example.cdimg"));
    let mut buf = [0; 16];
    for offset in [-1, -512, i64::MIN] {
        assert_eq!(volume.read(DISK, offset, &mut buf), Err(Errno::EINVAL));
        assert_eq!(volume.read(INFO, offset, &mut buf), Err(Errno::EINVAL));
    }
    assert_eq!(volume.read(ROOT, 0, &mut buf), Err(Errno::EISDIR));
    assert_eq!(volume.read(DEVICE, 0, &mut buf), Err(Errno::ENOENT));
    assert_eq!(volume.read(Id(99), 0, &mut buf), Err(Errno::ENOENT));
}

#[test]
fn texts_are_read_like_files() {
    let volume = volume(&fixture("zstd.cdimg"));
    for id in [BADBLOCKS, MAPFILE, INFO] {
        let size = usize::try_from(volume.attributes(id).unwrap().size).unwrap();
        let mut whole = vec![0; size + 10];
        assert_eq!(volume.read(id, 0, &mut whole), Ok(size));
        let mut byte = [0];
        for at in [0, 1, size / 2, size - 1] {
            assert_eq!(volume.read(id, i64::try_from(at).unwrap(), &mut byte), Ok(1));
            assert_eq!(byte[0], whole[at]);
        }
    }
}

#[test]
fn attributes_are_complete_and_stay_the_same() {
    let dir = TempDir::new();
    let path = dir.0.join("disk.cdimg");
    fs::copy(fixture("zstd.cdimg"), &path).unwrap();
    let then = UNIX_EPOCH + Duration::new(1_500_000_000, 250);
    fs::File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
    // Whatever the permissions of the image file, the volume belongs to the user who mounts it.
    for image in [0o644, 0o600] {
        fs::set_permissions(&path, fs::Permissions::from_mode(image)).unwrap();
        let (first, second) = (volume(&path), volume(&path));
        let ids: Vec<Id> =
            [ROOT].into_iter().chain(first.tree().list().into_iter().map(|(id, _)| id)).collect();
        assert_eq!(ids.len(), 8);
        for id in ids {
            let a = first.attributes(id).unwrap();
            assert_eq!(a, second.attributes(id).unwrap(), "{id:?} changes from mount to mount");
            assert_eq!(
                (a.uid, a.gid, a.flags),
                (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw(), 0)
            );
            assert_eq!((a.time, a.changed), (Duration::new(1_500_000_000, 250), a.time));
            assert_eq!(a.mode & 0o222, 0);
            assert_eq!(a.file_id, id.0 + 1);
            if id == ROOT {
                assert_eq!((a.kind, a.link_count, a.parent_id), (EntryKind::Directory, 3, 1));
                assert_eq!(a.mode, 0o500);
            } else if id == FILES {
                assert_eq!((a.kind, a.link_count, a.parent_id), (EntryKind::Directory, 1, 2));
                assert_eq!(a.mode, 0o500);
            } else {
                let names = first.tree().list().iter().filter(|(other, _)| *other == id).count();
                assert!(a.link_count <= MAX_LINKS && a.link_count as usize == names);
                assert_eq!((a.kind, a.parent_id), (EntryKind::File(a.size), 2));
                assert_eq!(a.mode, 0o400);
                assert!(a.alloc_size >= a.size && a.alloc_size < a.size + 512 && a.alloc_size % 512 == 0);
            }
        }
        assert_eq!(first.attributes(DISK).unwrap().size, first.tree().disk().size());
        assert_eq!(first.uuid(), second.uuid());
    }
}

#[test]
fn lookup_finds_the_listed_names_and_no_others() {
    let volume = volume(&fixture("zstd.cdimg"));
    for (id, name) in volume.tree().list() {
        assert_eq!(volume.lookup(ROOT, name.as_bytes()), Ok(id));
        assert_eq!(volume.lookup(ROOT, name.to_uppercase().as_bytes()), Err(Errno::ENOENT));
    }
    let noise: [&[u8]; 11] = [
        b".DS_Store",
        b"._disk.raw",
        b"._.",
        b".Trashes",
        b".fseventsd",
        b".Spotlight-V100",
        b".TemporaryItems",
        b"",
        b"disk",
        b"\xff\xfe",
        b"device",
    ];
    for name in noise {
        assert_eq!(volume.lookup(ROOT, name), Err(Errno::ENOENT), "{name:?}");
    }
    assert_eq!(volume.lookup(DISK, b"disk.raw"), Err(Errno::ENOTDIR));
    assert_eq!(volume.lookup(Id(99), b"disk.raw"), Err(Errno::ENOENT));
}

#[test]
fn a_device_is_a_link_while_there_is_one() {
    let volume = volume(&fixture("zstd.cdimg"));
    assert_eq!(volume.link(DEVICE), Err(Errno::ENOENT));
    assert_eq!(volume.link(DISK), Err(Errno::EINVAL));
    volume.tree().set_device(Some(Path::new("/dev/disk7")));
    assert_eq!(volume.link(DEVICE), Ok(b"/dev/disk7".to_vec()));
    assert_eq!(volume.attributes(DEVICE).unwrap().kind, EntryKind::Link(10));
    assert_eq!(volume.read(DEVICE, 0, &mut [0; 4]), Err(Errno::EINVAL));
}

#[test]
fn nothing_opens_for_writing() {
    let volume = volume(&fixture("zstd.cdimg"));
    for id in [ROOT, DISK, INFO] {
        assert_eq!(volume.open_item(id, false), Ok(()));
        assert_eq!(volume.open_item(id, true), Err(Errno::EROFS));
    }
    assert_eq!(volume.open_item(Id(99), false), Err(Errno::ENOENT));
}

#[test]
fn df_reports_the_disk_and_no_free_space() {
    let volume = volume(&fixture("zstd.cdimg"));
    let bytes = u64::try_from(SECTORS).unwrap() * 512;
    assert_eq!(volume.statistics(), Statistics { blocks: bytes.div_ceil(4096), files: 7 });
}

#[test]
fn files_that_are_not_images_are_refused_when_opened() {
    let dir = TempDir::new();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let mut cut = fs::read(fixture("zstd.cdimg")).unwrap();
    cut.truncate(100);
    for (path, errno) in [
        (dir.0.join("none.cdimg"), Errno::ENOENT),
        (dir.0.clone(), Errno::EFTYPE),
        (write("notes.txt", b"no image at all"), Errno::EFTYPE),
        (write("empty.cdimg", b""), Errno::EFTYPE),
        (write("cut.cdimg", &cut), Errno::EFTYPE),
    ] {
        let refused = Volume::open(&path).err().unwrap();
        assert_eq!(refused.errno, errno, "{}: {refused}", path.display());
        assert!(refused.why.unwrap().contains(path.to_str().unwrap()));
    }
}

#[test]
fn readahead_starts() {
    let volume = volume(&fixture("zstd.cdimg"));
    volume.start().unwrap();
    assert_eq!(volume.read(DISK, 0, &mut [0; 512]), Ok(512));
}

/// On macOS as elsewhere: the file systems inside the disk.
#[test]
fn files_are_shown_and_scanned_when_somebody_looks() {
    let volume = volume(&fixture("zstd.cdimg"));
    let files = volume.lookup(ROOT, b"files").unwrap();
    let all = volume.attributes(files).unwrap();
    assert_eq!((all.kind, all.link_count, all.parent_id), (EntryKind::Directory, 1, file_id(ROOT)));
    // There is no file system on this disk.
    let mut names = Vec::new();
    crate::directory::list(&volume, files, 0, false, |entry| {
        names.push(entry.name.to_owned());
        true
    })
    .unwrap();
    assert_eq!(names, [".", ".."]);
    assert_eq!(volume.lookup(files, b"1-ntfs"), Err(Errno::ENOENT));
    assert_eq!(volume.attributes(Id(1 << 40)), Err(Errno::ENOENT));
    assert_eq!(volume.read(Id(1 << 40), 0, &mut [0; 1]), Err(Errno::ENOENT));
}

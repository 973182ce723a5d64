//! What the Finder asks of a volume, replayed: it must cost nothing and read nothing of the disk. The calls are those of
//! macOS's NFS client for what the Finder, Spotlight, fseventsd and Quick Look are known to look up; no recording of a
//! Mac's was at hand.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cdi_image::disk::Disk;
use cdi_serve::nfs;
use cdi_serve::tree::Tree;

use super::client::{Client, NFS, number, own, path, string, words};
use super::{BAD, SECTORS};
use crate::common::Lab;

/// Names that do not exist: of the Finder, of AppleDouble (`._*`), of the services that look at every volume, and of
/// bundles, icons and cameras.
const SOUGHT: [&str; 26] = [
    ".DS_Store",
    "._.DS_Store",
    "._.",
    "._disk.raw",
    "._disk.dmg",
    "._badblocks.json",
    "._badblocks.map",
    "._info.json",
    "._.metadata_never_index",
    ".Spotlight-V100",
    ".fseventsd",
    ".Trashes",
    ".TemporaryItems",
    ".hidden",
    ".localized",
    ".VolumeIcon.icns",
    ".background",
    ".apdisk",
    ".com.apple.timemachine.supported",
    ".metadata_direct_scope_only",
    "Backups.backupdb",
    "Icon\r",
    "Contents",
    "DCIM",
    "autorun.inf",
    "System",
];

/// A volume as macOS mounts it, and a client of it.
fn volume(lab: &Lab) -> (Arc<Tree>, Client, Vec<u8>) {
    let opened = cdi_image::open::open(&lab.path("disk.cdimg"), &Default::default()).unwrap();
    let mut tree = Tree::new(Arc::new(Disk::new(opened, Default::default())), Default::default(), false);
    tree.finder = true;
    let tree = Arc::new(tree);
    let (export, _may_be_gone) = nfs::Export::new(Arc::clone(&tree), &[7; 32], nfs::Clients::System).unwrap();
    let (listener, port) = nfs::bind(Ipv4Addr::LOCALHOST.into(), 0).unwrap();
    let url = export.url((Ipv4Addr::LOCALHOST, port).into());
    std::thread::spawn(move || nfs::serve(Arc::new(export), listener));
    let mut client = Client::connect(&url);
    // With the name of the volume as one more component, and only one.
    assert_eq!(client.mount(&format!("{}/disk/disk", path(&url))).0, 13);
    assert_eq!(client.mount(&format!("{}disk", path(&url))).0, 13);
    let (status, root) = client.mount(&format!("{}/Old disk", path(&url)));
    assert_eq!(status, 0);
    (tree, client, root)
}

/// The names and the handles of a directory, by READDIRPLUS.
fn entries(client: &mut Client, root: &[u8]) -> Vec<(String, Vec<u8>)> {
    let args = [string(root), vec![0; 16], words(&[8192, 32768])].concat();
    let reply = client.ask(NFS, 17, own(), &args);
    assert_eq!(number(&reply, 0), 0);
    let (mut at, mut found) = (8 + 84 + 8, Vec::new());
    while number(&reply, at) == 1 {
        let len = number(&reply, at + 12) as usize;
        let name = String::from_utf8(reply[at + 16..][..len].to_vec()).unwrap();
        at += 16 + len.next_multiple_of(4) + 8;
        assert_eq!((number(&reply, at), number(&reply, at + 88)), (1, 1), "attributes and handle of {name}");
        found.push((name, reply[at + 96..][..40].to_vec()));
        at += 4 + 84 + 4 + 4 + 40;
    }
    assert_eq!(number(&reply, at + 4), 1, "all in one reply");
    found
}

tests!(
    fn browsing_a_volume_reads_nothing_of_the_disk() {
        let lab = Lab::new();
        lab.image(SECTORS, 512, &BAD);
        let (tree, mut client, root) = volume(&lab);
        let start = Instant::now();
        let mut calls = 0;
        // A volume appears, its window opens, and it is looked at again and again.
        for _ in 0..100 {
            // GETATTR, FSSTAT, FSINFO, PATHCONF of the root.
            for procedure in [1, 18, 19, 20] {
                assert_eq!(number(&client.ask(NFS, procedure, own(), &string(&root)), 0), 0);
            }
            let all = entries(&mut client, &root);
            let names: Vec<&str> = all.iter().map(|(name, _)| &**name).collect();
            assert_eq!(
                names,
                [
                    ".",
                    "..",
                    "disk.raw",
                    "disk.dmg",
                    ".metadata_never_index",
                    "badblocks.json",
                    "badblocks.map",
                    "info.json"
                ]
            );
            for (name, handle) in &all {
                assert_eq!(number(&client.ask(NFS, 1, own(), &string(handle)), 0), 0, "{name}");
                // The client asks for all rights at once, and gets those to read.
                let rights = client.ask(NFS, 4, own(), &[string(handle), words(&[0x3f])].concat());
                assert_eq!(number(&rights, 8 + 84) & !0x23, 0, "{name}");
                assert_eq!(client.lookup(&root, name, own()), (0, handle.clone()));
            }
            for name in SOUGHT {
                assert_eq!(client.lookup(&root, name, own()).0, 2, "{name}");
            }
            // The kernel does not ask on a read-only mount; if it did: CREATE, MKDIR, SETATTR.
            for (procedure, name) in [(8, ".DS_Store"), (9, ".Trashes"), (2, "")] {
                let args = [string(&root), string(name.as_bytes()), vec![0; 64]].concat();
                assert_eq!(number(&client.ask(NFS, procedure, own(), &args), 0), 30, "{name}");
            }
            calls += 5 + 3 * all.len() + SOUGHT.len() + 3;
        }
        let stats = tree.disk().stats();
        assert_eq!((stats.reads, stats.chunks_decompressed), (0, 0));
        let (took, most) = (start.elapsed(), Duration::from_secs(30));
        assert!(took < most, "{calls} calls took {took:?}");
    }

    /// A preview reads the beginning and gives up; a copy reads everything, and cannot end as if it had all.
    fn previews_and_copies_get_bytes_or_an_error() {
        const PAGE: u32 = 16 << 10;
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &BAD);
        let (tree, mut client, root) = volume(&lab);
        let (_, disk) = client.lookup(&root, "disk.raw", own());
        assert_eq!(client.lookup(&root, "disk.dmg", own()), (0, disk.clone()), "the same file");
        assert!(client.read(&disk, 0, PAGE, own()).unwrap() == truth[..PAGE as usize]);
        assert!(tree.disk().stats().reads == 1 && tree.disk().stats().chunks_decompressed <= 1);
        let mut copy = Vec::new();
        let ended = loop {
            match client.read(&disk, copy.len() as u64, PAGE, own()) {
                Ok(bytes) if bytes.is_empty() => break 0,
                Ok(bytes) => copy.extend(bytes),
                Err(status) => break status,
            }
        };
        // NFS3ERR_IO, before the page of the first bad sector.
        assert_eq!((ended, copy.len()), (5, 1001 * 512 / PAGE as usize * PAGE as usize));
        assert!(copy == truth[..copy.len()]);
    }
);

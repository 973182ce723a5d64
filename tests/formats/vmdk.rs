//! VMware's VMDK.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::common::{Lab, disk};

tests!(
    fn file_names_of_other_systems_and_encodings_are_found() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        let flat = |bytes: &[u8]| {
            let (mut text, sectors) = (b"# Disk DescriptorFile\nversion=1\n".to_vec(), truth.len() / 512);
            let encoding = bytes.split(|b| *b == b'|').next().unwrap();
            if !encoding.is_empty() {
                text.extend([b"encoding=\"", encoding, b"\"\n"].concat());
            }
            text.extend(format!("CID=fffffffe\nparentCID=ffffffff\nRW {sectors} FLAT \"").bytes());
            text.extend(&bytes[encoding.len() + 1..]);
            text.extend(b"\" 0\n");
            text
        };
        // The text, and the name of the file. (In GBK, Shift_JIS and Big5 the last byte of a character may be a backslash.)
        for (said, called) in [
            (&b"windows-1252|Pr\xFCfung.vmdk"[..], "Prüfung.vmdk".as_bytes()),
            (b"GBK|\xD0\xE9\xC4\xE2\xBB\xFA.vmdk", "虚拟机.vmdk".as_bytes()),
            (b"GBK|\x81\x5C.vmdk", "乗.vmdk".as_bytes()),
            (b"Shift_JIS|\x95\x5C.vmdk", "表.vmdk".as_bytes()),
            (b"Big5|\xA5\x5C.vmdk", "功.vmdk".as_bytes()),
            (b"EUC-KR|\xB0\xA1.vmdk", "가.vmdk".as_bytes()),
            (b"UTF-8|Pr\xC3\xBCfung.vmdk", "Prüfung.vmdk".as_bytes()),
            (b"|Pr\xC3\xBCfung.vmdk", "Prüfung.vmdk".as_bytes()),
            // A wrong encoding, and an unknown one.
            (b"windows-1252|Pr\xC3\xBCfung.vmdk", "Prüfung.vmdk".as_bytes()),
            (b"UTF-8|Pr\xFCfung.vmdk", b"Pr\xFCfung.vmdk"),
            (b"x-no-such|Pr\xFCfung.vmdk", b"Pr\xFCfung.vmdk"),
            // Paths of other systems.
            (b"|C:\\VMs\\x\\disk-flat.vmdk", b"disk-flat.vmdk"),
            (b"|\\\\server\\share\\disk-flat.vmdk", b"disk-flat.vmdk"),
            (b"|/vmfs/volumes/x/disk-flat.vmdk", b"disk-flat.vmdk"),
            (b"|../x/disk-flat.vmdk", b"disk-flat.vmdk"),
            (b"windows-1252|D:\\Pr\xFCfung\\\xFC.vmdk", "ü.vmdk".as_bytes()),
        ] {
            let dir = lab.path("vm");
            fs::create_dir(&dir).unwrap();
            let written = fs::write(dir.join(Path::new(std::ffi::OsStr::from_bytes(called))), &truth);
            // A file system whose names are UTF-8 has no others.
            if written.is_ok() {
                lab.write("vm/d.vmdk", flat(said));
                lab.cdi(["-q", "extract", "--force", "vm/d.vmdk", "out.raw"]).ends(0);
                assert!(lab.read("out.raw") == truth, "{}", String::from_utf8_lossy(said));
            }
            fs::remove_dir_all(dir).unwrap();
        }
        lab.write("d.vmdk", flat(b"windows-1252|C:\\Pr\xFCfung.vmdk"));
        let err = lab.cdi(["info", "d.vmdk"]).ends(3).err;
        assert!(err.contains("extent not found next to the image: 'C:\\Prüfung.vmdk'"), "{err}");
    }
);

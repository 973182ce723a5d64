//! `FSItemAttributes`, with the times that objc2-fs-kit leaves out.

use std::time::Duration;

use cdi_serve::tree::{EntryKind, Id};
use objc2::encode::{Encode, Encoding};
use objc2::msg_send;
use objc2::rc::Retained;
use objc2_fs_kit::{FSItemAttributes, FSItemID, FSItemType};

use crate::volume::{Attributes, file_id};

/// C's `struct timespec`, as macOS has it on every processor.
#[derive(Clone, Copy)]
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

// SAFETY: this is how a compiler for Objective-C names that struct: two `long` in it.
unsafe impl Encode for Timespec {
    const ENCODING: Encoding = Encoding::Struct("timespec", &[i64::ENCODING, i64::ENCODING]);
}

fn timespec(since_1970: Duration) -> Timespec {
    Timespec {
        seconds: i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: since_1970.subsec_nanos().into(),
    }
}

/// The type of an item.
pub(super) fn item_type(kind: EntryKind) -> FSItemType {
    match kind {
        EntryKind::Directory => FSItemType::Directory,
        EntryKind::File(_) => FSItemType::File,
        EntryKind::Link(_) => FSItemType::Symlink,
    }
}

/// The number of an item.
pub(super) fn item_id(id: Id) -> FSItemID {
    FSItemID(file_id(id))
}

/// All of an item's attributes, also those that were not asked for: too many do no harm, but one too few does.
pub(super) fn attributes(of: &Attributes) -> Retained<FSItemAttributes> {
    let (time, changed) = (timespec(of.time), timespec(of.changed));
    // SAFETY: an object of our own that nobody else knows yet; the setters take any value, and the four that are named
    // here take a timespec (FSItem.h).
    unsafe {
        let all = FSItemAttributes::new();
        all.setType(item_type(of.kind));
        all.setMode(of.mode);
        all.setLinkCount(of.link_count);
        all.setUid(of.uid);
        all.setGid(of.gid);
        all.setFlags(of.flags);
        all.setSize(of.size);
        all.setAllocSize(of.alloc_size);
        all.setFileID(FSItemID(of.file_id));
        all.setParentID(FSItemID(of.parent_id));
        let () = msg_send![&*all, setAccessTime: time];
        let () = msg_send![&*all, setModifyTime: time];
        let () = msg_send![&*all, setChangeTime: changed];
        let () = msg_send![&*all, setBirthTime: time];
        all
    }
}

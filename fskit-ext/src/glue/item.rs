//! `FSItem`: what FSKit holds of an entry of the folder. Of ours it is a number.

use cdi_base::workers::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;

use cdi_serve::tree::Id;
use objc2::rc::Retained;
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_fs_kit::FSItem;

define_class!(
    // SAFETY: FSItem asks nothing of those who make subclasses, and there is no `Drop`.
    #[unsafe(super(FSItem))]
    #[name = "CDIItem"]
    #[ivars = Id]
    pub(super) struct Item;
);

impl Item {
    fn new(id: Id) -> Retained<Item> {
        let this = Item::alloc().set_ivars(id);
        // SAFETY: the initializer of FSItem; the instance variables are set.
        unsafe { msg_send![super(this), init] }
    }
}

/// Which entry an item of FSKit's stands for. FSKit may ask about nothing at all.
pub(super) fn id_of(item: Option<&FSItem>) -> Option<Id> {
    item?.downcast_ref::<Item>().map(|item| *item.ivars())
}

/// One item for each entry.
///
/// They live as long as the volume, longer than FSKit's reclaiming of them: there are no more than six, an entry that
/// is asked for again gets the same one, and one that FSKit still holds without our knowing is never a dangling one.
pub(super) struct Items(Mutex<BTreeMap<Id, Retained<Item>>>);

// SAFETY: an item's number never changes, counting its owners is atomic as for every object, and FSKit itself passes
// items from thread to thread.
unsafe impl Send for Items {}
// SAFETY: likewise; the map is behind a lock.
unsafe impl Sync for Items {}

impl Items {
    pub(super) fn new() -> Items {
        Items(Mutex::new(BTreeMap::new()))
    }

    /// The item of `id`.
    pub(super) fn get(&self, id: Id) -> Retained<FSItem> {
        let mut items = lock(&self.0);
        items.entry(id).or_insert_with(|| Item::new(id)).clone().into_super()
    }
}

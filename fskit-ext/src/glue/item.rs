//! `FSItem`: FSKit's handle of an entry of the directory. Ours contains the number of the entry.

use cdi_base::workers::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;

use cdi_serve::tree::{FILES, Id};
use objc2::rc::Retained;
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_fs_kit::FSItem;

define_class!(
    // SAFETY: FSItem has no requirements for subclasses, and there is no `Drop`.
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

/// Returns the entry of an item of FSKit's. FSKit may also pass no item.
pub(super) fn id_of(item: Option<&FSItem>) -> Option<Id> {
    item?.downcast_ref::<Item>().map(|item| *item.ivars())
}

/// The items, one for each entry.
///
/// They live as long as the volume, even after FSKit reclaims them: there are few, an entry that is requested again gets the
/// same item, and an item that FSKit still holds without our knowledge never dangles. Of what is in the file systems inside the
/// disk there may be millions: those are forgotten when FSKit reclaims them, and live for as long as it holds them.
pub(super) struct Items(Mutex<BTreeMap<Id, Retained<Item>>>);

// SAFETY: an item's number never changes, reference counting is atomic as for every object, and FSKit itself passes
// items between threads.
unsafe impl Send for Items {}
// SAFETY: likewise; the map is behind a lock.
unsafe impl Sync for Items {}

impl Items {
    pub(super) fn new() -> Items {
        Items(Mutex::new(BTreeMap::new()))
    }

    /// Forgets the item of `id`, which FSKit has reclaimed, if there may be many like it.
    pub(super) fn reclaim(&self, id: Id) {
        if id > FILES {
            lock(&self.0).remove(&id);
        }
    }

    /// Returns the item of `id`.
    pub(super) fn get(&self, id: Id) -> Retained<FSItem> {
        let mut items = lock(&self.0);
        items.entry(id).or_insert_with(|| Item::new(id)).clone().into_super()
    }
}

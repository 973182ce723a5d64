//! Objective-C: the classes that FSKit calls, one file each. Each method converts the arguments, calls the plain Rust
//! part and converts the result; there is no logic here.
//!
//! FSKit calls from threads of its own, several at a time, so the state of the classes is [`Send`] and [`Sync`]; the
//! compiler checks this with [`shared`].

mod answer;
mod attributes;
mod filesystem;
mod item;
mod logging;
mod resource;
mod uuid;
mod volume;
mod volume_state;

use objc2::ClassType;

/// Registers the classes, so that FSKit finds the one that Info.plist names. Must be called before anything else.
pub extern "C" fn register() {
    // A panic must not unwind into the loader, which calls this.
    let registered = std::panic::catch_unwind(|| {
        logging::start();
        item::Item::class();
        volume::MountedVolume::class();
        filesystem::FileSystem::class();
    });
    if registered.is_err() {
        // Without its classes the extension is useless, and an abort is noticed.
        std::process::abort();
    }
}

/// Checks at compile time that a `T` may be used from several threads at once.
const fn shared<T: Send + Sync>() {}

//! Objective-C: the classes that FSKit asks, one file each. Each method takes what came apart, asks the plain part
//! and puts the answer together; nothing is decided here.
//!
//! FSKit calls on threads of its own, several at a time, so what the classes hold is [`Send`] and [`Sync`];
//! [`shared`] has the compiler check it.

mod answer;
mod attributes;
mod filesystem;
mod item;
mod logging;
mod resource;
mod shown;
mod volume;

use objc2::ClassType;

/// Makes the classes, so that FSKit finds the one that Info.plist names. To be called before anything else.
pub extern "C" fn register() {
    // Nothing may unwind into the loader that calls this.
    let registered = std::panic::catch_unwind(|| {
        logging::start();
        item::Item::class();
        volume::ShownVolume::class();
        filesystem::FileSystem::class();
    });
    if registered.is_err() {
        // Without its classes the extension is of no use, and a program that ended so is noticed.
        std::process::abort();
    }
}

/// Says, when it is compiled, that a `T` may be used from several threads at once.
const fn shared<T: Send + Sync>() {}

//! The extension's program. Built for other systems, it does nothing.

// Foundation's NSExtensionMain is where it begins (build.rs): there is no `main`.
#![cfg_attr(target_os = "macos", no_main)]

#[cfg(not(target_os = "macos"))]
fn main() {}

/// FSKit looks for the class that Info.plist names as soon as NSExtensionMain runs, but a class of Rust's exists only
/// from the first time that Rust asks for it. The one moment before is when the program is loaded: the loader calls
/// the functions that this section lists. This static must be in the program and not in the library, because nothing
/// else refers to it and the linker would not fetch it from there.
#[cfg(target_os = "macos")]
#[used]
#[unsafe(link_section = "__DATA,__mod_init_func,mod_init_funcs")]
static AT_LOAD: extern "C" fn() = cdi_fskit::glue::register;

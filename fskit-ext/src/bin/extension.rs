//! The extension's program. On other systems it does nothing.

// The entry point is Foundation's NSExtensionMain (build.rs): there is no `main`.
#![cfg_attr(target_os = "macos", no_main)]

#[cfg(not(target_os = "macos"))]
fn main() {}

/// Registers the classes when the program is loaded. FSKit looks up the class that Info.plist names as soon as
/// NSExtensionMain runs, but a class defined in Rust only exists after its first use. The only earlier moment is when
/// the program is loaded: the loader calls the functions in this section. This static must be in the program and not in
/// the library, because nothing refers to it, so the linker would omit it.
#[cfg(target_os = "macos")]
#[used]
#[unsafe(link_section = "__DATA,__mod_init_func,mod_init_funcs")]
static AT_LOAD: extern "C" fn() = cdi_fskit::glue::register;

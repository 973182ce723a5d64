//! Sets the name (soname, install name) under which programs load the shared library at run time.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let version = format!(
        "{}.{}",
        std::env::var("CARGO_PKG_VERSION_MAJOR").unwrap_or_default(),
        std::env::var("CARGO_PKG_VERSION_MINOR").unwrap_or_default()
    );
    match os.as_str() {
        "linux" => println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcdi.so.{version}"),
        "macos" => println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libcdi.dylib"),
        _ => {}
    }
}

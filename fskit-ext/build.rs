//! Makes the extension's program an app extension: its entry point is in Foundation, not `main`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos") {
        println!("cargo::rustc-link-arg-bin=cdi-fskit=-Wl,-e,_NSExtensionMain");
    }
}

#![no_main]

cdi_fuzz::format!("android-sparse");

#![no_main]

cdi_fuzz::format!("lz4");

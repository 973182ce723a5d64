#![no_main]

cdi_fuzz::format!("gzip");

#![no_main]

cdi_fuzz::format!("bzip2");

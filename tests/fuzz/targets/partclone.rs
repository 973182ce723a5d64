#![no_main]

cdi_fuzz::format!("partclone");

#![no_main]

cdi_fuzz::format!("vdi");

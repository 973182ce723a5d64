#![no_main]

cdi_fuzz::format!("asif");

#![no_main]

cdi_fuzz::format!("aff");

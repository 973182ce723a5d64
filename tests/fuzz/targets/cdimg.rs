#![no_main]

cdi_fuzz::format!("cdimg");

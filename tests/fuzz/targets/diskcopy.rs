#![no_main]

cdi_fuzz::format!("diskcopy");

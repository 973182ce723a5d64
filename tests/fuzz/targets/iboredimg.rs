#![no_main]

cdi_fuzz::format!("iboredimg");

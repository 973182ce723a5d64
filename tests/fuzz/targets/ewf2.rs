#![no_main]

cdi_fuzz::format!("ewf2");

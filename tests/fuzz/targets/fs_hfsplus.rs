#![no_main]

cdi_fuzz::file_system!("hfs+");

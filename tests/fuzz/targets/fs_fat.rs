#![no_main]

cdi_fuzz::file_system!("fat");

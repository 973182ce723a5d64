#![no_main]

cdi_fuzz::file_system!("iso9660");

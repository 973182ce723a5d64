//! Creates `.cdimg` images: from failing disks, from other images, from damaged images.

pub mod buffer;
pub mod compact;
mod compress;
pub mod convert;
pub mod guard;
pub mod hash;
pub mod hash_check;
pub mod health;
mod image_sink;
mod jobs;
pub mod options;
pub mod protect;
pub mod repair;
pub mod rescue;

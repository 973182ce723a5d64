//! Volumes that mkntfs and ntfs-3g made: everything on them is found, and what is damaged costs what it must.

mod damage;
mod disk;
mod formats;
mod hostile;
mod imaging;
mod links;
mod made;
mod whole;

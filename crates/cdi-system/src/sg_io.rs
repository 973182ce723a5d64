//! Reads of a SCSI disk that say why they failed, and where: by Linux's SG_IO. ATA disks have it too, by libata's translation,
//! and so do disks that are connected through USB adapters.
//!
//! Sources: sg(4) and <scsi/sg.h> for the call; SBC-3, 5.11 and 5.15, for READ. The only unsafe code of this crate.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::libc;

use crate::sense::{Sense, SenseRead};

/// The header of a command, as <scsi/sg.h> has it: `struct sg_io_hdr`.
#[repr(C)]
struct Header {
    interface_id: libc::c_int,
    direction: libc::c_int,
    command_len: libc::c_uchar,
    max_sense_len: libc::c_uchar,
    vectors: libc::c_ushort,
    len: libc::c_uint,
    data: *mut libc::c_void,
    command: *const libc::c_uchar,
    sense: *mut libc::c_uchar,
    timeout_ms: libc::c_uint,
    flags: libc::c_uint,
    pack_id: libc::c_int,
    user: *mut libc::c_void,
    status: libc::c_uchar,
    masked_status: libc::c_uchar,
    message_status: libc::c_uchar,
    sense_len: libc::c_uchar,
    host_status: libc::c_ushort,
    driver_status: libc::c_ushort,
    not_transferred: libc::c_int,
    duration_ms: libc::c_uint,
    info: libc::c_uint,
}

const SG_IO: u32 = 0x2285;
const SG_GET_VERSION_NUM: u32 = 0x2282;
const FROM_DEVICE: libc::c_int = -3;
/// DRIVER_SENSE: the driver has sense data.
const DRIVER_SENSE: u16 = 8;
const CHECK_CONDITION: u8 = 2;
/// The timeout of a read if the system does not say which it uses, in milliseconds: that of Linux's disks.
const TIMEOUT_MS: u32 = 30_000;

/// A whole disk that takes SCSI commands.
pub struct SenseDevice {
    sector: u32,
    timeout_ms: u32,
}

impl SenseDevice {
    /// Returns the disk at `path`, open as `file`, if it takes SCSI commands. `sector` is the size of its logical sectors in bytes.
    pub fn of(file: &File, path: &Path, sector: u32) -> Option<SenseDevice> {
        let timeout_ms = super::linux::command_timeout(path)?;
        let mut version: libc::c_int = 0;
        // SAFETY: the call writes one int to `version`, or fails.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), SG_GET_VERSION_NUM as _, &raw mut version) };
        // Version 3 of the interface is the one that is used here.
        (result == 0 && version >= 30_000)
            .then_some(SenseDevice { sector, timeout_ms: timeout_ms.unwrap_or(TIMEOUT_MS) })
    }

    /// Reads whole sectors at byte `at` into `buffer`, which must be aligned as for direct I/O.
    pub fn read(&self, file: &File, buffer: &mut [u8], at: u64) -> io::Result<SenseRead> {
        let sector = u64::from(self.sector);
        let (first, count) = (at / sector, buffer.len() as u64 / sector);
        let whole = at.is_multiple_of(sector) && (buffer.len() as u64).is_multiple_of(sector);
        let (Some(command), true) = (read_command(first, count), whole) else {
            return Ok(SenseRead::NotDone);
        };
        let Ok(len) = u32::try_from(buffer.len()) else { return Ok(SenseRead::NotDone) };
        let mut sense = [0u8; 64];
        let mut header = Header {
            interface_id: i32::from(b'S'),
            direction: FROM_DEVICE,
            command_len: u8::try_from(command.len()).unwrap_or(0),
            max_sense_len: 64,
            vectors: 0,
            len,
            data: buffer.as_mut_ptr().cast(),
            command: command.as_ptr(),
            sense: sense.as_mut_ptr(),
            timeout_ms: self.timeout_ms,
            flags: 0,
            pack_id: 0,
            user: std::ptr::null_mut(),
            status: 0,
            masked_status: 0,
            message_status: 0,
            sense_len: 0,
            host_status: 0,
            driver_status: 0,
            not_transferred: 0,
            duration_ms: 0,
            info: 0,
        };
        // SAFETY: `header` is laid out as the kernel has it; the kernel reads the command, writes at most `len` bytes to
        // `buffer` and 64 to `sense`, and all of them outlive the call, which returns when the command has ended.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), SG_IO as _, &raw mut header) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let sense = sense.get(..header.sense_len.into()).and_then(Sense::decode);
        let driver = header.driver_status & 0xf;
        Ok(match sense.filter(|_| header.status == CHECK_CONDITION || driver == DRIVER_SENSE) {
            Some(sense) if sense.is_about_medium() => SenseRead::Failed(sense),
            Some(_) => SenseRead::NotDone,
            None if header.status | u8::from(header.host_status != 0 || driver != 0) == 0
                && header.not_transferred == 0 =>
            {
                SenseRead::Done
            }
            None => SenseRead::NotDone,
        })
    }
}

/// Returns the command that reads `count` sectors from `first` on: READ(10), which every disk has, where its fields suffice,
/// otherwise READ(16).
fn read_command(first: u64, count: u64) -> Option<Vec<u8>> {
    match (u32::try_from(first), u16::try_from(count)) {
        (Ok(first), Ok(count @ 1..)) => {
            let mut command = vec![0x28, 0];
            command.extend(first.to_be_bytes());
            command.push(0);
            command.extend(count.to_be_bytes());
            command.push(0);
            Some(command)
        }
        _ => {
            let count = u32::try_from(count).ok().filter(|count| *count > 0)?;
            let mut command = vec![0x88, 0];
            command.extend(first.to_be_bytes());
            command.extend(count.to_be_bytes());
            command.extend([0, 0]);
            Some(command)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_as_short_as_they_can_be() {
        assert_eq!(read_command(0x1234, 8), Some(vec![0x28, 0, 0, 0, 0x12, 0x34, 0, 0, 8, 0]));
        let long = read_command(1 << 32, 8).unwrap();
        assert_eq!(long, [0x88, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0]);
        assert_eq!(read_command(0, 0), None);
        assert_eq!(size_of::<Header>(), if cfg!(target_pointer_width = "64") { 88 } else { 64 });
    }
}

//! The partition table of a disk, as the texts of sfdisk and parted in the directory have it.

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partition {
    /// The device, without `/dev/` and with `-` in place of `/`: what the files about it are named after.
    pub(super) name: String,
    pub(super) number: u32,
    /// The start and the length, in sectors.
    pub(super) start: u64,
    pub(super) len: u64,
    /// The type in an MBR; 0 if it is another.
    pub(super) kind: u8,
    pub(super) bootable: bool,
}

impl Partition {
    /// Returns whether it contains logical partitions.
    pub(super) fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0F | 0x85)
    }
}

/// What is known about a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) is_gpt: bool,
    /// The sector size in bytes, if it is recorded.
    pub(super) sector: Option<u32>,
    /// The size of the disk in sectors, if it is recorded.
    pub(super) sectors: Option<u64>,
    pub(super) model: Option<String>,
    pub(super) partitions: Vec<Partition>,
}

/// Returns the name of a device in file names.
pub(super) fn file_name(device: &str) -> String {
    device.trim_start_matches("/dev/").replace('/', "-")
}

/// Returns the number of a partition by its name, if it is one of `disk`: `sda1`, `nvme0n1p1`.
fn number_of(disk: &str, name: &str) -> Option<u32> {
    let rest = name.strip_prefix(disk)?;
    rest.strip_prefix('p').unwrap_or(rest).parse().ok().filter(|number| *number > 0)
}

impl Table {
    /// Reads the texts about `disk`: that of `sfdisk -d` and that of parted, in sectors. Either may be missing.
    pub(super) fn parse(disk: &str, sfdisk: Option<&str>, parted: Option<&str>) -> Table {
        let mut table = Table::default();
        if let Some(text) = parted {
            table.parse_parted(disk, text);
        }
        if let Some(text) = sfdisk {
            table.parse_sfdisk(disk, text);
        }
        table.partitions.sort_by_key(|partition| partition.number);
        table
    }

    fn parse_sfdisk(&mut self, disk: &str, text: &str) {
        let mut found = Vec::new();
        for line in text.lines() {
            if let Some(label) = line.strip_prefix("label:") {
                self.is_gpt = label.trim() == "gpt";
            } else if let Some(size) = line.strip_prefix("sector-size:") {
                self.sector = size.trim().parse().ok().or(self.sector);
            } else if line.starts_with("/dev/")
                && let Some((device, fields)) = line.split_once(" :").or_else(|| line.split_once(':'))
            {
                found.extend(sfdisk_partition(disk, device.trim(), fields));
            }
        }
        // An old sfdisk sees only the one entry in the MBR of a disk with a GPT.
        let protects_only = found.iter().all(|partition: &Partition| partition.kind == 0xEE);
        if !protects_only {
            self.partitions = found;
        }
    }

    fn parse_parted(&mut self, disk: &str, text: &str) {
        for line in text.lines() {
            let value = |name: &str| line.strip_prefix(name).map(str::trim);
            if let Some(model) = value("Model:") {
                let model = model.rsplit_once(" (").map_or(model, |(model, _)| model);
                self.model = Some(model.to_owned()).filter(|model| !model.is_empty());
            } else if let Some(size) = value("Disk /dev/").and_then(|rest| rest.rsplit_once(": ")) {
                self.sectors = size.1.strip_suffix('s').and_then(|sectors| sectors.parse().ok());
            } else if let Some(sizes) = value("Sector size (logical/physical):") {
                self.sector = sizes.split_once('B').and_then(|(logical, _)| logical.parse().ok());
            } else if let Some(kind) = value("Partition Table:") {
                self.is_gpt = kind == "gpt";
            } else {
                self.partitions.extend(parted_partition(disk, line));
            }
        }
    }
}

/// Reads what follows the name of a partition in the text of sfdisk.
fn sfdisk_partition(disk: &str, device: &str, fields: &str) -> Option<Partition> {
    let name = file_name(device);
    let number = number_of(disk, &name)?;
    // What comes first is plain; a name with commas in it is the last but one field.
    let field = |key: &str| {
        let mut fields = fields.split(',').map(str::trim);
        fields.find_map(|field| field.strip_prefix(key)?.trim_start().strip_prefix('=').map(str::trim))
    };
    let start = field("start")?.parse().ok()?;
    let len = field("size")?.parse().ok().filter(|len| *len > 0)?;
    let kind = field("type").or_else(|| field("Id")).unwrap_or_default();
    let kind = if kind.len() <= 2 { u8::from_str_radix(kind, 16).unwrap_or(0) } else { 0 };
    let bootable = fields.split(',').any(|field| field.trim() == "bootable");
    Some(Partition { name, number, start, len, kind, bootable })
}

/// Reads a line of parted's table: number, first and last sector, length, and for an MBR what kind it is.
fn parted_partition(disk: &str, line: &str) -> Option<Partition> {
    let mut words = line.split_whitespace();
    let number: u32 = words.next()?.parse().ok()?;
    let mut sectors = || words.next()?.strip_suffix('s')?.parse::<u64>().ok();
    let (start, _, len) = (sectors()?, sectors()?, sectors()?);
    let separator = if disk.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    let kind = if words.next() == Some("extended") { 0x05 } else { 0 };
    let name = format!("{disk}{separator}{number}");
    (number > 0 && len > 0).then_some(Partition { name, number, start, len, kind, bootable: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(name: &str, number: u32, start: u64, len: u64, kind: u8) -> Partition {
        Partition { name: name.into(), number, start, len, kind, bootable: false }
    }

    #[test]
    fn the_dump_of_an_old_sfdisk_is_read() {
        let text = "# partition table of /dev/sda\nunit: sectors\n\n\
            /dev/sda1 : start=     2048, size= 74838016, Id=83, bootable\n\
            /dev/sda2 : start= 74842110, size=  3297282, Id= 5\n\
            /dev/sda3 : start=        0, size=        0, Id= 0\n\
            /dev/sda5 : start= 74842112, size=  3297280, Id=82\n";
        let table = Table::parse("sda", Some(text), None);
        let first = Partition { bootable: true, ..partition("sda1", 1, 2048, 74_838_016, 0x83) };
        let others = [
            partition("sda2", 2, 74_842_110, 3_297_282, 5),
            partition("sda5", 5, 74_842_112, 3_297_280, 0x82),
        ];
        assert_eq!(table.partitions[0], first);
        assert_eq!(table.partitions[1..], others);
        assert!(!table.is_gpt && table.partitions[1].is_extended());
    }

    #[test]
    fn the_dump_of_a_new_sfdisk_is_read() {
        let text = "label: gpt\nlabel-id: A9A88DF9-EA91-4E83-8616-0C1BB3BA28BA\ndevice: /dev/nvme0n1\nunit: sectors\n\
            first-lba: 34\nlast-lba: 104857566\nsector-size: 4096\n\n\
            /dev/nvme0n1p1 : start=        2048, size=     1083392, type=DE94BBA4-06D1-4D40-A16A-BFD50179D6AC, \
            uuid=E3E94AE6-0000-0000-0000-000000000000, name=\"Basic, size=9 : data\", attrs=\"RequiredPartition GUID:63\"\n";
        let table = Table::parse("nvme0n1", Some(text), None);
        assert_eq!(table.partitions, [partition("nvme0n1p1", 1, 2048, 1_083_392, 0)]);
        assert!(table.is_gpt && table.sector == Some(4096));
    }

    #[test]
    fn the_table_of_parted_has_the_sizes_and_stands_in() {
        let parted = "Model: VMware, VMware Virtual S (scsi)\nDisk /dev/sda: 41943040s\n\
            Sector size (logical/physical): 512B/4096B\nPartition Table: msdos\nDisk Flags: \n\n\
            Number  Start      End         Size      Type      File system     Flags\n \
            1      2048s      9764863s    9762816s  primary   ext4            boot\n \
            2      9766910s   16775167s   7008258s  extended\n \
            5      9766912s   15624191s   5857280s  logical   ext4\n";
        let table = Table::parse("sda", None, Some(parted));
        assert_eq!((table.sectors, table.sector), (Some(41_943_040), Some(512)));
        assert_eq!(table.model.as_deref(), Some("VMware, VMware Virtual S"));
        assert_eq!(
            table.partitions.iter().map(|p| (p.number, p.is_extended())).collect::<Vec<_>>(),
            [(1, false), (2, true), (5, false)]
        );
        let protective = "unit: sectors\n\n/dev/sda1 : start=        1, size=4294967295, Id=ee\n";
        assert_eq!(Table::parse("sda", Some(protective), Some(parted)).partitions, table.partitions);
        assert_eq!(Table::parse("sda", Some(""), Some(parted)).partitions, table.partitions);
    }
}

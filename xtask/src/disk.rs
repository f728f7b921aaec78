//! Bootable disk images without loop devices or root: GRUB's own boot sector
//! and core image, and one partition that `mke2fs` fills from a folder. Used by `image` and `full_debian`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::tools;

const SECTOR: u64 = 512;
/// The partition's first sector, as every partitioner has it: 1 MiB.
const PARTITION_START: u64 = 2048;
/// The same in bytes.
pub const PARTITION_OFFSET: u64 = PARTITION_START * SECTOR;
/// The emulator wants whole cylinders: 16 heads of 63 sectors.
const CYLINDER: u64 = 16 * 63 * SECTOR;
/// Where a boot sector keeps its partition table.
const PARTITION_TABLE: usize = 446;

/// Modules in GRUB's core image: what reads the disk and boots either kind of kernel.
const GRUB_MODULES: [&str; 9] = [
    "biosdisk",
    "part_msdos",
    "ext2",
    "normal",
    "linux",
    "multiboot2",
    "echo",
    "chain",
    "reboot",
];

/// A file on the disk's partition.
pub struct DiskFile {
    /// Its path, without a leading slash.
    pub path: String,
    /// What is in it.
    pub contents: Vec<u8>,
}

/// Writes the disk image `path`: GRUB in the MBR, `files` and `/boot/grub/grub.cfg` on the partition.
pub fn write_grub_disk(
    shell: &Shell,
    path: &Path,
    grub_config: &str,
    files: &[DiskFile],
) -> Result<()> {
    let tree = path.with_extension("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    let put = |name: &str, contents: &[u8]| -> Result<()> {
        let file = tree.join(name);
        fs::create_dir_all(file.parent().context("a file lies in a folder")?)?;
        Ok(fs::write(file, contents)?)
    };
    put("boot/grub/grub.cfg", grub_config.as_bytes())?;
    let mut total = 0;
    for file in files {
        put(&file.path, &file.contents)?;
        total += file.contents.len() as u64;
    }
    // A margin for the file system's own tables.
    let partition = (total + total / 16 + (2 << 20)).next_multiple_of(4096);
    let boot = fs::read(tools::grub_modules().join("boot.img"))?;
    write_boot_sectors(path, partition, &boot, &core_image(shell)?)?;

    let offset = format!("offset={PARTITION_OFFSET},root_owner=0:0");
    let blocks = (partition / 4096).to_string();
    let mke2fs = mke2fs();
    cmd!(
        shell,
        "{mke2fs} -q -F -t ext2 -b 4096 -m 0 -N 64 -E {offset} -d {tree} {path} {blocks}"
    )
    .quiet()
    .ignore_stderr()
    .run()?;
    fs::remove_dir_all(&tree)?;
    Ok(())
}

/// Writes a fresh, sparse disk image with one empty partition of `partition` bytes, and before it
/// GRUB: its boot sector `boot` and its core image `core`.
pub fn write_boot_sectors(path: &Path, partition: u64, boot: &[u8], core: &[u8]) -> Result<()> {
    ensure!(
        core.len() as u64 <= PARTITION_OFFSET - SECTOR,
        "GRUB's core image does not fit before the partition"
    );
    let boot = boot_sector(boot, partition / SECTOR)?;
    // A new file, so that nothing of an old one is left.
    let _ = fs::remove_file(path);
    let mut image = File::create_new(path)?;
    image.set_len((PARTITION_OFFSET + partition).next_multiple_of(CYLINDER))?;
    image.write_all(&boot)?;
    // GRUB's default block list: the core image begins at sector 1 and is contiguous.
    image.write_all(core)?;
    Ok(())
}

/// Where the system has `mke2fs`.
pub fn mke2fs() -> &'static str {
    if Path::new("/usr/sbin/mke2fs").exists() {
        "/usr/sbin/mke2fs"
    } else {
        "/sbin/mke2fs"
    }
}

/// Writes a disk image that is only a boot sector and a payload after it.
pub fn write_flat_disk(path: &Path, contents: &[u8]) -> Result<()> {
    let mut image = File::create(path)?;
    image.write_all(contents)?;
    image.set_len((contents.len() as u64).next_multiple_of(CYLINDER))?;
    Ok(())
}

/// GRUB's boot sector with a partition table of one active Linux partition.
fn boot_sector(boot: &[u8], partition_sectors: u64) -> Result<Vec<u8>> {
    let mut sector = boot.to_vec();
    ensure!(sector.len() == SECTOR as usize, "boot.img is one sector");
    let sectors = u32::try_from(partition_sectors).context("the disk is too large")?;
    let mut entry = [0u8; 16];
    entry[0] = 0x80; // active
    entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]); // CHS: see the LBA fields
    entry[4] = 0x83; // Linux
    entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&(PARTITION_START as u32).to_le_bytes());
    entry[12..16].copy_from_slice(&sectors.to_le_bytes());
    sector[PARTITION_TABLE..510].fill(0);
    sector[PARTITION_TABLE..PARTITION_TABLE + 16].copy_from_slice(&entry);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

/// GRUB's core image. Its prefix names no disk: it is the one that it was started from,
/// whether the BIOS calls that 80h or 81h.
pub fn core_image(shell: &Shell) -> Result<Vec<u8>> {
    let folder = tools::once("grub-core", |into| {
        let grub = tools::grub_mkimage();
        let (loader, libraries, program) = (&grub.loader, &grub.libraries, &grub.program);
        let modules = tools::grub_modules();
        let image: PathBuf = into.join("core.img");
        cmd!(
            shell,
            "{loader} --library-path {libraries} {program} --directory {modules} --format i386-pc
                --prefix (,msdos1)/boot/grub --output {image} {GRUB_MODULES...}"
        )
        .quiet()
        .run()?;
        Ok(())
    })?;
    Ok(fs::read(folder.join("core.img"))?)
}

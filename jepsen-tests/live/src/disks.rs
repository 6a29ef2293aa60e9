//! A file system for each node, on an image of its own, so that one node's disk can lose its power, fill, hang or break, and be
//! read raw afterwards. Needs root, loop devices, `mkfs.ext4` and `e2fsck` (package e2fsprogs) and `xfs_io` (package xfsprogs).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use saola_ops::exit::{Exit, Failure};

/// Of a node's image.
pub const DISK_BYTES: u64 = 512 << 20;
/// What no file can have of it.
const BOOKS_BYTES: u64 = 2 << 20;
/// The file that fills a disk.
const BALLAST: &str = "ballast";

/// One node's disk. Dropping it takes the file system away and keeps the image.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    /// Where the file system is.
    folder: PathBuf,
    /// The loop device, while it is mounted.
    device: Option<String>,
}

fn run(program: &str, arguments: &[&str]) -> Result<String, Failure> {
    // Whatever it may be told to do there is no node's business to see.
    let doing = format!("{program} {}", arguments.join(" "));
    let next = "run it as root on Linux with loop devices, e2fsprogs and xfsprogs";
    let failed = |why: &dyn std::fmt::Display| Failure::new(Exit::Other, format!("{doing}: {why}"), next);
    let output = Command::new(program).args(arguments).output().map_err(|source| failed(&source))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(failed(&format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
}

impl Disk {
    /// A fresh one at `folder`, which is made.
    ///
    /// # Errors
    /// Without the rights or the tools.
    pub fn new(image: PathBuf, folder: PathBuf) -> Result<Disk, Failure> {
        fs::create_dir_all(&folder).map_err(|source| Failure::file(format!("make {}", folder.display()), &source))?;
        let made = File::create(&image).and_then(|file| file.set_len(DISK_BYTES));
        made.map_err(|source| Failure::file(format!("make {}", image.display()), &source))?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", text(&image)])?;
        let mut disk = Disk { image, folder, device: None };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<(), Failure> {
        let device = run("losetup", &["-f", "--show", text(&self.image)])?;
        self.device = Some(device.clone());
        run("mount", &["-o", "errors=remount-ro", &device, text(&self.folder)]).map(drop)
    }

    fn unmount(&mut self) -> Result<(), Failure> {
        if let Some(device) = self.device.take() {
            run("umount", &[text(&self.folder)])?;
            run("losetup", &["-d", &device])?;
        }
        Ok(())
    }

    /// The power is gone: what was not synced is lost, and whoever still uses it gets errors.
    ///
    /// # Errors
    /// Without the rights or the tool.
    pub fn cut_power(&self) -> Result<(), Failure> {
        // XFS's request, which ext4 has under the same number (EXT4_IOC_SHUTDOWN): without flushing its log.
        run("xfs_io", &["-x", "-c", "shutdown", text(&self.folder)]).map(drop)
    }

    /// The power is back, or the disk was taken out and mended; nobody uses it. What was synced is there.
    ///
    /// # Errors
    /// A file system that cannot be mended.
    pub fn come_back(&mut self) -> Result<(), Failure> {
        self.unmount()?;
        // 1: something was mended.
        match Command::new("e2fsck").args(["-p", text(&self.image)]).output() {
            Ok(output) if matches!(output.status.code(), Some(0 | 1)) => self.mount(),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                Err(Failure::new(Exit::Other, format!("e2fsck {}: {said}", self.image.display()), "look at the image"))
            }
            Err(source) => Err(Failure::file("run e2fsck", &source)),
        }
    }

    /// Nothing more fits.
    ///
    /// # Errors
    /// When it cannot be filled.
    pub fn fill(&self) -> Result<(), Failure> {
        let free = run("stat", &["-f", "-c", "%a %S", text(&self.folder)])?;
        let numbers: Vec<u64> = free.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        // The file system keeps a few blocks for its own books.
        let bytes = numbers.iter().product::<u64>().saturating_sub(BOOKS_BYTES).to_string();
        run("fallocate", &["-l", &bytes, text(&self.folder.join(BALLAST))]).map(drop)
    }

    /// There is room again, also after a power cut.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn make_room(&self) -> Result<(), Failure> {
        let ballast = self.folder.join(BALLAST);
        let removed = fs::remove_file(&ballast).and_then(|()| File::open(&self.folder)?.sync_all());
        removed.map_err(|source| Failure::file(format!("remove {}", ballast.display()), &source))
    }

    /// Writes and syncs wait, until [`Disk::go_on`].
    ///
    /// # Errors
    /// Without the rights.
    pub fn hang(&self) -> Result<(), Failure> {
        run("fsfreeze", &["-f", text(&self.folder)]).map(drop)
    }

    /// Undoes [`Disk::hang`].
    ///
    /// # Errors
    /// When it does not hang.
    pub fn go_on(&self) -> Result<(), Failure> {
        run("fsfreeze", &["-u", text(&self.folder)]).map(drop)
    }

    /// The kernel meets an error of the file system, and lets nobody write to it any more.
    ///
    /// # Errors
    /// Without the rights.
    pub fn break_it(&self) -> Result<(), Failure> {
        let device = self.device.as_deref().unwrap_or_default().trim_start_matches("/dev/");
        let knob = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        fs::write(&knob, "1").map_err(|source| Failure::file(format!("write {knob}"), &source))
    }

    /// Leaves the image alone, for a look at its raw bytes.
    ///
    /// # Errors
    /// Somebody still uses it.
    pub fn into_image(mut self) -> Result<PathBuf, Failure> {
        self.unmount()?;
        Ok(std::mem::take(&mut self.image))
    }

    /// Where the file system is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(failure) = self.unmount() {
            eprintln!("warning: {}", failure.what());
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the build folder's path and the nodes' names are UTF-8")
}

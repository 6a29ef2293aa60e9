//! The small trait through which the durable log reaches its files, and its first user, the real disk.
//!
//! One [`Disk`] is one flat folder. The second user, `sim::SimDisk`, loses what was never synced, tears
//! sectors, flips bits, fills up and fails on command; it stands behind the feature `sim`.
//!
//! A name is durable only after [`Disk::sync_dir`], content only after [`DiskFile::sync_data`]. Code above
//! may rely on nothing else.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rustix::fs::FallocateFlags;

#[cfg(feature = "sim")]
pub mod sim;

/// The most buffers that one `pwritev` takes (`IOV_MAX` on Linux).
const MAX_BUFFERS: usize = 1024;

/// Whether a read has met a bad sector. Any other error may say nothing of what is stored.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// A folder of files.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file to read and write; with `create` an absent one is made, empty.
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// The names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Removes a name. Handles that are open go on working.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Renames a file, replacing one that has the new name. Handles that are open go on working.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes every earlier creation, rename and removal durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Bytes that can still be allocated.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Reads at `offset` and returns how many bytes came; fewer than asked only at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes all buffers one after the other from `offset` on.
    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<()>;
    /// Makes every earlier write durable, with the length needed to read it back. After an error nothing
    /// is known of those writes, and a second call may lie: the kernel forgets pages that it failed to write.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// True for a file of length 0.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reserves space up to `len` bytes and grows the file to it with zeros. Never shrinks.
    fn allocate(&self, len: u64) -> io::Result<()>;
}

/// Holds up every sync of a disk, as one does that hangs: a drill has it so. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Hang(Arc<(Mutex<bool>, Condvar)>);

impl Hang {
    /// Whether syncs wait from now on.
    pub fn set(&self, hangs: bool) {
        *self.0.0.lock() = hangs;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        self.0.1.wait_while(&mut self.0.0.lock(), |hangs| *hangs);
    }
}

/// A folder of the machine's file system.
#[derive(Debug)]
pub struct RealDisk {
    folder: PathBuf,
    handle: File,
    writes: bool,
    hang: Hang,
}

impl RealDisk {
    /// Opens a folder, which must exist.
    pub fn open(folder: &Path) -> io::Result<RealDisk> {
        Ok(RealDisk { folder: folder.to_path_buf(), handle: File::open(folder)?, writes: true, hang: Hang::default() })
    }

    /// The same folder, whose syncs wait while `hang` says so.
    pub fn held_up_by(self, hang: Hang) -> RealDisk {
        RealDisk { hang, ..self }
    }

    /// Opens a folder, which must exist, to look at it: its files are opened for reading only.
    pub fn open_to_read(folder: &Path) -> io::Result<RealDisk> {
        Ok(RealDisk { writes: false, ..RealDisk::open(folder)? })
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().read(true).write(self.writes).create(create).truncate(false).open(path)?;
        Ok(Arc::new(RealFile(file, self.hang.clone())))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.folder.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.handle)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

struct RealFile(File, Hang);

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, mut offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        let mut bufs = bufs.to_vec();
        let mut rest = bufs.as_mut_slice();
        // Empty buffers at the front would make a write of nothing look like a full disk.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match rustix::io::pwritev(&self.0, &rest[..rest.len().min(MAX_BUFFERS)], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    offset += n as u64;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.pass();
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len <= self.len()? {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            // Such a file system reserves nothing; the file still grows, and a full disk shows at the write.
            Err(rustix::io::Errno::OPNOTSUPP) => self.0.set_len(len),
            result => Ok(result?),
        }
    }
}

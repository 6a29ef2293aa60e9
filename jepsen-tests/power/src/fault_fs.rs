//! RocksDB's crash-test file system. The only module of this project with `unsafe`: the C++ behind it is in `fault_fs.cc`.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};

use librocksdb_sys::rocksdb_env_t;
use rocksdb::Env;

#[repr(C)]
struct Raw {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn saola_fault_fs_new() -> *mut Raw;
    fn saola_fault_fs_env(it: *mut Raw) -> *mut rocksdb_env_t;
    fn saola_fault_fs_cut(it: *mut Raw);
    fn saola_fault_fs_settle(it: *mut Raw, problem: *mut c_char, room: usize);
}

/// RocksDB's own, of either kind.
const THREADS: c_int = 32;

/// A file system below RocksDB that forgets what was not synced.
///
/// It is never freed: a database that is open, and background work that ends late, may use it until the process ends.
#[derive(Clone, Copy)]
pub struct FaultFs(*mut Raw);

// SAFETY: the C++ object behind the pointer locks a mutex of its own in every call, and lives as long as the process.
unsafe impl Send for FaultFs {}
// SAFETY: as above.
unsafe impl Sync for FaultFs {}

impl FaultFs {
    /// One that works, over the real file system.
    pub fn new() -> FaultFs {
        // SAFETY: it takes nothing, and what it answers is never freed.
        FaultFs(unsafe { saola_fault_fs_new() })
    }

    /// For RocksDB's options.
    pub fn env(self) -> Env {
        // SAFETY: the pointer was made by `new`; each call makes an environment of its own, which `Env` frees.
        let mut env = unsafe { Env::from_raw(saola_fault_fs_env(self.0)) };
        // All databases of the process share them, and one rests for a second when its flush fails.
        env.set_background_threads(THREADS);
        env.set_high_priority_background_threads(THREADS);
        env
    }

    /// Takes the power away: every operation fails from now on.
    pub fn cut(self) {
        // SAFETY: the pointer was made by `new`.
        unsafe { saola_fault_fs_cut(self.0) }
    }

    /// Power is back after a cut, and what was not synced is gone. All databases must be closed.
    ///
    /// # Errors
    /// What the real file system says.
    pub fn settle(self) -> Result<(), String> {
        let mut problem = [0u8; 256];
        // SAFETY: the pointer was made by `new`, and the buffer has as much room as is said.
        unsafe { saola_fault_fs_settle(self.0, problem.as_mut_ptr().cast(), problem.len()) };
        let problem = CStr::from_bytes_until_nul(&problem).map(|it| it.to_string_lossy().into_owned());
        match problem {
            Ok(problem) if problem.is_empty() => Ok(()),
            Ok(problem) => Err(problem),
            Err(_) => Err("a message without an end".into()),
        }
    }
}

impl Default for FaultFs {
    fn default() -> Self {
        Self::new()
    }
}

// A way in from Rust to RocksDB's own crash-test file system (utilities/fault_injection_fs.h), which the C interface lacks.

#include <cstdio>
#include <memory>
#include <string>

#include "rocksdb/env.h"
#include "utilities/fault_injection_fs.h"

using ROCKSDB_NAMESPACE::Env;
using ROCKSDB_NAMESPACE::FaultInjectionTestFS;
using ROCKSDB_NAMESPACE::FileSystem;
using ROCKSDB_NAMESPACE::IODebugContext;
using ROCKSDB_NAMESPACE::IOOptions;
using ROCKSDB_NAMESPACE::IOStatus;
using ROCKSDB_NAMESPACE::NewCompositeEnv;

// As db/c.cc has it: `is_default` keeps the C interface from freeing `rep`.
struct rocksdb_env_t {
  Env* rep;
  bool is_default;
};

// While the power comes back it removes files that were never written through to the real file system, too.
class FaultFS : public FaultInjectionTestFS {
 public:
  using FaultInjectionTestFS::FaultInjectionTestFS;
  bool settles = false;

  IOStatus DeleteFile(const std::string& name, const IOOptions& options, IODebugContext* context) override {
    IOStatus deleted = FaultInjectionTestFS::DeleteFile(name, options, context);
    return settles && (deleted.IsNotFound() || deleted.IsPathNotFound()) ? IOStatus::OK() : deleted;
  }
};

struct saola_fault_fs {
  std::shared_ptr<FaultFS> fs;
  std::unique_ptr<Env> env;
};

extern "C" {

saola_fault_fs* saola_fault_fs_new() {
  auto* it = new saola_fault_fs;
  it->fs = std::make_shared<FaultFS>(FileSystem::Default());
  // Without this nothing that was not synced is ever lost.
  it->fs->SetInjectUnsyncedDataLoss(true);
  it->env = NewCompositeEnv(it->fs);
  return it;
}

// What RocksDB's C interface takes for an environment. It frees this, and nothing behind it.
rocksdb_env_t* saola_fault_fs_env(saola_fault_fs* it) { return new rocksdb_env_t{it->env.get(), true}; }

// From now on every operation fails, and nothing more counts as written.
void saola_fault_fs_cut(saola_fault_fs* it) {
  it->fs->SetFilesystemActive(false, IOStatus::IOError("the power is out"));
}

// After a cut, with all databases closed: what was not synced is gone, and so are files whose folder was not synced, and the
// power is back. An error of the real file system is written to `problem`, of `room` bytes.
void saola_fault_fs_settle(saola_fault_fs* it, char* problem, size_t room) {
  IOStatus dropped = it->fs->DropUnsyncedFileData();
  // It removes the files through itself.
  it->fs->SetFilesystemActive(true);
  it->fs->settles = true;
  IODebugContext context;
  IOStatus deleted = it->fs->DeleteFilesCreatedAfterLastDirSync(IOOptions(), &context);
  it->fs->settles = false;
  it->fs->ResetState();
  const IOStatus& failed = dropped.ok() ? deleted : dropped;
  snprintf(problem, room, "%s", failed.ok() ? "" : failed.ToString().c_str());
}

}  // extern "C"

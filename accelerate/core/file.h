#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace accelerate {

/// A file that appears whole or not at all: bytes go to a temporary name in the same folder; `commit()` makes them
/// durable and renames. Destroyed without `commit()`, the temporary file is removed and what stood at `path` stays.
class AtomicFile {
 public:
  /// Creates missing parent folders. Throws DataError naming the path and the system's reason.
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write_at(int64_t offset, std::span<const std::byte> bytes);
  /// fsync, rename, fsync of the folder. Further writes are not allowed.
  void commit();

 private:
  [[noreturn]] void fail(const std::string& what) const;
  [[noreturn]] void fail_after_rename(const std::string& what) const;
  std::string path_;
  std::string temporary_;
  int descriptor_ = -1;
};

/// Range reads of an existing file. Throws DataError naming the path and the system's reason.
class FileReader {
 public:
  explicit FileReader(std::string path);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }
  /// Fills `bytes` from `offset`; throws DataError when the file ends before.
  void read_at(int64_t offset, std::span<std::byte> bytes) const;

 private:
  std::string path_;
  int64_t size_ = 0;
  int descriptor_ = -1;
};

}  // namespace accelerate

#pragma once

#include <c10/core/ScalarType.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace accelerate {

/// One named tensor in a file: row-major bytes of `dtype`, little-endian.
struct StorageEntry {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> shape;

  /// Bytes of the whole tensor. Throws DataError when the product overflows.
  int64_t bytes() const;
};

/// Writes one file. All entries are declared first, then their bytes come by name and offset, in any order and in any
/// pieces; the file appears at `commit()`. Destroyed before, it leaves what was there.
class StorageWriter {
 public:
  virtual ~StorageWriter() = default;
  virtual void write(std::string_view name, int64_t offset, std::span<const std::byte> bytes) = 0;
  /// Throws UsageError when fewer bytes came than were declared.
  virtual void commit() = 0;
};

/// Reads one file; opening it has checked that it is complete and consistent, or thrown DataError.
class StorageReader {
 public:
  virtual ~StorageReader() = default;
  /// In the file's order; names are unique.
  virtual const std::vector<StorageEntry>& entries() const = 0;
  virtual const std::map<std::string, std::string>& metadata() const = 0;
  /// Fills `bytes` with the entry's bytes from `offset`. Throws UsageError outside the entry.
  virtual void read(std::string_view name, int64_t offset, std::span<std::byte> bytes) const = 0;
};

/// What a writer needs to know before the first byte.
struct StorageLayout {
  std::vector<StorageEntry> entries;
  std::map<std::string, std::string> metadata;
};

/// One file format: the plug-in folder `checkpoint/formats`.
struct StorageFormat {
  std::string name;
  std::string extension;  ///< with the dot
  std::unique_ptr<StorageWriter> (*create)(const std::string& path, StorageLayout layout);
  std::unique_ptr<StorageReader> (*open)(const std::string& path);
};

namespace internal {
std::vector<StorageFormat> builtin_formats();
}  // namespace internal

}  // namespace accelerate

#pragma once

#include <ATen/ATen.h>

#include <map>
#include <ostream>
#include <span>
#include <stdexcept>
#include <string>

#include "accelerate/checkpoint/storage.h"

namespace accelerate {

/// How GoogleTest names the tests of a format.
inline void PrintTo(const StorageFormat& format, std::ostream* out) { *out << format.name; }

namespace support {

using Tensors = std::map<std::string, at::Tensor>;

inline StorageFormat format_named(const std::string& name) {
  for (const StorageFormat& format : internal::builtin_formats()) {
    if (format.name == name) return format;
  }
  throw std::runtime_error("there is no format " + name);
}

inline std::span<std::byte> bytes_of(const at::Tensor& contiguous) {
  return {static_cast<std::byte*>(contiguous.data_ptr()), contiguous.nbytes()};
}

inline StorageLayout layout_of(const Tensors& tensors) {
  StorageLayout layout;
  for (const auto& [name, tensor] : tensors)
    layout.entries.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  return layout;
}

inline void save(const StorageFormat& format, const std::string& path, const Tensors& tensors,
                 std::map<std::string, std::string> metadata = {}) {
  StorageLayout layout = layout_of(tensors);
  layout.metadata = std::move(metadata);
  const auto writer = format.create(path, std::move(layout));
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor dense = tensor.contiguous();
    writer->write(name, 0, bytes_of(dense));
  }
  writer->commit();
}

inline Tensors load(const StorageFormat& format, const std::string& path) {
  const auto reader = format.open(path);
  Tensors tensors;
  for (const StorageEntry& entry : reader->entries()) {
    const at::Tensor tensor = at::empty(entry.shape, at::TensorOptions(entry.dtype));
    reader->read(entry.name, 0, bytes_of(tensor));
    tensors.emplace(entry.name, tensor);
  }
  return tensors;
}

}  // namespace support
}  // namespace accelerate

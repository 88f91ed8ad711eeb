#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace accelerate {

/// A half-open range of elements, `[begin, end)`.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  bool operator==(const Range&) const = default;
};

/// One parameter or buffer as a strategy holds it on this rank.
struct ParameterRow {
  std::string name;                   ///< the user's own state-dict key
  at::Tensor tensor;                  ///< the user's tensor; its TensorImpl never changes, its storage may
  std::vector<int64_t> global_shape;  ///< shape over all ranks
  Range held;                         ///< elements of the flattened global tensor held here; all of them: [0, numel)
  bool trainable = false;             ///< a parameter that requires a gradient; buffers and frozen parameters do not
  bool buffer = false;                ///< no parameter; a parameter stays one when it is frozen
};

/// What `Strategy::attach` returns; optimizer tail, clipping and checkpoints iterate it, never `module.parameters()`.
/// Order is the module's own. A tied tensor has a row for each of its names.
using ParameterTable = std::vector<ParameterRow>;

}  // namespace accelerate

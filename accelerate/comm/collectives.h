#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>

#include "accelerate/comm/group.h"

namespace accelerate {

struct ReduceOptions {
  std::string reduction = "sum";  ///< "sum", "mean", "max", or "none": a copy of the process's own values
  double scale = 1.0;             ///< the result is multiplied by it
};

struct PadOptions {
  int64_t dim = 0;         ///< negative: counted from the last; tensors without it stay what they are
  double pad_index = 0;    ///< the value of what is added, in the tensor's own dtype
  bool pad_first = false;  ///< it is added in front
};

namespace internal {

/// The tensors of one value, in the same order on every rank; undefined ones are passed over. In a group of one nothing
/// happens to them, except that `reduce_all` makes copies.
using TensorList = std::span<at::Tensor* const>;

/// Replaces each tensor by those of all ranks, concatenated along dimension 0; 0-d ones give a vector. Any dtype. One
/// exchange for all where the transport takes lists; elsewhere one for all small ones, packed, while large ones
/// (128 KiB) go beside it without being copied. Throws CommError naming
/// ranks and shapes when these differ and the transport has not failed already.
void gather_all(const Group& group, TensorList tensors);

/// Replaces each tensor by a copy that is combined over all ranks; one exchange for each dtype. float8 is combined in
/// float32 and rounded once. Throws UsageError for an unknown reduction, for means and scales of integers, and for the
/// largest of complex numbers.
void reduce_all(const Group& group, TensorList tensors, const ReduceOptions& options);

/// Gives each tensor, in place, the values it has on rank `from`.
void broadcast_all(const Group& group, TensorList tensors, int64_t from);

/// Replaces tensors that are shorter along a dimension than the same one on another rank by padded copies. Ragged ones
/// (`is_nested()`) stay what they are, and a warning is logged.
void pad_all(const Group& group, TensorList tensors, const PadOptions& options);

/// Throws CommError on every rank, naming all ranks and their shapes, unless number, dtypes and shapes of the tensors
/// are the same everywhere.
void require_equal_shapes(const Group& group, const char* operation, TensorList tensors);

/// Whether verbs should call that first without being asked to: see GroupCore::needs_comparison.
bool needs_comparison(const Group& group);

/// Throws UsageError unless `from` is a rank of the group.
void require_process(const char* operation, const Group& group, int64_t from);

}  // namespace internal
}  // namespace accelerate

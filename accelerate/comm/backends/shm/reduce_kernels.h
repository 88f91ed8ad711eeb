#pragma once

#include <c10/core/ScalarType.h>

#include <cstddef>
#include <torch/csrc/distributed/c10d/Types.hpp>

namespace accelerate::internal::shm {

/// out[i] = sources[0][i] op sources[1][i] op ..., in this order for every i, whatever `elements` is. `out` may be one
/// of the sources and overlaps none otherwise. Half types are accumulated in float and rounded once. Integers wrap.
/// bool: sum and max are "any", product and min are "all". min and max of a NaN are NaN.
using ReduceKernel = void (*)(void* out, const void* const* sources, size_t count, size_t elements);

/// The kernel for this pair, or null: means of integers, an order of complex numbers, bits of floating-point numbers,
/// arithmetic on 8-bit floats.
ReduceKernel find_reduce_kernel(c10::ScalarType dtype, c10d::ReduceOp::RedOpType reduction);

}  // namespace accelerate::internal::shm

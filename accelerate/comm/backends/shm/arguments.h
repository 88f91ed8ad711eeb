#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "accelerate/comm/backends/shm/call.h"
#include "accelerate/comm/backends/shm/exchange.h"

namespace accelerate::internal::shm {

// What a rank can check about its own arguments before the others hear of the call. All throw UsageError.

/// The call with one rank's `share`.
Call call_of(c10d::OpType operation, const at::Tensor& share,
             c10d::ReduceOp::RedOpType reduction = c10d::ReduceOp::UNUSED, int32_t root = -1);

/// Throws where the pair is not defined.
Reduction reduction_of(c10::ScalarType dtype, const c10d::ReduceOp& reduction, c10d::OpType operation);

/// `root`, which is a rank of a group of `size`.
int32_t root_of(int64_t root, int size, c10d::OpType operation);

/// Throws unless both numbers of tensors are equal.
void check_count(size_t got, size_t expected, c10d::OpType operation);

/// The only tensor of a list.
const at::Tensor& one_of(const std::vector<at::Tensor>& tensors, c10d::OpType operation);

/// Throws unless there are `size` parts, each with the elements and dtype of `part`.
void check_parts(const std::vector<at::Tensor>& parts, const at::Tensor& part, int size, c10d::OpType operation);

/// Throws unless `whole` has `size` times the elements of `part`, and its dtype.
void check_multiple(const at::Tensor& whole, const at::Tensor& part, int size, const std::string& operation);

/// The bytes that each rank has of a tensor that is split along its first dimension: by `splits` in rows, or evenly
/// where there are none.
std::vector<size_t> split_bytes(const at::Tensor& tensor, const std::vector<int64_t>& splits, int size,
                                c10d::OpType operation);

}  // namespace accelerate::internal::shm

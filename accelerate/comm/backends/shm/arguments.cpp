#include "accelerate/comm/backends/shm/arguments.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <string>

#include "accelerate/comm/backends/shm/staged.h"
#include "accelerate/core/error.h"

namespace accelerate::internal::shm {
namespace {

std::string shown(const at::Tensor& tensor) {
  return std::to_string(tensor.numel()) + " x " + c10::toString(tensor.scalar_type());
}

bool alike(const at::Tensor& a, const at::Tensor& b) {
  return a.numel() == b.numel() && a.scalar_type() == b.scalar_type();
}

}  // namespace

using c10d::OpType;

Call call_of(OpType operation, const at::Tensor& share, c10d::ReduceOp::RedOpType reduction, int32_t root) {
  return {.operation = operation,
          .reduction = reduction,
          .dtype = share.scalar_type(),
          .root = root,
          .elements = static_cast<uint64_t>(share.numel())};
}

Reduction reduction_of(at::ScalarType dtype, const c10d::ReduceOp& reduction, OpType operation) {
  const ReduceKernel kernel = find_reduce_kernel(dtype, reduction.op_);
  if (kernel == nullptr) {
    const Call call{.operation = operation, .reduction = reduction.op_, .dtype = dtype, .elements = Call::kVaries};
    throw UsageError({.place = name_of(operation),
                      .what = "This reduction is not defined for this dtype",
                      .got = describe(call),
                      .expected = "sum, product of numbers and bool; mean of floating-point; min, max of real; bitwise "
                                  "reductions of integers and bool",
                      .remedy = "Convert the tensor with .to(...) first"});
  }
  return {.kernel = kernel, .element_bytes = c10::elementSize(dtype)};
}

int32_t root_of(int64_t root, int size, OpType operation) {
  if (root >= 0 && root < size) return static_cast<int32_t>(root);
  throw UsageError({.place = name_of(operation),
                    .what = "There is no such rank",
                    .got = "root " + std::to_string(root),
                    .expected = "0 to " + std::to_string(size - 1),
                    .remedy = "Pass a rank of this group"});
}

void check_count(size_t got, size_t expected, OpType operation) {
  if (got == expected) return;
  throw UsageError({.place = name_of(operation),
                    .what = "The number of tensors is wrong",
                    .got = std::to_string(got),
                    .expected = std::to_string(expected),
                    .remedy = "Call it once a tensor, or use the coalesced form"});
}

const at::Tensor& one_of(const std::vector<at::Tensor>& tensors, OpType operation) {
  check_count(tensors.size(), 1, operation);
  return tensors.front();
}

void check_parts(const std::vector<at::Tensor>& parts, const at::Tensor& part, int size, OpType operation) {
  std::string got;
  if (static_cast<int>(parts.size()) != size) got = std::to_string(parts.size()) + " tensors";
  for (const at::Tensor& tensor : parts) {
    check_tensor(tensor, name_of(operation));
    if (got.empty() && !alike(tensor, part)) got = shown(tensor);
  }
  if (got.empty()) return;
  throw UsageError({.place = name_of(operation),
                    .what = "The list has not one tensor for each rank",
                    .got = got,
                    .expected = std::to_string(size) + " tensors of " + shown(part),
                    .remedy = "Allocate them like the rank's own tensor"});
}

void check_multiple(const at::Tensor& whole, const at::Tensor& part, int size, const std::string& operation) {
  check_tensor(whole, operation);
  check_tensor(part, operation);
  if (whole.numel() == part.numel() * size && whole.scalar_type() == part.scalar_type()) return;
  throw UsageError({.place = operation,
                    .what = "One tensor has to hold the share of every rank",
                    .got = shown(whole),
                    .expected = std::to_string(size) + " times " + shown(part),
                    .remedy = "Correct the shapes"});
}

// The bytes that each rank sends or gets of a tensor that is split along its first dimension.
std::vector<size_t> split_bytes(const at::Tensor& tensor, const std::vector<int64_t>& splits, int size,
                                OpType operation) {
  const int64_t rows = tensor.dim() == 0 ? 0 : tensor.size(0);
  const bool even = splits.empty() && tensor.dim() > 0 && rows % size == 0;
  const bool given = static_cast<int>(splits.size()) == size && tensor.dim() > 0 &&
                     std::accumulate(splits.begin(), splits.end(), int64_t{0}) == rows &&
                     std::all_of(splits.begin(), splits.end(), [](int64_t split) { return split >= 0; });
  if (!even && !given) {
    throw UsageError({.place = name_of(operation),
                      .what = "The splits do not divide the first dimension",
                      .got = std::to_string(splits.size()) + " splits of " + std::to_string(rows) + " rows",
                      .expected = "none where rows are a multiple of " + std::to_string(size) + ", or " +
                                  std::to_string(size) + " that add up to the rows",
                      .remedy = "Correct the split sizes"});
  }
  const size_t row_bytes = rows == 0 ? 0 : tensor.nbytes() / static_cast<size_t>(rows);
  std::vector<size_t> bytes;
  for (int rank = 0; rank < size; ++rank) bytes.push_back((even ? rows / size : splits[rank]) * row_bytes);
  return bytes;
}

}  // namespace accelerate::internal::shm

#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace accelerate::support {

/// Equal dtype, shape and bytes; NaN equals the same NaN, 0 does not equal -0.
inline ::testing::AssertionResult same_bytes(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined()) {
    if (a.defined() == b.defined()) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "one of the tensors is undefined";
  }
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) {
    return ::testing::AssertionFailure() << a.scalar_type() << " " << a.sizes() << " is not " << b.scalar_type() << " "
                                         << b.sizes();
  }
  const at::Tensor x = a.detach().cpu().contiguous();
  const at::Tensor y = b.detach().cpu().contiguous();
  if (x.nbytes() == 0 || std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << "the bytes differ";
}

/// The numbers of an integer tensor, flattened.
inline std::vector<int64_t> integers(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.to(at::kLong).contiguous();
  return {flat.data_ptr<int64_t>(), flat.data_ptr<int64_t>() + flat.numel()};
}

/// {rows, width} of longs: row i holds i * width, i * width + 1, ...
inline at::Tensor numbered_rows(int64_t rows, int64_t width = 1) {
  return at::arange(rows * width, at::kLong).view({rows, width});
}

}  // namespace accelerate::support

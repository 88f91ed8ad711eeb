#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <vector>

namespace accelerate::internal::losses {

/// What both passes read. Everything is of one device and checked, but for the values of `targets`.
struct Rows {
  at::Tensor logits;   ///< {n, classes}, classes > 0, those of a row side by side
  at::Tensor targets;  ///< {n}, int64, dense
  int64_t ignored;     ///< the target of rows that are left out
  double smoothing;    ///< how much of each target is spread over all classes
};

/// What forward writes, of float32. Of rows that are left out the losses are 0, and the rest is never read.
struct Statistics {
  at::Tensor losses;       ///< {n}
  at::Tensor normalizers;  ///< {2, n}: the largest logit, and log(sum(exp(logit - largest)))
};

/// A sum, or, with a share, a mean over the rows that are not left out. 0-d, of float32.
struct Reduced {
  at::Tensor loss;
  at::Tensor share;  ///< 1 / the number of those rows; undefined: a sum
};

/// What backward multiplies by, of float32.
struct Scale {
  at::Tensor gradients;  ///< of the losses {n}, or of what they were reduced to, 0-d
  at::Tensor share;      ///< as above; undefined: 1
};

/// What one kind of device computes. Sums have an order of their own: the same numbers give the same bits.
struct DeviceLosses {
  c10::DeviceType type;
  void (*forward)(const Rows&, const Statistics&);
  void (*reduce)(const Rows&, const at::Tensor& losses, const Reduced&);
  /// Writes the dense `gradient`, of the size and dtype of the logits.
  void (*backward)(const Rows&, const at::Tensor& normalizers, const Scale&, const at::Tensor& gradient);
};

/// One source in `devices/` each.
std::vector<DeviceLosses> builtin_devices();

}  // namespace accelerate::internal::losses

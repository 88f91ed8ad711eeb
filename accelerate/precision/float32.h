#pragma once

#include <optional>
#include <string>

namespace accelerate {

/// How products of float32 numbers may be rounded. These are switches of the process, not of one Accelerator: they are
/// set while it lives and afterwards again what they were, and what runs beside it in the process computes with them,
/// too. Of several Accelerators the newest that says something counts. Unset: as LibTorch is set.
struct Float32Kwargs {
  /// "highest": float32; "high": TF32 or two bfloat16 where the device has them; "medium": bfloat16 where it has that.
  /// Source: `torch.set_float32_matmul_precision`.
  std::optional<std::string> matmul_precision = {};
  /// Products on GPUs in TF32; not against `matmul_precision`. Source: `torch.backends.cuda.matmul.allow_tf32`.
  std::optional<bool> cuda_matmul_allow_tf32 = {};
  /// Convolutions and recurrent layers of cuDNN in TF32; LibTorch starts with true. Source:
  /// `torch.backends.cudnn.allow_tf32`.
  std::optional<bool> cudnn_allow_tf32 = {};
  bool operator==(const Float32Kwargs&) const = default;
};

}  // namespace accelerate

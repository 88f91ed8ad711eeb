#pragma once

#include <ATen/core/Tensor.h>

#include "accelerate/comm/group.h"

namespace accelerate::internal {

/// The tensor of the one rank that has a defined one, on every rank and on `device`; any dtype and shape. Throws
/// UsageError on every rank when none or several have one. Source: `accelerate.utils.copy_tensor_to_devices`, whose
/// metadata travel as sums; here they are sent as what they are.
at::Tensor copy_from_the_one(const Group& group, const at::Tensor& tensor, c10::Device device);

}  // namespace accelerate::internal

#pragma once

#include <c10/core/Device.h>

#include <string>

#include "accelerate/options.h"

namespace accelerate::internal {

/// How steps are captured on `device`; nothing without `.cuda_graph`. Throws ConfigError where they cannot be.
CaptureDeviceEntry resolve_capture(const AcceleratorOptions& options, c10::Device device);
std::string words(const CudaGraph& options);

}  // namespace accelerate::internal

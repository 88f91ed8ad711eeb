#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace accelerate::internal {

/// What this process can compute on, as a value: what is decided from it can be decided again in a test.
struct Hardware {
  int64_t cuda_devices = 0;  ///< GPUs it sees; none where LibTorch's CUDA libraries are not loaded

  static Hardware of_process();
};

/// Makes `device` the one this thread's work on its kind of device goes to where nothing else says.
void make_current(c10::Device device);

}  // namespace accelerate::internal

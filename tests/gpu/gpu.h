#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "accelerate/accelerate.h"

namespace gpu {

/// The number of GPUs that this program sees: none in a build without CUDA.
inline int64_t visible() { return static_cast<int64_t>(torch::cuda::device_count()); }

/// Tests that compute on the first GPU.
class OneGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (visible() == 0) GTEST_SKIP() << "no GPU is visible, or this is a build without CUDA";
  }
};

}  // namespace gpu

#pragma once

#include "accelerate/comm/connect.h"
#include "accelerate/testing/ranks.h"
#include "tests/gpu/gpu.h"

namespace gpu {

/// Tests in which every rank, a thread, has a GPU of its own.
class TwoGpus : public testing::Test {
 protected:
  void SetUp() override {
    if (visible() < 2) GTEST_SKIP() << "fewer than two GPUs are visible, or this is a build without CUDA";
  }
};

inline c10::Device device_of(const accelerate::testing::Rank& rank) {
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(rank.rank()));
}

/// A group whose ranks compute on `device`.
inline accelerate::Group connect(const accelerate::testing::Rank& rank, c10::Device device,
                                 std::chrono::milliseconds timeout = std::chrono::minutes(2)) {
  const accelerate::AcceleratorOptions options = rank.options();
  return accelerate::internal::connect({.world = *options.world,
                                        .store = options.store,
                                        .device = device,
                                        .timeout = timeout,
                                        .rendezvous_timeout = timeout},
                                       accelerate::Log({}, rank.rank()));
}

}  // namespace gpu

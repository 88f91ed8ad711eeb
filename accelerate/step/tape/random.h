#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceType.h>

#include <cstdint>

namespace accelerate::internal {

/// Where the random numbers of the current device are: another one than operators have left means that somebody set it.
struct RandomState {
  uint64_t seed = 0, offset = 0;
  bool operator==(const RandomState&) const = default;
  static RandomState now(c10::DeviceType device);
};

/// The same, which can be gone back to. On CUDA that is all of it; on the host the generator is copied as a whole.
class RandomPlace {
 public:
  static RandomPlace now(c10::DeviceType device);
  const RandomState& state() const { return state_; }
  void go_back(c10::DeviceType device) const;

 private:
  RandomState state_;
  at::Tensor whole_;  ///< of the host's
};

}  // namespace accelerate::internal

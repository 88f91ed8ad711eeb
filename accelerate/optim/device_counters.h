#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace torch::optim {
class Optimizer;
}

namespace accelerate::internal {

/// Learning rates on the devices that read them: float64, so that the arithmetic is that of the host. One tensor a
/// group and device, which stays the same; the host's rate goes into it when it has changed.
class DeviceRates {
 public:
  const at::Tensor& of(size_t group, double rate, c10::Device device);
  /// Uploads what has changed since; waits for nothing.
  void upload(const torch::optim::Optimizer& optimizer);
  /// Whether there are some and all of them are the groups' rates.
  bool are_those_of(const torch::optim::Optimizer& optimizer) const;

 private:
  struct Rate {
    size_t group;
    double value;
    at::Tensor tensor;
  };
  static void set(Rate& rate, double value);
  std::vector<Rate> rates_;
};

/// Counts of updates on the devices that count them on. The host's count, which others see, says which one belongs to
/// a call of an operator: one of that value that no other call of this update has counted on. One that is not found is
/// made. As long as the same parameters have gradients, each call keeps its tensor.
class DeviceCounts {
 public:
  /// int64, 0-d, with the value `count`: an update that reads it counts it on, and so does `counted_on`.
  const at::Tensor& of(int64_t count, c10::Device device);
  void counted_on(const at::Tensor& tensor);
  void begin_update() { used_.clear(); }
  /// The device has skipped the update that was begun last.
  void take_back();
  /// Forgets all: what the device counted is not known after an error.
  void reset();

 private:
  struct Count {
    int64_t value;
    at::Tensor tensor;
    int64_t last_used = 0;
  };
  std::vector<Count> counts_;
  std::vector<at::Tensor> used_;
  int64_t uses_ = 0;
};

}  // namespace accelerate::internal

#pragma once

#include <c10/core/Event.h>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <mutex>

namespace accelerate::internal {

/// Everything that the current stream of a device has been given before the last `record`, as work of c10d: with
/// collectives of captured work in it, it ends when the ranks have come.
class LaunchedWork final : public c10d::Work {
 public:
  explicit LaunchedWork(c10::Device device) : device_(device), event_(device.type()) {}
  void record();
  bool isCompleted() override { return isSuccess(); }
  bool isSuccess() const override;

 private:
  c10::Device device_;
  mutable std::mutex mutex_;  ///< another thread watches
  c10::Event event_;
};

}  // namespace accelerate::internal

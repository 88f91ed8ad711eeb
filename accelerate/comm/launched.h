#pragma once

#include <c10/core/Event.h>
#include <torch/csrc/distributed/c10d/Work.hpp>

namespace accelerate::internal {

/// Everything that the current stream of a device has been given so far, as work of c10d: with collectives of captured
/// work in it, it ends when the ranks have come.
class Launched final : public c10d::Work {
 public:
  explicit Launched(c10::Device device);
  bool isCompleted() override { return event_.query(); }
  bool isSuccess() const override { return event_.query(); }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }

 private:
  c10::Event event_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

}  // namespace accelerate::internal

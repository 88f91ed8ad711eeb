#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>
#include <torch/csrc/autograd/function.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace accelerate::internal {

/// A stream on which the Reducer's hooks run, when asked to: gradients are copied into their buckets beside the
/// backward pass and not in its course. What the hooks start comes after the copies; who waits for that has waited for
/// them.
class SideStream {
 public:
  /// Before the Reducer puts its hooks on the accumulators of the same parameters, which are of one device.
  explicit SideStream(const std::vector<at::Tensor>& parameters);
  ~SideStream();
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;
  /// After it has.
  void complete();

  enum class Use { kOff, kOn };
  /// From the next hook on. Between two passes: after one that an error has ended, too.
  void turn(Use use) {
    use_ = use;
    course_.reset();
  }

 private:
  void enter(const at::Tensor& parameter);
  void leave();
  template <class Act>
  void add_hook(const std::shared_ptr<torch::autograd::Node>& accumulator, Act act);

  std::vector<at::Tensor> parameters_;
  std::vector<std::pair<std::shared_ptr<torch::autograd::Node>, uintptr_t>> hooks_;
  Use use_ = Use::kOff;
  std::optional<c10::Stream> side_;
  std::optional<c10::Stream> course_;  ///< while a hook runs beside it
};

}  // namespace accelerate::internal

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace accelerate {

/// How far one pass over a prepared loader is, as far as others may know.
struct LoaderProgress {
  bool end_of_dataloader = false;  ///< the batch handed out last is the last one of the pass
  int64_t remainder = -1;          ///< samples in the last global batch; 0: a full one; -1: not known (`drop_last`)
  int64_t batch_samples = 0;       ///< in the batch handed out last, over all processes, without what fills it up
  const void* loader = nullptr;    ///< which one, to be compared only
};

/// The passes in progress over one Accelerator's loaders, innermost last; shared by loaders, accumulation and
/// `gather_for_metrics`. A pass enters when its loop starts and leaves when it ends, also through `break` or an
/// exception. Source: `accelerate.state.GradientState`, whose broken-off loops stay registered.
class ActiveLoaders {
 public:
  void enter(const LoaderProgress* pass) { passes_.push_back(pass); }
  void leave(const LoaderProgress* pass);

  bool in_dataloader() const { return !passes_.empty(); }
  /// False outside a loop.
  bool end_of_dataloader() const { return in_dataloader() && passes_.back()->end_of_dataloader; }
  /// Null outside a loop.
  const void* active() const { return in_dataloader() ? passes_.back()->loader : nullptr; }
  /// -1 outside a loop.
  int64_t remainder() const { return in_dataloader() ? passes_.back()->remainder : -1; }
  /// Nothing outside a loop.
  std::optional<int64_t> batch_samples() const {
    return in_dataloader() ? std::optional(passes_.back()->batch_samples) : std::nullopt;
  }

 private:
  std::vector<const LoaderProgress*> passes_;
};

}  // namespace accelerate

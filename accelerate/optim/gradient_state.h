#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <string>
#include <utility>

#include "accelerate/data/active_loaders.h"
#include "accelerate/data/loader.h"
#include "accelerate/optim/sync_schedule.h"

namespace accelerate {

/// The loader of the innermost loop that is running, to be compared with loaders; false outside a loop.
class ActiveDataLoader {
 public:
  explicit ActiveDataLoader(const void* loader) : loader_(loader) {}
  explicit operator bool() const { return loader_ != nullptr; }
  template <class Batch>
  bool operator==(const DataLoader<Batch>& loader) const {
    return loader_ != nullptr && loader_ == loader.core().get();
  }

 private:
  const void* loader_;
};

/// Where accumulation and the loop over a loader stand, as a view on one Accelerator; copies are the same view.
/// Source: `accelerate.state.GradientState`, which is one for all Accelerators of a process.
class GradientState {
 public:
  GradientState(std::shared_ptr<const SyncSchedule> sync, std::shared_ptr<const ActiveLoaders> loaders)
      : sync_(std::move(sync)), loaders_(std::move(loaders)) {}

  int64_t num_steps() const { return sync_->num_steps(); }
  bool sync_with_dataloader() const { return sync_->rule().sync_with_dataloader; }
  /// Whether the micro-step that runs, or ran last, ends its window.
  bool sync_gradients() const { return sync_->sync_gradients(); }
  /// Micro-steps since the count last began anew. Source: `Accelerator.step`.
  int64_t step() const { return sync_->micro_step(); }
  bool in_dataloader() const { return loaders_->in_dataloader(); }
  ActiveDataLoader active_dataloader() const { return ActiveDataLoader(loaders_->active()); }
  /// The batch handed out last is the last of its pass; false outside a loop.
  bool end_of_dataloader() const { return loaders_->end_of_dataloader(); }
  /// Samples in the pass's last global batch; 0: a full one; -1: not known, or outside a loop.
  int64_t remainder() const { return loaders_->remainder(); }
  /// The original's four lines, in its spelling.
  std::string text() const;

 private:
  std::shared_ptr<const SyncSchedule> sync_;
  std::shared_ptr<const ActiveLoaders> loaders_;
};

std::ostream& operator<<(std::ostream& out, const GradientState& state);

}  // namespace accelerate

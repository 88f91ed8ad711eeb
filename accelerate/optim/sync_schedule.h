#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "accelerate/data/active_loaders.h"

namespace accelerate {

/// When accumulated gradients are synchronised and applied: at every `num_steps`-th micro-step and at the loader's end.
/// One per Accelerator, shared by its optimizers and schedulers; also knows whether training has ended.
/// Source: `Accelerator._do_sync`, `GradientState`.
class SyncSchedule {
 public:
  struct Rule {
    int64_t num_steps = 1;
    bool sync_with_dataloader = true;
  };
  SyncSchedule(Rule rule, std::shared_ptr<const ActiveLoaders> loaders);

  int64_t num_steps() const { return rule_.num_steps; }
  /// Stays as the last window set it; true before the first.
  bool sync_gradients() const { return sync_gradients_; }

  /// Starts the next micro-step and decides whether it synchronises. Throws UsageError when one is already open.
  void enter_window();
  void leave_window() noexcept { open_ = false; }
  bool in_window() const { return open_; }
  /// Samples of all processes in the batch of this micro-step; nothing outside a loop over a prepared loader.
  std::optional<int64_t> batch_samples() const { return loaders_->batch_samples(); }
  /// Counts the windows entered; two calls with the same number belong to one window.
  int64_t window() const { return window_; }

  /// Throws UsageError naming `verb` when gradients accumulate over several micro-steps and no window is open.
  void require_window(const char* verb) const;
  /// Throws UsageError naming `verb` after `close()`.
  void require_open(const char* verb) const;
  /// Training has ended.
  void close() noexcept { closed_ = true; }
  bool closed() const { return closed_; }

 private:
  Rule rule_;
  std::shared_ptr<const ActiveLoaders> loaders_;
  int64_t micro_step_ = 0;
  int64_t window_ = 0;
  bool sync_gradients_ = true;
  bool open_ = false;
  bool closed_ = false;
};

/// The guard of `accelerator.accumulate(model)`: the body of the loop is one micro-step.
class [[nodiscard("keep the guard: `auto window = accelerator.accumulate(model);`")]] Accumulation {
 public:
  explicit Accumulation(std::shared_ptr<SyncSchedule> schedule) : schedule_(std::move(schedule)) {
    schedule_->enter_window();
  }
  ~Accumulation() {
    if (schedule_) schedule_->leave_window();
  }
  Accumulation(Accumulation &&) noexcept = default;
  Accumulation& operator=(Accumulation&&) = delete;

 private:
  std::shared_ptr<SyncSchedule> schedule_;
};

}  // namespace accelerate

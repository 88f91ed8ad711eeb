#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

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
    bool sync_each_batch = false;        ///< every micro-step averages over the ranks
    bool divide_by_micro_steps = false;  ///< a window is divided by its own number of micro-steps, also a short one
  };
  SyncSchedule(Rule rule, std::shared_ptr<const ActiveLoaders> loaders);

  const Rule& rule() const { return rule_; }
  int64_t num_steps() const { return rule_.num_steps; }
  /// From the next micro-step on; the count of micro-steps goes on. Throws UsageError for less than 1 and in a window.
  void set_num_steps(int64_t num_steps);
  /// What a loss of this micro-step is divided by.
  int64_t divisor() const { return rule_.divide_by_micro_steps && open_ ? divisor_ : rule_.num_steps; }
  /// What the gradients of the micro-steps before this one have to be multiplied by, for all to be divided alike: not 1
  /// where a window ends after another number of micro-steps than it began with.
  double correction() const { return correction_; }
  /// Micro-steps since the count last began anew.
  int64_t micro_step() const { return micro_step_; }
  /// Nothing was gathered before in the window of this micro-step.
  bool is_first_of_window() const { return (sync_gradients_ ? divisor_ : gathered_) <= 1; }
  /// Stays as the last window set it; true before the first.
  bool sync_gradients() const { return sync_gradients_; }
  /// Whether this micro-step averages over the ranks.
  bool communicates() const { return sync_gradients_ || rule_.sync_each_batch; }

  /// Starts the next micro-step and decides whether it synchronises. Throws UsageError when one is already open.
  void enter_window();
  void leave_window() noexcept {
    open_ = false;
    if (left_) left_();
  }
  /// Called, without throwing, where a window has ended.
  void on_leave(std::function<void()> left) { left_ = std::move(left); }
  /// Whether the next micro-step will synchronise.
  bool next_synchronizes() const;
  bool in_window() const { return open_; }
  /// Samples of all processes in the batch of this micro-step; nothing outside a loop over a prepared loader.
  std::optional<int64_t> batch_samples() const { return loaders_->batch_samples(); }
  /// Counts the windows entered; two calls with the same number belong to one window.
  int64_t window() const { return window_; }

  /// Throws UsageError naming `verb` when gradients accumulate over several micro-steps and no window is open.
  void require_window(const char* verb) const;
  /// Throws UsageError naming `verb` after `close()`.
  void require_open(const char* verb) const;
  /// Why nothing trains any more what was prepared.
  enum class End { kTraining, kReleased };
  void close(End why = End::kTraining) noexcept {
    closed_ = true;
    why_ = why;
  }
  bool closed() const { return closed_; }
  bool released() const { return closed_ && why_ == End::kReleased; }

 private:
  Rule rule_;
  std::shared_ptr<const ActiveLoaders> loaders_;
  int64_t micro_step_ = 0;
  int64_t gathered_ = 0;  ///< micro-steps of the window in progress
  int64_t divisor_ = 1;   ///< of the window in progress
  double correction_ = 1;
  int64_t window_ = 0;
  bool sync_gradients_ = true;
  bool open_ = false;
  std::function<void()> left_;
  bool closed_ = false;
  End why_ = End::kTraining;
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

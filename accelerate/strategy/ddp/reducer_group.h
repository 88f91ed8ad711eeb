#pragma once

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "accelerate/comm/group_core.h"

namespace accelerate::internal {

/// The ranks as the Reducer of one model sees them: what it exchanges fails when a rank is lost, is counted, and is
/// spoiled where a rank has nothing right to give. A process group and not a communication hook of the Reducer: with
/// one, the division by the number of ranks is no longer part of the copy that fills a bucket. Hooks that a user
/// chooses exchange through it, too.
class ReducerGroup final : public c10d::ProcessGroup {
 public:
  explicit ReducerGroup(std::shared_ptr<GroupCore> core);

  const std::string getBackendName() const override { return core_->process_group()->getBackendName(); }
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& options) override;
  c10::intrusive_ptr<c10d::Work> broadcast(std::vector<at::Tensor>& tensors,
                                           const c10d::BroadcastOptions& options) override;

  /// An all-reduce of one tensor, in place; throws CommError if it cannot start.
  c10::intrusive_ptr<c10::ivalue::Future> sum(at::Tensor tensor);

  /// Who is told before each all-reduce that is not part of a communication hook; empty: nobody.
  void on_reduction(std::function<void(const at::Tensor&)> listener) { listener_ = std::move(listener); }
  /// While it lives, all-reduces are part of a communication hook.
  class InHook {
   public:
    explicit InHook(ReducerGroup& group) : group_(group) { ++group_.hooks_; }
    ~InHook() { --group_.hooks_; }
    InHook(const InHook&) = delete;
    InHook& operator=(const InHook&) = delete;

   private:
    ReducerGroup& group_;
  };

  /// While it lives, what this rank adds to floating-point sums is NaN: every rank sees that one of them has no
  /// gradient.
  class Spoiling {
   public:
    explicit Spoiling(ReducerGroup& group) : group_(group) { group_.spoil_ = true; }
    ~Spoiling() { group_.spoil_ = false; }
    Spoiling(const Spoiling&) = delete;
    Spoiling& operator=(const Spoiling&) = delete;

   private:
    ReducerGroup& group_;
  };
  bool is_capturing() const { return core_->is_capturing(); }
  /// While work is captured: nobody waits for the all-reduce in `last`, which the core's `arrivals` get instead.
  /// Undefined: every all-reduce is waited for.
  void leave_open(at::Tensor last) { left_open_ = std::move(last); }
  /// All-reduces started so far.
  int64_t reductions() const { return reductions_; }
  /// Forgets what was started.
  void settle() { under_way_.clear(); }
  /// Returns once nothing is under way in the tensors given to `allreduce` since `settle`. False if something failed.
  bool drain() noexcept;

 private:
  std::shared_ptr<GroupCore> core_;
  std::vector<c10::intrusive_ptr<c10::ivalue::Future>> under_way_;
  std::function<void(const at::Tensor&)> listener_;
  at::Tensor left_open_;
  int64_t reductions_ = 0;
  int hooks_ = 0;
  bool spoil_ = false;
};

}  // namespace accelerate::internal

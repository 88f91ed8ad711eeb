// LibTorch's own schedulers, which keep their optimizer to themselves.
#include <torch/optim/optimizer.h>
#include <torch/optim/schedulers/lr_scheduler.h>
#include <torch/optim/schedulers/reduce_on_plateau_scheduler.h>

#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/optim/scheduler_core.h"

namespace accelerate::internal {
namespace {

using torch::optim::LRScheduler;
using torch::optim::ReduceLROnPlateauScheduler;

/// The protected members of any LRScheduler.
struct Protected : LRScheduler {
  static unsigned& count(LRScheduler& scheduler) { return scheduler.*&Protected::step_count_; }
  static std::vector<double> rates(const LRScheduler& scheduler) { return (scheduler.*&Protected::get_current_lrs)(); }
};

class LibTorchScheduler final : public SchedulerCore {
 public:
  explicit LibTorchScheduler(std::shared_ptr<LRScheduler> scheduler)
      : SchedulerCore(ScheduleUnit::kBatches), scheduler_(std::move(scheduler)) {}

  const void* identity() const override { return scheduler_.get(); }
  bool drives_by_reference() const override { return true; }

  bool has_own_optimizer() const override { return true; }

  /// Its optimizer is private; but the scheduler reads that one's rates.
  bool was_built_for(torch::optim::Optimizer& optimizer) const override {
    if (optimizer.param_groups().empty()) return false;
    const std::vector<double> before = Protected::rates(*scheduler_);
    if (before.size() != optimizer.param_groups().size()) return false;
    auto& options = optimizer.param_groups().front().options();
    const double own = options.get_lr();
    const double other = before.front() == 1.0 ? 2.0 : 1.0;
    options.set_lr(other);
    const bool follows = Protected::rates(*scheduler_).front() == other;
    options.set_lr(own);
    return follows;
  }

 private:
  void move(int64_t steps, std::optional<double>) override {
    for (int64_t i = 0; i < steps; ++i) scheduler_->step();
  }
  void save(std::map<std::string, double>& numbers) const override {
    numbers["step_count"] = Protected::count(*scheduler_);
  }
  void restore(const std::map<std::string, double>& numbers) override {
    Protected::count(*scheduler_) = static_cast<unsigned>(numbers.at("step_count"));
  }

  std::shared_ptr<LRScheduler> scheduler_;
};

[[noreturn]] void refuse_state(const char* verb) {
  throw UsageError({.place = std::string("scheduler.") + verb,
                    .what = "LibTorch's plateau scheduler does not show its state",
                    .got = "torch::optim::ReduceLROnPlateauScheduler",
                    .expected = "a scheduler whose state can be saved",
                    .remedy = "Prepare accelerate::ReduceLROnPlateau instead"});
}

class LibTorchPlateauScheduler final : public SchedulerCore {
 public:
  explicit LibTorchPlateauScheduler(std::shared_ptr<ReduceLROnPlateauScheduler> scheduler)
      : SchedulerCore(ScheduleUnit::kBatches), scheduler_(std::move(scheduler)) {}

  const void* identity() const override { return scheduler_.get(); }
  bool drives_by_reference() const override { return true; }
  bool takes_metric() const override { return true; }

 private:
  void move(int64_t steps, std::optional<double> metric) override {
    for (int64_t i = 0; i < steps; ++i) scheduler_->step(static_cast<float>(*metric));
  }
  void save(std::map<std::string, double>&) const override { refuse_state("state_dict"); }
  void restore(const std::map<std::string, double>&) override { refuse_state("load_state_dict"); }

  std::shared_ptr<ReduceLROnPlateauScheduler> scheduler_;
};

}  // namespace

std::shared_ptr<SchedulerCore> make_scheduler(std::shared_ptr<LRScheduler> scheduler) {
  if (scheduler == nullptr) return nullptr;
  return std::make_shared<LibTorchScheduler>(std::move(scheduler));
}

std::shared_ptr<SchedulerCore> make_scheduler(std::shared_ptr<ReduceLROnPlateauScheduler> scheduler) {
  if (scheduler == nullptr) return nullptr;
  return std::make_shared<LibTorchPlateauScheduler>(std::move(scheduler));
}

}  // namespace accelerate::internal

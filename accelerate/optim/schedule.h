#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

namespace accelerate {

/// What a prepared schedule counts. All but the first are independent of the number of processes.
enum class ScheduleUnit {
  kBatches,  ///< as the original: an update counts for one batch of each process, with `split_batches` for one
  kUpdates,  ///< an update counts for one
  kSamples,  ///< the samples of all processes: those of the loader being iterated, without what fills up its last
             ///< round, or those that `step(Seen{...})` names
  kTokens,   ///< what `step(Seen{...})` names, summed over the processes: one exchange of a number for each update
};

/// One value for every parameter group, or one for each: `.max_lr = 0.1`, `.max_lr = {0.1, 0.01}`.
class PerGroup {
 public:
  PerGroup(double value) : values_{value} {}                           // NOLINT: a number is meant
  PerGroup(std::initializer_list<double> values) : values_(values) {}  // NOLINT
  explicit PerGroup(std::vector<double> values) : values_(std::move(values)) {}
  const std::vector<double>& values() const { return values_; }
  bool fits(size_t groups) const { return values_.size() == 1 || values_.size() == groups; }
  double of(size_t group) const { return values_.size() == 1 ? values_.front() : values_.at(group); }

 private:
  std::vector<double> values_;
};

/// A parameter group as a schedule sees it.
struct ScheduledGroup {
  double base_rate = 1.0;  ///< its rate when the scheduler was built
  size_t index = 0;
  size_t count = 1;  ///< groups of the optimizer
};

/// What a schedule sets on a group.
struct ScheduledValues {
  double rate = 0;
  std::optional<double> momentum = {};  ///< of SGD and RMSprop, beta1 of Adam and AdamW; unset: left alone
};

/// A schedule that is no factor on the base rate: it sets rates of its own, or momentum.
struct ScheduleRule {
  std::function<ScheduledValues(int64_t step, const ScheduledGroup& group)> values = {};
  std::optional<int64_t> total_steps = {};  ///< no step is taken beyond; unset: it goes on for ever
};

/// A learning-rate schedule: what each parameter group has after `step` scheduler steps (0 = before the first). A pure
/// function, so that a schedule can be resumed or plotted from its step count alone. Any function of the step to the
/// factor on the base rate is one: `Schedule s = [](int64_t step) { return 1.0 / (1.0 + step); };`.
/// Source: `torch.optim.lr_scheduler.LambdaLR`.
class Schedule {
 public:
  Schedule() = default;
  template <class F>
  requires(!std::derived_from<std::remove_cvref_t<F>, Schedule> &&
           std::is_invocable_r_v<double, std::remove_cvref_t<F>&, int64_t>) Schedule(F&& factor)
      : Schedule(Factor(std::forward<F>(factor)), Direct{}) {}  // NOLINT: a function is a schedule
  explicit Schedule(ScheduleRule rule) : rule_(std::move(rule)) {}

  explicit operator bool() const { return static_cast<bool>(rule_.values); }
  /// The rate of a group whose base rate is 1, which is the factor.
  double operator()(int64_t step) const { return at(step, {}).rate; }
  ScheduledValues at(int64_t step, const ScheduledGroup& group) const { return rule_.values(step, group); }
  std::optional<int64_t> total_steps() const { return rule_.total_steps; }

  /// The same schedule whose steps, warm-up and total included, are counted in `unit`:
  /// `cosine({.warmup_steps = 10'000, .total_steps = 600'000}).in(ScheduleUnit::kSamples)`.
  Schedule in(ScheduleUnit unit) const {
    Schedule other = *this;
    other.unit_ = unit;
    return other;
  }
  ScheduleUnit unit() const { return unit_; }

 private:
  using Factor = std::function<double(int64_t)>;
  struct Direct {};
  Schedule(Factor factor, Direct);
  ScheduleRule rule_;
  ScheduleUnit unit_ = ScheduleUnit::kBatches;
};

}  // namespace accelerate

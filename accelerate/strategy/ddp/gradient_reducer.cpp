#include "accelerate/strategy/ddp/gradient_reducer.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/distributed/c10d/logger.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <unordered_map>
#include <utility>

namespace accelerate::internal {
namespace {

constexpr int64_t kMiB = 1024 * 1024;
constexpr int64_t kNoGradientYet = -1;

int64_t bucket_cap(const Ddp& options) { return static_cast<int64_t>(options.bucket_cap_mb * kMiB); }

/// The original's first bucket is small only where the size of the others was not chosen.
int64_t first_bucket_cap(const Ddp& options) {
  return options.bucket_cap_mb == Ddp{}.bucket_cap_mb ? c10d::kDefaultFirstBucketBytes : bucket_cap(options);
}

std::vector<at::Tensor> tensors_of(const std::vector<ReducedParameter>& parameters) {
  std::vector<at::Tensor> tensors;
  for (const ReducedParameter& parameter : parameters) tensors.push_back(parameter.tensor);
  return tensors;
}

std::vector<bool> sparse_of(const std::vector<ReducedParameter>& parameters) {
  std::vector<bool> sparse;
  for (const ReducedParameter& parameter : parameters) sparse.push_back(parameter.sparse_gradient);
  return sparse;
}

std::unordered_map<size_t, std::string> names_of(const std::vector<ReducedParameter>& parameters) {
  std::unordered_map<size_t, std::string> names;
  for (size_t i = 0; i < parameters.size(); ++i) names[i] = parameters[i].name;
  return names;
}

/// One bucket until the order of the gradients is known; with a search for unused parameters it never is, and buckets
/// are cut at once, last parameters first. Source: `DistributedDataParallel._ddp_init_helper`.
std::vector<std::vector<size_t>> first_buckets(const std::vector<ReducedParameter>& parameters, const Ddp& options) {
  std::vector<size_t> caps{std::numeric_limits<size_t>::max()};
  if (options.find_unused_parameters && !options.static_graph) {
    caps = {static_cast<size_t>(first_bucket_cap(options)), static_cast<size_t>(bucket_cap(options))};
  }
  auto buckets =
      std::get<0>(c10d::compute_bucket_assignment_by_size(tensors_of(parameters), caps, sparse_of(parameters)));
  std::reverse(buckets.begin(), buckets.end());
  return buckets;
}

/// A bucket among those of a pass that the communication hook takes.
struct HookPlace {
  size_t index = 0;
  bool last = false;
};

}  // namespace

/// The Reducer's own state is where it says whether it has finished; LibTorch has no other way to ask or to disarm.
class GradientReducer::Engine final : public c10d::Reducer {
 public:
  using Reducer::Reducer;

  void arm(const std::vector<at::Tensor>& roots, bool static_graph) {
    // Counts armed backwards: a static graph records its first one.
    if (static_graph) prepare_for_forward();
    was_armed_ = true;
    prepare_for_backward(roots);
    first_autograd_hook_called_ = false;
    std::fill(backward_stats_.begin(), backward_stats_.end(), kNoGradientYet);
  }
  bool armed() const { return expect_autograd_hooks_; }
  /// Some hook has fired since the last reduction, armed or not.
  bool touched() const { return first_autograd_hook_called_; }
  void set_touched(bool value) { first_autograd_hook_called_ = value; }

  void disarm() {
    expect_autograd_hooks_ = false;
    require_finalize_ = false;
    if (static_graph_) --num_iterations_;
  }

  /// The recorded first backward of a static graph exchanges everything at its end.
  bool records() { return static_graph_ && num_iterations_ == 1; }
  void finish_record() {
    recording_ = true;
    delay_all_reduce();
    recording_ = false;
    // Past the first iteration at once: a local backward must not be counted as part of it.
    prepare_for_forward();
  }

  std::unordered_set<const torch::autograd::Node*> accumulators() const {
    std::unordered_set<const torch::autograd::Node*> nodes;
    for (const auto& node : grad_accumulators_) nodes.insert(node.get());
    return nodes;
  }

  bool is_ready(size_t index) const { return backward_stats_[index] != kNoGradientYet; }
  /// Fires the hooks that autograd did not, from inside a backward, where the Reducer can finish.
  void fire_missing() {
    for (size_t i = 0; i < params_.size(); ++i) {
      const int times = static_graph_ ? std::max(1, numGradHooksTriggeredMapPerIteration_[i]) : 1;
      for (int k = 0; k < times && !is_ready(i); ++k) autograd_hook(i);
    }
  }
  /// Autograd threw after the last bucket was filled and before the Reducer's callback came.
  bool only_waits() const { return armed() && require_finalize_ && next_bucket_ == buckets_.size(); }
  void wait_and_finish() {
    const std::lock_guard lock(mutex_);
    finalize_backward();
  }

  /// The bucket that is reduced last, so that it is among those that a rank spoils.
  const at::Tensor& last_bucket() const { return buckets_.back().gradients; }

  bool is_in_last_bucket(const at::Tensor& parameter) const {
    const std::vector<at::Tensor>& variables = buckets_.back().variables;
    return std::ranges::any_of(variables, [&](const at::Tensor& variable) { return variable.is_same(parameter); });
  }

  size_t buckets() const { return buckets_.size(); }
  /// Whether a communication hook sees the bucket: sparse and complex gradients are averaged as they are.
  bool hook_takes(size_t index) const {
    const Bucket& bucket = buckets_[index];
    return !bucket.expect_sparse_gradient && at::isFloatingType(bucket.variables.front().scalar_type());
  }
  /// Where the bucket is among those that the hook takes.
  HookPlace hook_place(size_t index) const {
    HookPlace place{.index = 0, .last = true};
    for (size_t i = 0; i < index; ++i) place.index += hook_takes(i) ? 1 : 0;
    for (size_t i = index + 1; i < buckets_.size(); ++i) place.last = place.last && !hook_takes(i);
    return place;
  }
  bool is_recording() const { return recording_; }
  bool was_armed() const { return was_armed_; }
  bool buckets_are_due() const { return should_rebuild_buckets() && !rebuilt_params_.empty(); }
  c10d::GradBucket empty_bucket(size_t index) const {
    const Bucket& bucket = buckets_[index];
    return c10d::GradBucket(index, buckets_.size(), at::zeros_like(bucket.gradients), bucket.offsets, bucket.lengths,
                            bucket.sizes_vec, bucket.variables, std::nullopt);
  }

 private:
  bool recording_ = false;
  bool was_armed_ = false;
};

/// The Reducer's way to the hook.
class GradientReducer::Registered final : public c10d::CommHookInterface {
 public:
  explicit Registered(GradientReducer& owner) : owner_(owner) {}
  HookFuture runHook(c10d::GradBucket& bucket) override { return owner_.run_hook(bucket); }
  at::Tensor parseHookResult(const c10::IValue& result) override {
    return c10d::detail::parseCppCommHookResult(result);
  }

 private:
  GradientReducer& owner_;
};

GradientReducer::GradientReducer(std::vector<ReducedParameter> parameters, const Ddp& options,
                                 c10::intrusive_ptr<ReducerGroup> group, Travel travel)
    : parameters_(std::move(parameters)),
      options_(options),
      group_(std::move(group)),
      travel_(std::move(travel)),
      side_(tensors_of(parameters_)),
      engine_(std::make_shared<Engine>(tensors_of(parameters_), first_buckets(parameters_, options_), group_,
                                       sparse_of(parameters_), bucket_cap(options_), options_.find_unused_parameters,
                                       options_.gradient_as_bucket_view, names_of(parameters_),
                                       first_bucket_cap(options_), /*skip_all_reduce_unused_params=*/false,
                                       /*use_python_reducer=*/false, /*bucket_bytes_cap_list=*/std::vector<int64_t>{})),
      // The search for unused parameters uses it without asking whether there is one.
      logger_(std::make_shared<c10d::Logger>(engine_)) {
  side_.complete();
  engine_->set_logger(logger_);
  if (options_.static_graph) engine_->set_static_graph();
  if (travel_.hook == nullptr) return;
  travel_.hook->forget();
  engine_->register_comm_hook(std::make_unique<Registered>(*this));
}

GradientReducer::~GradientReducer() {
  group_->drain();
  engine_->remove_autograd_hooks();
}

void GradientReducer::arm(const at::Tensor& loss) {
  group_->settle();
  // Elsewhere the Reducer copies the means out of the bucket, and has to wait for them.
  group_->leave_open(stays_in_buckets() ? engine_->last_bucket() : at::Tensor());
  // In a graph that costs little; by hand, events for every parameter. With one bucket there is no exchange meanwhile.
  const bool beside = group_->is_capturing() && travel_.hook == nullptr && engine_->buckets() > 1;
  side_.turn(beside ? SideStream::Use::kOn : SideStream::Use::kOff);
  std::vector<at::Tensor> roots;
  if (options_.find_unused_parameters && !options_.static_graph) roots.push_back(loss);
  engine_->arm(roots, options_.static_graph);
}

GradientReducer::Outcome GradientReducer::finish() {
  side_.turn(SideStream::Use::kOff);
  if (!engine_->armed()) return Outcome::kReduced;
  if (!engine_->touched()) {
    engine_->disarm();
    return Outcome::kUntouched;
  }
  if (!engine_->records()) return Outcome::kIncomplete;
  engine_->finish_record();
  return Outcome::kReduced;
}

void GradientReducer::give_up() {
  side_.turn(SideStream::Use::kOff);
  if (!engine_->armed()) return;
  if (engine_->only_waits()) return engine_->wait_and_finish();
  const ReducerGroup::Spoiling nan(*group_);
  if (engine_->records()) return engine_->finish_record();
  const at::AutoGradMode grad(true);
  at::Tensor root = at::zeros({}).set_requires_grad(true);
  root.register_hook([this](const at::Tensor&) { engine_->fire_missing(); });
  torch::autograd::backward({root});
}

std::vector<uint8_t> GradientReducer::without_gradient() const {
  std::vector<uint8_t> missing(parameters_.size());
  for (size_t i = 0; i < missing.size(); ++i) missing[i] = engine_->is_ready(i) ? 0 : 1;
  return missing;
}

bool GradientReducer::looks_spoiled() const {
  const at::Tensor& bucket = engine_->last_bucket();
  if (!bucket.is_cpu() || bucket.layout() != at::kStrided || bucket.numel() == 0) return false;
  switch (bucket.scalar_type()) {
    case at::kFloat:
      return std::isnan(*bucket.const_data_ptr<float>());
    case at::kDouble:
      return std::isnan(*bucket.const_data_ptr<double>());
    default:
      return bucket.flatten()[0].isnan().item<bool>();
  }
}

void GradientReducer::cut_buckets() {
  if (engine_->rebuild_buckets() && travel_.hook != nullptr) travel_.hook->forget();
}

bool GradientReducer::buckets_are_due() const { return engine_->buckets_are_due(); }

bool GradientReducer::was_armed() const { return engine_->was_armed(); }

HookFuture GradientReducer::run_hook(c10d::GradBucket& bucket) {
  const at::NoGradGuard no_grad;
  const at::Tensor& buffer = bucket.getBuffer();
  // The Reducer gives every bucket of a recorded pass the same number.
  const size_t index = engine_->is_recording() ? recorded_++ : bucket.getIndex();
  if (index + 1 == engine_->buckets()) recorded_ = 0;
  if (!engine_->hook_takes(index)) return average(buffer, *group_);
  if (listener_) listener_(index);
  const auto [place, last] = engine_->hook_place(index);
  const ReducerGroup::InHook in_hook(*group_);
  return travel_.hook->run({.bucket = bucket, .index = place, .last = last, .ranks = *group_, .log = travel_.log});
}

void GradientReducer::shadow_hook(size_t index) {
  const auto [place, last] = engine_->hook_place(index);
  if (place == 0) shadowed_.clear();
  c10d::GradBucket bucket = engine_->empty_bucket(index);
  const ReducerGroup::InHook in_hook(*group_);
  const at::NoGradGuard no_grad;
  shadowed_.push_back(
      travel_.hook->run({.bucket = bucket, .index = place, .last = last, .ranks = *group_, .log = travel_.log}));
  if (!last) return;  // a hook may complete a bucket only when it is called for a later one
  for (const HookFuture& future : std::exchange(shadowed_, {})) future->waitAndThrow();
  group_->settle();  // nothing is armed here while the others run pass after pass
}

void GradientReducer::shadow_cut() {
  engine_->push_rebuilt_params_for_all_indices();
  cut_buckets();
}

bool GradientReducer::stays_in_buckets() const {
  return options_.gradient_as_bucket_view && travel_.hook == nullptr && engine_->last_bucket().layout() == at::kStrided;
}

bool GradientReducer::comes_last(const at::Tensor& parameter) const {
  return stays_in_buckets() && engine_->is_in_last_bucket(parameter);
}

bool GradientReducer::touched() const { return engine_->touched(); }

void GradientReducer::set_touched(bool value) { engine_->set_touched(value); }

std::unordered_set<const torch::autograd::Node*> GradientReducer::accumulators() const {
  return engine_->accumulators();
}

}  // namespace accelerate::internal

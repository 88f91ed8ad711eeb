#include "accelerate/optim/ema_core.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/InferenceMode.h>
#include <torch/optim/optimizer.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <unordered_set>
#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/optim/master_weights.h"
#include "accelerate/optim/optimizer.h"
#include "accelerate/tensor/memory_bytes.h"

namespace accelerate::internal {
namespace {

/// What is made here is changed later, also outside an inference mode that the caller may be in.
struct PlainTensors {
  c10::InferenceMode no_inference_mode{false};
  at::NoGradGuard no_grad;
};

bool averaged(const at::Tensor& tensor) { return tensor.is_floating_point() || tensor.is_complex(); }

/// Steps of 1 - decay get lost in eight or eleven bits.
at::ScalarType average_dtype(at::ScalarType weights) {
  const bool narrow = at::isFloatingType(weights) && c10::elementSize(weights) < c10::elementSize(at::kFloat);
  if (narrow) return at::kFloat;
  return weights == at::kComplexHalf ? at::kComplexFloat : weights;
}

[[noreturn]] void refuse(const char* field, double got, const char* expected) {
  std::ostringstream value;
  value << field << " = " << got;
  throw ConfigError({.place = "Ema",
                     .what = std::string("The option ") + field + " is out of its range",
                     .got = value.str(),
                     .expected = expected,
                     .remedy = "Leave it out to get the default"});
}

void check(const EmaOptions& options) {
  // Written so that a NaN is refused.
  if (!(options.decay >= 0 && options.decay <= 1)) refuse(".decay", options.decay, "0 to 1");
  if (!(options.min_decay >= 0 && options.min_decay <= options.decay)) {
    refuse(".min_decay", options.min_decay, "0 to .decay");
  }
  if (!(options.inv_gamma > 0)) refuse(".inv_gamma", options.inv_gamma, "more than 0");
  if (!(options.power > 0)) refuse(".power", options.power, "more than 0");
  if (options.update_after_step < 0) {
    refuse(".update_after_step", static_cast<double>(options.update_after_step), "0 or more");
  }
  if (options.use_ema_warmup && options.ramp_up) {
    throw ConfigError({.place = "Ema",
                       .what = "The decay is given two ways to rise",
                       .got = ".use_ema_warmup and .ramp_up",
                       .expected = "one of the two",
                       .remedy = "Drop .ramp_up, which is for following what diffusers does without warm-up"});
  }
}

kernels::EmaDecay rule_of(const EmaOptions& options) {
  using kernels::EmaRise;
  return {.decay = options.decay,
          .min_decay = options.min_decay,
          .inv_gamma = options.inv_gamma,
          .power = options.power,
          .update_after_step = options.update_after_step,
          .rise = options.use_ema_warmup ? EmaRise::kWarmUp
                  : options.ramp_up      ? EmaRise::kRamp
                                         : EmaRise::kNone};
}

/// What the operator computes with: of a complex number both parts.
at::Tensor numbers_of(const at::Tensor& tensor) { return tensor.is_complex() ? at::view_as_real(tensor) : tensor; }

/// The weight as the operator takes it beside this average.
at::Tensor beside(const at::Tensor& average, const at::Tensor& weight) {
  const bool is_plain = !weight.is_conj() && !weight.is_neg();
  if (is_plain && average.is_complex() == weight.is_complex()) {
    if (at::Tensor numbers = numbers_of(weight); kernels::can_follow(numbers_of(average), numbers)) return numbers;
  }
  return numbers_of(at::empty_like(average).copy_(weight));
}

}  // namespace

double ema_decay(const EmaOptions& options, int64_t step) { return rule_of(options).of(step); }

EmaCore::EmaCore(const std::vector<ParameterTable>& tables, EmaOptions options, std::shared_ptr<MasterWeights> masters)
    : options_(options), masters_(std::move(masters)), history_(std::make_shared<EmaHistory>(rule_of(options))) {
  check(options_);
  const PlainTensors plain;
  std::unordered_set<const void*> seen;
  for (size_t i = 0; i < tables.size(); ++i) {
    const std::string prefix = tables.size() == 1 ? "module." : "module." + std::to_string(i) + ".";
    for (const ParameterRow& row : tables[i]) {
      if (row.buffer && !options_.use_buffers) continue;
      if (!averaged(row.tensor) || !seen.insert(row.tensor.unsafeGetTensorImpl()).second) continue;
      const at::Tensor copy = followed(row.tensor)
                                  .to(average_dtype(row.tensor.scalar_type()), /*non_blocking=*/false,
                                      /*copy=*/true);
      places_.emplace(row.tensor.unsafeGetTensorImpl(), entries_.size());
      entries_.push_back({{prefix + row.name, row.global_shape, row.held, copy}, row.tensor, {}});
    }
  }
  if (!entries_.empty()) return;
  throw UsageError({.place = "Ema",
                    .what = "There is nothing to average",
                    .got = "a model without floating-point parameters",
                    .expected = "at least one weight",
                    .remedy = "Pass the handle that prepare() returned for the model that is trained"});
}

EmaUpdate EmaCore::update(const StepResult& result) {
  require_weights("Ema::update");
  if (!leader_.expired()) {
    throw UsageError({.place = "Ema::update",
                      .what = "The averages follow their optimizer by themselves",
                      .got = "update(result) after follow(optimizer)",
                      .expected = "one of the two: each step is followed once",
                      .remedy = "Drop this call, or do not call follow()"});
  }
  const std::optional<at::Tensor> verdict = verdict_of(result);
  if (!verdict) return {};
  const PlainTensors plain;
  follow_load();
  follow_model("Ema::update");
  return update_left(result, *verdict);
}

/// What the device decides by; undefined: the averages are to follow. Nothing: they are not.
std::optional<at::Tensor> EmaCore::verdict_of(const StepResult& result) const {
  if (result.accumulated()) return {};
  at::Tensor verdict = result.verdict();
  if (!is_decided_by(verdict)) {
    if (!result.applied()) return {};
    verdict.reset();
  }
  return verdict;
}

EmaUpdate EmaCore::update_left(const StepResult& result, const at::Tensor& verdict) {
  try {
    update_on_devices(verdict);
    update_on_host();
  } catch (...) {
    counts_.clear();  // what devices have counted is not known
    throw;
  }
  return {history_, history_->add(result)};
}

bool EmaCore::on_device(c10::Device device) const {
  return device.is_cuda() || (device.is_cpu() && counters_ == Counters::kOnDevice);
}

/// Whether all that follows the weights is where the verdict is known.
bool EmaCore::is_decided_by(const at::Tensor& verdict) const {
  return verdict.defined() && std::all_of(entries_.begin(), entries_.end(), [&](const Entry& entry) {
           const c10::Device device = entry.weight.device();
           return entry.is_written || (on_device(device) && device.type() == verdict.device().type());
         });
}

EmaCore::Count& EmaCore::count_on(c10::Device device) {
  for (Count& count : counts_) {
    if (count.updates.device() == device) return count;
  }
  const at::TensorOptions on(device);
  return counts_.emplace_back(Count{.updates = at::full({}, history_->count(), on.dtype(at::kLong)),
                                    .kept = at::empty({}, on.dtype(at::kDouble)),
                                    .none = at::empty({0}, on)});
}

void EmaCore::update_on_devices(const at::Tensor& verdict) {
  std::vector<std::pair<c10::Device, Lists>> devices;
  for (const Entry& entry : entries_) {
    const at::Tensor& average = entry.average.local;
    if (entry.is_written || !on_device(average.device())) continue;
    auto lists =
        std::find_if(devices.begin(), devices.end(), [&](const auto& one) { return one.first == average.device(); });
    if (lists == devices.end()) lists = devices.insert(lists, {average.device(), Lists{}});
    lists->second.averages.push_back(numbers_of(average));
    lists->second.weights.push_back(beside(average, followed(entry.weight)));
  }
  for (const auto& [device, lists] : devices) {
    const bool elsewhere = verdict.defined() && verdict.device() != device;
    const at::Tensor skip = elsewhere ? verdict.to(device, /*non_blocking=*/true) : verdict;
    const Count& count = count_on(device);
    if (count.has_counted) {
      kernels::follow_weights({lists.averages, lists.weights}, count.kept, skip);
    } else {
      kernels::fused_ema({lists.averages, lists.weights}, count.updates, history_->decay(), skip);
    }
  }
}

/// The result is known to be one of a step that changed the weights, if there is something to do here.
void EmaCore::update_on_host() {
  std::vector<Lists> kinds;
  for (const Entry& entry : entries_) {
    if (entry.is_written || on_device(entry.average.local.device())) continue;
    const at::Tensor weight = followed(entry.weight).detach();
    auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const Lists& other) {
      return other.weights.front().device() == weight.device() &&
             other.weights.front().scalar_type() == weight.scalar_type();
    });
    if (kind == kinds.end()) kind = kinds.emplace(kinds.end());
    kind->averages.push_back(entry.average.local);
    kind->weights.push_back(weight);
  }
  if (kinds.empty()) return;
  const double decay = history_->decay().of(history_->count() + 1);
  for (Lists& kind : kinds) {
    if (decay == 0) {
      at::_foreach_copy_(kind.averages, kind.weights);
      continue;
    }
    if (kind.weights.front().scalar_type() != kind.averages.front().scalar_type()) {
      for (at::Tensor& weight : kind.weights) weight = weight.to(kind.averages.front().scalar_type());
    }
    at::_foreach_lerp_(kind.averages, kind.weights, 1 - decay);
  }
}

void EmaCore::begin() {
  require_weights("Ema::apply");
  applied_ = true;
}

void EmaCore::apply() {
  const PlainTensors plain;
  follow_model("Ema::apply");
  for (Entry& entry : entries_) entry.kept = entry.weight.detach().clone();
  for (Entry& entry : entries_) entry.weight.copy_(entry.average.local);
  at::autocast::clear_cache();  // casts of the weights as they were, inside an autocast region of the caller's
}

void EmaCore::restore() noexcept {
  try {
    const PlainTensors plain;
    for (Entry& entry : entries_) {
      if (entry.kept.defined()) entry.weight.copy_(entry.kept);
    }
    at::autocast::clear_cache();
  } catch (...) {
    failure_ = std::current_exception();  // a device that computes no more; the next call says so
  }
  for (Entry& entry : entries_) entry.kept.reset();
  applied_ = false;
}

void EmaCore::require_weights(const char* place) const {
  if (failure_) std::rethrow_exception(failure_);
  if (!applied_) return;
  throw UsageError({.place = place,
                    .what = "The model has the averages instead of its weights",
                    .got = "a call while a guard of apply() is alive",
                    .expected = "it after that guard has ended",
                    .remedy = "Put `auto weights = ema.apply();` into the block of the evaluation alone: { ... }"});
}

int64_t EmaCore::bytes_on(c10::Device device) const {
  MemoryCount count(device);
  for (const Entry& entry : entries_) {
    count.add(entry.average.local);
    if (applied_) count.add(entry.kept);
  }
  return count.bytes();
}

int64_t EmaCore::steps() {
  follow_load();
  return history_->count();
}

double EmaCore::decay() { return history_->decay().of(steps()); }

void EmaCore::save(StateWriter& writer) {
  const PlainTensors plain;
  writer.write({"n_averaged", {}, {0, 1}, at::full({}, steps(), at::kLong)});
  for (const Entry& entry : entries_) writer.write(entry.average);
}

void EmaCore::load(StateReader& reader) {
  require_weights("Ema::load");
  const PlainTensors plain;
  // Filled when the whole load has finished; a load that fails leaves it what it is.
  loaded_ = at::full({}, steps(), at::kLong);
  reader.read({"n_averaged", {}, {0, 1}, loaded_});
  for (const Entry& entry : entries_) reader.read(entry.average);
}

void EmaCore::follow_load() {
  if (!loaded_.defined()) return;
  const int64_t count = *loaded_.const_data_ptr<int64_t>();
  if (count != history_->count()) {
    const PlainTensors plain;
    for (const Count& one : counts_) one.updates.fill_(count);
    history_->set_count(count);
  }
  loaded_.reset();
}

void EmaCore::follow(const std::shared_ptr<OptimizerCore>& optimizer) {
  const std::shared_ptr<OptimizerCore> leader = leader_.lock();
  if (leader != nullptr && leader != optimizer) {
    throw UsageError({.place = "Ema::follow",
                      .what = "The averages follow another optimizer by themselves",
                      .got = "a second optimizer",
                      .expected = "one, whose steps are counted",
                      .remedy = "Make an Ema of each optimizer's model, or call update(result) after the last of the "
                                "steps instead"});
  }
  bool has_some = false;
  for (const auto& group : optimizer->inner().param_groups()) {
    for (const at::Tensor& parameter : group.params()) has_some |= places_.contains(parameter.unsafeGetTensorImpl());
  }
  if (!has_some) {
    throw UsageError({.place = "Ema::follow",
                      .what = "The optimizer trains none of the weights that are averaged",
                      .got = "an optimizer of other parameters",
                      .expected = "the one that trains the model of this Ema",
                      .remedy = "Pass the handle that prepare() returned for that model's optimizer"});
  }
  optimizer->lead(shared_from_this());
  leader_ = optimizer;
}

void EmaCore::begin_step() {
  const PlainTensors plain;
  follow_load();
  follow_model("optimizer.step");
  // Where memory runs out, nothing has been updated.
  for (const Entry& entry : entries_) {
    if (on_device(entry.average.local.device())) count_on(entry.average.local.device());
  }
}

at::Tensor EmaCore::average_beside(const at::Tensor& parameter, const at::Tensor& updated) {
  const auto found = places_.find(parameter.unsafeGetTensorImpl());
  if (found == places_.end()) return {};
  Entry& entry = entries_[found->second];
  // Of a rounded weight whose master it does not know, the average follows what was rounded.
  if (!followed(entry.weight).is_same(updated) || !kernels::can_follow(entry.average.local, updated)) return {};
  entry.is_written = true;
  return entry.average.local;
}

kernels::Following EmaCore::following(std::vector<at::Tensor>& averages) {
  const auto one = std::find_if(averages.begin(), averages.end(), [](const at::Tensor& t) { return t.defined(); });
  if (one == averages.end()) return {};
  const c10::Device device = one->device();
  const PlainTensors plain;
  Count& count = count_on(device);
  for (at::Tensor& average : averages) {
    if (!average.defined()) average = count.none;
  }
  const bool counts = !std::exchange(count.has_counted, true);
  // Where the host counts it does so in most updates without telling.
  if (counts && !on_device(device)) count.updates.fill_(history_->count());
  return {.averages = averages,
          .updates = counts ? count.updates : at::Tensor(),
          .kept = count.kept,
          .decay = history_->decay()};
}

void EmaCore::end_step(const StepResult& result) {
  const PlainTensors plain;
  if (const auto verdict = verdict_of(result)) update_left(result, *verdict);
  for (Entry& entry : entries_) entry.is_written = false;
  for (Count& count : counts_) count.has_counted = false;
}

void EmaCore::abandon_step() noexcept {
  for (Entry& entry : entries_) entry.is_written = false;
  // What devices have counted is not known.
  std::erase_if(counts_, [](const Count& count) { return count.has_counted; });
}

/// What the optimizer trains.
at::Tensor EmaCore::followed(const at::Tensor& weight) const {
  return masters_ && masters_->find(weight) != nullptr ? masters_->of(weight) : weight;
}

/// The model may have been moved or converted, which keeps its tensors and changes what they hold.
void EmaCore::follow_model(const char* place) {
  for (const Entry& entry : entries_) {
    if (entry.weight.sizes() == entry.average.local.sizes()) continue;
    std::ostringstream got;
    got << entry.weight.sizes() << " for `" << entry.average.name << "`";
    std::ostringstream expected;
    expected << entry.average.local.sizes() << ", as at the beginning";
    throw UsageError({.place = place,
                      .what = "A weight has changed its shape",
                      .got = got.str(),
                      .expected = expected.str(),
                      .remedy = "Build another Ema after changing the model"});
  }
  for (Entry& entry : entries_) {
    at::Tensor& average = entry.average.local;
    const c10::Device device = entry.weight.device();
    const at::ScalarType dtype = average_dtype(entry.weight.scalar_type());
    if (average.device() != device || average.scalar_type() != dtype) average = average.to(device, dtype);
  }
}

}  // namespace accelerate::internal

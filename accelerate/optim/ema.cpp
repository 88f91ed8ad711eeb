#include "accelerate/optim/ema.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <sstream>
#include <string>
#include <unordered_set>
#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/optim/master_weights.h"
#include "accelerate/tensor/memory_bytes.h"
#include "accelerate/tensor/memory_owners.h"

namespace accelerate {
namespace internal {
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

struct Entry {
  ShardedTensor average;
  at::Tensor weight;  ///< the user's own
  at::Tensor kept;    ///< what the weight was, while the average is in its place
};

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

}  // namespace

double ema_decay(const EmaOptions& options, int64_t step) {
  const int64_t n = step - options.update_after_step - 1;
  if (n <= 0) return 0;
  const auto count = static_cast<double>(n);
  double decay = options.decay;
  if (options.use_ema_warmup) decay = 1 - std::pow(1 + count / options.inv_gamma, -options.power);
  if (options.ramp_up) decay = (1 + count) / (10 + count);
  return std::max(std::min(decay, options.decay), options.min_decay);
}

class EmaCore {
 public:
  EmaCore(const std::vector<ParameterTable>& tables, EmaOptions options, std::shared_ptr<MasterWeights> masters)
      : options_(options), masters_(std::move(masters)) {
    check(options_);
    const PlainTensors plain;
    n_averaged_ = at::zeros({}, at::kLong);
    std::unordered_set<const void*> seen;
    for (size_t i = 0; i < tables.size(); ++i) {
      const std::string prefix = tables.size() == 1 ? "module." : "module." + std::to_string(i) + ".";
      for (const ParameterRow& row : tables[i]) {
        if (row.buffer && !options_.use_buffers) continue;
        if (!averaged(row.tensor) || !seen.insert(row.tensor.unsafeGetTensorImpl()).second) continue;
        const at::Tensor copy = followed(row.tensor)
                                    .to(average_dtype(row.tensor.scalar_type()), /*non_blocking=*/false,
                                        /*copy=*/true);
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

  EmaUpdate update(const StepResult& result) {
    require_weights("Ema::update");
    if (!result.applied()) return {};
    const PlainTensors plain;
    follow("Ema::update");
    const double decay = ema_decay(options_, steps() + 1);
    for (Kind& kind : kinds()) {
      if (decay == 0) {
        at::_foreach_copy_(kind.averages, kind.weights);
        continue;
      }
      if (kind.weights.front().scalar_type() != kind.averages.front().scalar_type()) {
        for (at::Tensor& weight : kind.weights) weight = weight.to(kind.averages.front().scalar_type());
      }
      at::_foreach_lerp_(kind.averages, kind.weights, 1 - decay);
    }
    n_averaged_.add_(1);
    decay_ = decay;
    return {.applied = true, .decay = decay};
  }

  /// Everything that may fail comes before the first weight changes. The guard exists already.
  void apply() {
    const PlainTensors plain;
    follow("Ema::apply");
    for (Entry& entry : entries_) entry.kept = entry.weight.detach().clone();
    for (Entry& entry : entries_) entry.weight.copy_(entry.average.local);
    at::autocast::clear_cache();  // casts of the weights as they were, inside an autocast region of the caller's
  }

  void restore() noexcept {
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

  /// The mark is set before a guard is made.
  void begin() {
    require_weights("Ema::apply");
    applied_ = true;
  }
  bool applied() const { return applied_; }

  void require_weights(const char* place) const {
    if (failure_) std::rethrow_exception(failure_);
    if (!applied_) return;
    throw UsageError({.place = place,
                      .what = "The model has the averages instead of its weights",
                      .got = "a call while a guard of apply() is alive",
                      .expected = "it after that guard has ended",
                      .remedy = "Put `auto weights = ema.apply();` into the block of the evaluation alone: { ... }"});
  }

  int64_t bytes_on(c10::Device device) const {
    MemoryCount count(device);
    for (const Entry& entry : entries_) {
      count.add(entry.average.local);
      if (applied_) count.add(entry.kept);
    }
    return count.bytes();
  }

  int64_t steps() const { return *n_averaged_.const_data_ptr<int64_t>(); }
  double decay() const { return decay_; }

  void save(StateWriter& writer) const {
    writer.write({"n_averaged", {}, {0, 1}, n_averaged_});
    for (const Entry& entry : entries_) writer.write(entry.average);
  }
  void load(StateReader& reader) {
    require_weights("Ema::load");
    reader.read({"n_averaged", {}, {0, 1}, n_averaged_});
    for (const Entry& entry : entries_) reader.read(entry.average);
  }

 private:
  /// What one for-each kernel takes.
  struct Kind {
    std::vector<at::Tensor> averages, weights;
    bool takes(const at::Tensor& weight) const {
      const at::Tensor& other = weights.front();
      return other.device() == weight.device() && other.scalar_type() == weight.scalar_type();
    }
  };

  /// What the optimizer trains.
  at::Tensor followed(const at::Tensor& weight) const {
    return masters_ && masters_->find(weight) != nullptr ? masters_->of(weight) : weight.detach();
  }

  std::vector<Kind> kinds() const {
    std::vector<Kind> kinds;
    for (const Entry& entry : entries_) {
      const at::Tensor weight = followed(entry.weight);
      auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const Kind& other) { return other.takes(weight); });
      if (kind == kinds.end()) kind = kinds.emplace(kinds.end());
      kind->averages.push_back(entry.average.local);
      kind->weights.push_back(weight);
    }
    return kinds;
  }

  /// The model may have been moved or converted, which keeps its tensors and changes what they hold.
  void follow(const char* place) {
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
      average = average.to(entry.weight.device(), average_dtype(entry.weight.scalar_type()));
    }
  }

  EmaOptions options_;
  std::shared_ptr<MasterWeights> masters_;  ///< null: the weights are what is trained
  at::Tensor n_averaged_;                   ///< on the CPU; a tensor, so that loading can fill it
  std::vector<Entry> entries_;
  double decay_ = 0;
  bool applied_ = false;
  std::exception_ptr failure_;
};

}  // namespace internal

void Ema::count_in(const std::shared_ptr<internal::MemoryOwners>& owners) const {
  if (owners == nullptr) return;
  const internal::EmaCore* const core = core_.get();
  owners->add(internal::MemoryOwner::kAverages, core_, [core](c10::Device device) { return core->bytes_on(device); });
}

EmaWeights::~EmaWeights() {
  if (core_) core_->restore();
}

Ema::Ema(const std::vector<ParameterTable>& tables, EmaOptions options) : Ema(tables, options, nullptr) {}
Ema::Ema(const std::vector<ParameterTable>& tables, EmaOptions options, Masters masters)
    : core_(std::make_shared<internal::EmaCore>(tables, options, std::move(masters))) {}
Ema::~Ema() = default;
Ema::Ema(Ema&&) noexcept = default;
Ema& Ema::operator=(Ema&&) noexcept = default;

namespace {

internal::EmaCore& used(const std::shared_ptr<internal::EmaCore>& core) {
  if (core != nullptr) return *core;
  throw UsageError({.place = "Ema",
                    .what = "The averages are gone",
                    .got = "an Ema that release_memory() emptied or that was moved from",
                    .expected = "one that holds its averages",
                    .remedy = "Build another Ema, or use the one it was moved to"});
}

}  // namespace

EmaUpdate Ema::update(const StepResult& result) { return used(core_).update(result); }

EmaWeights Ema::apply() {
  used(core_).begin();
  EmaWeights weights(core_);
  core_->apply();
  return weights;
}

bool Ema::applied() const { return used(core_).applied(); }
int64_t Ema::optimization_step() const { return used(core_).steps(); }
double Ema::cur_decay_value() const { return used(core_).decay(); }
void Ema::save(StateWriter& writer) const { used(core_).save(writer); }
void Ema::load(StateReader& reader) { used(core_).load(reader); }

}  // namespace accelerate

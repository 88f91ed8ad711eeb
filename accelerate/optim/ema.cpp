#include "accelerate/optim/ema.h"

#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/optim/ema_core.h"
#include "accelerate/optim/optimizer.h"
#include "accelerate/tensor/memory_owners.h"

namespace accelerate {

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

bool EmaUpdate::applied() const { return entry_ && history_->number_of(*entry_) != 0; }
double EmaUpdate::decay() const { return entry_ ? history_->decay_of(*entry_) : 0; }
bool EmaUpdate::known() const { return !entry_ || history_->knows(*entry_); }

EmaUpdate Ema::update(const StepResult& result) { return used(core_).update(result); }
void Ema::follow(const Optimizer& optimizer) { used(core_).follow(internal::held(optimizer.core(), "optimizer")); }

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

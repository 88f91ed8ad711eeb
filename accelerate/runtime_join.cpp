// join_uneven_inputs: which loaders and models take part, and that all ranks mean the same.
#include "accelerate/runtime_join.h"

#include <torch/nn/module.h>

#include <algorithm>
#include <exception>
#include <iterator>
#include <utility>

#include "accelerate/comm/objects.h"
#include "accelerate/core/error.h"
#include "accelerate/nn/sync_batch_norm.h"
#include "accelerate/runtime.h"
#include "accelerate/strategy/uneven_inputs.h"

namespace accelerate::internal {
namespace {

using Models = std::vector<std::shared_ptr<ModelCore>>;

/// Every loader that is alive has `even_batches` as long as it lives.
class EvenBatches {
 public:
  EvenBatches(const std::vector<PreparedObjects::Loader>& loaders, std::optional<bool> even_batches) {
    if (!even_batches) return;
    for (const PreparedObjects::Loader& entry : loaders) {
      auto loader = entry.prepared.lock();
      if (loader == nullptr) continue;
      before_.emplace_back(loader, loader->even_batches());
      loader->set_even_batches(*even_batches);
    }
  }
  ~EvenBatches() {
    for (const auto& [loader, even] : before_) loader->set_even_batches(even);
  }
  EvenBatches(const EvenBatches&) = delete;
  EvenBatches& operator=(const EvenBatches&) = delete;

 private:
  std::vector<std::pair<std::shared_ptr<LoaderCore>, bool>> before_;
};

bool contains(const Models& models, const std::shared_ptr<ModelCore>& model) {
  return std::find(models.begin(), models.end(), model) != models.end();
}

/// Those that processes share: one for evaluation may be on some of them alone.
Models shared_of(const Models& all) {
  Models shared;
  std::copy_if(all.begin(), all.end(), std::back_inserter(shared),
               [](const auto& model) { return model->ranks() > 1; });
  return shared;
}

/// What this rank is about to do, in words that the others can be compared with.
std::string described(const Models& all, const Models& joined, bool even_batches) {
  std::string text = std::string(even_batches ? "even" : "uneven") + " batches and models";
  for (size_t i = 0; i < all.size(); ++i) {
    if (contains(joined, all[i])) text += " " + std::to_string(i);
  }
  return text;
}

void require_one_meaning(const Group& group, const std::string& own) {
  const std::vector<std::string> all = all_gather_bytes(group, own);
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    throw UsageError({.place = "join_uneven_inputs",
                      .what = "The processes join different things",
                      .got = all[rank] + " on process " + std::to_string(rank),
                      .expected = all[0] + ", as on process 0 (models are counted as they were prepared)",
                      .remedy = "Pass the same options and models on every process"});
  }
}

UsageError cannot_join(const std::string& model) {
  return UsageError({.place = "join_uneven_inputs",
                     .what = "The strategy cannot stand in for processes without data",
                     .got = "the model " + model,
                     .expected = "models that are replicated, with the gradients averaged",
                     .remedy = "Use even batches"});
}

}  // namespace

/// What a guard of `join_uneven_inputs` undoes.
class JoinScope {
 public:
  JoinScope(Runtime& runtime, const std::vector<PreparedObjects::Loader>& loaders, JoinOptions options, Models models,
            std::vector<UnevenInputs::Model> joined)
      : runtime_(runtime),
        open_(runtime.open_joins()),
        models_(std::move(models)),
        loaders_(loaders, options.even_batches),
        exceptions_(std::uncaught_exceptions()) {
    if (joined.empty()) return;
    inputs_.emplace(runtime.group(), runtime.log(), std::move(joined));
    open_->add(*inputs_);
  }
  ~JoinScope() {
    if (inputs_) open_->remove(*inputs_);
  }
  JoinScope(const JoinScope&) = delete;
  JoinScope& operator=(const JoinScope&) = delete;

  void finish() {
    if (!inputs_) return;
    try {
      runtime_.sync()->require_open("join_uneven_inputs");
      inputs_->finish();
    } catch (...) {
      inputs_->fail();
      throw;
    }
  }

  void leave() noexcept {
    if (!inputs_) return;
    if (std::uncaught_exceptions() > exceptions_) return inputs_->fail();
    try {
      finish();
    } catch (const std::exception& error) {
      runtime_.log().warning(std::string("join_uneven_inputs did not come to its end: ") + error.what());
      runtime_.keep_error(std::current_exception());
    }
  }

 private:
  Runtime& runtime_;
  std::shared_ptr<OpenJoins> open_;
  Models models_;  ///< whose strategies the inputs refer to, also after the end of training
  EvenBatches loaders_;
  std::optional<UnevenInputs> inputs_;  ///< empty: nobody has to be waited for
  int exceptions_;                      ///< that were on their way when it began
};

void Runtime::require_no_open_join(const char* verb) const {
  if (!open_joins_->any()) return;
  throw UsageError({.place = verb,
                    .what = "What the processes share cannot change inside join_uneven_inputs",
                    .got = std::string(verb) + "() while its guard is open",
                    .expected = "it before or after the loop, on every process",
                    .remedy = "Call `join.finish()` first, or do it before the guard is made"});
}

namespace {

UsageError normalises_over_ranks(const std::string& model) {
  return UsageError({.place = "join_uneven_inputs",
                     .what = "A process without data cannot take part in the statistics of a SyncBatchNorm",
                     .got = model + ", which has one",
                     .expected = "exchanges in backward passes alone",
                     .remedy = "Train with even batches, which is the default, or with the plain BatchNorm"});
}

}  // namespace

UnevenJoin Runtime::join_uneven_inputs(const Models& models, JoinOptions options) {
  sync_->require_open("join_uneven_inputs");
  throw_kept_error();
  if (models.empty()) {
    throw UsageError({.place = "join_uneven_inputs",
                      .what = "There is nothing to join",
                      .got = "no model",
                      .expected = "the models that are trained in the loop",
                      .remedy = "Write `auto join = accelerator.join_uneven_inputs({model});`"});
  }
  if (group_.size() == 1) return UnevenJoin(nullptr);
  const bool even = options.even_batches.value_or(plan_.data.even_batches);
  const Models shared = shared_of(prepared_.models);
  require_one_meaning(group_, described(shared, models, even));
  std::vector<UnevenInputs::Model> joined;
  for (const auto& model : shared) {
    if (even) break;
    const bool joins = contains(models, model);
    Shadow* shadow = model->strategy().shadow();
    if (joins && shadow == nullptr) throw cannot_join(model->module()->name());
    if (joins && has_bound_batch_norm(*model->module())) throw normalises_over_ranks(model->module()->name());
    joined.push_back({.name = model->module()->name(), .shadow = shadow, .joins = joins});
  }
  return UnevenJoin(std::make_unique<JoinScope>(*this, prepared_.loaders, options, shared, std::move(joined)));
}

}  // namespace accelerate::internal

namespace accelerate {

UnevenJoin::UnevenJoin(std::unique_ptr<internal::JoinScope> scope) : scope_(std::move(scope)) {}

UnevenJoin::UnevenJoin(UnevenJoin&&) noexcept = default;

UnevenJoin::~UnevenJoin() {
  if (scope_) scope_->leave();
}

void UnevenJoin::finish() {
  // Taken away first: the guard has ended, whatever comes of it.
  if (const auto scope = std::move(scope_)) scope->finish();
}

}  // namespace accelerate

#include "accelerate/runtime_weights.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

/// 0-d and float64, on the device of `loss`.
at::Tensor as_count(const LossCount& given, const char* field, const at::Tensor& loss) {
  std::ostringstream got;
  if (given.number()) {
    const double number = *given.number();
    if (std::isfinite(number) && number >= 0) return at::full({}, number, loss.options().dtype(at::kDouble));
    got << field << " = " << number;
  } else {
    const at::Tensor& tensor = *given.tensor();
    if (tensor.defined() && tensor.numel() == 1) {
      return tensor.detach().reshape({}).to(loss.options().dtype(at::kDouble), /*non_blocking=*/true);
    }
    got << field << " = ";
    tensor.defined() ? got << "a tensor of shape " << tensor.sizes() : got << "an undefined tensor";
  }
  throw UsageError({.place = "backward",
                    .what = "The count of the loss is not usable",
                    .got = got.str(),
                    .expected = "a finite number that is not negative, or a tensor of one element",
                    .remedy = "Pass how many tokens or samples the loss is about"});
}

[[noreturn]] void throw_mixed(const char* got) {
  throw UsageError({.place = "backward",
                    .what = "Losses with and without a count meet in the gradients of one model",
                    .got = got,
                    .expected = ".num_items or .weight for every backward() of an update, or for none",
                    .remedy = "Pass a count each time; 0 adds a loss without counting it"});
}

}  // namespace

WeightedPass::WeightedPass(const Models& models, const Group& group, const at::Tensor& loss,
                           const BackwardOptions& options)
    : models_(models), group_(group) {
  if (options.num_items.given() && options.weight.given()) {
    throw UsageError({.place = "backward",
                      .what = "The loss is counted twice",
                      .got = ".num_items and .weight",
                      .expected = ".num_items for a sum, .weight for a mean",
                      .remedy = "Keep the one that says what the loss is"});
  }
  is_mean_ = options.weight.given();
  const LossCount& given = is_mean_ ? options.weight : options.num_items;
  if (given.given()) count_ = as_count(given, is_mean_ ? ".weight" : ".num_items", loss);
  // Walking the graph is needed only where somebody counts and there is a choice.
  const bool anybody = counts() || std::any_of(models.begin(), models.end(),
                                               [](const auto& model) { return model->loss_weights().any(); });
  size_t shared = 0;
  for (const auto& one : models) {
    ModelCore& model = *one;
    const size_t index = model.ranks() > 1 ? shared++ : 0;
    LossWeights& weights = model.loss_weights();
    if (models.size() > 1 && !anybody) {
      weights.add_plain();  // maybe: where nobody counts, nobody walks the graph
      continue;
    }
    if (models.size() > 1 && !model.reached_by(loss)) continue;
    const bool may_clash = counts() || weights.any();
    if (may_clash && gradients_of(model.trainable()).empty()) weights.reset();  // dropped without a prepared optimizer
    if (!counts() && weights.any()) throw_mixed("a loss without one after others with");
    if (counts() && weights.plain()) {
      throw_mixed(models.size() == 1 ? "a loss with one after others without"
                                     : "a loss with one after others without that may be about the same model");
    }
    if (!counts()) {
      weights.add_plain();
      continue;
    }
    reached_.push_back({&model, index, model.backward_sync(loss)});
  }
}

std::vector<Gradients> WeightedPass::gradients_of_new(const ModelCore& model, std::vector<const void*>& seen) const {
  std::vector<at::Tensor> parameters;
  for (const at::Tensor& parameter : model.trainable()) {
    const void* identity = parameter.unsafeGetTensorImpl();
    if (std::find(seen.begin(), seen.end(), identity) != seen.end()) continue;
    seen.push_back(identity);
    parameters.push_back(parameter);
  }
  return gradients_by_kind(parameters);
}

void WeightedPass::begin(const at::Tensor& loss, bool window_ends) {
  if (!counts()) return;
  window_ends_ = window_ends;
  std::vector<const void*> seen;
  for (const Reached& reached : reached_) {
    auto kinds = gradients_of_new(*reached.model, seen);
    reached.model->loss_weights().undivide(kinds);
    reached.model->loss_weights().add(count_);
  }
  if (!window_ends || group_.size() == 1) return;
  const auto averages = [&](const auto& model) {
    return model->ranks() > 1 && model->backward_sync(loss) == GradientSync::kReduce;
  };
  if (std::none_of(models_.begin(), models_.end(), averages)) return;  // each process goes on by itself
  // One for every model that they share, reached or not: all ranks exchange as many.
  std::vector<at::Tensor> counted;
  for (const auto& model : models_) {
    if (model->ranks() == 1) continue;
    const at::Tensor& own = model->loss_weights().counted();
    counted.push_back(own.defined() ? own : at::zeros({}, loss.options().dtype(at::kDouble)));
  }
  totals_ = at::stack(counted);
  exchange_ = group_.all_reduce(totals_);
}

void WeightedPass::finish() {
  if (!counts() || !window_ends_) return;
  exchange_.wait();
  std::vector<const void*> seen;
  for (const Reached& reached : reached_) {
    LossWeights& weights = reached.model->loss_weights();
    // What stays on its process is the mean over what that process has seen.
    const bool averaged = reached.sync == GradientSync::kReduce && reached.model->ranks() > 1;
    const at::Tensor total = averaged ? totals_[static_cast<int64_t>(reached.index)] : weights.counted();
    auto kinds = gradients_of_new(*reached.model, seen);
    weights.divide(kinds, total, averaged ? reached.model->ranks() : 1);
  }
}

}  // namespace accelerate::internal

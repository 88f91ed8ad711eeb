#include "accelerate/runtime_weights.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>
#include <unordered_set>

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
    if (models.size() > 1 && !model.reached_by(loss)) {
      if (weights.any()) left_out_.push_back({.model = &model, .index = index, .averaged = false, .factor = {}});
      continue;
    }
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
    const bool averaged = model.ranks() > 1 && model.backward_sync(loss) == GradientSync::kReduce;
    reached_.push_back({.model = &model, .index = index, .averaged = averaged, .factor = {}});
  }
}

void WeightedPass::rescale(const std::vector<Reached>& models,
                           const std::function<at::Tensor(const Reached&)>& factor_of) {
  std::unordered_set<const void*> seen;
  for (const Reached& reached : models) {
    std::vector<at::Tensor> parameters = reached.model->trainable();
    std::erase_if(parameters, [&](const at::Tensor& one) { return !seen.insert(one.unsafeGetTensorImpl()).second; });
    auto kinds = gradients_by_kind(parameters);
    reached.model->loss_weights().rescale(kinds, factor_of(reached));
  }
}

/// One for every model that the ranks share, reached or not: all ranks exchange as many.
void WeightedPass::exchange_counts() {
  std::vector<at::Tensor> counted;
  for (const auto& model : models_) {
    if (model->ranks() == 1) continue;
    const at::Tensor& own = model->loss_weights().counted();
    counted.push_back(own.defined() ? own : at::zeros_like(count_));
  }
  totals_ = at::stack(counted);
  group_.all_reduce(totals_).wait();
}

at::Tensor WeightedPass::begin(const at::Tensor& loss, bool window_ends) {
  for (const Reached& reached : reached_) reached.model->loss_weights().add(count_);
  const bool averages = std::any_of(models_.begin(), models_.end(), [&](const auto& model) {
    return model->ranks() > 1 && model->backward_sync(loss) == GradientSync::kReduce;
  });
  at::Tensor shared;
  if (averages) exchange_counts();
  if (averages || window_ends) {
    for (Reached& reached : reached_) {
      // What stays on its process is the mean over what that process has seen.
      const at::Tensor total =
          reached.averaged ? totals_[static_cast<int64_t>(reached.index)] : reached.model->loss_weights().counted();
      reached.factor = mean_factor(total, reached.averaged ? reached.model->ranks() : 1);
    }
    // One factor for the whole graph, on every rank the same. 16 bits would not hold it.
    const bool holds = loss.scalar_type() == at::kFloat || loss.scalar_type() == at::kDouble;
    if (holds && averages) shared = mean_factor(totals_.max(), group_.size());
    if (holds && !averages && !reached_.empty()) shared = reached_.front().factor;
    const bool is_own = reached_.size() == 1 && (!averages || (reached_.front().averaged && totals_.numel() == 1));
    corrects_ = !(shared.defined() && is_own);
  }
  rescale(reached_, [&](const Reached&) { return shared; });
  // No other loss may come: what stays here is divided now, as often as it takes.
  if (window_ends) {
    std::erase_if(left_out_, [](const Reached& one) { return one.model->ranks() > 1; });
    rescale(left_out_, [](const Reached& one) { return mean_factor(one.model->loss_weights().counted(), 1); });
  }
  if (!is_mean_ && !shared.defined()) return loss;
  at::Tensor factor = is_mean_ ? count_ : shared;
  if (is_mean_ && shared.defined()) factor = count_ * shared;
  return loss * factor.to(loss.scalar_type());
}

void WeightedPass::finish() {
  if (corrects_) rescale(reached_, [](const Reached& reached) { return reached.factor; });
}

}  // namespace accelerate::internal

#include "accelerate/optim/lion.h"

#include <ATen/ATen.h>
#include <torch/serialize/archive.h>

#include <string>

#include "accelerate/core/error.h"

namespace accelerate {
namespace {

void require(bool good, const char* option, double value, const char* expected) {
  if (good) return;
  throw UsageError({.place = "Lion",
                    .what = "An option is out of range",
                    .got = std::string(option) + " = " + std::to_string(value),
                    .expected = expected,
                    .remedy = "Correct LionOptions"});
}

void check(const LionOptions& options) {
  const auto [beta1, beta2] = options.betas();
  require(options.lr() >= 0, "lr", options.lr(), "0 or more");
  require(beta1 >= 0 && beta1 < 1, "the first of betas", beta1, "0 or more and less than 1");
  require(beta2 >= 0 && beta2 < 1, "the second of betas", beta2, "0 or more and less than 1");
  require(options.weight_decay() >= 0, "weight_decay", options.weight_decay(), "0 or more");
}

double read_number(torch::serialize::InputArchive& archive, const char* name) {
  c10::IValue value;
  archive.read(name, value);
  return value.toDouble();
}

}  // namespace

LionOptions::LionOptions(double lr) : lr_(lr) {}
double LionOptions::get_lr() const { return lr(); }
void LionOptions::set_lr(double lr) { this->lr(lr); }

void LionOptions::serialize(torch::serialize::OutputArchive& archive) const {
  archive.write("lr", c10::IValue(lr()));
  archive.write("beta1", c10::IValue(std::get<0>(betas())));
  archive.write("beta2", c10::IValue(std::get<1>(betas())));
  archive.write("weight_decay", c10::IValue(weight_decay()));
}

void LionOptions::serialize(torch::serialize::InputArchive& archive) {
  lr(read_number(archive, "lr"));
  const double beta1 = read_number(archive, "beta1"), beta2 = read_number(archive, "beta2");
  betas(std::make_tuple(beta1, beta2));
  weight_decay(read_number(archive, "weight_decay"));
}

void LionParamState::serialize(torch::serialize::OutputArchive& archive) const { archive.write("exp_avg", exp_avg()); }

void LionParamState::serialize(torch::serialize::InputArchive& archive) {
  torch::Tensor average;
  archive.read("exp_avg", average);
  exp_avg(average);
}

Lion::Lion(const std::vector<torch::optim::OptimizerParamGroup>& param_groups, LionOptions defaults)
    : Optimizer(param_groups, std::make_unique<LionOptions>(defaults)) {
  check(defaults);
  for (const auto& group : param_groups_) check(static_cast<const LionOptions&>(group.options()));
}

torch::Tensor Lion::step(LossClosure closure) {
  torch::Tensor loss;
  if (closure) {
    const at::AutoGradMode grad(true);
    loss = closure();
  }
  const torch::NoGradGuard no_grad;
  for (auto& group : param_groups_) {
    const auto& options = static_cast<const LionOptions&>(group.options());
    const auto [beta1, beta2] = options.betas();
    for (torch::Tensor& parameter : group.params()) {
      if (!parameter.grad().defined()) continue;
      const torch::Tensor& gradient = parameter.grad();
      TORCH_CHECK(!gradient.is_sparse(), "Lion does not support sparse gradients");
      auto& slot = state_[parameter.unsafeGetTensorImpl()];
      if (!slot) {
        auto fresh = std::make_unique<LionParamState>();
        fresh->exp_avg(torch::zeros_like(parameter, torch::MemoryFormat::Preserve));
        slot = std::move(fresh);
      }
      torch::Tensor& average = static_cast<LionParamState&>(*slot).exp_avg();
      parameter.mul_(1 - options.lr() * options.weight_decay());
      parameter.add_((average * beta1).add_(gradient, 1 - beta1).sign_(), -options.lr());
      average.mul_(beta2).add_(gradient, 1 - beta2);
    }
  }
  return loss;
}

void Lion::save(torch::serialize::OutputArchive& archive) const {
  torch::optim::serialize<LionParamState, LionOptions>(archive, *this);
}

void Lion::load(torch::serialize::InputArchive& archive) {
  torch::optim::serialize<LionParamState, LionOptions>(archive, *this);
}

}  // namespace accelerate

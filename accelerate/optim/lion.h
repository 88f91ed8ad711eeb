#pragma once

// For those who use it: not in accelerate.h, since LibTorch's optimizer header costs seconds of a compiler's time.
#include <torch/optim/optimizer.h>
#include <torch/optim/serialize.h>

#include <memory>
#include <tuple>
#include <utility>
#include <vector>

namespace accelerate {

struct LionOptions : public torch::optim::OptimizerCloneableOptions<LionOptions> {
  explicit LionOptions(double lr = 1e-4);
  TORCH_ARG(double, lr) = 1e-4;
  using betas_t = std::tuple<double, double>;
  TORCH_ARG(betas_t, betas) = std::make_tuple(0.9, 0.99);
  TORCH_ARG(double, weight_decay) = 0;

 public:
  void serialize(torch::serialize::InputArchive& archive) override;
  void serialize(torch::serialize::OutputArchive& archive) const override;
  double get_lr() const override;
  void set_lr(double lr) override;
};

struct LionParamState : public torch::optim::OptimizerCloneableParamState<LionParamState> {
  TORCH_ARG(torch::Tensor, exp_avg);

 public:
  void serialize(torch::serialize::InputArchive& archive) override;
  void serialize(torch::serialize::OutputArchive& archive) const override;
};

/// Steps of one length in the direction of the sign of a momentum: half of Adam's state, and a rate 3 to 10 times
/// smaller with a weight decay 3 to 10 times larger. Used as any `torch::optim` optimizer; prepared, it steps fused.
/// Throws UsageError for a rate or weight decay below 0 and betas outside [0, 1).
/// Source: "Symbolic Discovery of Optimization Algorithms" (Chen et al., 2023), program 1, and its `lion_pytorch.py`.
class Lion : public torch::optim::Optimizer {
 public:
  explicit Lion(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
                LionOptions defaults = LionOptions());
  explicit Lion(std::vector<torch::Tensor> parameters, LionOptions defaults = LionOptions())
      : Lion(std::vector<torch::optim::OptimizerParamGroup>{torch::optim::OptimizerParamGroup(std::move(parameters))},
             std::move(defaults)) {}

  torch::Tensor step(LossClosure closure = nullptr) override;
  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;
};

}  // namespace accelerate

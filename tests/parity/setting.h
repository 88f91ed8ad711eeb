#pragma once

#include <torch/torch.h>

#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "accelerate/accelerate.h"
#include "tests/parity/fixtures.h"

// A fixture's configuration as objects of this library and of LibTorch.
namespace parity {

/// What the configuration says, on top of `options`: the place of a rank.
accelerate::GradScalerKwargs scaler_options(const Json& description);
accelerate::AcceleratorOptions accelerator_options(const Json& configuration,
                                                   accelerate::AcceleratorOptions options = {});

/// Parameters under the names that the configuration's groups use.
using NamedParameters = std::vector<std::pair<std::string, at::Tensor>>;

/// Parameters of `module`, each name with `prefix` in front.
NamedParameters named_parameters(const torch::nn::Module& module, const std::string& prefix = "");

std::unique_ptr<torch::optim::Optimizer> make_optimizer(const Json& description, const NamedParameters& parameters);

/// Not for the kind "none".
accelerate::Schedule make_schedule(const Json& description);
bool has_schedule(const Json& configuration);

at::Tensor make_loss(const std::string& name, const at::Tensor& output, const at::Tensor& target);

/// Clips as the configuration says, without asking whether gradients are synchronised; `clips` says whether it does.
template <class Target>
accelerate::ClipResult clip(accelerate::Accelerator& accelerator, const Json& configuration, const Target& target) {
  const Json& description = configuration.at("clip");
  if (description.at("kind") == "value") {
    return accelerator.clip_grad_value_(target, {.clip_value = description.at("clip_value")});
  }
  const Json& type = description.at("norm_type");
  const double norm_type = type == "inf" ? std::numeric_limits<double>::infinity() : type.get<double>();
  return accelerator.clip_grad_norm_(target, {.max_norm = description.at("max_norm"), .norm_type = norm_type});
}
bool clips(const Json& configuration);

using Loader = accelerate::DataLoader<std::tuple<at::Tensor, at::Tensor>>;

/// The first `samples` rows of the problem's data, in order.
Loader make_loader(const Json& configuration, const Json& problem, int64_t samples, bool drop_last);

/// How many samples an evaluation in the middle of training sees.
inline constexpr int64_t kEvaluationSamples = 10;

}  // namespace parity

#include "accelerate/optim/momentum.h"

#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <tuple>

#include "accelerate/optim/lion.h"

namespace accelerate::internal {
namespace {

/// Calls `use` with the options as what they are; false if they have no momentum.
template <class Options, class Use>
bool with_momentum(Options& options, Use use) {
  using namespace torch::optim;  // NOLINT: four names of one family
  const auto as = [&]<class Known>(std::type_identity<Known>) {
    using Wanted = std::conditional_t<std::is_const_v<Options>, const Known, Known>;
    auto* known = dynamic_cast<Wanted*>(&options);
    if (known != nullptr) use(*known);
    return known != nullptr;
  };
  return as(std::type_identity<SGDOptions>{}) || as(std::type_identity<AdamWOptions>{}) ||
         as(std::type_identity<AdamOptions>{}) || as(std::type_identity<RMSpropOptions>{}) ||
         as(std::type_identity<LionOptions>{});
}

template <class Options>
concept HasBetas = requires(Options& options) {
  options.betas();
};

}  // namespace

std::optional<double> momentum_of(const torch::optim::OptimizerOptions& options) {
  std::optional<double> found;
  with_momentum(options, [&](const auto& known) {
    if constexpr (HasBetas<decltype(known)>) {
      found = std::get<0>(known.betas());
    } else {
      found = known.momentum();
    }
  });
  return found;
}

void set_momentum(torch::optim::OptimizerOptions& options, double momentum) {
  with_momentum(options, [&](auto& known) {
    if constexpr (HasBetas<decltype(known)>) {
      std::get<0>(known.betas()) = momentum;
    } else {
      known.momentum(momentum);
    }
  });
}

}  // namespace accelerate::internal

// Adagrad's fused step against LibTorch's own.
#include "tests/unit/optim_twin.h"

namespace {

using torch::optim::Adagrad;
using torch::optim::AdagradOptions;
using training::MakeOptimizer;
using training::Side;
using training::Twin;

/// After 200 steps, relative to the largest element; the kernels add in another order than the stock step.
constexpr double kFloatTolerance = 1e-6;
constexpr double kDoubleTolerance = 1e-13;

MakeOptimizer one_group(AdagradOptions options) {
  return
      [options](const std::vector<at::Tensor>& parameters) { return std::make_unique<Adagrad>(parameters, options); };
}

MakeOptimizer three_groups() {
  return [](const std::vector<at::Tensor>& p) {
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.emplace_back(std::vector<at::Tensor>{p[0], p[1]},
                        std::make_unique<AdagradOptions>(AdagradOptions(1e-2).lr_decay(0.05)));
    groups.emplace_back(std::vector<at::Tensor>{p[2], p[3]},
                        std::make_unique<AdagradOptions>(AdagradOptions(0.1).weight_decay(0.1)));
    groups.emplace_back(std::vector<at::Tensor>{p[4], p[5]});
    return std::make_unique<Adagrad>(groups, AdagradOptions(3e-3).eps(1e-4));
  };
}

std::vector<MakeOptimizer> makes() {
  return {one_group(AdagradOptions(1e-2)), one_group(AdagradOptions(1e-1).lr_decay(0.1)),
          one_group(AdagradOptions(1e-2).weight_decay(0.3)),
          one_group(AdagradOptions(1e-2).initial_accumulator_value(0.5).eps(1e-3)), three_groups()};
}

class FusedAdagrad : public testing::TestWithParam<size_t> {
 protected:
  MakeOptimizer make = makes().at(GetParam());
};

TEST_P(FusedAdagrad, Is200StepsOfTheStockOptimizer) {
  for (const auto dtype : {torch::kFloat, torch::kDouble}) {
    Twin twin(make, dtype);
    EXPECT_EQ(twin.update->name(), "fused adagrad");
    for (int step = 0; step < 200; ++step) twin.step(step);
    EXPECT_LT(twin.distance(), dtype == torch::kFloat ? kFloatTolerance : kDoubleTolerance);
  }
}

TEST_P(FusedAdagrad, MayAlternateWithTheStockStepOnTheSameState) {
  Twin twin(make);
  for (int step = 0; step < 60; ++step) {
    twin.ours.set_gradients(step);
    twin.stock.set_gradients(step);
    step % 2 == 0 ? twin.update->step() : (void)twin.ours.optimizer().step();
    twin.stock.optimizer().step();
  }
  EXPECT_LT(twin.distance(), kFloatTolerance);
}

TEST_P(FusedAdagrad, FollowsLearningRatesChangedInBetween) {
  Twin twin(make);
  for (int step = 0; step < 60; ++step) {
    twin.both([&](Side& side) {
      for (auto& group : side.optimizer().param_groups()) group.options().set_lr(1e-2 / (step + 1));
    });
    twin.step(step);
  }
  EXPECT_LT(twin.distance(), kFloatTolerance);
}

TEST_P(FusedAdagrad, SavedStateGoesIntoAStockOptimizer) {
  Twin twin(make);
  for (int step = 0; step < 60; ++step) twin.step(step);
  std::stringstream saved;
  torch::save(twin.ours.optimizer(), saved);
  Twin next(make);
  {
    const torch::NoGradGuard no_grad;
    for (size_t i = 0; i < twin.ours.parameters().size(); ++i) {
      next.stock.parameters()[i].copy_(twin.ours.parameters()[i]);
    }
  }
  torch::load(next.stock.optimizer(), saved);
  for (int step = 60; step < 100; ++step) {
    next.stock.set_gradients(step);
    next.stock.optimizer().step();
    twin.step(step);
  }
  EXPECT_LT(training::distance(training::copy_of(next.stock.parameters()), training::copy_of(twin.ours.parameters())),
            kFloatTolerance);
}

INSTANTIATE_TEST_SUITE_P(Options, FusedAdagrad, testing::Range<size_t>(0, makes().size()));

// LibTorch's own step fails here: it makes state when the optimizer is built and nowhere else.
TEST(FusedAdagradGroups, AGroupAddedLaterStartsFromItsInitialSum) {
  const auto options = AdagradOptions(1e-2).initial_accumulator_value(0.25);
  Twin twin(one_group(options));
  for (int step = 0; step < 20; ++step) twin.step(step);
  auto added = torch::ones({4, 4}).requires_grad_();
  auto alone = torch::ones({4, 4}).requires_grad_();
  twin.ours.optimizer().add_param_group(torch::optim::OptimizerParamGroup({added}));
  Adagrad fresh(std::vector<at::Tensor>{alone}, options);
  for (int step = 20; step < 50; ++step) {
    twin.ours.set_gradients(step);
    const auto gradient = torch::full({4, 4}, 1.0 / (step + 1));
    added.mutable_grad() = gradient.clone();
    alone.mutable_grad() = gradient.clone();
    twin.update->step();
    fresh.step();
  }
  EXPECT_LT(training::distance({added.detach()}, {alone.detach()}), kFloatTolerance);
}

TEST(FusedAdagradLayouts, ATransposedGradientTakesTheStockStepForAll) {
  Twin twin(one_group(AdagradOptions(1e-2)));
  for (int step = 0; step < 5; ++step) {
    twin.ours.set_gradients(step);
    twin.stock.set_gradients(step);
    twin.both([](Side& side) {
      at::Tensor& gradient = side.parameters()[0].mutable_grad();
      gradient = gradient.t().contiguous().t();
    });
    twin.apply();
  }
  EXPECT_EQ(twin.distance(), 0.0) << "the very same arithmetic";
}

TEST(FusedAdagradLayouts, SparseGradientsTakeTheStockStep) {
  auto ours = torch::ones({6, 2}).requires_grad_();
  auto stock = torch::ones({6, 2}).requires_grad_();
  Adagrad a(std::vector<at::Tensor>{ours}, AdagradOptions(0.1)), b(std::vector<at::Tensor>{stock}, AdagradOptions(0.1));
  const auto update = accelerate::internal::make_update(a);
  for (int step = 0; step < 3; ++step) {
    const auto indices = torch::tensor({{0, 4}});
    const auto values = torch::full({2, 2}, 0.5 + step);
    ours.mutable_grad() = torch::sparse_coo_tensor(indices, values, {6, 2}).coalesce();
    stock.mutable_grad() = torch::sparse_coo_tensor(indices, values, {6, 2}).coalesce();
    update->step();
    b.step();
  }
  EXPECT_TRUE(torch::equal(ours, stock));
  EXPECT_FALSE(torch::equal(ours, torch::ones({6, 2})));
}

TEST(FusedAdagradLayouts, ALowPrecisionParameterStepsAsTheStockOneDoes) {
  Twin twin(one_group(AdagradOptions(1e-2)), torch::kBFloat16);
  for (int step = 0; step < 20; ++step) twin.step(step);
  EXPECT_LT(twin.distance(), 0.02) << "a few units in the last place of a bfloat16";
}

// The stock class alone: a subclass may have changed the arithmetic.
struct Mine : Adagrad {
  using Adagrad::Adagrad;
};
TEST(FusedAdagradLayouts, ASubclassTakesItsOwnStep) {
  Mine mine(std::vector<at::Tensor>{torch::ones({2}).requires_grad_()}, AdagradOptions(0.1));
  EXPECT_EQ(accelerate::internal::make_update(mine)->name(), "stock");
}

}  // namespace

// Parameters of 16 bits that are updated in float32: they are the rounded copies of what an optimizer of float32
// parameters makes of the same gradients.
#include "accelerate/optim/lion.h"
#include "tests/unit/optim_twin.h"

namespace {

using accelerate::internal::make_update;
using accelerate::internal::Masters;
using accelerate::internal::Update;
using training::MakeOptimizer;
using training::Side;

template <class Optimizer, class Options>
MakeOptimizer with(Options options) {
  return [options](const std::vector<at::Tensor>& p) { return std::make_unique<Optimizer>(p, options); };
}

struct Kind {
  const char* name;
  MakeOptimizer make;
};
std::vector<Kind> kinds() {
  using namespace torch::optim;  // NOLINT
  return {{"adamw", with<AdamW>(AdamWOptions(1e-2).weight_decay(0.1).amsgrad(true))},
          {"adam", with<Adam>(AdamOptions(1e-2).weight_decay(0.1))},
          {"sgd", with<SGD>(SGDOptions(1e-2))},
          {"momentum", with<SGD>(SGDOptions(1e-2).momentum(0.9).dampening(0.3))},
          {"lion", with<accelerate::Lion>(accelerate::LionOptions(1e-3).weight_decay(0.1))}};
}

class WithMasters : public testing::TestWithParam<Kind> {
 protected:
  /// The same gradients, as far as 16 bits hold them.
  void set_gradients(int step) {
    narrow.set_gradients(step);
    for (size_t i = 0; i < narrow.parameters().size(); ++i) {
      const at::Tensor& gradient = narrow.parameters()[i].grad();
      wide.parameters()[i].mutable_grad() = gradient.defined() ? gradient.to(torch::kFloat) : at::Tensor();
    }
  }
  /// The wide side begins where the narrow one is.
  void meet() {
    const torch::NoGradGuard no_grad;
    for (size_t i = 0; i < narrow.parameters().size(); ++i) wide.parameters()[i].copy_(narrow.parameters()[i]);
  }
  void expect_copies() {
    std::vector<at::Tensor> masters;
    for (size_t i = 0; i < narrow.parameters().size(); ++i) {
      const at::Tensor& parameter = narrow.parameters()[i];
      const at::Tensor* master = update->master_of(parameter);
      if (i == 3) {
        EXPECT_EQ(master, nullptr) << "it has no gradient";
      }
      if (master == nullptr) master = &parameter;
      EXPECT_TRUE(torch::equal(parameter, master->to(parameter.scalar_type()))) << i;
      masters.push_back(master->to(torch::kFloat));
    }
    EXPECT_LT(training::distance(masters, training::copy_of(wide.parameters())), 1e-6);
  }

  Side narrow{GetParam().make, torch::kBFloat16}, wide{GetParam().make, torch::kFloat};
  std::unique_ptr<Update> update = make_update(narrow.optimizer(), {.masters = Masters::kFloat32});
};

TEST_P(WithMasters, ParametersAreTheCopiesOfAnOptimizerInFloat32) {
  meet();
  for (int step = 0; step < 80; ++step) {
    set_gradients(step);
    EXPECT_TRUE(update->takes_verdict(at::kCPU));
    if (step % 10 == 7) {
      update->step_if({.skip = torch::ones({1})});
      update->take_back();
      continue;
    }
    update->step();
    wide.optimizer().step();
  }
  expect_copies();
  for (const auto& [key, state] : narrow.optimizer().state()) {
    if (auto* adamw = dynamic_cast<torch::optim::AdamWParamState*>(state.get())) {
      EXPECT_EQ(adamw->exp_avg().scalar_type(), torch::kFloat);
    }
  }
}

TEST_P(WithMasters, WhatOthersWriteIntoTheParametersCounts) {
  meet();
  for (int step = 60; step < 63; ++step) {
    set_gradients(step);
    update->step();
    wide.optimizer().step();
  }
  {
    const torch::NoGradGuard no_grad;
    for (at::Tensor& parameter : narrow.parameters()) parameter.mul_(2);
    narrow.parameters()[0].set_data(torch::randn({16, 8}).to(torch::kBFloat16));
  }
  meet();
  for (int step = 63; step < 66; ++step) {
    set_gradients(step);
    update->step();
    wide.optimizer().step();
  }
  expect_copies();
}

INSTANTIATE_TEST_SUITE_P(Kinds, WithMasters, testing::ValuesIn(kinds()),
                         [](const auto& info) { return std::string(info.param.name); });

/// What 8 bits cannot add up.
TEST(WithMastersAlone, SmallStepsAddUp) {
  for (const Masters masters : {Masters::kNone, Masters::kFloat32}) {
    at::Tensor parameter = torch::ones({4}, torch::kBFloat16).requires_grad_();
    torch::optim::SGD sgd({parameter}, torch::optim::SGDOptions(1e-3));
    const auto update = make_update(sgd, {.masters = masters});
    for (int step = 0; step < 100; ++step) {
      parameter.mutable_grad() = torch::ones({4}, torch::kBFloat16);
      update->step();
    }
    EXPECT_NEAR(parameter[0].item<double>(), masters == Masters::kNone ? 1.0 : 0.9, 2e-3);
  }
}

TEST(WithMastersAlone, FloatParametersHaveNone) {
  at::Tensor parameter = torch::ones({4}).requires_grad_();
  torch::optim::SGD sgd({parameter}, torch::optim::SGDOptions(0.5));
  const auto update = make_update(sgd, {.masters = Masters::kFloat32});
  parameter.mutable_grad() = torch::ones({4});
  update->step();
  EXPECT_EQ(update->master_of(parameter), nullptr);
  EXPECT_TRUE(torch::equal(parameter, torch::full({4}, 0.5)));
}

}  // namespace

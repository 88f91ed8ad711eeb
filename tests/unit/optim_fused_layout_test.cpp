// What the fused kernels cannot read correctly takes the optimizer's own step; other optimizers always do.
#include "tests/unit/optim_twin.h"

namespace {

using accelerate::internal::make_update;
using torch::optim::AdamW;
using torch::optim::AdamWOptions;
using torch::optim::SGD;
using torch::optim::SGDOptions;
using training::Side;
using training::Twin;

std::unique_ptr<torch::optim::Optimizer> adamw(const std::vector<at::Tensor>& parameters) {
  return std::make_unique<AdamW>(parameters, AdamWOptions(1e-2).weight_decay(0.1));
}
std::unique_ptr<torch::optim::Optimizer> adam(const std::vector<at::Tensor>& parameters) {
  return std::make_unique<torch::optim::Adam>(parameters, torch::optim::AdamOptions(1e-2));
}
std::unique_ptr<torch::optim::Optimizer> sgd(const std::vector<at::Tensor>& parameters) {
  return std::make_unique<SGD>(parameters, SGDOptions(1e-2).momentum(0.9));
}

class Layout : public testing::TestWithParam<int> {
 protected:
  static training::MakeOptimizer make() { return GetParam() == 0 ? adamw : GetParam() == 1 ? adam : sgd; }
};

/// Steps of a twin whose parameter 0, {16, 8}, gets gradients from `gradient`.
void expect_equal_steps(Twin& twin, const std::function<at::Tensor()>& gradient) {
  for (int step = 0; step < 20; ++step) {
    twin.ours.set_gradients(step);
    twin.stock.set_gradients(step);
    torch::manual_seed(static_cast<uint64_t>(step));
    const at::Tensor given = gradient();
    twin.both([&](Side& side) { side.parameters()[0].mutable_grad() = given; });
    twin.apply();
  }
  EXPECT_LT(twin.distance(), 1e-6);
}

TEST_P(Layout, TransposedGradient) {
  Twin twin(make());
  expect_equal_steps(twin, [] { return torch::randn({8, 16}).t(); });
}

TEST_P(Layout, ExpandedGradient) {
  Twin twin(make());
  expect_equal_steps(twin, [] { return torch::randn({8}).expand({16, 8}); });
}

TEST_P(Layout, GradientThatIsASliceOfALargerTensor) {
  Twin twin(make());
  expect_equal_steps(twin, [] { return torch::randn({16, 10}).slice(1, 0, 8); });
}

TEST_P(Layout, GradientsAlternateBetweenLayouts) {
  Twin twin(make());
  int call = 0;
  expect_equal_steps(twin, [&] { return ++call % 2 ? torch::randn({8, 16}).t() : torch::randn({16, 8}); });
}

TEST_P(Layout, TransposedParameter) {
  Twin twin(make());
  twin.both([](Side& side) {
    torch::manual_seed(5);
    side.parameters().push_back(torch::randn({6, 9}).t().detach().requires_grad_());
    side.optimizer().add_param_group(torch::optim::OptimizerParamGroup({side.parameters().back()}));
  });
  for (int step = 0; step < 20; ++step) {
    twin.ours.set_gradients(step);
    twin.stock.set_gradients(step);
    torch::manual_seed(static_cast<uint64_t>(step));
    const at::Tensor given = torch::randn({9, 6});
    twin.both([&](Side& side) {
      // Contiguous on even steps, as the parameter lies on odd ones.
      side.parameters().back().mutable_grad() = step % 2 == 0 ? given : given.t().contiguous().t();
    });
    twin.apply();
  }
  EXPECT_LT(twin.distance(), 1e-6);
}

TEST_P(Layout, ParameterWithGaps) {
  Twin twin(make());
  twin.both([](Side& side) {
    torch::manual_seed(5);
    side.parameters().push_back(torch::randn({6, 9}).slice(1, 0, 4).detach().requires_grad_());
    side.optimizer().add_param_group(torch::optim::OptimizerParamGroup({side.parameters().back()}));
    side.parameters().back().mutable_grad() = torch::ones({6, 9}).slice(1, 0, 4);  // strides as the parameter has
  });
  for (int step = 0; step < 5; ++step) twin.apply();
  EXPECT_LT(twin.distance(), 1e-6);
}

// The kernels walk raw memory; a gradient of another size must reach the stock step's own checks instead. {8, 8} and
// {1, 8} have the parameter's strides, so that nothing but the size gives them away; the stock step broadcasts {1, 8}.
TEST_P(Layout, AGradientOfTheWrongSizeIsNotReadOutOfBounds) {
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{3}, {8, 8}, {1, 8}}) {
    Twin twin(make());
    twin.both([&](Side& side) {
      side.set_gradients(1);
      // Past the check that assigning a gradient makes.
      at::Tensor gradient = side.parameters()[0].grad();
      gradient.set_data(torch::ones(shape));
    });
    std::string ours, stock;
    try {
      twin.update->step();
    } catch (const c10::Error& error) {
      ours = error.what_without_backtrace();
    }
    try {
      twin.stock.optimizer().step();
    } catch (const c10::Error& error) {
      stock = error.what_without_backtrace();
    }
    EXPECT_EQ(ours, stock);
    EXPECT_EQ(stock.empty(), shape.front() == 1);
    EXPECT_EQ(twin.distance(), 0.0) << "exactly what the stock step did";
  }
}

TEST_P(Layout, AGradientOfAnotherDtypeTakesTheStockStep) {
  Twin twin(make());
  twin.ours.set_gradients(1);
  twin.stock.set_gradients(1);
  twin.both([](Side& side) {
    at::Tensor gradient = side.parameters()[0].grad();
    gradient.set_data(gradient.to(torch::kHalf));
  });
  twin.apply();
  EXPECT_LT(twin.distance(), 1e-6);
}

// `net->parameters()` lists a tied parameter under each of its names; LibTorch's optimizers then step it as often.
TEST_P(Layout, AParameterListedTwiceIsSteppedAsOftenAsByTheStockStep) {
  const auto twice = [](const std::vector<at::Tensor>& parameters) {
    std::vector<at::Tensor> listed = parameters;
    listed.push_back(parameters[0]);
    return make()(listed);
  };
  Twin twin(twice);
  for (int step = 0; step < 20; ++step) twin.step(step);
  EXPECT_LT(twin.distance(), 1e-6);
}

TEST_P(Layout, AnEmptyParameter) {
  Twin twin(make());
  twin.both([](Side& side) {
    side.parameters().push_back(torch::empty({0, 4}).requires_grad_());
    side.optimizer().add_param_group(torch::optim::OptimizerParamGroup({side.parameters().back()}));
    side.parameters().back().mutable_grad() = torch::empty({0, 4});
  });
  for (int step = 0; step < 3; ++step) twin.step(step);
  EXPECT_LT(twin.distance(), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Optimizers, Layout, testing::Values(0, 1, 2), [](const auto& info) {
  return std::string(info.param == 0 ? "adamw" : info.param == 1 ? "adam" : "sgd");
});

TEST(SparseGradients, SgdTakesThemAsTheStockStepDoes) {
  const auto train = [](bool ours) {
    torch::manual_seed(1);
    torch::nn::Embedding embedding(torch::nn::EmbeddingOptions(10, 4).sparse(true));
    SGD optimizer(embedding->parameters(), 0.1);
    const auto update = make_update(optimizer);
    for (int64_t step = 0; step < 5; ++step) {
      optimizer.zero_grad();
      embedding(torch::tensor({step, step + 1, step})).pow(2).sum().backward();
      EXPECT_TRUE(embedding->weight.grad().is_sparse());
      if (ours) {
        update->step();
      } else {
        optimizer.step();
      }
    }
    return embedding->weight.detach();
  };
  EXPECT_TRUE(torch::equal(train(true), train(false)));
}

TEST(SparseGradients, AdamWRefusesThemInLibTorchsWords) {
  torch::nn::Embedding embedding(torch::nn::EmbeddingOptions(10, 4).sparse(true));
  AdamW optimizer(embedding->parameters());
  embedding(torch::tensor({1, 2})).sum().backward();
  try {
    make_update(optimizer)->step();
    FAIL() << "nothing was thrown";
  } catch (const c10::Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("sparse"));
  }
}

template <class Optimizer>
struct Mine : Optimizer {
  using Optimizer::Optimizer;
  at::Tensor step(torch::optim::Optimizer::LossClosure) override {
    ++steps;
    return {};
  }
  int steps = 0;
};

template <class Optimizer, class Options>
void expect_own_step(Options options) {
  auto parameter = torch::ones({2}).requires_grad_();
  parameter.mutable_grad() = torch::ones({2});
  Mine<Optimizer> mine(std::vector<at::Tensor>{parameter}, options);
  const auto update = make_update(mine);
  EXPECT_EQ(update->name(), "stock");
  update->step();
  update->step();
  EXPECT_EQ(mine.steps, 2);
  EXPECT_TRUE(torch::equal(parameter, torch::ones({2})));
}

TEST(OtherOptimizers, ASubclassTakesItsOwnStep) {
  expect_own_step<AdamW>(AdamWOptions(1e-2));
  expect_own_step<torch::optim::Adam>(torch::optim::AdamOptions(1e-2));
  expect_own_step<SGD>(SGDOptions(1e-2));
}

TEST(OtherOptimizers, RmspropTakesItsOwnStep) {
  Twin twin(
      [](const auto& p) { return std::make_unique<torch::optim::RMSprop>(p, torch::optim::RMSpropOptions(1e-2)); });
  EXPECT_EQ(twin.update->name(), "stock");
  for (int step = 0; step < 30; ++step) twin.step(step);
  EXPECT_EQ(twin.distance(), 0.0);
}

TEST(OtherOptimizers, RmspropAndAdagradTrainThroughAnAccelerator) {
  for (const bool rmsprop : {true, false}) {
    accelerate::Accelerator accelerator;
    training::Mlp net(1);
    std::shared_ptr<torch::optim::Optimizer> stock;
    if (rmsprop) {
      stock = std::make_shared<torch::optim::RMSprop>(net->parameters());
    } else {
      stock = std::make_shared<torch::optim::Adagrad>(net->parameters());
    }
    auto [model, optimizer] = accelerator.prepare(net, stock);
    const auto [x, y] = training::make_batch(8, 1);
    double first = 0, last = 0;
    for (int i = 0; i < 20; ++i) {
      const auto loss = training::mse(model(x), y);
      (i == 0 ? first : last) = loss.item<double>();
      accelerator.backward(loss);
      EXPECT_TRUE(optimizer.step().applied());
      optimizer.zero_grad();
    }
    EXPECT_LT(last, 0.95 * first);
  }
}

}  // namespace

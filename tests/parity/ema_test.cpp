// The averages of torch.optim.swa_utils, and those of diffusers' EMAModel, over 40 updates.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "accelerate/accelerate.h"
#include "accelerate/optim/ema.h"
#include "tests/parity/fixtures.h"

namespace parity {
namespace {

struct AveragedImpl : torch::nn::Module {
  AveragedImpl() {
    weight = register_parameter("weight", torch::zeros({6}));
    statistics = register_buffer("statistics", torch::zeros({3}));
    seen = register_buffer("seen", torch::zeros({}, torch::kLong));
  }
  at::Tensor forward(const at::Tensor& x) { return weight * x; }
  void become(const at::Tensor& values, int64_t step) {
    const torch::NoGradGuard no_grad;
    weight.copy_(values.narrow(0, 0, 6));
    statistics.copy_(values.narrow(0, 6, 3));
    seen.fill_(step);
  }
  at::Tensor weight, statistics, seen;
};
TORCH_MODULE(Averaged);

accelerate::EmaOptions options_of(const Json& given) {
  accelerate::EmaOptions options;
  options.decay = given.at("decay");
  options.use_buffers = given.value("use_buffers", false);
  options.min_decay = given.value("min_decay", 0.0);
  options.use_ema_warmup = given.value("use_ema_warmup", false);
  options.ramp_up = given.value("ramp_up", false);
  options.inv_gamma = given.value("inv_gamma", options.inv_gamma);
  options.power = given.value("power", options.power);
  options.update_after_step = given.value("update_after_step", int64_t{0});
  return options;
}

// Three roundings of float32 at a magnitude of 2: diffusers writes the same average in another order of operations.
constexpr double kTolerance = 3 * 2 * 1.2e-7;

TEST(Ema, HasTheAveragesOfTheOriginals) {
  const Json fixture = read_fixture("ema.json");
  const size_t steps = fixture.at("configuration").at("steps"), every = fixture["configuration"].at("every");
  const auto values = [&](size_t step) {
    const std::vector<double> numerators = fixture.at("numerators").at(step);
    return torch::tensor(numerators, torch::kFloat) / fixture.at("denominator").get<double>();
  };
  ASSERT_EQ(fixture.at("cases").size(), 16u);
  for (const Json& entry : fixture.at("cases")) {
    const accelerate::EmaOptions options = options_of(entry.at("options"));
    accelerate::Accelerator accelerator;
    Averaged net;
    net->become(values(0), 0);
    auto model = accelerator.prepare(net);
    accelerate::Ema ema(model, options);
    for (size_t step = 1; step <= steps; ++step) {
      const at::Tensor live = values(step);
      net->become(live, static_cast<int64_t>(step));
      const accelerate::EmaUpdate update =
          ema.update(accelerate::StepResult(accelerate::StepResult::Outcome::kApplied));
      ASSERT_TRUE(update.applied());
      const Json& decays = entry.at("decays");
      if (!decays.is_null()) {
        ASSERT_NEAR(update.decay(), decays.at(step - 1).get<double>(), 1e-15) << entry["options"] << " at " << step;
      }
      const auto averages = ema.apply();
      if ((step - 1) % every != 0) continue;
      const std::vector<double> expected = entry["averages"].at((step - 1) / every);
      const at::Tensor found = options.use_buffers ? torch::cat({net->weight, net->statistics}) : net->weight;
      ASSERT_EQ(found.numel(), static_cast<int64_t>(expected.size()));
      ASSERT_LE((found.detach() - torch::tensor(expected)).abs().max().item<double>(), kTolerance)
          << entry["options"] << " at " << step;
      // What is not averaged is the model's own.
      if (!options.use_buffers) {
        ASSERT_TRUE(torch::equal(net->statistics, live.narrow(0, 6, 3)));
      }
      ASSERT_EQ(net->seen.item<int64_t>(), static_cast<int64_t>(step));
    }
    EXPECT_EQ(ema.optimization_step(), static_cast<int64_t>(steps));
  }
}

}  // namespace
}  // namespace parity

// The loop that PyTorch's users write by hand: bfloat16 parameters, float32 masters in the optimizer.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "accelerate/accelerate.h"
#include "tests/parity/fixtures.h"

namespace parity {
namespace {

at::Tensor numbers(int64_t seed, at::IntArrayRef shape) {
  at::Tensor values = torch::empty(shape, torch::kDouble);
  for (int64_t i = 0; i < values.numel(); ++i) {
    values.view(-1)[i] = (seed * seed * 29 + i * 83 + seed * i * 7) % 1031 - 515;
  }
  return (values / 1024).to(torch::kFloat);
}

at::Tensor flat(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> parts;
  for (const at::Tensor& tensor : tensors) parts.push_back(tensor.detach().to(torch::kFloat).flatten());
  return torch::cat(parts);
}
at::Tensor floats(const Json& values) {
  return torch::tensor(values.get<std::vector<double>>(), torch::kDouble).to(torch::kFloat);
}

enum class Gradients { kOurs, kTheirs };

class MasterWeights : public testing::TestWithParam<Gradients> {};
INSTANTIATE_TEST_SUITE_P(Gradients, MasterWeights, testing::Values(Gradients::kOurs, Gradients::kTheirs),
                         [](const auto& info) { return info.param == Gradients::kOurs ? "Ours" : "Theirs"; });

TEST_P(MasterWeights, TrainAsTheLoopByHand) {
  const Json fixture = read_fixture("masters.json");
  const auto widths = fixture.at("widths").get<std::vector<int64_t>>();
  const int64_t rows = fixture.at("rows");
  const Json& given = fixture.at("options");
  torch::nn::Sequential net(torch::nn::Linear(widths[0], widths[1]), torch::nn::Tanh(),
                            torch::nn::Linear(widths[1], widths[2]));
  {
    const torch::NoGradGuard no_grad;
    int64_t seed = 0;
    for (at::Tensor& parameter : net->parameters()) {
      parameter.copy_(numbers(seed, parameter.sizes()));
      ++seed;
    }
  }
  accelerate::Accelerator accelerator({.mixed_precision = "bf16_master"});
  auto [model, optimizer] = accelerator.prepare(
      net, torch::optim::AdamW(net->parameters(), torch::optim::AdamWOptions(given.at("lr").get<double>())
                                                      .betas({given.at("betas").at(0), given.at("betas").at(1)})
                                                      .weight_decay(given.at("weight_decay"))
                                                      .eps(given.at("eps"))));
  const Json& steps = fixture.at("steps");
  ASSERT_GE(steps.size(), 10U);
  for (size_t step = 0; step < steps.size(); ++step) {
    const auto number = static_cast<int64_t>(step);
    const at::Tensor loss =
        torch::nn::functional::mse_loss(model(numbers(100 + number, {rows, widths[0]}).to(accelerator.device())),
                                        numbers(200 + number, {rows, widths[2]}).to(accelerator.device()));
    // A unit in the last place of a bfloat16: sums may be taken in another order.
    EXPECT_NEAR(loss.item<double>(), steps[step].at("loss").get<double>(), 1.0 / 256) << step;
    accelerator.backward(loss);
    if (GetParam() == Gradients::kTheirs) {
      const at::Tensor theirs = floats(steps[step].at("gradients"));
      int64_t begin = 0;
      for (at::Tensor& parameter : net->parameters()) {
        parameter.mutable_grad().copy_(theirs.narrow(0, begin, parameter.numel()).view_as(parameter));
        begin += parameter.numel();
      }
    }
    optimizer.step();
    optimizer.zero_grad();
  }
  std::vector<at::Tensor> masters;
  for (const at::Tensor& parameter : net->parameters()) {
    masters.push_back(*optimizer.core()->master_of(parameter));
    EXPECT_TRUE(torch::equal(parameter, masters.back().to(torch::kBFloat16)));
  }
  // With their gradients the arithmetic of AdamW alone is left: a few roundings of float32 in each of 12 steps. With
  // ours a gradient near 0 may have another sign, and AdamW goes a step of the rate the other way.
  const double bound = GetParam() == Gradients::kTheirs ? 3e-6 : 2.5 * given.at("lr").get<double>();
  EXPECT_LT((flat(masters).cpu() - floats(fixture.at("masters"))).abs().max().item<double>(), bound);
  EXPECT_LT((flat(net->parameters()).cpu() - floats(fixture.at("parameters"))).abs().max().item<double>(),
            bound + 1.0 / 128);
}

}  // namespace
}  // namespace parity

// What every registered precision keeps: its name is its file's, its refusal has a reason, its casts leave no trace.
#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <filesystem>
#include <set>

#include "accelerate/accelerate.h"
#include "accelerate/precision/choice.h"

namespace {

using accelerate::Accelerator;
using accelerate::PrecisionEntry;

std::vector<PrecisionEntry> entries() { return accelerate::internal::builtin_precisions(); }

class PrecisionContract : public testing::TestWithParam<PrecisionEntry> {
 protected:
  bool runs_here() const { return !GetParam().refusal(at::Device(at::kCPU)); }
};

TEST(PrecisionFolder, NamesAreTheFilesOfTheFolder) {
  std::multiset<std::string> files, names;
  const std::filesystem::path folder = std::filesystem::path(ACCELERATE_SOURCE_DIR) / "accelerate/precision/precisions";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".cpp") files.insert(entry.path().stem().string());
  }
  for (const PrecisionEntry& entry : entries()) names.insert(entry.name);
  EXPECT_FALSE(files.empty());
  EXPECT_EQ(names, files);
}

TEST(PrecisionFolder, OneOfThemKeepsEveryDtypeAndRunsOnTheCpu) {
  const auto plain = [](const PrecisionEntry& entry) {
    return !entry.policy.low() && !entry.policy.output && !entry.refusal(at::Device(at::kCPU));
  };
  const auto all = entries();
  EXPECT_EQ(std::count_if(all.begin(), all.end(), plain), 1);
}

TEST_P(PrecisionContract, ARefusalGivesItsReasonThroughTheAccelerator) {
  const auto refusal = GetParam().refusal(at::Device(at::kCPU));
  if (!refusal) {
    const Accelerator accelerator({.mixed_precision = GetParam().name});
    EXPECT_EQ(accelerator.mixed_precision(), GetParam().name);
    EXPECT_EQ(accelerator.plan().at("mixed_precision").value, GetParam().name);
    return;
  }
  EXPECT_FALSE(refusal->empty());
  try {
    const Accelerator accelerator({.mixed_precision = GetParam().name});
    FAIL() << "accepted although the entry refuses";
  } catch (const accelerate::ConfigError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr(*refusal));
    EXPECT_THAT(error.text().got, testing::HasSubstr("\"" + GetParam().name + "\""));
  }
}

TEST_P(PrecisionContract, DtypesAreFloatingAndAComputeDtypeHasAnOutputDtype) {
  const auto& policy = GetParam().policy;
  EXPECT_FALSE(accelerate::contradiction(policy));
  if (policy.low()) {
    EXPECT_TRUE(at::isFloatingType(*policy.low()));
    EXPECT_TRUE(policy.output.has_value()) << "low-precision outputs would reach the loss";
  }
  if (policy.output) {
    EXPECT_TRUE(at::isFloatingType(*policy.output));
    EXPECT_GE(c10::elementSize(*policy.output), c10::elementSize(at::kFloat));
  }
}

TEST_P(PrecisionContract, ATrainingStepHasParametersAndOutputsOfItsDtypes) {
  if (!runs_here()) GTEST_SKIP() << *GetParam().refusal(at::Device(at::kCPU));
  Accelerator accelerator({.mixed_precision = GetParam().name});
  torch::manual_seed(1);
  torch::nn::Sequential net(torch::nn::Linear(4, 8), torch::nn::ReLU(), torch::nn::Linear(8, 1));
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 1e-2));
  const auto x = torch::randn({16, 4});
  const auto y = x.sum(1, true);
  double first = 0, last = 0;
  for (int step = 0; step < 40; ++step) {
    const auto output = model(x);
    EXPECT_EQ(output.scalar_type(), GetParam().policy.output.value_or(at::kFloat));
    EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
    const auto loss = torch::nn::functional::mse_loss(output, y);
    (step == 0 ? first : last) = loss.item<double>();
    accelerator.backward(loss);
    for (const auto& parameter : net->parameters()) {
      EXPECT_EQ(parameter.scalar_type(), GetParam().policy.param.value_or(at::kFloat));
      EXPECT_EQ(parameter.grad().scalar_type(), GetParam().policy.param.value_or(at::kFloat));
    }
    optimizer.step();
    optimizer.zero_grad();
  }
  EXPECT_LT(last, 0.9 * first);
}

TEST_P(PrecisionContract, InsideAModelCallMatrixProductsHaveTheComputeDtype) {
  if (!runs_here()) GTEST_SKIP() << *GetParam().refusal(at::Device(at::kCPU));
  Accelerator accelerator({.mixed_precision = GetParam().name});
  torch::nn::Linear net(4, 4);
  auto model = accelerator.prepare(net);
  at::ScalarType inside = at::kInt;
  const auto x = torch::ones({2, 4});
  model.call(
      [&](torch::nn::LinearImpl& linear, const at::Tensor& given) { inside = linear.forward(given).scalar_type(); }, x);
  EXPECT_EQ(inside, GetParam().policy.low().value_or(at::kFloat));
  EXPECT_EQ(x.scalar_type(), torch::kFloat) << "the caller's own";
  auto guard = accelerator.autocast();
  EXPECT_EQ(net(x).scalar_type(), GetParam().policy.low().value_or(at::kFloat));
}

INSTANTIATE_TEST_SUITE_P(Registered, PrecisionContract, testing::ValuesIn(entries()),
                         [](const auto& info) { return info.param.name; });

}  // namespace

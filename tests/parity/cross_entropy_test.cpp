// The fused cross entropy's numbers beside those of Python's F.cross_entropy(logits.float(), labels).
#include "accelerate/nn/cross_entropy.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "tests/parity/fixtures.h"

namespace parity {
namespace {

torch::nn::functional::CrossEntropyFuncOptions options_of(const Json& given, const at::Tensor& weights) {
  torch::nn::functional::CrossEntropyFuncOptions options;
  const std::string reduction = given.at("reduction");
  if (reduction == "sum") options.reduction(torch::kSum);
  if (reduction == "none") options.reduction(torch::kNone);
  options.label_smoothing(given.value("label_smoothing", 0.0)).ignore_index(given.value("ignore_index", int64_t{-100}));
  if (given.contains("weights")) options.weight(weights);
  return options;
}

at::Tensor numbers(const Json& list) { return torch::tensor(list.get<std::vector<float>>()); }

TEST(CrossEntropy, IsThatOfPythonOverFloat32) {
  const Json fixture = read_fixture("cross_entropy.json");
  ASSERT_GE(fixture.at("cases").size(), 6U);
  const auto shape = fixture.at("shape").get<std::vector<int64_t>>();
  const at::Tensor logits = numbers(fixture.at("logits")).view(shape);
  const at::Tensor targets = torch::tensor(fixture.at("targets").get<std::vector<int64_t>>());
  for (const Json& one : fixture.at("cases")) {
    SCOPED_TRACE(one.at("options").dump());
    const at::ScalarType dtype = dtype_named(one.at("options").at("dtype"));
    const at::Tensor leaf = logits.to(dtype).clone().requires_grad_();
    const at::Tensor loss = accelerate::nn::functional::cross_entropy(
        leaf, targets, options_of(one.at("options"), numbers(fixture.at("weights"))));
    (loss * torch::arange(1, loss.numel() + 1)).sum().backward();
    EXPECT_EQ(loss.scalar_type(), torch::kFloat);
    EXPECT_TRUE(at::allclose(loss.detach().flatten(), numbers(one.at("loss")), 1e-6, 1e-6)) << loss;
    // Where the last bits of float32 differ a number of 16 bits may be the next one.
    const double last = dtype == torch::kBFloat16 ? 1.0 / 128 : dtype == torch::kHalf ? 1.0 / 1024 : 2e-6;
    EXPECT_TRUE(at::allclose(leaf.grad().to(torch::kFloat).flatten(), numbers(one.at("gradient")), last, 2e-7));
  }
}

}  // namespace
}  // namespace parity

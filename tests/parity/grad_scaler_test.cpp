// The scale of torch.amp.GradScaler over updates that overflow or do not: exactly.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <limits>

#include "accelerate/accelerate.h"
#include "accelerate/optim/update.h"
#include "tests/parity/fixtures.h"
#include "tests/parity/setting.h"

namespace parity {
namespace {

/// No matrix product and no autocast has a say here: the loss is the sum of three parameters.
struct SumImpl : torch::nn::Module {
  SumImpl() { values = register_parameter("values", torch::zeros({3})); }
  at::Tensor forward() { return values.sum(); }
  at::Tensor values;
};
TORCH_MODULE(Sum);

TEST(GradScaler, GrowsAndShrinksAsTheOriginalDoes) {
  const Json fixture = read_fixture("grad_scaler.json");
  ASSERT_GE(fixture.at("cases").size(), 7U);
  using accelerate::internal::Counters;
  for (size_t run = 0; run < 2 * fixture.at("cases").size(); ++run) {
    const Json& one = fixture.at("cases").at(run / 2);
    accelerate::Accelerator accelerator(
        {.mixed_precision = "fp16", .cpu = true, .scaler_handler = scaler_options(one.at("options"))});
    Sum sum;
    auto [model, optimizer] = accelerator.prepare(sum, torch::optim::SGD(sum->parameters(), 1.0));
    // The host decides about an update, or the device does.
    optimizer.core()->update_with({.counters = run % 2 == 0 ? Counters::kWithParameters : Counters::kOnDevice});
    const accelerate::GradScaler& scaler = *accelerator.scaler();
    for (size_t i = 0; i < one.at("updates").size(); ++i) {
      SCOPED_TRACE(one.at("options").dump() + " update " + std::to_string(i));
      optimizer.zero_grad();
      accelerator.backward(model());
      const std::string overflow = one.at("overflows").at(i);
      using Limits = std::numeric_limits<float>;
      if (!overflow.empty())
        sum->values.mutable_grad()[1] = overflow == "nan" ? Limits::quiet_NaN() : Limits::infinity();
      const accelerate::StepResult result = optimizer.step();
      const Json& expected = one.at("updates").at(i);
      EXPECT_EQ(scaler.get_scale(), expected.at(0).get<double>());
      EXPECT_EQ(scaler.get_growth_tracker(), expected.at(1).get<int64_t>());
      EXPECT_EQ(result.skipped(), expected.at(2).get<bool>());
      EXPECT_EQ(result.applied(), !result.skipped());
      EXPECT_EQ(accelerator.optimizer_step_was_skipped(), result.skipped());
    }
  }
}

}  // namespace
}  // namespace parity

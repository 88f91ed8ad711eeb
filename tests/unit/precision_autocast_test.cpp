// Autocast regions: the original's own checks in bfloat16, the cache of casts, and the options of the Accelerator.
#include <ATen/autocast_mode.h>

#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::AutocastKwargs;

at::ScalarType product_dtype() { return torch::mm(torch::rand({8, 8}), torch::rand({8, 8})).scalar_type(); }
bool cached() { return at::autocast::is_autocast_cache_enabled(); }

// Source: test_kwargs_handlers.py, test_autocast_kwargs; there in fp16 on a device.
TEST(Autocast, ANestedRegionGivesFullPrecisionBack) {
  Accelerator accelerator({.mixed_precision = "bf16"});
  const at::Tensor a = torch::rand({8, 8}), b = torch::rand({8, 8}), d = torch::rand({8, 8});
  const auto outer = accelerator.autocast();
  const at::Tensor low = torch::mm(a, b);
  EXPECT_EQ(low.scalar_type(), torch::kBFloat16);
  {
    const auto inner = accelerator.autocast({.enabled = false});
    EXPECT_EQ(torch::mm(low.to(torch::kFloat), d).scalar_type(), torch::kFloat);
  }
  EXPECT_EQ(torch::mm(low, d).scalar_type(), torch::kBFloat16);
}

TEST(Autocast, TheCacheIsWhatWasAskedForAndComesBack) {
  Accelerator accelerator({.mixed_precision = "bf16"});
  ASSERT_TRUE(cached());
  {
    const auto outer = accelerator.autocast({.cache_enabled = false});
    EXPECT_FALSE(cached());
    {
      const auto same = accelerator.autocast();
      EXPECT_FALSE(cached()) << "unset: as it is";
      const auto inner = accelerator.autocast({.cache_enabled = true});
      EXPECT_TRUE(cached());
    }
    EXPECT_FALSE(cached());
  }
  EXPECT_TRUE(cached());
}

// Without the cache a weight that changes inside the region is cast anew.
TEST(Autocast, WithoutTheCacheAChangedWeightIsSeen) {
  Accelerator accelerator({.mixed_precision = "bf16"});
  const auto second_output = [&](bool cache) {
    torch::nn::Linear net(4, 4);
    const at::Tensor x = torch::ones({1, 4});
    const auto region = accelerator.autocast({.cache_enabled = cache});
    net(x);
    {
      const torch::NoGradGuard no_grad;
      net->weight.zero_();
      net->bias.zero_();
    }
    return net(x).abs().max().item<double>();
  };
  EXPECT_EQ(second_output(false), 0);
  EXPECT_NE(second_output(true), 0);
}

TEST(Autocast, InFullPrecisionOptionsChangeNothing) {
  Accelerator accelerator;
  const auto region = accelerator.autocast({.cache_enabled = false});
  EXPECT_EQ(product_dtype(), torch::kFloat);
  EXPECT_TRUE(cached());
}

struct WitnessImpl : torch::nn::Module {
  at::Tensor forward(const at::Tensor& x) {
    dtype = product_dtype();
    cache = cached();
    return x;
  }
  at::ScalarType dtype = torch::kDouble;
  bool cache = true;
};
TORCH_MODULE(Witness);

// Source: `prepare_model`, which gives a model's forward the accelerator's handler.
TEST(AutocastHandler, HoldsForModelCallsAndForRegionsThatDoNotSayOtherwise) {
  Accelerator accelerator(
      {.mixed_precision = "bf16", .autocast_handler = AutocastKwargs{.enabled = false, .cache_enabled = false}});
  Witness net;
  auto model = accelerator.prepare(net);
  model(torch::ones({1}));
  EXPECT_EQ(net->dtype, torch::kFloat);
  EXPECT_FALSE(net->cache);
  EXPECT_TRUE(cached());
  {
    const auto region = accelerator.autocast();
    EXPECT_EQ(product_dtype(), torch::kFloat);
  }
  const auto region = accelerator.autocast({.enabled = true});
  EXPECT_EQ(product_dtype(), torch::kBFloat16) << "options that are given replace the handler";
  EXPECT_TRUE(cached());
}

}  // namespace

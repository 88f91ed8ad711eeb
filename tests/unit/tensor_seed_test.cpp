#include "accelerate/tensor/seed.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <torch/nn/modules/linear.h>

#include "accelerate/core/error.h"
#include "tests/support/tensors.h"

namespace accelerate {
namespace {

using support::same_bytes;

RC_GTEST_PROP(SetSeed, TheSameSeedGivesTheSameNumbers, (uint64_t seed)) {
  set_seed(seed);
  const at::Tensor first = at::rand({16});
  const at::Tensor integers = at::randint(1'000'000, {16});
  set_seed(seed);
  RC_ASSERT(static_cast<bool>(same_bytes(at::rand({16}), first)));
  RC_ASSERT(static_cast<bool>(same_bytes(at::randint(1'000'000, {16}), integers)));
}

RC_GTEST_PROP(SetSeed, AnotherSeedGivesOtherNumbers, (uint32_t seed, uint32_t other)) {
  RC_PRE(seed != other);
  set_seed(seed);
  const at::Tensor first = at::rand({16});
  set_seed(other);
  RC_ASSERT(!at::equal(at::rand({16}), first));
}

TEST(SetSeed, InitialWeightsFollow) {
  set_seed(3);
  const torch::nn::Linear first(4, 4);
  set_seed(3);
  const torch::nn::Linear second(4, 4);
  EXPECT_TRUE(same_bytes(first->weight, second->weight));
  EXPECT_TRUE(same_bytes(first->bias, second->bias));
}

}  // namespace
}  // namespace accelerate

// Random states of GPUs.
#include <ATen/Context.h>

#include "accelerate/accelerate.h"
#include "tests/gpu/ranks.h"
#include "tests/support/tensors.h"

namespace gpu {
namespace {

class RandomStates : public TwoGpus {};

TEST_F(RandomStates, OfTheDevicesBecomeRankZeros) {
  accelerate::testing::run_ranks(2, [](const accelerate::testing::Rank& rank) {
    const accelerate::Accelerator accelerator(rank.options());
    ASSERT_EQ(accelerator.device(), device_of(rank));
    at::Generator generator = at::globalContext().defaultGenerator(accelerator.device());
    generator.set_current_seed(static_cast<uint64_t>(50 + rank.rank()));
    torch::rand({rank.rank() + 1}, accelerator.device());
    accelerator.synchronize_rng_states({"cuda"});
    EXPECT_EQ(generator.current_seed(), 50u);
    const at::Tensor drawn = accelerator.gather(torch::rand({1, 4}, accelerator.device()));
    EXPECT_TRUE(accelerate::support::same_bytes(drawn[0], drawn[1]));
  });
}

}  // namespace
}  // namespace gpu

// A whole bucket travels as the product of two thin matrices. Source: `powerSGD_hook.batched_powerSGD_hook`.
#include "accelerate/strategy/ddp/low_rank_hook.h"

namespace accelerate::internal {

HookEntry hook_batched_power_sgd() {
  return {"batched_power_sgd", [](const CommStateOption& state) { return low_rank_hook(LowRankCut::kBucket, state); }};
}

}  // namespace accelerate::internal

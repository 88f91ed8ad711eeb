// Matrices of gradients travel as products of two thin ones; the rest as it is.
// Source: `powerSGD_hook.powerSGD_hook`.
#include "accelerate/strategy/ddp/low_rank_hook.h"

namespace accelerate::internal {

HookEntry hook_power_sgd() {
  return {"power_sgd", [](const CommStateOption& state) { return low_rank_hook(LowRankCut::kParameters, state); }};
}

}  // namespace accelerate::internal

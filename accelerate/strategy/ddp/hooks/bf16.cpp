// Gradients travel in bfloat16. Source: `default_hooks.bf16_compress_hook`, `bf16_compress_wrapper`.
#include "accelerate/strategy/ddp/half_hook.h"

namespace accelerate::internal {

HookEntry hook_bf16() {
  return {"bf16",
          [](const CommStateOption& state) {
            require_no_state("bf16", state);
            return send_as(at::kBFloat16);
          },
          [](std::unique_ptr<CommHook> inner) { return wrap_in(at::kBFloat16, std::move(inner)); }};
}

}  // namespace accelerate::internal

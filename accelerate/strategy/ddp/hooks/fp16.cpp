// Gradients travel in half precision. Source: `default_hooks.fp16_compress_hook`, `fp16_compress_wrapper`.
#include "accelerate/strategy/ddp/half_hook.h"

namespace accelerate::internal {

HookEntry hook_fp16() {
  return {"fp16",
          [](const CommStateOption& state) {
            require_no_state("fp16", state);
            return send_as(at::kHalf);
          },
          [](std::unique_ptr<CommHook> inner) { return wrap_in(at::kHalf, std::move(inner)); }};
}

}  // namespace accelerate::internal

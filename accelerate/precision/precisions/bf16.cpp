// bfloat16 autocast around every model call, outputs back in float32. Source: `Accelerator.prepare_model`.
#include "accelerate/precision/choice.h"

namespace accelerate::internal {

PrecisionEntry precision_bf16() {
  return {"bf16", [](c10::Device) -> std::optional<std::string> { return std::nullopt; },
          PrecisionPolicy{.compute = at::kBFloat16, .output = at::kFloat}};
}

}  // namespace accelerate::internal

// float16 autocast. Its gradients underflow without a loss scaler, so a device without one is refused; the original
// accepts it on the CPU and silently computes in full precision.
#include "accelerate/precision/choice.h"

namespace accelerate::internal {

PrecisionEntry precision_fp16() {
  return {"fp16",
          [](c10::Device device) -> std::optional<std::string> {
            return "float16 gradients need loss scaling, which device \"" + device.str() + "\" does not have";
          },
          PrecisionPolicy{.compute = at::kHalf, .output = at::kFloat}};
}

}  // namespace accelerate::internal

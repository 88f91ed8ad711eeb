// float16 autocast around every model call, outputs back in float32, and a scaled loss: small gradients would
// underflow. Source: `Accelerator.prepare_model` and its scaler; on the CPU the original computes in full precision,
// silently.
#include "accelerate/precision/choice.h"

namespace accelerate::internal {

PrecisionEntry precision_fp16() {
  return {"fp16",
          [](c10::Device device) -> std::optional<std::string> {
            if (device.is_cpu() || device.is_cuda()) return std::nullopt;
            return "there are no kernels for loss scaling on device \"" + device.str() + "\"";
          },
          PrecisionPolicy{.compute = at::kHalf, .output = at::kFloat, .scale_loss = true}};
}

}  // namespace accelerate::internal

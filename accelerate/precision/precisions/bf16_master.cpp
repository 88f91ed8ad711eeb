// bfloat16 parameters, gradients and activations; the optimizer updates float32 masters, of which the parameters are
// rounded copies. Layers with running statistics, such as batch norms, stay in float32. Source: DeepSpeed's `bf16`, the
// O2 level of apex's amp; in torchtitan's terms `param_dtype` bfloat16 with float32 weights in the optimizer.
#include "accelerate/precision/choice.h"

namespace accelerate::internal {

PrecisionEntry precision_bf16_master() {
  return {
      "bf16_master",
      [](c10::Device device) -> std::optional<std::string> {
        if (device.is_cpu() || device.is_cuda()) return std::nullopt;
        return "there are no kernels for updates on device \"" + device.str() + "\"";
      },
      PrecisionPolicy{.output = at::kFloat, .param = at::kBFloat16, .buffer = at::kBFloat16, .master_weights = true}};
}

}  // namespace accelerate::internal

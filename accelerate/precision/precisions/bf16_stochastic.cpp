// bfloat16 alone, with half the memory of float32 weights: each update rounds a parameter up or down by chance, so that
// small steps are not lost on average. The optimizer's state is float32: a second moment with a decay of 0.999 would
// stand still in 8 bits. Layers with running statistics, such as batch norms, stay in float32. Source:
// `model.to(torch.bfloat16)` with `bf16_stochastic_round` of torchao, whose state is bfloat16; "Revisiting BFloat16
// Training" (Zamirai et al., 2020).
#include "accelerate/precision/choice.h"

namespace accelerate::internal {

PrecisionEntry precision_bf16_stochastic() {
  return {"bf16_stochastic",
          [](c10::Device device) -> std::optional<std::string> {
            if (device.is_cpu() || device.is_cuda()) return std::nullopt;
            return "there are no kernels for updates on device \"" + device.str() + "\"";
          },
          PrecisionPolicy{
              .output = at::kFloat, .param = at::kBFloat16, .buffer = at::kBFloat16, .stochastic_rounding = true}};
}

}  // namespace accelerate::internal

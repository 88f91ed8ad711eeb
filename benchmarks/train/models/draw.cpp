#include "benchmarks/train/models/models.h"

namespace benchmark_train {

void draw(torch::nn::Module& net, c10::Device device, uint64_t seed) {
  const torch::NoGradGuard no_grad;
  net.to(device);
  torch::manual_seed(seed);  // what constructors drew differs from the peer's
  for (auto& entry : net.named_parameters()) {
    if (entry.value().dim() > 1) {
      entry.value().normal_(0, 0.02);
    } else {
      entry.value().fill_(entry.key().ends_with("bias") ? 0 : 1);
    }
  }
}

}  // namespace benchmark_train

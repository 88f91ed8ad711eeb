#include <ATen/autocast_mode.h>

#include "accelerate/nn/cross_entropy.h"
#include "benchmarks/train/models/models.h"

namespace benchmark_train {

at::Tensor mean_cross_entropy(const at::Tensor& logits, const at::Tensor& labels, Loss loss) {
  if (loss == Loss::kFused) return accelerate::nn::functional::cross_entropy(logits, labels);
  const bool converts =
      at::isReducedFloatingType(logits.scalar_type()) && !at::autocast::is_autocast_enabled(logits.device().type());
  return torch::nn::functional::cross_entropy(converts ? logits.to(torch::kFloat) : logits, labels);
}

}  // namespace benchmark_train

#include "accelerate/optim/loss_weights.h"

#include <ATen/ATen.h>

#include <utility>

namespace accelerate::internal {

void LossWeights::add(const at::Tensor& count) { counted_ = counted_.defined() ? counted_ + count : count; }

void LossWeights::reset() {
  counted_.reset();
  factor_.reset();
  plain_ = false;
}

void LossWeights::rescale(std::vector<Gradients>& kinds, const at::Tensor& factor) {
  if (factor_.defined()) {
    scale(kinds, factor.defined() ? factor / factor_ : factor_.reciprocal());
  } else if (factor.defined()) {
    scale(kinds, factor);
  }
  factor_ = factor;
}

at::Tensor mean_factor(const at::Tensor& total, int64_t share) {
  return at::where(total > 0, static_cast<double>(share) / total, at::ones_like(total));
}

}  // namespace accelerate::internal

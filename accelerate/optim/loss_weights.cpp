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

void LossWeights::undivide(std::vector<Gradients>& kinds) {
  if (!factor_.defined()) return;
  scale(kinds, factor_.reciprocal());
  factor_.reset();
}

void LossWeights::divide(std::vector<Gradients>& kinds, const at::Tensor& total, int64_t share) {
  const at::Tensor factor = at::where(total > 0, static_cast<double>(share) / total, at::ones_like(total));
  scale(kinds, factor);
  factor_ = factor;
}

}  // namespace accelerate::internal

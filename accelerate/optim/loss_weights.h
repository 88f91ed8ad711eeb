#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "accelerate/optim/gradients.h"

namespace accelerate::internal {

/// How much the losses count whose gradients one model has gathered since they were last used or dropped.
///
/// With losses S (sums over w items each) the gradients wanted are  sum grad S / sum w  over the micro-steps k and the
/// ranks r. `.grad` gathers sum_k grad S_rk, not divided; where a window ends, the strategy leaves
/// sum_r sum_k grad S_rk / P  on every rank, and P / W with  W = sum_r sum_k w_rk  makes it the mean. A further
/// backward in the same micro-step takes that factor out again before it adds its part.
class LossWeights {
 public:
  /// Whether some loss with a count has been gathered.
  bool any() const { return counted_.defined(); }
  /// Whether some loss without one has, or may have where it was not looked for: then gradients that are there tell.
  bool plain() const { return plain_; }
  /// What this rank has gathered: 0-d, float64. Undefined if nothing.
  const at::Tensor& counted() const { return counted_; }

  void add(const at::Tensor& count);
  void add_plain() { plain_ = true; }
  /// The gradients were used or dropped; what comes next counts anew.
  void reset();

  /// The gradients are sums again.
  void undivide(std::vector<Gradients>& kinds);
  /// Multiplies the gradients by `share` / `total`, both counting what `total` counts; left alone for a total of 0,
  /// where there is nothing but zeros.
  void divide(std::vector<Gradients>& kinds, const at::Tensor& total, int64_t share);

 private:
  at::Tensor counted_;
  at::Tensor factor_;  ///< in the gradients; undefined: 1
  bool plain_ = false;
};

}  // namespace accelerate::internal

#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "accelerate/optim/gradients.h"

namespace accelerate::internal {

/// How much the losses count whose gradients one model has gathered since they were last used or dropped.
///
/// With losses S (sums over w items each) the gradients wanted are  sum grad S / sum w  over the micro-steps k and the
/// ranks r. `.grad` gathers sum_k grad S_rk, not divided. Before ranks average, what is there and the loss that comes
/// are multiplied by P / W with  W = sum_r sum_k w_rk, so that what travels is of the size of a mean, and the average,
/// sum_r sum_k grad S_rk / W, is the mean. A further backward puts its own factor in that one's place.
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

  /// The gradients are the sums times `factor`: 0-d, float64, not 0; undefined for the sums themselves.
  void rescale(std::vector<Gradients>& kinds, const at::Tensor& factor);

 private:
  at::Tensor counted_;
  at::Tensor factor_;  ///< in the gradients; undefined: 1
  bool plain_ = false;
};

/// `share` / `total`, elementwise; 1 where `total` is 0 and there is nothing but zeros.
at::Tensor mean_factor(const at::Tensor& total, int64_t share);

}  // namespace accelerate::internal

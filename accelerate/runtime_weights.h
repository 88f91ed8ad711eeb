#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <optional>
#include <vector>

#include "accelerate/comm/group.h"
#include "accelerate/model.h"
#include "accelerate/options.h"

namespace accelerate::internal {

/// The counts of the losses (`BackwardOptions::num_items`, `weight`) around one backward pass: which models it counts
/// for, the sum over the ranks, and the one division. A pass whose loss has none is left alone.
class WeightedPass {
 public:
  using Models = std::vector<std::shared_ptr<ModelCore>>;

  /// Throws UsageError for counts that cannot be used, and where losses with and without counts meet in one window.
  /// `loss` is what autograd runs from when it has none.
  WeightedPass(const Models& models, const Group& group, const at::Tensor& loss, const BackwardOptions& options);

  bool counts() const { return count_.defined(); }
  /// The sum whose gradients the window gathers. For a loss that counts.
  at::Tensor summed(const at::Tensor& loss) const { return is_mean_ ? loss * count_.to(loss.scalar_type()) : loss; }
  /// Before the strategies are armed: adds the counts up, and where the window ends starts to exchange them.
  void begin(const at::Tensor& loss, bool window_ends);
  /// After they have finished: where the window ends the gradients become means.
  void finish();

 private:
  struct Reached {
    ModelCore* model = nullptr;
    size_t index = 0;  ///< among the models that the ranks share
    GradientSync sync = GradientSync::kReduce;
  };
  std::vector<Gradients> gradients_of_new(const ModelCore& model, std::vector<const void*>& seen) const;

  const Models& models_;
  const Group& group_;
  at::Tensor count_;  ///< 0-d, float64, on the loss's device; undefined: the loss does not count
  bool is_mean_ = false;
  bool window_ends_ = false;
  std::vector<Reached> reached_;
  at::Tensor totals_;  ///< of the models that the ranks share, over them
  Work exchange_;
};

}  // namespace accelerate::internal

#pragma once

#include <ATen/ATen.h>

#include <functional>
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
  /// Before the strategies are armed: adds the counts up, over the ranks where some gradient is averaged, and gives
  /// what autograd runs from: the sum, where the window ends or ranks average already times the factor of the mean.
  at::Tensor begin(const at::Tensor& loss, bool window_ends);
  /// After they have finished: where models count differently each gets its own mean.
  void finish();

 private:
  struct Reached {
    ModelCore* model = nullptr;
    size_t index = 0;  ///< among the models that the ranks share
    bool averaged = false;
    at::Tensor factor;  ///< makes the sum that the strategy leaves the mean; undefined: it stays a sum
  };
  void exchange_counts();
  /// Each parameter once: models may share some.
  static void rescale(const std::vector<Reached>& models, const std::function<at::Tensor(const Reached&)>& factor_of);

  const Models& models_;
  const Group& group_;
  at::Tensor count_;  ///< 0-d, float64, on the loss's device; undefined: the loss does not count
  bool is_mean_ = false;
  bool corrects_ = false;  ///< `finish` has something to do
  std::vector<Reached> reached_;
  std::vector<Reached> left_out_;  ///< by this loss, and counted by others of the window
  at::Tensor totals_;              ///< of the models that the ranks share, over them
};

}  // namespace accelerate::internal

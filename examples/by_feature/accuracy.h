#pragma once

#include <torch/torch.h>

namespace by_feature {

/// What `evaluate.load("accuracy")` is for the original: batches go in, one number comes out.
class Accuracy {
 public:
  void add_batch(const at::Tensor& predictions, const at::Tensor& references) {
    right_ += (predictions == references).sum().item<int64_t>();
    seen_ += references.size(0);
  }
  /// The share of right predictions; starts anew.
  double compute() {
    const double accuracy = static_cast<double>(right_) / static_cast<double>(seen_);
    right_ = seen_ = 0;
    return accuracy;
  }
  double compute(const at::Tensor& predictions, const at::Tensor& references) {
    add_batch(predictions, references);
    return compute();
  }

 private:
  int64_t right_ = 0, seen_ = 0;
};

}  // namespace by_feature

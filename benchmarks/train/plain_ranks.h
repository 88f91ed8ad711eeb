#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace benchmark_train {

/// Data-parallel training by hand over LibTorch's Reducer and Gloo, where torchrun's variables say that there are
/// several processes; in one process nothing.
class PlainRanks {
 public:
  explicit PlainRanks(const std::vector<at::Tensor>& parameters);
  ~PlainRanks();

  int64_t rank() const { return rank_; }
  int64_t size() const { return size_; }
  void backward(const at::Tensor& loss);

 private:
  struct Connected;
  int64_t rank_ = 0, size_ = 1;
  std::unique_ptr<Connected> connected_;
};

}  // namespace benchmark_train

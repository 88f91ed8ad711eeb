#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace benchmark_train {

/// The GPU of this process, or the CPU.
c10::Device plain_device();

/// Not in builds without CUDA.
c10::intrusive_ptr<c10d::Backend> plain_nccl(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size);

/// Data-parallel training by hand over LibTorch's Reducer and Gloo, or NCCL between GPUs, where torchrun's variables
/// say that there are several processes; in one process nothing.
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

// Only in builds with CUDA: ProcessGroupNCCL's header includes CUDA's.
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "benchmarks/train/plain_ranks.h"

namespace benchmark_train {

c10::intrusive_ptr<c10d::Backend> plain_nccl(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size) {
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, c10d::ProcessGroupNCCL::Options::create());
}

}  // namespace benchmark_train

#pragma once

#include <torch/torch.h>

#include <functional>
#include <memory>

#include "benchmarks/train/tasks.h"

namespace benchmark_train {

/// A step written by hand as one CUDA graph: captured after steps that ran eagerly, then replayed from inputs that lie
/// where they lay. What the step computes is made on the stream of its runs: construct this first.
class PlainGraph {
 public:
  using Body = std::function<at::Tensor(const at::Tensor& inputs, const at::Tensor& labels)>;

  /// Everything runs on a stream of its own until it ends. Throws where there is no GPU, or no CUDA in the build.
  explicit PlainGraph(c10::Device device);
  ~PlainGraph();

  /// One step of `body` on these rows of the samples; `eager_steps` before the capture. The loss is overwritten by the
  /// next step.
  at::Tensor run(const Body& body, const Samples& samples, const at::Tensor& rows, int64_t eager_steps);

 private:
  struct Captured;
  std::unique_ptr<Captured> captured_;
};

}  // namespace benchmark_train

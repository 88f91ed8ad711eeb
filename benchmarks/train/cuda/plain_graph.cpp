// Only in builds with CUDA: the graph's header includes CUDA's.
#include "benchmarks/train/plain_graph.h"

#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>

#include <array>
#include <optional>
#include <stdexcept>

namespace benchmark_train {
namespace {

/// Pinned memory from which a batch travels while the next one is gathered into another.
struct Slot {
  at::Tensor inputs, labels;
  at::cuda::CUDAEvent travelled;
};

at::Tensor pinned_rows(const at::Tensor& all, int64_t rows) {
  std::vector<int64_t> shape = all.sizes().vec();
  shape.front() = rows;
  return torch::empty(shape, all.options().pinned_memory(true));
}

}  // namespace

struct PlainGraph::Captured {
  explicit Captured(c10::Device device)
      : stream(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())), current(stream) {}

  void feed(const Samples& samples, const at::Tensor& rows) {
    Slot& slot = slots[static_cast<size_t>(steps) % slots.size()];
    if (!slot.inputs.defined()) {
      slot.inputs = pinned_rows(samples.inputs, rows.size(0));
      slot.labels = pinned_rows(samples.labels, rows.size(0));
    }
    slot.travelled.synchronize();
    at::index_select_out(slot.inputs, samples.inputs, 0, rows);
    at::index_select_out(slot.labels, samples.labels, 0, rows);
    if (!inputs.defined()) {
      inputs = torch::empty_like(slot.inputs, at::TensorOptions().device(stream.device()).pinned_memory(false));
      labels = torch::empty_like(slot.labels, at::TensorOptions().device(stream.device()).pinned_memory(false));
    }
    inputs.copy_(slot.inputs, /*non_blocking=*/true);
    labels.copy_(slot.labels, /*non_blocking=*/true);
    slot.travelled.record(stream);
  }

  c10::cuda::CUDAStream stream;
  c10::cuda::CUDAStreamGuard current;
  std::array<Slot, 2> slots;
  at::Tensor inputs, labels, loss;
  std::optional<at::cuda::CUDAGraph> graph;
  int64_t steps = 0;
};

PlainGraph::PlainGraph(c10::Device device) {
  if (!device.is_cuda()) throw std::invalid_argument("--graph: got the CPU, expected a GPU");
  torch::cuda::synchronize(device.index());  // what was made so far was made on another stream
  captured_ = std::make_unique<Captured>(device);
}

PlainGraph::~PlainGraph() = default;

at::Tensor PlainGraph::run(const Body& body, const Samples& samples, const at::Tensor& rows, int64_t eager_steps) {
  Captured& own = *captured_;
  own.feed(samples, rows);
  if (own.steps++ < eager_steps) return body(own.inputs, own.labels);
  if (!own.graph) {
    torch::cuda::synchronize(own.stream.device_index());
    own.graph.emplace();
    own.graph->capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    own.loss = body(own.inputs, own.labels).detach();
    own.graph->capture_end();
  }
  own.graph->replay();
  return own.loss;
}

}  // namespace benchmark_train

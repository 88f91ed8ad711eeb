// Stream capture of CUDA, through LibTorch's graphs, which keep its allocator and its random numbers right.
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <utility>

#include "accelerate/step/capture_device.h"
#include "accelerate/step/captures/memsets.h"
#include "accelerate/tensor/copies.h"

namespace accelerate::internal {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

class CudaGraphWork final : public CapturedWork {
 public:
  explicit CudaGraphWork(std::unique_ptr<at::cuda::CUDAGraph> graph) : graph_(std::move(graph)) {}
  /// What was launched may be on its way yet.
  ~CudaGraphWork() override { static_cast<void>(cudaStreamSynchronize(c10::cuda::getCurrentCUDAStream())); }
  void launch() override { graph_->replay(); }

 private:
  std::unique_ptr<at::cuda::CUDAGraph> graph_;
};

class CudaCapture final : public CaptureDevice {
 public:
  /// The default stream cannot be captured: the thread that trains gets one of its own.
  explicit CudaCapture(c10::Device device)
      : device_(device),
        pool_(at::cuda::graph_pool_handle()),
        before_(c10::cuda::getCurrentCUDAStream(device.index())) {
    if (before_ != c10::cuda::getDefaultCUDAStream(device.index())) return;
    before_.synchronize();
    own_ = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index());
    c10::cuda::setCurrentCUDAStream(*own_);
  }

  ~CudaCapture() override {
    if (own_ && c10::cuda::getCurrentCUDAStream(device_.index()) == *own_) {
      static_cast<void>(cudaStreamSynchronize(*own_));
      c10::cuda::setCurrentCUDAStream(before_);
    }
  }

  std::optional<std::string> refusal() const override {
    if (stream() != c10::cuda::getDefaultCUDAStream(device_.index())) return std::nullopt;
    return "the thread that trains works on CUDA's default stream, which cannot be captured: make the Accelerator in "
           "that thread, or give the thread a stream of its own";
  }

  void begin() override {
    const c10::InferenceMode usual(false);  // LibTorch keeps tensors for its generator, and writes them later
    stream().synchronize();                 // `do_now` works on another stream, and reads what this one has made so far
    if (!anchor_) anchor_ = some_graph();
    graph_ = std::make_unique<at::cuda::CUDAGraph>(/*keep_graph=*/true);
    graph_->capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
  }

  std::unique_ptr<CapturedWork> end() override {
    try {
      if (tail().second == 0) do_something();  // views alone
      graph_->capture_end();
    } catch (...) {
      repair();
      throw;
    }
    C10_CUDA_CHECK(memsets_as_kernels(graph_->raw_cuda_graph()));
    graph_->instantiate();
    return std::make_unique<CudaGraphWork>(std::move(graph_));
  }

  void abandon() noexcept override {
    try {
      if (tail().second == 0) do_something();
      graph_->capture_end();
      graph_.reset();
    } catch (...) {
      repair();
    }
  }

  void mark() override { known_ = tail(); }
  bool has_unknown_work() override { return tail() != known_; }
  bool is_broken() const override { return status() == cudaStreamCaptureStatusInvalidated; }

  void do_now(const std::function<void()>& work) override {
    const c10::cuda::CUDAStreamCaptureModeGuard relaxed(cudaStreamCaptureModeRelaxed);
    const c10::cuda::CUDAStreamGuard aside(stream_that_works());
    work();
    stream().synchronize();
  }

  c10::DataPtr copy(const void* data, size_t bytes) override {
    c10::DataPtr fresh = allocator::get()->allocate(bytes);
    if (bytes != 0) {
      C10_CUDA_CHECK(cudaMemcpyAsync(fresh.get(), data, bytes, cudaMemcpyDeviceToDevice, stream()));
    }
    return fresh;
  }

  void copy(std::span<const MemoryCopy> copies) override { C10_CUDA_CHECK(copy_on_cuda(copies, stream())); }

 private:
  /// The last node of the stream that captures, and how many it depends on.
  using Tail = std::pair<cudaGraphNode_t, size_t>;

  c10::cuda::CUDAStream stream() const { return c10::cuda::getCurrentCUDAStream(device_.index()); }

  /// LibTorch's streams go round: the one that captures, or one of NCCL's that has joined it, comes again.
  c10::cuda::CUDAStream stream_that_works() const {
    while (true) {
      const c10::cuda::CUDAStream next = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device_.index());
      cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
      C10_CUDA_CHECK(cudaStreamIsCapturing(next, &status));
      if (status == cudaStreamCaptureStatusNone) return next;
    }
  }

  cudaStreamCaptureStatus status() const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing(stream(), &status) == cudaSuccess) return status;
    static_cast<void>(cudaGetLastError());
    return cudaStreamCaptureStatusInvalidated;
  }

  Tail tail() const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    unsigned long long id = 0;
    cudaGraph_t graph = nullptr;
    const cudaGraphNode_t* nodes = nullptr;
    const cudaGraphEdgeData* edges = nullptr;
    size_t count = 0;
    if (cudaStreamGetCaptureInfo(stream(), &status, &id, &graph, &nodes, &edges, &count) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());  // `end` says what went wrong
      return known_;
    }
    return {count == 0 ? nullptr : nodes[0], count};
  }

  std::unique_ptr<at::cuda::CUDAGraph> some_graph() {
    auto graph = std::make_unique<at::cuda::CUDAGraph>(/*keep_graph=*/true);
    graph->capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
    do_something();
    graph->capture_end();
    return graph;
  }

  /// LibTorch warns of graphs that do nothing.
  void do_something() const {
    const c10::DataPtr block = allocator::get()->allocate(1);
    C10_CUDA_CHECK(cudaMemsetAsync(block.get(), 0, 1, stream()));
  }

  /// LibTorch's `capture_end` may not have come so far.
  void end_broken() const {
    cudaGraph_t graph = nullptr;
    static_cast<void>(cudaStreamEndCapture(stream(), &graph));
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
    static_cast<void>(cudaGetLastError());
  }

  /// A capture that CUDA has given up leaves LibTorch's allocators and generator in it. A good one brings them out.
  void repair() noexcept {
    try {
      static_cast<void>(cudaGetLastError());
      if (status() != cudaStreamCaptureStatusNone) end_broken();
      allocator::endAllocateToPool(device_.index(), pool_);
      allocator::releasePool(device_.index(), pool_);
      at::getHostAllocator(c10::kCUDA)->end_allocate_to_pool(pool_);
      at::getHostAllocator(c10::kCUDA)->release_pool(pool_);
      graph_.reset();
      some_graph();
    } catch (...) {
      static_cast<void>(cudaGetLastError());  // the error that was there first is on its way
    }
  }

  c10::Device device_;
  at::cuda::MempoolId_t pool_;
  c10::cuda::CUDAStream before_;
  std::optional<c10::cuda::CUDAStream> own_;
  /// LibTorch does not let a pool be used again whose last graph is gone.
  std::unique_ptr<at::cuda::CUDAGraph> anchor_;
  std::unique_ptr<at::cuda::CUDAGraph> graph_;
  Tail known_{};
};

}  // namespace

CaptureDeviceEntry capture_cuda() {
  return {.type = c10::kCUDA, .make = [](c10::Device device) { return std::make_unique<CudaCapture>(device); }};
}

}  // namespace accelerate::internal

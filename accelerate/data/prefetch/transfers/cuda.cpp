// Small batches on their way to CUDA: one kernel reads all tensors of a batch from pinned memory, since each copy by
// LibTorch's operators costs the host some 10 us, whatever its size. Each tensor has memory of its own all the same: of
// one block that they share, a label that is kept would keep the images, and `record_stream` would do nothing.
#include <ATen/EmptyTensor.h>
#include <ATen/core/CachingHostAllocator.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/SmallVector.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "accelerate/data/prefetch/transfer.h"
#include "accelerate/tensor/copies.h"
#include "accelerate/tensor/intercept.h"

namespace accelerate::internal {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

/// Of the current device when it is made.
class CudaCopy final : public BatchCopy {
 public:
  CudaCopy() { C10_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~CudaCopy() override { static_cast<void>(cudaEventDestroy(event_)); }
  CudaCopy(const CudaCopy&) = delete;
  CudaCopy& operator=(const CudaCopy&) = delete;

  void record(c10::cuda::CUDAStream stream) { C10_CUDA_CHECK(cudaEventRecord(event_, stream)); }
  bool finished() const override {
    const cudaError_t error = cudaEventQuery(event_);
    if (error == cudaSuccess) return true;
    if (error != cudaErrorNotReady) C10_CUDA_CHECK(error);
    static_cast<void>(cudaGetLastError());
    return false;
  }
  void wait() const override { C10_CUDA_CHECK(cudaEventSynchronize(event_)); }
  void before_use(std::span<at::Tensor* const> copied) const override {
    if (copied.empty()) return;
    const auto stream = c10::cuda::getCurrentCUDAStream(copied.front()->get_device());
    C10_CUDA_CHECK(cudaStreamWaitEvent(stream, event_));
    // The memory belongs to the copy stream: let go, it must not be written again before this stream has read it.
    for (const at::Tensor* tensor : copied) allocator::recordStream(tensor->storage().data_ptr(), stream);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

class CudaTransfer final : public Transfer {
 public:
  CudaTransfer(c10::Device device, std::shared_ptr<Transfer> usual)
      : usual_(std::move(usual)), stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())) {
    // Streams go round: not the one that computes.
    if (stream_ == c10::cuda::getCurrentCUDAStream(device.index())) {
      stream_ = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index());
    }
    int same_address = 0;
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&same_address, cudaDevAttrCanUseHostPointerForRegisteredMem, device.index()));
    reads_host_ = same_address != 0;
  }

  at::Tensor host_memory(int64_t bytes) override { return usual_->host_memory(bytes); }

  std::shared_ptr<const BatchCopy> start(std::span<at::Tensor* const> tensors) override {
    // In the middle of a step that is captured, whoever observes it must see that the host gives the device something.
    if (!reads_host_ || tensors.empty() || is_observed() || !are_small(tensors)) return usual_->start(tensors);
    const c10::cuda::CUDAStreamGuard on_stream(stream_);
    // As LibTorch's own copies do: memory that is let go is not handed out again before the kernel has read it.
    const c10::DataPtr& memory = tensors.front()->storage().data_ptr();
    if (!at::getHostAllocator(c10::kCUDA)->record_event(memory.get(), memory.get_context(), stream_.unwrap())) {
      return usual_->start(tensors);
    }
    c10::SmallVector<at::Tensor, 4> copied;
    c10::SmallVector<MemoryCopy, 4> copies;
    for (const at::Tensor* tensor : tensors) {
      copied.emplace_back(at::detail::empty_strided_generic(tensor->sizes(), tensor->strides(), allocator::get(),
                                                            c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                                            tensor->scalar_type()));
      copies.push_back(
          {.to = copied.back().mutable_data_ptr(), .from = tensor->const_data_ptr(), .bytes = tensor->nbytes()});
    }
    const std::shared_ptr<CudaCopy> copy = free_copy();
    C10_CUDA_CHECK(copy_on_cuda({copies.data(), copies.size()}, stream_));
    copy->record(stream_);
    for (size_t i = 0; i < tensors.size(); ++i) *tensors[i] = std::move(copied[i]);
    return copy;
  }

 private:
  /// Nobody asks for the last batch that it was of any more.
  std::shared_ptr<CudaCopy> free_copy() {
    const auto found = std::ranges::find_if(copies_, [](const auto& copy) { return copy.use_count() == 1; });
    if (found != copies_.end()) return *found;
    return copies_.emplace_back(std::make_shared<CudaCopy>());
  }

  std::shared_ptr<Transfer> usual_;
  c10::cuda::CUDAStream stream_;
  bool reads_host_ = false;  ///< pinned memory, at the addresses that the host uses
  std::vector<std::shared_ptr<CudaCopy>> copies_;
};

}  // namespace

TransferEntry transfer_cuda() {
  return {.type = c10::kCUDA, .make = [](c10::Device device, std::shared_ptr<Transfer> usual) {
            return std::shared_ptr<Transfer>(std::make_shared<CudaTransfer>(device, std::move(usual)));
          }};
}

}  // namespace accelerate::internal

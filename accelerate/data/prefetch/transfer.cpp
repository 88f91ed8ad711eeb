// Through LibTorch's table of device kinds: no header of CUDA is needed, and nothing of CUDA is linked.
#include "accelerate/data/prefetch/transfer.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>

#include <utility>
#include <vector>

namespace accelerate::internal {
namespace {

c10::Stream current_stream(c10::Device device) {
  return c10::impl::getDeviceGuardImpl(device.type())->getStream(device);
}

class StreamCopy final : public BatchCopy {
 public:
  explicit StreamCopy(c10::Stream stream) : event_(stream.device_type()) { event_.record(stream); }
  bool finished() const override { return event_.query(); }
  void wait() const override { event_.synchronize(); }
  void before_use(std::span<at::Tensor* const> copied) const override {
    if (copied.empty()) return;
    const c10::Stream stream = current_stream(copied.front()->device());
    event_.block(stream);
    // The memory belongs to the copy stream: let go, it must not be written again before this stream has read it.
    for (at::Tensor* tensor : copied) tensor->record_stream(stream);
  }

 private:
  c10::Event event_;
};

class StreamTransfer final : public Transfer {
 public:
  /// Not the stream that computes, which may be one of the pool, too; where a device has several.
  explicit StreamTransfer(c10::Device device) : stream_(current_stream(device)) {
    constexpr int kAttempts = 4;
    for (int i = 0; i < kAttempts && stream_ == current_stream(device); ++i) {
      stream_ = c10::impl::getDeviceGuardImpl(device.type())->getStreamFromGlobalPool(device);
    }
  }

  at::Tensor host_memory(int64_t bytes) override {
    const c10::InferenceMode normal(false);  // it is written in whatever mode the loop is in later
    return at::empty({bytes}, at::TensorOptions(at::kByte).pinned_memory(true));
  }

  std::shared_ptr<const BatchCopy> start(std::span<at::Tensor* const> tensors) override {
    const c10::StreamGuard on_stream(stream_);
    std::vector<at::Tensor> copied;
    copied.reserve(tensors.size());
    for (const at::Tensor* tensor : tensors) {
      const auto options = tensor->options().device(stream_.device()).pinned_memory(false);
      copied.push_back(at::empty_strided(tensor->sizes(), tensor->strides(), options));
    }
    for (size_t i = 0; i < copied.size(); ++i) copied[i].copy_(*tensors[i], /*non_blocking=*/true);
    for (size_t i = 0; i < copied.size(); ++i) *tensors[i] = std::move(copied[i]);
    return std::make_shared<StreamCopy>(stream_);
  }

 private:
  c10::Stream stream_;
};

}  // namespace

std::shared_ptr<Transfer> make_transfer(c10::Device device) {
  auto usual = std::make_shared<StreamTransfer>(device);
  for (const TransferEntry& entry : builtin_transfers()) {
    if (entry.type == device.type()) return entry.make(device, std::move(usual));
  }
  return usual;
}

bool are_small(std::span<at::Tensor* const> tensors) {
  // Beyond that a copy takes the device longer than the call takes the host, and is better made by its copy engine.
  constexpr size_t kMostBytes = size_t{512} << 10;
  size_t bytes = 0;
  for (const at::Tensor* tensor : tensors) {
    bytes += tensor->nbytes();
    if (!tensor->is_non_overlapping_and_dense() || !tensor->storage().is_alias_of(tensors.front()->storage())) {
      return false;
    }
  }
  return bytes <= kMostBytes;
}

}  // namespace accelerate::internal

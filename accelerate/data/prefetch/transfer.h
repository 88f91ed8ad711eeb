#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace accelerate::internal {

/// The copies of one batch, which a device makes while the host goes on.
class BatchCopy {
 public:
  virtual ~BatchCopy() = default;
  /// Without waiting.
  virtual bool finished() const = 0;
  /// The host waits.
  virtual void wait() const = 0;
  /// What this thread gives the device to do from now on comes after the copies, and `copied`, what the copies wrote,
  /// may be let go at any time after that.
  virtual void before_use(std::span<at::Tensor* const> copied) const = 0;
};

/// The way from the host to a device, beside what the device computes. Used by one thread, the one that runs the loop:
/// while a graph is recorded, no other thread may talk to the device.
class Transfer {
 public:
  virtual ~Transfer() = default;
  /// So many bytes that the device reads without the host. Let go while it reads them, they are not handed out again
  /// before it is through.
  virtual at::Tensor host_memory(int64_t bytes) = 0;
  /// Begins to copy `tensors`, which lie in such memory, and puts those on the device in their place; all, or none and
  /// an error, before anything has begun.
  virtual std::shared_ptr<const BatchCopy> start(std::span<at::Tensor* const> tensors) = 0;
};

/// On a stream of its own of a device that is not the CPU.
std::shared_ptr<Transfer> make_transfer(c10::Device device);

/// A kind of device that small batches reach on a shorter way than LibTorch's operators: the plug-in folder
/// `data/prefetch/transfers`.
struct TransferEntry {
  c10::DeviceType type;
  /// `usual` is for everything else.
  std::shared_ptr<Transfer> (*make)(c10::Device device, std::shared_ptr<Transfer> usual);
};
std::vector<TransferEntry> builtin_transfers();

/// Whether the tensors of a batch are so small that what counts is how often the device is spoken to: and they lie
/// without gaps in one memory of the host.
bool are_small(std::span<at::Tensor* const> tensors);

}  // namespace accelerate::internal

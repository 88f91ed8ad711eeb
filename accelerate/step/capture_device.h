#pragma once

#include <c10/core/Device.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "accelerate/tensor/memory_copy.h"

namespace c10 {
class DataPtr;
}

namespace accelerate {

/// Work of a device that was captured, and can be launched again and again.
class CapturedWork {
 public:
  virtual ~CapturedWork() = default;
  /// On the current stream; does not wait.
  virtual void launch() = 0;
};

/// How a kind of device captures what the calling thread gives it to do, without doing it. Memory that is allocated
/// while capturing belongs to all captures of one object together, and keeps its addresses.
class CaptureDevice {
 public:
  virtual ~CaptureDevice() = default;
  /// Why nothing can be captured in this thread, as it is set up now.
  virtual std::optional<std::string> refusal() const { return std::nullopt; }
  virtual void begin() = 0;
  /// Throws where something in between could not be captured; nothing is captured any more then.
  virtual std::unique_ptr<CapturedWork> end() = 0;
  /// Instead of `end`: as if nothing had been begun.
  virtual void abandon() noexcept = 0;
  /// While capturing: what is captured so far is known. Between this and `has_unknown_work` nothing should be added.
  virtual void mark() = 0;
  virtual bool has_unknown_work() = 0;
  /// While capturing: something was done that no capture survives, as waiting for the device.
  virtual bool is_broken() const { return false; }
  /// While capturing: does `work` now instead, and waits for it.
  virtual void do_now(const std::function<void()>& work) = 0;
  /// Fresh memory with the same bytes, copied in the order of the current stream.
  virtual c10::DataPtr copy(const void* data, size_t bytes) = 0;
  /// Into memory that is there, in the order of the current stream; no two of them write the same bytes.
  virtual void copy(std::span<const MemoryCopy> copies) = 0;
};

/// The kind of device that can capture, and how that is made for one device: the plug-in folder `step/captures`, and
/// what `.extensions` hands in. `make` may set the calling thread up, which then trains.
struct CaptureDeviceEntry {
  c10::DeviceType type;
  std::function<std::unique_ptr<CaptureDevice>(c10::Device device)> make;
};

namespace internal {
/// CUDA's, in a build with CUDA.
std::vector<CaptureDeviceEntry> builtin_captures();
}  // namespace internal

}  // namespace accelerate

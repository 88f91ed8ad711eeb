#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "accelerate/tensor/memory_remedy.h"

namespace accelerate::internal {

/// Whose a part of a device's memory is. Activations are what nobody here knows of.
enum class MemoryOwner { kParameters, kGradients, kOptimizerState, kBuckets, kAverages };

struct OwnedMemory {
  MemoryOwner owner = MemoryOwner::kParameters;
  int64_t bytes = 0;
};

/// What else the advice depends on.
struct MemorySetting {
  int64_t gradient_accumulation_steps = 1;
  bool first_micro_step = true;  ///< gradients that are there were not gathered in this window
  bool narrow = false;           ///< activations have 16 bits already
};

/// Who holds memory of one Accelerator's device. Nothing is counted before somebody asks, which happens when there is
/// none left. For the thread of the loop.
class MemoryOwners {
 public:
  explicit MemoryOwners(c10::Device device) : device_(device) {}

  /// `bytes` counts on `device()`, as long as `alive` is.
  void add(MemoryOwner owner, std::weak_ptr<const void> alive, std::function<int64_t(c10::Device)> bytes);
  void add_remedy(std::weak_ptr<const void> alive, std::function<MemoryRemedy()> remedy);
  void set_setting(std::function<MemorySetting()> setting) { setting_ = std::move(setting); }

  c10::Device device() const { return device_; }
  /// One entry an owner that has some, in their order.
  std::vector<OwnedMemory> owned() const;
  /// Those that would give something back.
  std::vector<MemoryRemedy> remedies() const;
  MemorySetting setting() const { return setting_ ? setting_() : MemorySetting{}; }

 private:
  struct Part {
    MemoryOwner owner;
    std::weak_ptr<const void> alive;
    std::function<int64_t(c10::Device)> bytes;
  };
  struct Advice {
    std::weak_ptr<const void> alive;
    std::function<MemoryRemedy()> remedy;
  };
  c10::Device device_;
  std::vector<Part> parts_;
  std::vector<Advice> advice_;
  std::function<MemorySetting()> setting_;
};

}  // namespace accelerate::internal

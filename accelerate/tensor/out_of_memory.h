#pragma once

#include <c10/util/Exception.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "accelerate/tensor/memory_owners.h"

namespace accelerate::internal {

/// What was going on when memory ran out.
enum class MemoryPhase { kPrepare, kForward, kBackward, kOptimizerStep, kCollective };

/// An allocation that failed, in bytes as far as they are known.
struct FailedAllocation {
  std::optional<int64_t> asked = {};
  std::optional<int64_t> free = {};   ///< on the device; less, where this process may not have all of it
  std::optional<int64_t> total = {};  ///< of the device
  std::optional<int64_t> allocated = {};
  std::optional<int64_t> in_graphs = {};  ///< of those: by CUDA graphs, for themselves
  std::optional<int64_t> cached = {};     ///< reserved and not allocated
};
/// From the text of LibTorch's error, which was written when it happened: when the error is caught, activations are
/// gone.
FailedAllocation parse_failed_allocation(std::string_view text);

struct OutOfMemory {
  MemoryPhase phase = MemoryPhase::kForward;
  std::string device = {};
  FailedAllocation allocation = {};
  std::vector<OwnedMemory> owned = {};
  std::vector<MemoryRemedy> remedies = {};  ///< of those who own something
  MemorySetting setting = {};
};
/// Names the phase, the owners, largest first, and at most three changes that would make it fit, judged by the numbers.
std::string out_of_memory_text(const OutOfMemory& report);

/// What leaves this library then; the type that LibTorch throws, so that whoever expects that sees one.
class ExplainedOutOfMemory final : public c10::OutOfMemoryError {
  using OutOfMemoryError::OutOfMemoryError;
};
/// Inside a handler for `error`. Rethrows it as it is if nobody is there to ask.
[[noreturn]] void throw_explained(const c10::OutOfMemoryError& error, const std::shared_ptr<const MemoryOwners>& owners,
                                  MemoryPhase phase);

/// `function()`. When memory runs out in it the error says who has it, as `owners`, a shared or weak pointer, knows;
/// nothing is done before.
template <class Owners, class F>
decltype(auto) explaining_memory(const Owners& owners, MemoryPhase phase, F&& function) {
  try {
    return std::forward<F>(function)();
  } catch (const ExplainedOutOfMemory&) {
    throw;
  } catch (const c10::OutOfMemoryError& error) {
    throw_explained(error, std::weak_ptr<const MemoryOwners>(owners).lock(), phase);
  }
}

}  // namespace accelerate::internal

#include "accelerate/tensor/memory.h"

#include <ATen/DeviceAccelerator.h>

#include <algorithm>
#include <array>
#include <new>
#include <string_view>

#include "accelerate/core/error.h"

namespace accelerate {

void clear_device_cache() {
  const auto device = at::accelerator::getAccelerator();
  if (!device) return;
  // One that was never used has no cache, and asking would start it.
  c10::DeviceAllocator* const allocator = c10::getDeviceAllocator(*device);
  if (allocator->initialized()) allocator->emptyCache();
}

bool should_reduce_batch_size(const std::exception& error) {
  constexpr std::array<std::string_view, 4> kTexts{" out of memory.", "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED.",
                                                   "DefaultCPUAllocator: can't allocate memory",
                                                   "FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed"};
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) return true;
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return true;
  const std::string_view text(error.what());
  return std::ranges::any_of(kTexts,
                             [&](std::string_view known) { return text.find(known) != std::string_view::npos; });
}

namespace internal {

BatchSizeSearch::BatchSizeSearch(FindBatchSizeOptions options)
    : options_(std::move(options)), batch_size_(options_.starting_batch_size) {}

void BatchSizeSearch::begin() {
  if (!options_.remember_batch_size) batch_size_ = options_.starting_batch_size;
  clear_device_cache();
  require_positive("");
}

void BatchSizeSearch::reduce(const std::string& error) {
  clear_device_cache();
  const int64_t before = batch_size_;
  batch_size_ = options_.reduce_batch_size ? options_.reduce_batch_size(before)
                                           : static_cast<int64_t>(static_cast<double>(before) * 0.9);
  if (batch_size_ >= before) {
    throw UsageError({.place = "find_executable_batch_size",
                      .what = "The next batch size is not smaller",
                      .got = std::to_string(batch_size_) + " after " + std::to_string(before),
                      .expected = "less",
                      .remedy = "Let .reduce_batch_size return less than it is given"});
  }
  require_positive(error);
}

void BatchSizeSearch::require_positive(const std::string& error) const {
  if (batch_size_ > 0) return;
  throw UsageError({.place = "find_executable_batch_size",
                    .what = "No executable batch size found, reached zero",
                    .got = error.empty() ? ".starting_batch_size = " + std::to_string(batch_size_)
                                         : "\"" + error.substr(0, error.find('\n')) + "\" with the smallest size",
                    .expected = "a batch size that fits into memory",
                    .remedy = "Use a smaller model, or start with a size of 1 or more"});
}

}  // namespace internal
}  // namespace accelerate

#include "accelerate/core/heap.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <cstring>
#include <vector>

namespace accelerate::internal {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
constexpr bool kSanitized = __has_feature(address_sanitizer);
#else
constexpr bool kSanitized = false;
#endif

long page_faults() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

/// Takes, touches and frees 16 MiB, as a step does with its activations.
void step() {
  std::vector<void*> blocks;
  for (int i = 0; i < 16; ++i) {
    blocks.push_back(std::malloc(1 << 20));
    std::memset(blocks.back(), 1, 1 << 20);
  }
  for (void* block : blocks) std::free(block);
}

TEST(KeepFreedMemory, AStepFindsThePagesOfTheStepBefore) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer brings an allocator of its own";
  keep_freed_memory();
  step();
  const long before = page_faults();
  for (int i = 0; i < 10; ++i) step();
  // Ten steps without it: about 40,000 faults of 4 KiB each.
  EXPECT_LT(page_faults() - before, 1000);
}

TEST(KeepFreedMemory, TakesNoMemoryItself) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer brings an allocator of its own";
  const long before = page_faults();
  for (int i = 0; i < 100; ++i) keep_freed_memory();
  EXPECT_LT(page_faults() - before, 1000) << "100 buffers of 31 MiB are 793,600 pages";
}

}  // namespace
}  // namespace accelerate::internal

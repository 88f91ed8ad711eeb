#include "accelerate/core/heap.h"

#include <cstddef>
#include <cstdlib>

namespace accelerate::internal {
namespace {
// glibc learns from blocks of at most 32 MiB, their header included.
constexpr size_t kLearnedSize = size_t{31} << 20;
}  // namespace

void keep_freed_memory() noexcept {
  void* volatile block = std::malloc(kLearnedSize);  // volatile: compilers may remove a malloc that is only freed
  std::free(block);
}

}  // namespace accelerate::internal

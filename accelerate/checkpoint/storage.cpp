#include "accelerate/checkpoint/storage.h"

#include "accelerate/core/error.h"

namespace accelerate {

int64_t StorageEntry::bytes() const {
  int64_t total = static_cast<int64_t>(c10::elementSize(dtype));
  for (const int64_t extent : shape) {
    if (__builtin_mul_overflow(total, extent, &total)) {
      throw DataError({.place = name,
                       .what = "The tensor's shape has more bytes than 64 bits can count",
                       .got = std::to_string(shape.size()) + " dimensions",
                       .expected = "a shape that fits into a file",
                       .remedy = "Write or copy the file again"});
    }
  }
  return total;
}

}  // namespace accelerate

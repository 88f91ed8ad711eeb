#include "accelerate/core/handle.h"

#include <string>

#include "accelerate/core/error.h"

namespace accelerate::internal {

void throw_empty_handle(const char* kind) {
  throw UsageError({.place = kind,
                    .what = std::string("The handle of the ") + kind + " is empty",
                    .got = "one that free_memory() emptied or that was moved from",
                    .expected = "what prepare() returned",
                    .remedy = "Prepare again, or use the handle it was moved to"});
}

}  // namespace accelerate::internal

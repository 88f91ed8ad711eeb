#include "accelerate/tensor/seed.h"

#include <ATen/Context.h>

namespace accelerate {

void set_seed(uint64_t seed) { at::manual_seed(seed); }

}  // namespace accelerate

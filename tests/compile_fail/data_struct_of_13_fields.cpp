// expect: a reflected struct may have at most 12 fields; nest some of them in a second struct
#include "accelerate/data/loader.h"

struct Batch {
  at::Tensor a, b, c, d, e, f, g, h, i, j, k, l, m;
};
struct Batches {
  int64_t size() const { return 1; }
  Batch get_batch(std::span<const int64_t>) const { return {}; }
};

int main() { accelerate::DataLoader loader(Batches{}); }

// expect: specialise accelerate::Flatten
#include <memory>

#include "accelerate/data/loader.h"

struct Batch {
  std::shared_ptr<at::Tensor> tensor;
};
struct Batches {
  int64_t size() const { return 1; }
  Batch get_batch(std::span<const int64_t>) const { return {}; }
};

int main() { accelerate::DataLoader loader(Batches{}); }

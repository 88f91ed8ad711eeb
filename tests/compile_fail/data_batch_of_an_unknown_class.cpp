// expect: the library has to find the tensors in this type and cannot
#include "accelerate/data/loader.h"

class Batch {
 public:
  explicit Batch(at::Tensor tensor) : tensor_(tensor) {}

 private:
  at::Tensor tensor_;
};
struct Batches {
  int64_t size() const { return 1; }
  Batch get_batch(std::span<const int64_t>) const { return Batch({}); }
};

int main() { accelerate::DataLoader loader(Batches{}, {.batch_size = 2}); }

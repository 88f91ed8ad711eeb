// expect: an example with a field that is no tensor cannot be stacked into a batch of its own
#include "accelerate/data/loader.h"

struct Example {
  at::Tensor image;
  int label;
};
struct Examples {
  int64_t size() const { return 1; }
  Example get(int64_t) const { return {}; }
};

int main() { accelerate::DataLoader loader(Examples{}, {.batch_size = 2}); }

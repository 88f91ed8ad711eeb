// expect: the library has to find the tensors in this type and cannot
#include <memory>
#include <vector>

#include "accelerate/data/loader.h"

struct Examples {
  int64_t size() const { return 1; }
  at::Tensor get(int64_t) const { return {}; }
};

int main() {
  const auto collate = [](std::vector<at::Tensor>) { return std::unique_ptr<at::Tensor>(); };
  accelerate::DataLoader loader(Examples{}, {.batch_size = 2}, collate);
}

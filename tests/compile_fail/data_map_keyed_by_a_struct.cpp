// expect: the keys have to be texts, numbers or enumerators
#include <map>
#include <utility>

#include "accelerate/data/loader.h"

struct Examples {
  int64_t size() const { return 1; }
  std::map<std::pair<int, int>, at::Tensor> get(int64_t) const { return {}; }
};

int main() { accelerate::DataLoader loader(Examples{}, {.batch_size = 2}); }

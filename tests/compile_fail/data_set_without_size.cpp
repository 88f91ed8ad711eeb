// expect: no viable constructor|no matching function|class template argument deduction failed
#include "accelerate/data/loader.h"

struct NoDataSet {
  at::Tensor get(int64_t) const { return {}; }
};

int main() { accelerate::DataLoader loader(NoDataSet{}, {.batch_size = 2}); }

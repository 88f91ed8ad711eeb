// expect: keep the guard
#include <torch/torch.h>

#include "accelerate/accelerate.h"

#pragma GCC diagnostic error "-Wunused-result"
void use(accelerate::Accelerator& accelerator, const accelerate::Model<torch::nn::LinearImpl>& model) {
  accelerator.accumulate(model);
}

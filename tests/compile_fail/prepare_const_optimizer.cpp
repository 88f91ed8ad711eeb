// expect: it cannot take a const one
#include <torch/optim/sgd.h>

#include "accelerate/accelerate.h"

void use(accelerate::Accelerator& accelerator, const torch::optim::SGD& sgd) { accelerator.prepare(sgd); }

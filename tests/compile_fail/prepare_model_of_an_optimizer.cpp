// expect: prepare_model\(\) takes a holder, a std::shared_ptr or a torch::jit::Module
#include <torch/optim/sgd.h>

#include "accelerate/accelerate.h"

void use(accelerate::Accelerator& accelerator, torch::optim::SGD& sgd) { accelerator.prepare_model(sgd); }

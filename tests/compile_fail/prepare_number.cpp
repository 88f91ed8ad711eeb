// expect: prepare\(\) takes modules \(holder, std::shared_ptr or torch::jit::Module\), torch::optim optimizers
#include "accelerate/accelerate.h"

void use(accelerate::Accelerator& accelerator) { accelerator.prepare(3); }

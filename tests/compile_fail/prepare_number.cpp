// expect: prepare\(\) takes modules \(holder or std::shared_ptr\), torch::optim optimizers
#include "accelerate/accelerate.h"

void use(accelerate::Accelerator& accelerator) { accelerator.prepare(3); }

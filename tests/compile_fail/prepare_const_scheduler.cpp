// expect: prepare\(\) steps the scheduler it is given, so it cannot take a const one
#include <torch/torch.h>

#include "accelerate/accelerate.h"

void prepare_const_scheduler(accelerate::Accelerator& accelerator, const torch::optim::StepLR& steps) {
  accelerator.prepare(steps);
}

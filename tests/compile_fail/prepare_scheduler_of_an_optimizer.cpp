// expect: prepare_scheduler\(\) takes a scheduler or a schedule
#include <torch/torch.h>

#include "accelerate/accelerate.h"

void prepare_scheduler_of_an_optimizer(accelerate::Accelerator& accelerator, torch::optim::SGD& sgd) {
  accelerator.prepare_scheduler(sgd);
}

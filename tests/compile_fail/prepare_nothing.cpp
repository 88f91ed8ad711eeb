// expect: prepare\(\) takes at least one object
#include <torch/torch.h>

#include "accelerate/accelerate.h"

void use() {
  accelerate::Accelerator accelerator;
  accelerator.prepare();
}

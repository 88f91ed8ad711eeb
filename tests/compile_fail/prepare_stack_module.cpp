// expect: prepare\(\) shares a module with you, so it cannot take one by reference or value
#include <torch/nn/module.h>

#include "accelerate/accelerate.h"

struct Net : torch::nn::Module {
  at::Tensor forward(const at::Tensor& x) { return x; }
};

void use(accelerate::Accelerator& accelerator) {
  Net net;
  accelerator.prepare(net);
}

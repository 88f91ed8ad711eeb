// expect: a torch::nn::Module of unknown type has no forward\(\); run it with model.call\(
#include <torch/nn/module.h>

#include "accelerate/accelerate.h"

void use(const accelerate::Model<torch::nn::Module>& model, const at::Tensor& x) { model(x); }

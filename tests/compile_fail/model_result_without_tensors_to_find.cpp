// expect: the library has to find the tensors in what forward\(\) returns.*specialise accelerate::Flatten<YourType>
#include <torch/nn/module.h>

#include "accelerate/accelerate.h"

class Opaque {
 public:
  explicit Opaque(at::Tensor hidden) : hidden_(std::move(hidden)) {}

 private:
  at::Tensor hidden_;
};

struct Net : torch::nn::Module {
  Opaque forward(const at::Tensor& x) { return Opaque(x); }
};

void use(const accelerate::Model<Net>& model, const at::Tensor& x) { model(x); }

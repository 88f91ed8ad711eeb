// expect: the library has to find the tensors in what forward\(\) returns.*specialise accelerate::Flatten<YourType>
#include <torch/torch.h>

#include "accelerate/accelerate.h"

class Opaque {
 public:
  explicit Opaque(at::Tensor hidden) : hidden_(std::move(hidden)) {}

 private:
  at::Tensor hidden_;
};

struct NetImpl : torch::nn::Module {
  Opaque forward(const at::Tensor& x) { return Opaque(x); }
};
TORCH_MODULE(Net);

void use() {
  accelerate::Accelerator accelerator;
  auto model = accelerator.prepare(Net());
  model(torch::ones({1}));
}

// Fits y = x w: returns 0 when the loss fell by a factor of 100, and writes <argv[1]>/model.safetensors.
#include <torch/torch.h>

#include "accelerate/accelerate.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  torch::manual_seed(0);
  accelerate::Accelerator accelerator;
  torch::Tensor x = torch::randn({256, 4});
  torch::Tensor y = x.matmul(torch::tensor({{1.0F}, {-2.0F}, {3.0F}, {0.5F}}));
  torch::nn::Linear linear(4, 1);
  torch::optim::AdamW adamw(linear->parameters(), torch::optim::AdamWOptions(0.05));
  accelerate::DataLoader data(accelerate::TensorDataset(x, y), {.batch_size = 32, .shuffle = true});
  auto [model, optimizer, loader] = accelerator.prepare(linear, adamw, data);
  double first = 0, last = 0;
  for (int epoch = 0; epoch < 40; ++epoch) {
    for (auto& [input, target] : loader) {
      auto window = accelerator.accumulate(model);
      torch::Tensor loss = torch::mse_loss(model(input), target);
      accelerator.backward(loss);
      optimizer.step();
      optimizer.zero_grad();
      last = loss.item<double>();
      if (first == 0) first = last;
    }
  }
  accelerator.print("loss ", first, " -> ", last);
  accelerator.save_model(model, argv[1]);
  return last * 100 < first ? 0 : 1;
}

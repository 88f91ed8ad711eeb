// Two models, two optimizers, one loop: a generator learns to draw points of a circle from noise.
// Prints the mean radius and its spread; the exit status is 0 if they are those of the circle.

#include <torch/torch.h>

#include <cmath>
#include <iostream>

#include "accelerate/accelerate.h"

namespace {

struct PerceptronImpl : torch::nn::Module {
  PerceptronImpl(int64_t in, int64_t out) : first(in, 64), second(64, 64), third(64, out) {
    register_module("first", first);
    register_module("second", second);
    register_module("third", third);
  }
  at::Tensor forward(at::Tensor x) {
    x = torch::leaky_relu(first(x), 0.2);
    return third(torch::leaky_relu(second(x), 0.2));
  }
  torch::nn::Linear first, second, third;
};
TORCH_MODULE(Perceptron);

constexpr int64_t kNoise = 8, kPoints = 4096, kEpochs = 30;

at::Tensor circle() {
  const at::Tensor angle = torch::rand({kPoints}) * (2 * M_PI);
  return torch::stack({angle.cos(), angle.sin()}, 1);
}

/// Mean loss of telling that `logits` belong to real points (`real` 1) or drawn ones (0).
at::Tensor told(const at::Tensor& logits, double real) {
  return torch::binary_cross_entropy_with_logits(logits, torch::full_like(logits, real));
}

}  // namespace

int main() {
  accelerate::set_seed(0);
  torch::set_num_threads(1);
  accelerate::Accelerator accelerator;
  Perceptron draw(kNoise, 2), judge(2, 1);
  const auto adam = torch::optim::AdamOptions(1e-3).betas({0.5, 0.9});
  torch::optim::Adam draw_adam(draw->parameters(), adam), judge_adam(judge->parameters(), adam);
  accelerate::DataLoader points(accelerate::TensorDataset{circle()}, {.batch_size = 128, .shuffle = true});
  auto [generator, discriminator, generator_optimizer, discriminator_optimizer, loader] =
      accelerator.prepare(draw, judge, draw_adam, judge_adam, points);

  for (int64_t epoch = 0; epoch < kEpochs; ++epoch) {
    for (auto& [real] : loader) {
      const at::Tensor noise = torch::randn({real.size(0), kNoise}, real.options());
      const at::Tensor drawn = generator(noise);

      // The discriminator: both calls belong to one loss.
      accelerator.backward(told(discriminator(real), 1) + told(discriminator(drawn.detach()), 0));
      discriminator_optimizer.step();
      discriminator_optimizer.zero_grad();

      // The generator: its loss flows through both models; the discriminator's share is thrown away.
      accelerator.backward(told(discriminator(drawn), 1));
      generator_optimizer.step();
      generator_optimizer.zero_grad();
      discriminator_optimizer.zero_grad();
    }
  }

  const torch::NoGradGuard no_grad;
  const at::Tensor radius = generator(torch::randn({1000, kNoise}, accelerator.device())).norm(2, 1);
  const double mean = radius.mean().item<double>(), spread = radius.std().item<double>();
  accelerator.print("radius", mean, "+-", spread, "(the circle's is 1 +- 0)");
  accelerator.end_training();
  return std::abs(mean - 1) < 0.1 && spread < 0.2 ? 0 : 1;
}

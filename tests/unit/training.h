#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "accelerate/accelerate.h"
#include "tests/support/throws_error.h"

// What the tests of the training loop share: small models, batches of fixed numbers, and checks of error texts.
namespace training {

/// Words that an error text must contain, part by part. `place` is the whole place.
struct Words {
  std::string place;
  std::string got;
  std::string expected;
  std::string remedy;
};

/// `action` must throw an `E` whose parts say what `words` asks for.
template <class E>
void expect_error(const std::function<void()>& action, const Words& words) {
  EXPECT_THAT(action,
              accelerate::support::ThrowsError<E>(
                  {.place = words.place, .got = words.got, .expected = words.expected, .remedy = words.remedy}));
}

/// Two linear layers with a tanh between, weights drawn from `seed`.
struct MlpImpl : torch::nn::Module {
  explicit MlpImpl(uint64_t seed = 1, at::ScalarType dtype = torch::kDouble) {
    torch::manual_seed(seed);
    hidden = register_module("hidden", torch::nn::Linear(4, 8));
    out = register_module("out", torch::nn::Linear(8, 2));
    to(dtype);
  }
  at::Tensor forward(const at::Tensor& x) { return out(torch::tanh(hidden(x))); }
  torch::nn::Linear hidden{nullptr};
  torch::nn::Linear out{nullptr};
};
TORCH_MODULE(Mlp);

/// Rows of inputs and targets for an Mlp, a function of `seed` alone.
struct Batch {
  at::Tensor x;
  at::Tensor y;
};
inline Batch make_batch(int64_t rows, uint64_t seed, at::ScalarType dtype = torch::kDouble) {
  torch::manual_seed(seed);
  at::Tensor x = torch::randn({rows, 4}, dtype);
  at::Tensor y = torch::randn({rows, 2}, dtype);
  return {x, y};
}

inline std::vector<at::Tensor> copy_of(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> copies;
  for (const at::Tensor& tensor : tensors) copies.push_back(tensor.detach().clone());
  return copies;
}

inline bool equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!torch::equal(a[i], b[i])) return false;
  }
  return true;
}

/// The largest difference of two lists of tensors, relative to the largest element of `b`.
inline double distance(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].numel() == 0) continue;
    difference = std::max(difference, (a[i] - b[i]).abs().max().item<double>());
    largest = std::max(largest, b[i].abs().max().item<double>());
  }
  return difference / std::max(largest, 1e-300);
}

inline double learning_rate(torch::optim::Optimizer& optimizer, size_t group = 0) {
  return optimizer.param_groups().at(group).options().get_lr();
}

inline at::Tensor mse(const at::Tensor& output, const at::Tensor& target) {
  return torch::nn::functional::mse_loss(output, target);
}

}  // namespace training

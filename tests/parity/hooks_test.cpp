// Loss traces under communication hooks and under LocalSGD, rank by rank as the original recorded them.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>
#include <vector>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"
#include "tests/parity/fixtures.h"

namespace parity {
namespace {

using accelerate::Accelerator;
using accelerate::testing::Rank;

/// `_numbers` of original/hooks.py.
at::Tensor numbers(at::IntArrayRef shape, int64_t seed) {
  const at::Tensor index = torch::arange(c10::multiply_integers(shape), at::kLong);
  return (((index + 1) * (37 + 2 * seed) + 11 * seed * seed).remainder(65) - 32).to(at::kDouble).div(64).view(shape);
}

struct NetImpl : torch::nn::Module {
  explicit NetImpl(at::ScalarType dtype) {
    first = register_module("first", torch::nn::Linear(9, 16));
    second = register_module("second", torch::nn::Linear(16, 16));
    third = register_module("third", torch::nn::Linear(16, 16));
    last = register_module("last", torch::nn::Linear(16, 2));
    to(dtype);
    const torch::NoGradGuard no_grad;
    int64_t seed = 1;
    for (at::Tensor& parameter : parameters()) parameter.copy_(numbers(parameter.sizes(), seed++));
  }
  at::Tensor forward(const at::Tensor& x) {
    return last(torch::tanh(third(torch::tanh(second(torch::tanh(first(x)))))));
  }
  torch::nn::Linear first{nullptr}, second{nullptr}, third{nullptr}, last{nullptr};
};
TORCH_MODULE(Net);

template <class Model>
at::Tensor loss_of(const Model& model, int64_t rank, int64_t step, at::ScalarType dtype) {
  const at::Tensor x = numbers({4, 9}, 50 + 7 * step + 3 * rank).to(dtype);
  const at::Tensor y = numbers({4, 2}, 90 + 5 * step + 2 * rank).to(dtype);
  return (model(x) - y).pow(2).mean();
}

accelerate::CommStateOption state_of(const Json& given) {
  if (!given.contains("comm_state_option")) return {};
  const Json& option = given["comm_state_option"];
  accelerate::PowerSgd state;
  const auto set = [&](const char* name, auto& field) {
    if (option.contains(name)) field = option[name];
  };
  set("matrix_approximation_rank", state.matrix_approximation_rank);
  set("start_powerSGD_iter", state.start_powerSGD_iter);
  set("min_compression_rate", state.min_compression_rate);
  set("use_error_feedback", state.use_error_feedback);
  set("warm_start", state.warm_start);
  set("orthogonalization_epsilon", state.orthogonalization_epsilon);
  set("random_seed", state.random_seed);
  set("batch_tensors_with_same_shape", state.batch_tensors_with_same_shape);
  return state;
}

class CommHooks : public testing::TestWithParam<std::string> {};

TEST_P(CommHooks, LossesAreTheOriginals) {
  const Json fixture = read_fixture("comm_hooks-2.json");
  const Json& ranks = fixture["ranks"];
  for (size_t number = 0; number < ranks[0]["cases"].size(); ++number) {
    const Json& given = ranks[0]["cases"][number];
    accelerate::Ddp options{.bucket_cap_mb = given.value("bucket_cap_mb", 25.0),
                            .comm_hook = given["comm_hook"],
                            .comm_wrapper = given.value("comm_wrapper", "no"),
                            .comm_state_option = state_of(given)};
    const at::ScalarType dtype = dtype_named(given.value("dtype", "float64"));
    accelerate::testing::run_ranks(
        2,
        [&](const Rank& rank) {
          const Json& expected = ranks[static_cast<size_t>(rank.rank())]["cases"][number]["losses"];
          Accelerator accelerator(rank.options({.strategy = options}));
          Net net(dtype);
          torch::optim::SGD sgd(net->parameters(), torch::optim::SGDOptions(0.25).momentum(0.5));
          auto [model, optimizer] = accelerator.prepare(net, sgd);
          for (size_t step = 0; step < expected.size(); ++step) {
            const at::Tensor loss = loss_of(model, rank.rank(), static_cast<int64_t>(step), dtype);
            // Rounding of float32 sums, which compression carries on; in float64 a half that falls on the other side of
            // a tie would show.
            EXPECT_NEAR(loss.item<double>(), expected[step].get<double>(), dtype == at::kDouble ? 1e-9 : 1e-4)
                << given << " step " << step << " rank " << rank.rank();
            accelerator.backward(loss);
            optimizer.step();
            optimizer.zero_grad();
          }
        },
        {.backend = GetParam()});
  }
}
INSTANTIATE_TEST_SUITE_P(Transports, CommHooks, testing::Values("shm", "gloo"));

class LocalSGDTrace : public testing::TestWithParam<int64_t> {};

TEST_P(LocalSGDTrace, LossesAreTheOriginals) {
  const Json fixture = read_fixture("local_sgd-" + std::to_string(GetParam()) + ".json");
  const Json& ranks = fixture["ranks"];
  for (size_t number = 0; number < ranks[0]["cases"].size(); ++number) {
    accelerate::testing::run_ranks(GetParam(), [&](const Rank& rank) {
      const Json& given = ranks[static_cast<size_t>(rank.rank())]["cases"][number];
      const Json& expected = given["losses"];
      Accelerator accelerator(rank.options());
      Net net(at::kDouble);
      torch::optim::SGD sgd(net->parameters(), torch::optim::SGDOptions(0.25).momentum(0.5));
      auto model = accelerator.prepare(net);
      auto optimizer = accelerator.prepare(sgd);
      size_t step = 0;
      const auto next_loss = [&] {
        const at::Tensor loss = loss_of(model, rank.rank(), static_cast<int64_t>(step), at::kDouble);
        EXPECT_NEAR(loss.item<double>(), expected[step].get<double>(), 1e-11) << given << " step " << step;
        ++step;
        return loss;
      };
      {
        accelerate::LocalSGD local(accelerator, model,
                                   {.local_sgd_steps = given["local_sgd_steps"], .enabled = given["enabled"]});
        while (step + 1 < expected.size()) {
          accelerator.backward(next_loss());
          optimizer.step();
          optimizer.zero_grad();
          local.step();
        }
      }
      next_loss();
    });
  }
}
INSTANTIATE_TEST_SUITE_P(Ranks, LocalSGDTrace, testing::Values(2, 4));

}  // namespace
}  // namespace parity
